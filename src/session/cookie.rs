//! [`SessionCookie`]: the cookie that carries a session's id between browser and server, with every rule a browser has on it.
//!
//! It sets and reads; which session an id names, if any, is the store's to say. Invariants: a removal has the name, path and flags of what it removes, since
//! a browser passes over any other; a request that brings no id, more than one, or anything that is not exactly an id brings none.

use std::time::Duration;

use ::cookie::time::{Duration as Span, OffsetDateTime};
use ::cookie::{Cookie, SameSite};

use crate::id::SessionId;
use crate::lifetime::Lifetime;

/// Browsers keep no cookie longer than this: 400 days.
const MAX_AGE_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);

/// A name that no cookie can have.
///
/// ```
/// use cloakroom::SessionCookie;
/// assert!(SessionCookie::new("id; Domain=example.com").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session cookie's name is made of ASCII letters, digits, `-` and `_`, and has 1 to 64 of them")]
#[non_exhaustive]
pub struct InvalidCookieName;

/// How a session's id travels: builds the `Set-Cookie` that gives it to the browser, the one that takes it away, and reads it back. With the
/// cargo feature `cookie`.
///
/// By default the rules are the strictest a browser has: `__Host-` in the name (it is taken only over https, for this very host and all of
/// it), `Secure`, `HttpOnly` (no script reads it), `SameSite=Lax` (no other site's form carries it), `Path=/`, no `Domain`, and no
/// `Max-Age`: the browser drops it when it closes.
///
/// ```
/// use cloakroom::{SessionCookie, SessionId};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ticket = SessionCookie::new("shop")?;
/// let id = SessionId::random()?;
/// let set_cookie = ticket.issue(&id).to_string();
/// assert!(set_cookie.starts_with("__Host-shop=") && set_cookie.ends_with("; HttpOnly; SameSite=Lax; Secure; Path=/"));
/// let cookie_header = format!("theme=dark; __Host-shop={}", id.to_text());
/// assert_eq!(ticket.read([cookie_header.as_bytes()]), Some(id));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCookie {
    name: String,
    is_secure: bool,
    same_site: SameSite,
    max_age: Option<Duration>,
}

