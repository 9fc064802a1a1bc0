//! The route tests that tower-sessions 0.15 has for its own stores, over ours.

include!(concat!(env!("OUT_DIR"), "/upstream_0_15.rs"));

mod behind_the_middleware {
    use axum::Router;
    use cloakroom::MemoryStore;
    use cloakroom::tower_sessions::TowerStore;
    use tower_sessions::SessionManagerLayer;

    async fn app(max_age: Option<Duration>, domain: Option<String>) -> Router {
        let layer = SessionManagerLayer::new(TowerStore::new(MemoryStore::new())).with_secure(true);
        crate::common::build_app(layer, max_age, domain)
    }

    route_tests!(app);
}
