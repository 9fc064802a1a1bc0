//! axum-login over tower-sessions, with the sessions on disk: sign-ins outlive the process.
//!
//! ```sh
//! cargo run --manifest-path tests/frameworks/Cargo.toml --example axum_login
//! curl -ic cookies localhost:3000/login -d 'name=ada&password=lovelace'
//! curl -b cookies localhost:3000/        # also after the server was killed and started again
//! curl -b cookies -X POST localhost:3000/logout
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Form, Router};
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend};
use cloakroom::tower_sessions_0_14::TowerStore;
use cloakroom::{LogStore, Options, SessionStore};
use serde::Deserialize;
use tower_sessions_0_14::SessionManagerLayer;

/// Who may sign in. A real site has them in a database, with hashes of passwords.
#[derive(Clone, Debug)]
struct User {
    name: &'static str,
    password: &'static str,
}

const USERS: [User; 2] =
    [User { name: "ada", password: "lovelace" }, User { name: "grace", password: "hopper" }];

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.name.to_owned()
    }

    /// Changing the password ends the sessions that were begun with the old one.
    fn session_auth_hash(&self) -> &[u8] {
        self.password.as_bytes()
    }
}

#[derive(Clone)]
struct Users;

#[derive(Clone, Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

impl AuthnBackend for Users {
    type User = User;
    type Credentials = Credentials;
    type Error = Infallible;

    async fn authenticate(&self, given: Credentials) -> Result<Option<User>, Infallible> {
        Ok(USERS.into_iter().find(|user| user.name == given.name && user.password == given.password))
    }

    async fn get_user(&self, id: &String) -> Result<Option<User>, Infallible> {
        Ok(USERS.into_iter().find(|user| user.name == id))
    }
}

type Auth = AuthSession<Users>;

fn failed(error: impl std::fmt::Display) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn home(auth: Auth) -> String {
    auth.user.map_or("nobody is signed in\n".into(), |user| format!("signed in as {}\n", user.name))
}

async fn login(mut auth: Auth, Form(given): Form<Credentials>) -> Result<&'static str, StatusCode> {
    let user = auth.authenticate(given).await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)?;
    auth.login(&user).await.map_err(failed)?;
    Ok("welcome\n")
}

async fn logout(mut auth: Auth) -> Result<&'static str, StatusCode> {
    auth.logout().await.map_err(failed)?;
    Ok("good bye\n")
}

fn site(store: impl SessionStore) -> Router {
    // On this machine there is no HTTPS; a real site leaves `with_secure` out.
    let sessions = SessionManagerLayer::new(TowerStore::new(store)).with_secure(false);
    let auth = AuthManagerLayerBuilder::new(Users, sessions).build();
    let routes =
        Router::new().route("/", get(home)).route("/login", post(login)).route("/logout", post(logout));
    routes.layer(auth)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = LogStore::open("axum-login-sessions", Options::default()).await?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 3000))).await?;
    println!("listening on http://{}/", listener.local_addr()?);
    let until = async || drop(tokio::signal::ctrl_c().await);
    axum::serve(listener, site(store.clone())).with_graceful_shutdown(until()).await?;
    Ok(store.close().await?)
}

#[tokio::test]
async fn sign_in_outlives_the_process_and_a_sign_out_is_for_good() {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    let folder = tempfile::tempdir().unwrap();
    let open = async || LogStore::open(folder.path(), Options::default()).await.unwrap();
    let ask = async |store: &LogStore, method: &str, path: &str, cookie: &str, form: &'static str| {
        let request = Request::builder().method(method).uri(path).header("cookie", cookie);
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(form));
        let answer = site(store.clone()).oneshot(request.unwrap()).await.unwrap();
        let cookie = answer.headers().get("set-cookie").map(|set| set.to_str().unwrap().to_owned());
        let status = answer.status();
        (status, cookie, to_bytes(answer.into_body(), 1_000).await.unwrap())
    };
    let store = open().await;
    let (refused, ..) = ask(&store, "POST", "/login", "", "name=ada&password=x").await;
    assert_eq!(refused, StatusCode::UNAUTHORIZED);
    let (_, cookie, _) = ask(&store, "POST", "/login", "", "name=ada&password=lovelace").await;
    let cookie = cookie.unwrap().split(';').next().unwrap().to_owned();
    store.close().await.unwrap();
    let store = open().await;
    assert_eq!(ask(&store, "GET", "/", &cookie, "").await.2, "signed in as ada\n");
    ask(&store, "POST", "/logout", &cookie, "").await;
    assert_eq!(ask(&store, "GET", "/", &cookie, "").await.2, "nobody is signed in\n");
}