impl SessionCookie {
    /// The strictest cookie, called `__Host-` and this.
    ///
    /// # Errors
    ///
    /// [`InvalidCookieName`].
    ///
    /// ```
    /// # use cloakroom::SessionCookie;
    /// assert_eq!(SessionCookie::new("shop")?.name(), "__Host-shop");
    /// # Ok::<(), cloakroom::InvalidCookieName>(())
    /// ```
    pub fn new(name: &str) -> Result<Self, InvalidCookieName> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_valid) {
            return Err(InvalidCookieName);
        }
        Ok(Self { name: format!("__Host-{name}"), is_secure: true, same_site: SameSite::Lax, max_age: None })
    }

    /// The same for plain HTTP on the loopback address, for trying things out: without `__Host-` and `Secure`, with which some browsers and most tools
    /// refuse a cookie there. Nothing else is relaxed.
    ///
    /// ```
    /// # use cloakroom::SessionCookie;
    /// assert_eq!(SessionCookie::new("shop")?.without_https().name(), "shop");
    /// # Ok::<(), cloakroom::InvalidCookieName>(())
    /// ```
    #[must_use]
    pub fn without_https(mut self) -> Self {
        if self.is_secure {
            self.name.drain(.."__Host-".len());
        }
        self.is_secure = false;
        self
    }

    /// The same with another `SameSite`: `Strict` also leaves it out where another site's link leads here, `None` lets every site's forms carry it.
    ///
    /// ```
    /// # use cloakroom::{SessionCookie, SessionId};
    /// let ticket = SessionCookie::new("bank")?.same_site(cookie::SameSite::Strict);
    /// assert!(ticket.issue(&SessionId::random()?).to_string().contains("; SameSite=Strict"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// The same with a `Max-Age`, so that the browser keeps it when it closes: as long as the absolute part of the lifetime. Without one it is 400 days,
    /// the longest that browsers keep any, since the store ends the session and a cookie that ended after an idle period would sign out who is busy.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, SessionCookie, SessionId};
    /// let day = Lifetime::absolute(std::time::Duration::from_secs(86_400));
    /// let ticket = SessionCookie::new("shop")?.lasting(day);
    /// assert!(ticket.issue(&SessionId::random()?).to_string().ends_with("; Max-Age=86400"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn lasting(mut self, lifetime: Lifetime) -> Self {
        let age = lifetime.absolute_part().unwrap_or(MAX_AGE_MAX).min(MAX_AGE_MAX);
        // A part of a second counts as a whole one: an age of none would remove the cookie.
        self.max_age = Some(Duration::from_secs(age.as_secs() + u64::from(age.subsec_nanos() > 0)));
        self
    }

    /// The whole name, as it is in headers.
    ///
    /// ```
    /// # use cloakroom::SessionCookie;
    /// assert!(SessionCookie::new("shop")?.name().starts_with("__Host-"));
    /// # Ok::<(), cloakroom::InvalidCookieName>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cookie that gives the browser this id; its text form goes into `Set-Cookie`. A secret, also in its `Debug`: do not log it.
    ///
    /// ```
    /// # use cloakroom::{SessionCookie, SessionId};
    /// let id = SessionId::random()?;
    /// assert_eq!(SessionCookie::new("shop")?.issue(&id).value(), id.to_text());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn issue(&self, id: &SessionId) -> Cookie<'static> {
        let mut cookie = self.cookie(id.to_text());
        // No longer than 400 days, so it fits.
        cookie.set_max_age(self.max_age.and_then(|age| Span::try_from(age).ok()));
        cookie
    }

    /// The cookie that makes the browser forget the id: at sign-out, and where a session is gone.
    ///
    /// ```
    /// # use cloakroom::SessionCookie;
    /// let removal = SessionCookie::new("shop")?.removal().to_string();
    /// assert!(removal.starts_with("__Host-shop=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0"));
    /// # Ok::<(), cloakroom::InvalidCookieName>(())
    /// ```
    #[must_use]
    pub fn removal(&self) -> Cookie<'static> {
        let mut cookie = self.cookie(String::new());
        cookie.set_max_age(Span::ZERO);
        cookie.set_expires(OffsetDateTime::UNIX_EPOCH);
        cookie
    }

    /// The id that a request brings, given the values of its `Cookie` headers: if there is exactly one cookie of the name, and it is exactly an id. Two of the
    /// name mean that somebody planted one, and nothing tells which. Whatever the bytes are, this neither fails nor panics.
    ///
    /// ```
    /// # use cloakroom::SessionCookie;
    /// assert_eq!(SessionCookie::new("shop")?.read([&b"__Host-shop=junk"[..]]), None);
    /// # Ok::<(), cloakroom::InvalidCookieName>(())
    /// ```
    pub fn read<'a>(&self, headers: impl IntoIterator<Item = &'a [u8]>) -> Option<SessionId> {
        let pairs = headers.into_iter().flat_map(|line| line.split(|byte| *byte == b';'));
        let mut found = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, rest) = pair.split_at(at);
            (name.trim_ascii_end() == self.name.as_bytes()).then_some(rest.get(1..).unwrap_or_default())
        });
        let (value, None) = (found.next()?, found.next()) else { return None };
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    fn cookie(&self, value: String) -> Cookie<'static> {
        Cookie::build((self.name.clone(), value))
            .path("/")
            .secure(self.is_secure)
            .http_only(true)
            .same_site(self.same_site)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> SessionCookie {
        SessionCookie::new("t").unwrap()
    }

    #[test]
    fn id_comes_back_from_among_other_cookies() {
        let id = SessionId::random().unwrap();
        let pair = format!("__Host-t={}", id.to_text());
        for lines in [
            vec![pair.clone()],
            vec!["a=b".into(), format!("x; {pair}; =; t=1")],
            vec![format!(";{pair};"), "__host-t=other; __Host-T=x; x__Host-t=y".into()],
        ] {
            assert_eq!(ticket().read(lines.iter().map(String::as_bytes)), Some(id.clone()), "{lines:?}");
        }
        assert_eq!(ticket().without_https().read([pair.as_bytes()]), None);
    }

    #[test]
    fn anything_but_exactly_one_id_is_none() {
        let id = SessionId::random().unwrap().to_text();
        let pair = format!("__Host-t={id}");
        for line in [
            String::new(),
            "__Host-t".into(),
            "__Host-t=".into(),
            format!("{pair}; {pair}"),
            format!("{pair}; __Host-t"),
            format!("__Host-t=junk; {pair}"),
            format!("__Host-t =junk; {pair}"),
            format!("__Host-t=\"{id}\""),
            format!("{pair}A"),
            format!("__Host-t= {id}"),
            format!("__Host-t=%41{}", &id[3..]),
            pair.replace("__Host-", "__Secure-"),
        ] {
            assert_eq!(ticket().read([line.as_bytes()]), None, "{line}");
        }
        assert_eq!(ticket().read([pair.as_bytes(), pair.as_bytes()]), None);
        assert_eq!(ticket().read([&b"__Host-t=\xff\xfe"[..]]), None);
        assert_eq!(ticket().read([]), None);
    }

    #[test]
    fn removal_has_the_name_path_and_flags_of_what_it_removes() {
        let id = SessionId::random().unwrap();
        for ticket in [ticket(), ticket().without_https().without_https(), ticket().same_site(SameSite::None)]
        {
            let (issued, removal) = (ticket.issue(&id), ticket.removal());
            let identity = |c: &Cookie<'_>| {
                let flags = (c.secure(), c.http_only(), c.same_site(), c.partitioned());
                (c.name().to_owned(), c.path().map(str::to_owned), c.domain().map(str::to_owned), flags)
            };
            assert_eq!(identity(&issued), identity(&removal));
            assert_eq!((issued.path(), issued.domain(), issued.max_age()), (Some("/"), None, None));
            assert_eq!((removal.max_age(), removal.value()), (Some(Span::ZERO), ""));
            assert!(removal.to_string().ends_with("; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"));
            assert_eq!(issued.name().starts_with("__Host-"), issued.secure() == Some(true));
        }
    }

    #[test]
    fn cookie_lasts_as_long_as_the_lifetime_can() {
        let s = Duration::from_secs;
        for (lifetime, seconds) in [
            (Lifetime::absolute(s(60)), 60),
            (Lifetime::absolute(Duration::from_millis(500)), 1),
            (Lifetime::absolute(Duration::from_millis(59_001)), 60),
            (Lifetime::idle(s(9)).and_absolute(s(90)), 90),
            (Lifetime::idle(s(9)), 400 * 86_400),
            (Lifetime::absolute(Duration::MAX), 400 * 86_400),
        ] {
            let cookie = ticket().lasting(lifetime).issue(&SessionId::random().unwrap());
            assert_eq!(cookie.max_age(), Some(Span::seconds(seconds)));
        }
    }

    #[test]
    fn names_that_would_break_a_header_are_refused() {
        for name in ["", "a b", "a;b", "a=b", "a\r\nSet-Cookie: x", "é", "a\"", &"x".repeat(65)] {
            assert_eq!(SessionCookie::new(name), Err(InvalidCookieName), "{name}");
        }
    }

    proptest! {
        #[test]
        fn junk_is_none_and_never_a_panic(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            prop_assert_eq!(ticket().read(lines.iter().map(Vec::as_slice)), None);
        }
    }
}
