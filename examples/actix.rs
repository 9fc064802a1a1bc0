//! actix-session with the sessions on disk: what is in a cart outlives the process.
//!
//! ```sh
//! cargo run --manifest-path tests/frameworks/Cargo.toml --example actix
//! curl -ic cookies -b cookies -X POST localhost:3000/add/hat   # again and again, also after the server was killed and started again
//! curl -b cookies -X POST localhost:3000/leave
//! ```

use actix_session::{Session, SessionMiddleware};
use actix_web::body::MessageBody;
use actix_web::cookie::Key;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::{App, Error, HttpServer, Responder, web};
use cloakroom::actix_session::ActixStore;
use cloakroom::{LogStore, Options, SessionStore as _};

const FOLDER: &str = "actix-sessions";

async fn add(item: web::Path<String>, session: Session) -> Result<impl Responder, Error> {
    let mut cart = session.get::<Vec<String>>("cart")?.unwrap_or_default();
    cart.push(item.into_inner());
    session.insert("cart", &cart)?;
    Ok(format!("in the cart: {}\n", cart.join(", ")))
}

async fn leave(session: Session) -> impl Responder {
    session.purge();
    "good bye\n"
}

fn site(
    store: ActixStore,
    key: Key,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    // On this machine there is no HTTPS; a real site leaves `cookie_secure` out.
    let sessions = SessionMiddleware::builder(store, key).cookie_secure(false).build();
    App::new().wrap(sessions).route("/add/{item}", web::post().to(add)).route("/leave", web::post().to(leave))
}

#[expect(clippy::disallowed_methods, reason = "a file beside the store, not in it")]
/// The key that signs cookies is kept beside the sessions: with another one nobody's cookie would be known.
fn key(folder: &str) -> std::io::Result<Key> {
    let path = format!("{folder}.key");
    if let Ok(bytes) = std::fs::read(&path) {
        return Key::try_from(&bytes[..]).map_err(std::io::Error::other);
    }
    let key = Key::generate();
    std::fs::write(&path, key.master())?;
    Ok(key)
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (store, key) = (LogStore::open(FOLDER, Options::default()).await?, key(FOLDER)?);
    println!("listening on http://127.0.0.1:3000/");
    let sessions = ActixStore::new(store.clone());
    let server = HttpServer::new(move || site(sessions.clone(), key.clone()));
    server.bind(("127.0.0.1", 3000))?.run().await?;
    Ok(store.close().await?)
}

#[actix_web::test]
async fn cart_outlives_the_process_and_leaving_is_for_good() {
    use actix_web::test::{TestRequest, call_and_read_body, call_service, init_service};

    let folder = tempfile::tempdir().unwrap();
    let key = Key::generate();
    let open = async || LogStore::open(folder.path(), Options::default()).await.unwrap();
    let store = open().await;
    let app = init_service(site(ActixStore::new(store.clone()), key.clone())).await;
    let answer = call_service(&app, TestRequest::post().uri("/add/coat").to_request()).await;
    let cookie = answer.response().cookies().next().unwrap().into_owned();
    store.close().await.unwrap();
    let store = open().await;
    let app = init_service(site(ActixStore::new(store.clone()), key)).await;
    let ask = |path| TestRequest::post().uri(path).cookie(cookie.clone()).to_request();
    assert_eq!(call_and_read_body(&app, ask("/add/hat")).await, "in the cart: coat, hat\n");
    call_service(&app, ask("/leave")).await;
    assert_eq!(call_and_read_body(&app, ask("/add/hat")).await, "in the cart: hat\n");
}
