//! Requests at once, over HTTP and through the middleware as it is: nothing is lost, and nobody who signed out is back.
//!
//! The same is done to tower-sessions' own memory store, and what that loses is printed: the difference is the reason for the adapter. Rounds come
//! from `CLOAKROOM_SIM_BUDGET`, 1 by default.

mod actix;
mod beside;
mod conformance;
mod hostile;
mod http;
mod power;
mod session;
mod site;

/// How often each race is run.
fn rounds() -> u32 {
    std::env::var("CLOAKROOM_SIM_BUDGET").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
