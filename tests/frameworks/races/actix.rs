//! The same behind actix-session's middleware.

use actix_session::storage::SessionStore as _;
use actix_session::{Session, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::cookie::time::Duration;
use actix_web::{App, HttpResponse, HttpServer, web};
use cloakroom::actix_session::{ActixStore, MARK};
use cloakroom::{LogStore, MemoryStore, Options, SessionStore};
use tokio::task::JoinSet;

use crate::rounds;
use crate::site::Client;

const TTL: Duration = Duration::hours(1);

async fn sign_in(session: Session) -> HttpResponse {
    session.renew();
    session.insert("user", "ada").unwrap();
    HttpResponse::Ok().finish()
}

async fn sign_out(session: Session) -> HttpResponse {
    session.purge();
    HttpResponse::Ok().finish()
}

async fn count_up(field: web::Path<String>, session: Session) -> HttpResponse {
    if session.get::<String>("user").unwrap().is_none() {
        return HttpResponse::Unauthorized().finish();
    }
    let counted = session.get::<u32>(&field).unwrap().unwrap_or_default() + 1;
    tokio::task::yield_now().await;
    session.insert(field.into_inner(), counted).unwrap();
    HttpResponse::Ok().body(counted.to_string())
}

async fn read(field: web::Path<String>, session: Session) -> HttpResponse {
    if session.get::<String>("user").unwrap().is_none() {
        return HttpResponse::Unauthorized().finish();
    }
    HttpResponse::Ok().body(session.get::<u32>(&field).unwrap().unwrap_or_default().to_string())
}

#[expect(clippy::disallowed_methods, reason = "the server is no thread of a store")]
/// Serves the site on this machine, on threads of its own, until the process ends.
fn serve(store: &ActixStore) -> Client {
    let (store, key) = (store.clone(), Key::generate());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let app = move || {
        let middleware = SessionMiddleware::builder(store.clone(), key.clone()).cookie_secure(false).build();
        App::new()
            .wrap(middleware)
            .route("/in", web::get().to(sign_in))
            .route("/out", web::get().to(sign_out))
            .route("/up/{field}", web::get().to(count_up))
            .route("/read/{field}", web::get().to(read))
    };
    std::thread::spawn(move || {
        let server = HttpServer::new(app).workers(4).disable_signals().listen(listener).unwrap();
        actix_web::rt::System::new().block_on(server.run())
    });
    Client::of(format!("http://{address}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_one_session_lose_nothing_and_a_sign_out_is_not_undone() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), Options::default()).await.unwrap();
    let client = serve(&ActixStore::new(store));
    for _ in 0..rounds() {
        let cookie = client.sign_in().await;
        let mut clients = JoinSet::new();
        for field in 0..32 {
            let (client, cookie) = (client.clone(), cookie.clone());
            clients.spawn(async move {
                for _ in 0..50 {
                    client.ask(&format!("/up/{field}"), &cookie).await;
                }
            });
        }
        clients.join_all().await;
        for field in 0..32 {
            assert_eq!(
                client.ask(&format!("/read/{field}"), &cookie).await.number,
                Some(50),
                "field {field}"
            );
        }
        let mut in_flight = JoinSet::new();
        for field in 0..32 {
            let (client, cookie) = (client.clone(), cookie.clone());
            in_flight.spawn(async move { client.ask(&format!("/up/{field}"), &cookie).await.number });
        }
        client.ask("/out", &cookie).await;
        in_flight.join_all().await;
        assert_eq!(client.ask("/read/0", &cookie).await.number, None, "the session is back");
    }
}

type State = std::collections::HashMap<String, String>;

async fn stored(store: &ActixStore) -> actix_session::storage::SessionKey {
    store.save(State::from([("a".into(), "1".into()), ("b".into(), "1".into())]), &TTL).await.unwrap()
}

fn again(token: &actix_session::storage::SessionKey) -> actix_session::storage::SessionKey {
    token.as_ref().to_owned().try_into().unwrap()
}

async fn fields(
    store: &ActixStore,
    token: &actix_session::storage::SessionKey,
) -> Option<Vec<(String, String)>> {
    let mut fields: Vec<_> = store.load(token).await.unwrap()?.into_iter().collect();
    fields.retain(|(name, _)| name != MARK);
    fields.sort();
    Some(fields)
}

fn of(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

#[tokio::test]
async fn entries_are_merged_and_cleared_and_a_purged_session_stays_gone() {
    let ours = MemoryStore::new();
    let store = ActixStore::new(ours.clone());
    let token = stored(&store).await;
    let load = async || store.load(&token).await.unwrap().unwrap();
    let (mut one, mut other) = (load().await, load().await);
    one.insert("a".into(), "2".into());
    other.remove("b");
    other.insert("c".into(), "3".into());
    store.update(again(&token), one, &TTL).await.unwrap();
    store.update(again(&token), other, &TTL).await.unwrap();
    assert_eq!(fields(&store, &token).await, of(&[("a", "2"), ("c", "3")]));

    store.update(again(&token), State::from([("d".into(), "4".into())]), &TTL).await.unwrap();
    assert_eq!(fields(&store, &token).await, of(&[("d", "4")]), "clear replaces all");

    let late = load().await;
    store.delete(&token).await.unwrap();
    store.update(again(&token), late, &TTL).await.unwrap();
    store.update_ttl(&token, &TTL).await.unwrap();
    assert_eq!(fields(&store, &token).await, None);
    assert_eq!(ours.len(), 0);
}

#[tokio::test]
async fn renewed_session_carries_its_entries_unless_somebody_signed_out() {
    for signs_out in [false, true] {
        let store = ActixStore::new(MemoryStore::new());
        let token = stored(&store).await;
        let mut mine = store.load(&token).await.unwrap().unwrap();
        mine.insert("a".into(), "2".into());
        if signs_out {
            store.delete(&token).await.unwrap();
        }
        store.delete(&token).await.unwrap();
        let renewed = store.save(mine, &TTL).await.unwrap();
        let carried = if signs_out { of(&[("a", "2")]) } else { of(&[("a", "2"), ("b", "1")]) };
        assert_eq!(fields(&store, &renewed).await, carried, "somebody signs out: {signs_out}");
        assert_eq!(fields(&store, &token).await, None);
    }
}

#[tokio::test]
async fn token_that_was_not_issued_here_is_nobodys() {
    let store = ActixStore::new(MemoryStore::new());
    for planted in ["", "x", &"A".repeat(43), &"=".repeat(4_000)] {
        let planted: actix_session::storage::SessionKey = planted.to_owned().try_into().unwrap();
        assert!(store.load(&planted).await.unwrap().is_none());
        store.update(again(&planted), State::new(), &TTL).await.unwrap();
        store.delete(&planted).await.unwrap();
        assert!(store.load(&planted).await.unwrap().is_none());
    }
}
