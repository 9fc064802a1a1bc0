//! How to come from another session store.
//!
//! Behind tower-sessions' middleware a store is one line of a program, so moving is that line, and a decision about who is signed in now. Nothing here changes
//! cookies, names of fields or handlers.
//!
//! | from | in `Cargo.toml`, in its place | the line was | the line is |
//! |---|---|---|---|
//! | `tower-sessions-sqlx-store` | `cloakroom = { features = ["tower-sessions"] }` | `SqliteStore::new(pool)`, `store.migrate()` | `TowerStore::new(LogStore::open(folder, Options::default()).await?)` |
//! | `tower-sessions-redis-store` | the same | `RedisStore::new(pool)` | the same |
//! | `tower-sessions-moka-store` | the same | `MokaStore::new(Some(2_000))` | the same, or `TowerStore::new(MemoryStore::new())` for sessions that end with the process |
//! | axum-login over any of them | `features = ["tower-sessions-0-14"]` | as above | `cloakroom::tower_sessions_0_14::TowerStore` |
//! | a store of actix-session | `features = ["actix-session"]` | `RedisSessionStore::new(..)` | `ActixStore::new(store)` |
//!
//! # What changes
//!
//! - **No database, and one process.** A folder on a local disk; one process has it open. Several machines that share sessions stay with a database. In a
//!   rolling deploy the new process waits for the old one with [`LogStore::open_wait`](crate::LogStore::open_wait).
//! - **No task that deletes.** `continuously_delete_expired` does nothing here, and needs not be spawned: what is past its deadline is never read, and its
//!   space comes back by itself.
//! - **No cache before it.** `CachingSessionStore` over moka was there because a query is slow. A read here takes about a microsecond; with a cache, a
//!   session that somebody signed out may be served from it.
//! - **Requests at once.** Where the last save took all, each field is merged by itself; a save to a session that was signed out does nothing. Handlers that took a
//!   lock around a session need none.
//! - **Sign out everywhere.** Keep a clone of the store: [`bind_as`](crate::SessionStore::bind_as) gives the session to its user after the sign-in was saved,
//!   [`owned`](crate::SessionStore::owned) lists theirs, [`revoke`](crate::SessionStore::revoke) ends all of them.
//! - **Durability is chosen.** A save is in the kernel when it is acknowledged, and on the device within 100 ms; a sign-out is on the device. For saves that survive a
//!   power cut at once: `TowerStore::new(store.at(Durability::Sync))`. The page [`what_survives_what`](crate::what_survives_what) has the rest.
//! - **Close it.** Call [`close`](crate::SessionStore::close) when the server has shut down, and await it; without it the next open takes a little longer, and the last moments of what is `Buffered` may be gone.
//!
//! # Who is signed in now
//!
//! Records of other stores are in other formats, and under ids that are not hashed. Two ways:
//!
//! 1. Everybody signs in again. Deploy at a quiet hour; that is all.
//! 2. Both stores for as long as a session lasts. Write a store of a few lines that loads from the new one, and from the old one if that knows nothing, and then
//!    creates it in the new one and deletes it in the old one; saves and deletes go to the new one. Take it out again when the longest session is over.
