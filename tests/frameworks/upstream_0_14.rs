//! The route tests that tower-sessions 0.14 has for its own stores, over ours.

extern crate tower_sessions_0_14 as tower_sessions;
include!(concat!(env!("OUT_DIR"), "/upstream_0_14.rs"));

mod behind_the_middleware {
    use axum::Router;
    use cloakroom::MemoryStore;
    use cloakroom::tower_sessions_0_14::TowerStore;
    use tower_sessions::SessionManagerLayer;

    async fn app(max_age: Option<Duration>, domain: Option<String>) -> Router {
        let layer = SessionManagerLayer::new(TowerStore::new(MemoryStore::new())).with_secure(true);
        crate::common::build_app(layer, max_age, domain)
    }

    route_tests!(app);
}
