//! The cookie that carries a session id between browser and server, with the strictest rules that browsers have.
//!
//! It knows nothing of what a session holds, nor whether there is one. Invariant: a header that holds no id, more than one, or anything that is
//! not exactly an id, holds none.

use std::borrow::Cow;
use std::time::Duration;

use ::cookie::{Cookie, CookieBuilder, SameSite};

use crate::SessionId;

/// How a site's session cookie is called, and which rules it has.
///
/// Its name begins with `__Host-`, so browsers take it only over https, for this very host and for every path, and no other host of the domain can plant
/// it; `Secure`; `HttpOnly`, so no script reads it; `SameSite=Lax`, so no other site's form carries it. Without a `Max-Age` the browser drops it
/// when it closes; the store decides all else.
///
/// ```
/// use cloakroom::{SessionId, cookie::SessionCookie};
/// # fn main() -> Result<(), cloakroom::Error> {
/// let cookie = SessionCookie::new("shop");
/// let id = SessionId::random()?;
/// let set = cookie.set(&id).to_string();
/// assert!(set.starts_with("__Host-shop=") && set.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/"));
/// let sent = format!("theme=dark; __Host-shop={}", id.to_text());
/// assert_eq!(cookie.id_in([sent.as_bytes()]), Some(id));
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionCookie {
    name: Cow<'static, str>,
    is_secure: bool,
    same_site: SameSite,
    max_age: Option<Duration>,
}

