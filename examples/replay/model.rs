//! What a session layer must have answered to each request of a log, computed from the log alone: no store, no clock, none of the layer's code.
//!
//! Invariant: an answer that passes [`Model::check`] agrees with every answer before it. Idle expiry has a grain, so between `idle` and
//! `idle + grain` after the last touch either answer is right; the model then believes what it was told, and counts it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use super::access_log::{Entry, Visitor};
use super::layer::{self, Seen};

/// What one response said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The session after the request, if there is one.
    pub seen: Option<Seen>,
    /// The id that a cookie brought, if one came.
    pub new_id: Option<String>,
}

/// The first response that cannot be.
#[derive(Debug)]
pub struct Difference {
    number: usize,
    entry: Entry,
    fate: String,
    expected: Vec<Option<Seen>>,
    answer: Answer,
    why: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request {}: {}", self.number, self.why)?;
        writeln!(f, "  visitor   {}", self.entry.visitor)?;
        writeln!(f, "  asked     {} at {} ms", self.entry.path, self.entry.at_ms)?;
        writeln!(f, "  the log   {}", self.fate)?;
        for seen in &self.expected {
            writeln!(f, "  expected  {}", in_words(seen.as_ref()))?;
        }
        write!(f, "  answered  {}", in_words(self.answer.seen.as_ref()))?;
        write!(f, ", {} cookie", if self.answer.new_id.is_some() { "with a new" } else { "without a" })
    }
}

impl std::error::Error for Difference {}

fn in_words(seen: Option<&Seen>) -> String {
    seen.map_or("no session".into(), |s| format!("{} pages, the last ones {:?}", s.pages, s.last))
}

/// A session as the log tells it.
#[derive(Clone)]
struct Known {
    touched_ms: u64,
    pages: u64,
    last: VecDeque<String>,
}

impl Known {
    fn seen(&self) -> Seen {
        Seen { pages: self.pages, last: self.last.iter().cloned().collect() }
    }
}

/// All visitors of a log so far.
pub struct Model {
    idle_ms: u64,
    grain_ms: u64,
    known: HashMap<Visitor, Known>,
    ids: HashSet<String>,
    visitors: HashSet<Visitor>,
    /// Requests checked.
    pub requests: usize,
    /// Those where either answer was right.
    pub either: usize,
}

impl Model {
    /// `idle_ms` without touch coalescing has no grain; with it, a sixteenth, from one second to five minutes.
    pub fn new(idle_ms: u64, exact: bool) -> Self {
        Self {
            idle_ms,
            grain_ms: if exact { 0 } else { (idle_ms / 16).clamp(1_000, 300_000) },
            known: HashMap::new(),
            ids: HashSet::new(),
            visitors: HashSet::new(),
            requests: 0,
            either: 0,
        }
    }

    /// Visitors that asked for anything.
    pub fn visitors(&self) -> usize {
        self.visitors.len()
    }

    /// Sessions begun: each has an id of its own.
    pub fn created(&self) -> usize {
        self.ids.len()
    }

    /// The fewest and the most sessions there can be at an instant.
    pub fn live_at(&self, at_ms: u64) -> (usize, usize) {
        let within = |ms| self.known.values().filter(|known| at_ms < known.touched_ms + ms).count();
        (within(self.idle_ms), within(self.idle_ms + self.grain_ms))
    }

    /// Takes the answer to the next request of the log, or says why it cannot be.
    pub fn check(&mut self, entry: &Entry, answer: Answer) -> Result<(), Box<Difference>> {
        let before = self.known.get(&entry.visitor);
        let (may_live, may_be_gone, fate) = self.fate(before, entry.at_ms);
        let kept = before.filter(|_| may_live).map(|known| after(entry, Some(known)));
        let anew = may_be_gone.then(|| is_page(entry).then(|| after(entry, None)));

        let is = |known: &Known| answer.seen.as_ref() == Some(&known.seen());
        let next = match (&kept, &anew, &answer.new_id) {
            (Some(known), _, None) if is(known) => Ok(Some(known.clone())),
            (_, Some(Some(known)), Some(id)) if is(known) => {
                if self.ids.contains(id) {
                    Err("a new session got an id that was given out before")
                } else {
                    Ok(Some(known.clone()))
                }
            }
            (_, Some(None), None) if answer.seen.is_none() => Ok(None),
            _ => Err("the session is not what the log makes it"),
        };
        let next = next.map_err(|why| {
            let expected = kept.iter().map(|known| Some(known.seen()));
            let expected = expected.chain(anew.iter().map(|known| known.as_ref().map(Known::seen)));
            Box::new(Difference {
                number: self.requests + 1,
                entry: entry.clone(),
                fate,
                expected: expected.collect(),
                answer: answer.clone(),
                why,
            })
        })?;
        self.requests += 1;
        self.either += usize::from(kept.is_some() && anew.is_some());
        self.ids.extend(answer.new_id);
        self.visitors.insert(entry.visitor.clone());
        match next {
            Some(known) => self.known.insert(entry.visitor.clone(), known),
            None => self.known.remove(&entry.visitor),
        };
        Ok(())
    }

