//! A small site behind the middleware, and a client for it.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};

/// Who is signed in counts fields up; nobody else may.
pub fn routes() -> Router {
    let sign_in = async |session: Session| {
        session.cycle_id().await.unwrap();
        session.insert("user", "ada").await.unwrap();
    };
    let sign_out = async |session: Session| session.flush().await.unwrap();
    let count_up =
        async |Path(field): Path<String>, session: Session| match session.get("user").await.unwrap() {
            Some::<String>(_) => {
                let counted = session.get::<u32>(&field).await.unwrap().unwrap_or_default() + 1;
                // Other requests come in between.
                tokio::task::yield_now().await;
                session.insert(&field, counted).await.unwrap();
                Ok(counted.to_string())
            }
            None => Err(StatusCode::UNAUTHORIZED),
        };
    let read = async |Path(field): Path<String>, session: Session| match session.get("user").await.unwrap() {
        Some::<String>(_) => Ok(session.get::<u32>(&field).await.unwrap().unwrap_or_default().to_string()),
        None => Err(StatusCode::UNAUTHORIZED),
    };
    Router::new()
        .route("/in", get(sign_in))
        .route("/out", get(sign_out))
        .route("/up/{field}", get(count_up))
        .route("/read/{field}", get(read))
}

/// Serves the site on this machine, from a store; gives its address.
pub async fn serve<S: SessionStore + Clone>(store: S) -> Client {
    let app = routes().layer(SessionManagerLayer::new(store).with_secure(false));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Client {
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        address: format!("http://{address}"),
    }
}

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: String,
}

pub struct Answer {
    /// The number that came back, unless nobody is signed in.
    pub number: Option<u32>,
    pub cookie: Option<String>,
}

impl Client {
    pub fn of(address: String) -> Self {
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), address }
    }

    pub async fn ask(&self, path: &str, cookie: &str) -> Answer {
        let asked = self.http.get(format!("{}{path}", self.address)).header("cookie", cookie);
        let answer = asked.send().await.unwrap();
        let set = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap());
        let cookie = set.and_then(|value| value.split(';').next()).map(str::to_owned);
        let is_in = match answer.status().as_u16() {
            200 => true,
            401 => false,
            other => panic!("{path} answers {other}"),
        };
        let text = answer.text().await.unwrap();
        Answer { number: text.parse().ok().filter(|_| is_in), cookie }
    }

    /// Signs in; gives the cookie.
    pub async fn sign_in(&self) -> String {
        self.ask("/in", "").await.cookie.unwrap()
    }
}