impl SessionCookie {
    /// A cookie named `__Host-` and `name`.
    ///
    /// ```
    /// # use cloakroom::cookie::SessionCookie;
    /// assert_eq!(SessionCookie::new("shop").name(), "__Host-shop");
    /// ```
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: format!("__Host-{name}").into(),
            is_secure: true,
            same_site: SameSite::Lax,
            max_age: None,
        }
    }

    /// The same over plain HTTP on the loopback address, for trying things out: without `__Host-` and `Secure`, which Safari and most tools refuse
    /// there. Its name is another, or a page that came over plain HTTP could set the strict one.
    ///
    /// ```
    /// # use cloakroom::cookie::SessionCookie;
    /// assert_eq!(SessionCookie::on_loopback("shop").name(), "shop");
    /// ```
    #[must_use]
    pub fn on_loopback(name: &'static str) -> Self {
        Self { name: name.into(), is_secure: false, ..Self::new(name) }
    }

    /// With `Strict`, a link from another site arrives without the session. `None` lets other sites' forms carry it: guard those.
    ///
    /// ```
    /// # use cloakroom::{SessionId, cookie::SessionCookie};
    /// # fn main() -> Result<(), cloakroom::Error> {
    /// let cookie = SessionCookie::new("shop").same_site(cookie::SameSite::Strict);
    /// assert!(cookie.set(&SessionId::random()?).to_string().contains("SameSite=Strict"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Browsers keep it so long, also when they are closed. Give the longest that a session lives.
    ///
    /// ```
    /// # use cloakroom::{SessionId, cookie::SessionCookie};
    /// # fn main() -> Result<(), cloakroom::Error> {
    /// let cookie = SessionCookie::new("shop").max_age(std::time::Duration::from_secs(60));
    /// assert!(cookie.set(&SessionId::random()?).to_string().contains("Max-Age=60"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// Its whole name.
    ///
    /// ```
    /// # use cloakroom::cookie::SessionCookie;
    /// assert_eq!(SessionCookie::new("id").name(), "__Host-id");
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a `Set-Cookie` header says to hand the browser an id: after a session was created, and after every rotation.
    ///
    /// ```
    /// # use cloakroom::{SessionId, cookie::SessionCookie};
    /// # fn main() -> Result<(), cloakroom::Error> {
    /// let header = SessionCookie::new("shop").set(&SessionId::random()?).to_string();
    /// # drop(header);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn set(&self, id: &SessionId) -> Cookie<'static> {
        let cookie = self.with(id.to_text());
        match self.max_age.map(::cookie::time::Duration::try_from) {
            Some(Ok(max_age)) => cookie.max_age(max_age).build(),
            // Longer than any browser keeps one: as long as it likes.
            Some(Err(_)) => cookie.permanent().build(),
            None => cookie.build(),
        }
    }

    /// What a `Set-Cookie` header says to take it away again. Browsers do that only where name, path and `Secure` are as they were set.
    ///
    /// ```
    /// # use cloakroom::cookie::SessionCookie;
    /// let gone = SessionCookie::new("shop").remove().to_string();
    /// assert!(gone.starts_with("__Host-shop=; ") && gone.contains("Max-Age=0") && gone.contains("Secure"));
    /// ```
    #[must_use]
    pub fn remove(&self) -> Cookie<'static> {
        self.with(String::new()).removal().build()
    }

    /// The id in a request's `Cookie` headers, if there is one and it is well formed. Whether there is such a session, the store knows. Two of the
    /// name mean that somebody planted one, and nothing tells which: then there is none.
    ///
    /// ```
    /// # use cloakroom::{SessionId, cookie::SessionCookie};
    /// # fn main() -> Result<(), cloakroom::Error> {
    /// let (cookie, id) = (SessionCookie::new("shop"), SessionId::random()?);
    /// let sent = format!("__Host-shop={}", id.to_text());
    /// // With axum: headers.get_all(COOKIE).iter().map(|value| value.as_bytes())
    /// assert_eq!(cookie.id_in([sent.as_bytes()]), Some(id));
    /// assert_eq!(cookie.id_in([sent.as_bytes(), sent.as_bytes()]), None);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn id_in<'a>(&self, headers: impl IntoIterator<Item = &'a [u8]>) -> Option<SessionId> {
        let lines = headers.into_iter().filter_map(|line| std::str::from_utf8(line).ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut found = pairs.filter(|(name, _)| *name == self.name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => value.parse().ok(),
            _ => None,
        }
    }

    fn with(&self, value: String) -> CookieBuilder<'static> {
        Cookie::build((self.name.clone(), value))
            .path("/")
            .secure(self.is_secure)
            .http_only(true)
            .same_site(self.same_site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_id_is_found_among_other_cookies() {
        let (cookie, id) = (SessionCookie::on_loopback("shop"), SessionId::random().unwrap());
        let line = format!("theme=dark; shop={}; x", id.to_text());
        assert_eq!(cookie.id_in([line.as_bytes()]), Some(id.clone()));
        assert_eq!(cookie.id_in([b"a=b", line.as_bytes()]), Some(id));
        assert_eq!(SessionCookie::new("shop").id_in([line.as_bytes()]), None);
    }

    #[test]
    fn malformed_cookies_hold_no_id() {
        let id = SessionId::random().unwrap().to_text();
        let twice = format!("shop={id}; shop={id}");
        let quoted = format!("shop=\"{id}\"");
        let longer = format!("shop={id}A");
        for line in ["", ";;", "shop", "shop=", "shop=../../etc", "=", "SHOP=x", &twice, &quoted, &longer] {
            assert_eq!(SessionCookie::on_loopback("shop").id_in([line.as_bytes()]), None, "{line}");
        }
        assert_eq!(SessionCookie::on_loopback("shop").id_in([&b"shop=\xff\xfe"[..]]), None);
    }

    #[test]
    fn cookie_has_every_rule_and_its_removal_the_same() {
        let id = SessionId::random().unwrap();
        let text = id.to_text();
        let strict = SessionCookie::new("shop").max_age(Duration::from_secs(9));
        let rules = "HttpOnly; SameSite=Lax; Secure; Path=/";
        assert_eq!(strict.set(&id).to_string(), format!("__Host-shop={text}; {rules}; Max-Age=9"));
        let removal = strict.remove().to_string();
        assert!(removal.starts_with(&format!("__Host-shop=; {rules}; Max-Age=0; Expires=")), "{removal}");
        let plain = SessionCookie::on_loopback("shop").set(&id).to_string();
        assert_eq!(plain, format!("shop={text}; HttpOnly; SameSite=Lax; Path=/"));
        let for_ever = SessionCookie::new("shop").max_age(Duration::MAX).set(&id).to_string();
        assert!(for_ever.contains("Max-Age="), "{for_ever}");
    }
}
