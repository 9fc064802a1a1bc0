//! The ticket: the cookie that carries a session id between browser and server. It knows nothing of what the session holds.
//!
//! Where the site is reached over https the rules are the strictest a browser has: `__Host-` in the name (the browser takes it only over https,
//! for this very host and for `/`), `Secure`, `HttpOnly` (no script reads it), `SameSite=Lax` (no other site's form carries it). Over plain HTTP
//! on the loopback address, for trying things out, `__Host-` and `Secure` are left off, since Safari and most tools refuse such cookies there;
//! nothing else is relaxed. The cookie has no `Max-Age`: the browser drops it when it closes, the store decides all else.
//!
//! Invariant: a header that holds no id, more than one, or anything that is not exactly an id, holds none.

use axum::http::{HeaderMap, header};
use cloakroom::SessionId;
use cookie::{Cookie, CookieBuilder, SameSite};

/// How browsers reach this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    https: bool,
}

impl Site {
    /// `https`: through a proxy that ends TLS. Otherwise it is plain HTTP on the loopback address.
    pub const fn new(https: bool) -> Self {
        Self { https }
    }

    /// The cookie's name. Without https it must be another, or a plain-HTTP page could set the strict one.
    pub const fn cookie_name(self) -> &'static str {
        if self.https { "__Host-shop" } else { "shop" }
    }

    /// The cookie, with every rule on it.
    pub fn cookie(self, value: String) -> CookieBuilder<'static> {
        Cookie::build((self.cookie_name(), value))
            .path("/")
            .secure(self.https)
            .http_only(true)
            .same_site(SameSite::Lax)
    }

    /// The id that a request brings, if it brings one and it is well formed. Whether there is such a session, the store knows.
    pub fn id_in(self, headers: &HeaderMap) -> Option<SessionId> {
        let mut found = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie_name());
        // Two of the name mean that somebody else planted one, and nothing tells which.
        match (found.next(), found.next()) {
            (Some((_, value)), None) => value.parse().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, line.to_vec().try_into().unwrap())).collect()
    }

    #[test]
    fn well_formed_id_is_found_among_other_cookies() {
        let id = SessionId::random().unwrap();
        let line = format!("theme=dark; shop={}; x", id.to_text());
        assert_eq!(Site::new(false).id_in(&headers(&[line.as_bytes()])), Some(id.clone()));
        assert_eq!(Site::new(false).id_in(&headers(&[b"a=b", line.as_bytes()])), Some(id));
        assert_eq!(Site::new(true).id_in(&headers(&[line.as_bytes()])), None);
    }

    #[test]
    fn malformed_cookies_hold_no_id() {
        let id = SessionId::random().unwrap().to_text();
        let twice = format!("shop={id}; shop={id}");
        let quoted = format!("shop=\"{id}\"");
        let longer = format!("shop={id}A");
        for line in ["", ";;", "shop", "shop=", "shop=../../etc", "=", "SHOP=x", &twice, &quoted, &longer] {
            assert_eq!(Site::new(false).id_in(&headers(&[line.as_bytes()])), None, "{line}");
        }
        assert_eq!(Site::new(false).id_in(&headers(&[b"shop=\xff\xfe"])), None);
    }

    #[test]
    fn https_sites_get_the_strictest_cookie_and_loopback_ones_all_but_secure() {
        let strict = Site::new(true).cookie("v".into()).build().to_string();
        assert_eq!(strict, "__Host-shop=v; HttpOnly; SameSite=Lax; Secure; Path=/");
        let plain = Site::new(false).cookie("v".into()).build().to_string();
        assert_eq!(plain, "shop=v; HttpOnly; SameSite=Lax; Path=/");
    }
}
