//! The session layer: from a request's cookie to its [`Session`], and from the session to what the answer must carry.
//!
//! It knows nothing of shops. Nothing is stored and no cookie is set until a handler puts something into the session. Invariant: the only ids
//! that ever become sessions are those the store made; an id that names no live session is passed over, whatever it looks like.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cloakroom::{InvalidCookieName, Lifetime, LogStore, Session, SessionCookie, SessionId};

/// Where requests come in and leave: the store, and the rules of cookie and lifetime.
#[derive(Clone)]
pub struct Door {
    pub store: LogStore,
    pub ticket: SessionCookie,
    pub lifetime: Lifetime,
}

impl Door {
    /// The session of the request, which thereby counts as used; a new one that is not stored if it has none.
    pub async fn enter(&self, headers: &HeaderMap) -> Result<Session, Trouble> {
        let id = self.id_in(headers);
        Ok(Session::load_or_new(&self.store, id.as_ref(), self.lifetime).await?)
    }

    fn id_in(&self, headers: &HeaderMap) -> Option<SessionId> {
        self.ticket.read(headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes))
    }

    /// Saves what was changed, if anything was, and sets the cookie if the browser has another id or none. A session that ended meanwhile stays
    /// ended: the save does nothing.
    pub async fn leave(
        &self,
        mut session: Session,
        headers: &HeaderMap,
        answer: impl IntoResponse,
    ) -> Result<Response, Trouble> {
        session.save(&self.store).await?;
        let mut answer = answer.into_response();
        if let Some(id) = session.id()
            && self.id_in(headers).as_ref() != Some(id)
        {
            let cookie = self.ticket.issue(id).to_string();
            answer.headers_mut().append(header::SET_COOKIE, cookie.try_into()?);
        }
        Ok(answer)
    }
}

/// The cookie's rules: the strictest there are, or for plain HTTP on the loopback address the next to them.
pub fn ticket(https: bool) -> Result<SessionCookie, InvalidCookieName> {
    let ticket = SessionCookie::new("shop")?;
    Ok(if https { ticket } else { ticket.without_https() })
}

/// A failure that the visitor can do nothing about.
#[derive(Debug)]
pub struct Trouble(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Trouble {
    fn from(cause: E) -> Self {
        Self(cause.into())
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        // The log gets the cause, the visitor does not: no message of the store holds a token, but it does name files.
        tracing::error!(cause = %self.0, "a request failed");
        (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here. Please try again.\n").into_response()
    }
}
