//! The store behind frameworks' own session middleware, each a cargo feature that is off by default.
//!
//! Thin: they are over the public API alone, and know nothing of logs or indexes. Invariants: a save only ever updates, so a request that was in
//! flight when somebody signed out revives nobody (P2); and it merges field by field, so two requests at once lose nothing (P3).

#![cfg_attr(
    all(feature = "tower-sessions", feature = "tower-sessions-0-14"),
    expect(clippy::duplicate_mod, reason = "one body serves two versions of the same trait")
)]

#[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14", feature = "actix-session"))]
mod behind;
#[cfg(any(feature = "tower-sessions", feature = "tower-sessions-0-14", feature = "actix-session"))]
mod departed;

#[cfg(feature = "actix-session")]
pub mod actix_session;

/// The store of [`tower-sessions`](https://docs.rs/tower-sessions/0.15) 0.15.
#[cfg(feature = "tower-sessions")]
#[path = "."]
pub mod tower_sessions {
    use ::tower_sessions_core as framework;

    macro_rules! here {
        () => {
            "tower_sessions"
        };
    }

    #[path = "tower.rs"]
    mod adapter;
    pub use adapter::TowerStore;
}

/// The store of [`tower-sessions`](https://docs.rs/tower-sessions/0.14) 0.14, on which axum-login is.
#[cfg(feature = "tower-sessions-0-14")]
#[path = "."]
pub mod tower_sessions_0_14 {
    use ::tower_sessions_core_0_14 as framework;

    macro_rules! here {
        () => {
            "tower_sessions_0_14"
        };
    }

    #[path = "tower.rs"]
    mod adapter;
    pub use adapter::TowerStore;
}
