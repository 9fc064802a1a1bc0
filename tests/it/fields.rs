//! What a deploy does to a type whose values are stored: the right value by serde's rules, or an error that names the field; never another value.
//!
//! Goal: to get a wrong value out of a session. Method: one field is stored as the old version of a type, and read as each new version there may be. It
//! is no test of serde: it is that the codec tells names, so that the order of fields and variants means nothing.

use std::fmt::Debug;
use std::time::Duration;

use cloakroom::{FieldError, Lifetime, MemoryStore, Session};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Before {
    user: u32,
    admin: u32,
    name: String,
}

/// What comes out of a field that was stored by the version before.
async fn after_a_deploy<T: DeserializeOwned>(before: &(impl Serialize + Sync)) -> Result<T, FieldError> {
    let store = MemoryStore::new();
    let mut session = Session::new(Lifetime::idle(Duration::from_secs(60)));
    session.insert("account", before).unwrap();
    session.save(&store).await.unwrap();
    let session = Session::load(&store, session.id().unwrap()).await.unwrap().unwrap();
    session.get::<T>("account").map(Option::unwrap)
}

async fn reads<T: DeserializeOwned + PartialEq + Debug>(expected: T) {
    let before = Before { user: 7, admin: 0, name: "Spyce".into() };
    assert_eq!(after_a_deploy::<T>(&before).await.unwrap(), expected);
}

async fn is_refused<T: DeserializeOwned + Debug>(before: &(impl Serialize + Sync)) {
    let error = after_a_deploy::<T>(before).await.unwrap_err();
    assert!(matches!(&error, FieldError::Decode { field, .. } if field == "account"), "{error:?}");
    assert!(error.to_string().contains("\"account\""), "{error}");
    assert!(!format!("{error} {error:?}").contains("Spyce"), "{error}");
}

fn old() -> Before {
    Before { user: 7, admin: 0, name: "Spyce".into() }
}

#[tokio::test]
async fn added_field_takes_its_default_or_is_missed() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct WithDefault {
        user: u32,
        #[serde(default)]
        theme: String,
        admin: u32,
        name: String,
    }
    #[derive(Deserialize, PartialEq, Debug)]
    struct Optional {
        admin: u32,
        level: Option<u8>,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct WithoutDefault {
        user: u32,
        theme: String,
    }
    reads(WithDefault { user: 7, theme: String::new(), admin: 0, name: "Spyce".into() }).await;
    reads(Optional { admin: 0, level: None }).await;
    is_refused::<WithoutDefault>(&old()).await;
}

#[tokio::test]
async fn removed_field_is_passed_over_or_refused() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct Removed {
        admin: u32,
        name: String,
    }
    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Strict {
        admin: u32,
        name: String,
    }
    reads(Removed { admin: 0, name: "Spyce".into() }).await;
    is_refused::<Strict>(&old()).await;
}

#[tokio::test]
async fn renamed_field_is_found_by_its_alias_or_missed() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct Aliased {
        #[serde(alias = "user")]
        account: u32,
        admin: u32,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Renamed {
        account: u32,
        admin: u32,
    }
    reads(Aliased { account: 7, admin: 0 }).await;
    is_refused::<Renamed>(&old()).await;
}

#[tokio::test]
async fn reordered_fields_keep_their_values() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct Reordered {
        name: String,
        admin: u32,
        user: u32,
    }
    reads(Reordered { name: "Spyce".into(), admin: 0, user: 7 }).await;
}

#[tokio::test]
async fn changed_type_holds_the_same_value_or_is_refused() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct Wider {
        user: i64,
        admin: u8,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Text {
        user: String,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Truth {
        admin: bool,
    }
    #[derive(Serialize)]
    struct Large {
        user: u32,
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    struct Narrower {
        user: u8,
    }
    reads(Wider { user: 7, admin: 0 }).await;
    is_refused::<Text>(&old()).await;
    is_refused::<Truth>(&old()).await;
    // It does not fit, and is not cut to fit.
    is_refused::<Narrower>(&Large { user: 300 }).await;
    is_refused::<String>(&old()).await;
    is_refused::<u32>(&old()).await;
    is_refused::<()>(&old()).await;
}

#[tokio::test]
async fn variant_inserted_in_the_middle_takes_nobodys_place() {
    #[derive(Serialize, Clone, Copy)]
    enum Role {
        Guest,
        Admin,
    }
    #[derive(Serialize)]
    enum Standing {
        Blocked { since: u32 },
        Trusted(u32),
    }
    #[derive(Deserialize, PartialEq, Debug)]
    enum Wider {
        Guest,
        Member,
        Admin,
    }
    #[derive(Deserialize, Debug)]
    enum Without {
        Guest,
    }
    #[derive(Deserialize, PartialEq, Debug)]
    enum WiderStanding {
        Blocked { since: u32 },
        Watched(u32),
        Trusted(u32),
    }
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only whether it decodes matters")]
    enum Reshaped {
        Trusted { since: u32 },
    }
    assert_eq!(after_a_deploy::<Wider>(&Role::Admin).await.unwrap(), Wider::Admin);
    assert_ne!(after_a_deploy::<Wider>(&Role::Guest).await.unwrap(), Wider::Member);
    is_refused::<Without>(&Role::Admin).await;
    let trusted = after_a_deploy::<WiderStanding>(&Standing::Trusted(3)).await.unwrap();
    assert_eq!(trusted, WiderStanding::Trusted(3));
    assert_ne!(trusted, WiderStanding::Watched(3));
    let blocked = after_a_deploy::<WiderStanding>(&Standing::Blocked { since: 9 }).await.unwrap();
    assert_eq!(blocked, WiderStanding::Blocked { since: 9 });
    // A variant whose shape changed is none.
    is_refused::<Reshaped>(&Standing::Trusted(3)).await;
}

#[test]
fn value_that_is_taken_is_read_back_however_deep_it_is_and_one_too_deep_is_refused() {
    let mut session = Session::new(Lifetime::idle(Duration::from_secs(60)));
    let nested =
        |levels: usize| (0..levels).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    for levels in [0, 1, 126, 127] {
        session.insert("deep", &nested(levels)).unwrap();
        assert_eq!(session.get::<serde_json::Value>("deep").unwrap(), Some(nested(levels)));
    }
    for levels in [128, 129, 500] {
        let refused = session.insert("deep", &nested(levels));
        assert!(matches!(&refused, Err(FieldError::TooDeep { field }) if field == "deep"), "{refused:?}");
        assert_eq!(session.get::<serde_json::Value>("deep").unwrap(), Some(nested(127)));
    }
    // Many of them beside each other are not deep.
    session.insert("wide", &vec![Vec::<u8>::new(); 1_000]).unwrap();
    assert_eq!(session.get::<Vec<Vec<u8>>>("wide").unwrap().unwrap().len(), 1_000);
}
