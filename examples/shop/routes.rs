//! What the shop does with each request. Between the session layer, which knows no cart, and the page, which decides nothing.
//!
//! Invariant: reading changes nothing but the session's idle period; every change is a POST that ends in a redirect.

use axum::extract::{DefaultBodyLimit, Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use cloakroom::{Saved, Session, SessionStore, Whose};
use serde::Deserialize;

use super::devices;
use super::goods::{self, GOODS, Item};
use super::guard;
use super::page::{DeviceLine, Page};
use super::visit::{Door, Trouble};

/// Forms here are a name or an item; more is no form of ours.
const FORM_BYTES_MAX: usize = 4 << 10;
const NAME_CHARS_MAX: usize = 40;
/// Of one item in one cart.
const COUNT_MAX: u32 = 99;
const USER: &str = "user";

/// Everything the shop serves. `scheme` is what its address begins with in a browser.
pub fn router(door: Door, scheme: &'static str) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/cart/add", post(add))
        .route("/cart/remove", post(remove))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/sign-out-everywhere", post(sign_out_everywhere))
        .with_state(door)
        .layer(middleware::map_response(strict_headers))
        .layer(middleware::from_fn_with_state(scheme, guard::own_forms_only))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .route("/shop.css", get(style))
}

#[derive(Deserialize)]
struct HomeQuery {
    notice: Option<String>,
}

#[derive(Deserialize)]
struct ItemForm {
    item: String,
}

#[derive(Deserialize)]
struct NameForm {
    name: String,
}

async fn home(
    State(door): State<Door>,
    headers: HeaderMap,
    Query(query): Query<HomeQuery>,
) -> Result<Response, Trouble> {
    let session = door.enter(&headers).await?;
    let user: Option<String> = session.get(USER)?;
    let mut lines = Vec::new();
    if let Some(user) = &user {
        let here = session.id().map(cloakroom::SessionId::key);
        let mut theirs =
            door.store.owned(devices::owner(user), None, devices::DEVICES_MAX as usize).await?.sessions;
        theirs.sort_by_key(|device| device.created_at);
        lines.extend(theirs.into_iter().map(|device| DeviceLine {
            is_this_one: Some(device.key) == here,
            since: devices::in_words(device.created_at),
            label: device.label.to_string(),
        }));
    }
    let page = Page {
        is_known: session.id().is_some(),
        user,
        cart: cart(&session)?,
        devices: lines,
        notice: notice(query.notice.as_deref()),
    };
    door.leave(session, &headers, page.render()).await
}

/// What a redirect may say on the next page; never text from the address itself.
fn notice(name: Option<&str>) -> Option<&'static str> {
    match name? {
        "name" => Some("A name has 1 to 40 characters."),
        "ended" => Some("You were signed out while you signed in. Please sign in again."),
        "out" => Some("You are signed out on this device."),
        "out-everywhere" => Some("You are signed out on every device."),
        _ => None,
    }
}

/// Each item is a field of its own, so that two requests which add different ones at the same time both win.
fn field(item: &Item) -> String {
    format!("cart/{}", item.slug)
}

fn cart(session: &Session) -> Result<Vec<(&'static Item, u32)>, Trouble> {
    let mut cart = Vec::new();
    for item in &GOODS {
        if let Some(count) = session.get(&field(item))? {
            cart.push((item, count));
        }
    }
    Ok(cart)
}

async fn add(
    State(door): State<Door>,
    headers: HeaderMap,
    Form(form): Form<ItemForm>,
) -> Result<Response, Trouble> {
    let mut session = door.enter(&headers).await?;
    if let Some(item) = goods::item(&form.item) {
        let count = session.get::<u32>(&field(item))?.unwrap_or(0);
        session.insert(&field(item), &count.saturating_add(1).min(COUNT_MAX))?;
    }
    door.leave(session, &headers, Redirect::to("/")).await
}

async fn remove(
    State(door): State<Door>,
    headers: HeaderMap,
    Form(form): Form<ItemForm>,
) -> Result<Response, Trouble> {
    let mut session = door.enter(&headers).await?;
    if let Some(item) = goods::item(&form.item) {
        session.remove(&field(item));
    }
    door.leave(session, &headers, Redirect::to("/")).await
}

/// Bound first, then named: see the head of `devices`.
async fn sign_in(
    State(door): State<Door>,
    headers: HeaderMap,
    Form(form): Form<NameForm>,
) -> Result<Response, Trouble> {
    let name = form.name.trim();
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Ok(Redirect::to("/?notice=name").into_response());
    }
    let mut session = door.enter(&headers).await?;
    if session.contains(USER) {
        return door.leave(session, &headers, Redirect::to("/")).await;
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let binding = devices::binding(name, agent.unwrap_or_default());
    // A fresh id, since the old one may be known to whoever planted it; the cart comes along.
    if !session.sign_in(&door.store, binding.clone()).await? {
        session = Session::new(door.lifetime);
        session.sign_in(&door.store, binding).await?;
    }
    session.insert(USER, name)?;
    match session.save(&door.store).await? {
        Saved::Gone => Ok(Redirect::to("/?notice=ended").into_response()),
        _ => door.leave(session, &headers, Redirect::to("/")).await,
    }
}

async fn sign_out(State(door): State<Door>, headers: HeaderMap) -> Result<Response, Trouble> {
    let session = door.enter(&headers).await?;
    session.delete(&door.store).await?;
    without_cookie(&door, "/?notice=out")
}

async fn sign_out_everywhere(State(door): State<Door>, headers: HeaderMap) -> Result<Response, Trouble> {
    let session = door.enter(&headers).await?;
    if let Some(user) = session.get::<String>(USER)? {
        door.store.revoke(Whose::Owner(devices::owner(&user)), None).await?;
    }
    without_cookie(&door, "/?notice=out-everywhere")
}

/// The session is over, so the browser need not keep its id; if it does, nothing comes of it.
fn without_cookie(door: &Door, to: &str) -> Result<Response, Trouble> {
    let mut answer = Redirect::to(to).into_response();
    let cookie = door.ticket.removal().to_string();
    answer.headers_mut().append(header::SET_COOKIE, cookie.try_into()?);
    Ok(answer)
}

/// No script at all, no other site's frame, and no copy in a cache. The referrer policy must leave `Origin` in our own forms.
async fn strict_headers(mut answer: Response) -> Response {
    const POLICY: &str =
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("shop.css"))
}
