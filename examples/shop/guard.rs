//! Who may change something: forms of this site's own pages, and nobody else's. It knows nothing of sessions.
//!
//! `SameSite=Lax` already keeps the cookie out of other sites' POST requests; this is the second lock, since "site" there includes every
//! subdomain and other ports. Invariant: a request that can change anything and does not prove that it comes from this origin is refused.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuses with 403 what [`is_our_own`] refuses.
pub async fn own_forms_only(State(scheme): State<&'static str>, request: Request, next: Next) -> Response {
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    if reading || is_our_own(request.headers(), scheme) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "This form came from another site.\n").into_response()
    }
}

/// Every current browser says in `Sec-Fetch-Site` where a request comes from; an old one is judged by its `Origin`; who sends neither is refused.
fn is_our_own(headers: &HeaderMap, scheme: &str) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => {
            origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) == Some(host)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(&'static str, &'static str)]) -> bool {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        is_our_own(&headers.collect(), "http")
    }

    #[test]
    fn own_pages_may_change_things_and_others_may_not() {
        let host = ("host", "127.0.0.1:3000");
        assert!(judged(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(judged(&[host, ("origin", "http://127.0.0.1:3000")]));
        assert!(!judged(&[host, ("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:3000")]));
        assert!(!judged(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!judged(&[host, ("origin", "http://127.0.0.1:30000")]));
        assert!(!judged(&[host, ("origin", "https://127.0.0.1:3000")]));
        assert!(!judged(&[host, ("origin", "null")]));
        assert!(!judged(&[host]));
    }
}