    /// Whether the visitor's session may be there, whether it may not, and why.
    fn fate(&self, known: Option<&Known>, at_ms: u64) -> (bool, bool, String) {
        let Some(known) = known else { return (false, true, "has no session of this visitor".into()) };
        let idle_ms = at_ms.saturating_sub(known.touched_ms);
        let why = format!("has the visitor idle for {idle_ms} ms of {} and {}", self.idle_ms, self.grain_ms);
        (idle_ms < self.idle_ms + self.grain_ms, idle_ms >= self.idle_ms, why)
    }
}

/// The session once this request is done.
fn after(entry: &Entry, before: Option<&Known>) -> Known {
    let mut known = before.cloned().unwrap_or(Known { touched_ms: 0, pages: 0, last: VecDeque::new() });
    known.touched_ms = entry.at_ms;
    if is_page(entry) {
        known.pages += 1;
        known.last.push_back(entry.path.chars().take(layer::PATH_CHARS_MAX).collect());
        if known.last.len() > layer::HISTORY_MAX {
            known.last.pop_front();
        }
    }
    known
}

/// Pages are counted; what a page pulls in (images, scripts, styles) only uses the session.
pub fn is_page(entry: &Entry) -> bool {
    const PULLED_IN: [&str; 12] =
        ["css", "js", "png", "jpg", "jpeg", "gif", "ico", "svg", "woff", "ttf", "map", "txt"];
    let path = entry.path.split(['?', '#']).next().unwrap_or_default();
    let ending = path.rsplit('/').next().and_then(|file| file.rsplit_once('.'));
    !ending.is_some_and(|(_, ending)| PULLED_IN.contains(&ending.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_MS: u64 = 1_800_000;

    fn entry(at_ms: u64, path: &str) -> Entry {
        Entry { at_ms, visitor: Visitor { address: "192.0.2.1".into(), agent: None }, path: path.into() }
    }

    fn answer(pages: u64, last: &[&str], new_id: Option<&str>) -> Answer {
        let last = last.iter().map(ToString::to_string).collect();
        Answer { seen: Some(Seen { pages, last }), new_id: new_id.map(Into::into) }
    }

    #[test]
    fn wrong_answers_are_told_and_right_ones_pass() {
        let mut model = Model::new(IDLE_MS, false);
        model.check(&entry(0, "/logo.png?v=2"), Answer { seen: None, new_id: None }).unwrap();
        model.check(&entry(0, "/a"), answer(1, &["/a"], None)).expect_err("no cookie came");
        model.check(&entry(0, "/a"), answer(1, &["/a"], Some("x"))).unwrap();
        model.check(&entry(9, "/b"), answer(1, &["/b"], Some("y"))).expect_err("it was lost");
        model.check(&entry(9, "/b"), answer(3, &["/a", "/b"], None)).expect_err("a page too many");
        model.check(&entry(9, "/b"), answer(2, &["/a", "/b"], None)).unwrap();
        model.check(&entry(9, "/b.css"), answer(2, &["/a", "/b"], None)).unwrap();
        assert_eq!((model.requests, model.created(), model.visitors(), model.either), (4, 1, 1, 0));
    }

    #[test]
    fn expiry_has_a_grain_in_which_either_answer_is_right() {
        for (idle, kept, anew) in [
            (IDLE_MS - 1, true, false),
            (IDLE_MS, true, true),
            (IDLE_MS + 112_499, true, true),
            (IDLE_MS + 112_500, false, true),
        ] {
            for (given, right) in
                [(answer(2, &["/a", "/b"], None), kept), (answer(1, &["/b"], Some("y")), anew)]
            {
                let mut model = Model::new(IDLE_MS, false);
                model.check(&entry(7, "/a"), answer(1, &["/a"], Some("x"))).unwrap();
                assert_eq!(model.check(&entry(7 + idle, "/b"), given).is_ok(), right, "{idle}");
                assert_eq!(model.either == 1, right && kept && anew);
            }
        }
    }

    #[test]
    fn an_id_is_given_out_once() {
        let mut model = Model::new(IDLE_MS, true);
        model.check(&entry(0, "/a"), answer(1, &["/a"], Some("x"))).unwrap();
        assert_eq!(model.live_at(IDLE_MS - 1), (1, 1));
        assert_eq!(model.live_at(IDLE_MS), (0, 0));
        model.check(&entry(IDLE_MS, "/a"), answer(1, &["/a"], Some("x"))).expect_err("the same id again");
    }
}
