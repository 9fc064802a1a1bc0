//! Which sessions a user is signed in with, and how they are told apart.
//!
//! A session that says who it is belongs to that owner: the sign-in binds it first, in the record that gives it its fresh id, and only then it says so, by
//! a save that does nothing if the session is gone. So "sign out everywhere", which ends all of an owner's sessions by one record, never misses one.

use std::time::Duration;

use cloakroom::{AtCap, Binding, Label, OwnerKey, Timestamp};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest a session lives, used or not.
pub const SESSION_DAYS_MAX: u32 = 30;
/// Devices of one user; signing in with one more signs out the one that was idle for longest.
pub const DEVICES_MAX: u32 = 20;

/// Who a user is to the store. In a real shop it is a number that never changes hands.
pub fn owner(user: &str) -> OwnerKey {
    OwnerKey::of(user.as_bytes())
}

/// What a browser that sends this `User-Agent` signs in with.
pub fn binding(user: &str, user_agent: &str) -> Binding {
    let label = Label::cut(&label(user_agent));
    Binding::to(owner(user)).labelled(label).at_most(DEVICES_MAX, AtCap::EvictIdle)
}

/// A name for the browser that sends this `User-Agent`. Browsers claim to be each other, so the order matters.
fn label(user_agent: &str) -> String {
    let first = |names: &[(&str, &'static str)]| {
        names.iter().find(|(sign, _)| user_agent.contains(sign)).map(|(_, name)| *name)
    };
    let browser = first(&[
        ("Firefox/", "Firefox"),
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ]);
    let browser = browser.unwrap_or("A browser");
    system.map_or_else(|| browser.into(), |system| format!("{browser} on {system}"))
}

/// An instant for people, to the minute.
pub fn in_words(at: Timestamp) -> String {
    let at = time::OffsetDateTime::from(std::time::SystemTime::from(at));
    format!(
        "{} {} {}, {:02}:{:02} UTC",
        at.day(),
        &at.month().to_string()[..3],
        at.year(),
        at.hour(),
        at.minute()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_see_through_what_browsers_claim_to_be() {
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36 Edg/120.0";
        assert_eq!(label(edge), "Edge on Windows");
        assert_eq!(label("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0"), "Firefox on Linux");
        assert_eq!(label("<script>"), "A browser");
    }

    #[test]
    fn instants_are_told_to_the_minute() {
        assert_eq!(in_words(Timestamp::from_millis(971_211_336_000)), "10 Oct 2000, 20:55 UTC");
    }
}
