//! What is done for sealed segments behind the operations: a footer for each that wants one, a check of each that an open took on its footer's word.
//!
//! The head of [`footers`](super::footers) has the argument. Nothing waits for a chore, and no promise does.

use std::sync::Arc;
use std::time::Duration;

use crate::log::{Segment, find};
use crate::sync::for_each;

use super::Engine;
use super::footers::Chore;
use super::open::workers;

/// A segment that is as old as this since its seal, and mostly alive, is likely to stay for long.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// How long the end of a store goes on writing footers.
const AT_CLOSE_MAX: Duration = Duration::from_secs(1);

impl Engine {
    /// Notes that segments which are sealed and trimmed have no footer yet.
    pub(super) fn want_footers(&self, sealed: impl IntoIterator<Item = Arc<Segment>>) {
        let long = sealed.into_iter().filter(|s| s.written() >= self.options.footers_from);
        let footer_due = Some(self.options.clock.uptime() + SETTLED_AFTER);
        self.chores.lock().extend(long.map(|segment| {
            let seal = segment.seal();
            Chore { segment, seal, footer_due }
        }));
    }

    /// Does one of the chores that are due, unless the disk is too full; says whether it did. Footers wait for the reserve: they must not take what
    /// it is missing.
    pub(super) fn next_chore(&self) -> bool {
        if self.log.is_pressed() || self.log.poisoned().is_some() {
            return false;
        }
        let (has_room, now) = (self.reserve.is_whole(), self.options.clock.uptime());
        let is_due = |chore: &Chore| chore.footer_due.is_none_or(|due| has_room && due <= now);
        let mut chores = self.chores.lock();
        let Some(next) = chores.iter().rposition(is_due) else { return false };
        let chore = chores.remove(next);
        drop(chores);
        match chore.footer_due {
            None => self.check(&chore),
            Some(_) => self.put_footer(&chore),
        }
        true
    }

    /// Writes a footer, if its segment is likely to stay.
    fn put_footer(&self, chore: &Chore) {
        let live = self.index.live_bytes().get(&chore.segment.id()).copied().unwrap_or(0);
        if live * 3 >= u64::from(chore.seal.len) * 2 {
            chore.put_footer();
        }
    }

    /// Writes the footers that are missing, at the end of the store. They leave as much room as the reserve takes: the next open has to write
    /// before anything is given back.
    pub(super) fn put_footers(&self) {
        let chores = std::mem::take(&mut *self.chores.lock());
        let missing: Vec<_> = chores.iter().rev().filter(|chore| chore.footer_due.is_some()).collect();
        if !missing.is_empty() && self.reserve.hold(&self.catalog).is_ok() {
            let (clock, started) = (&self.options.clock, self.options.clock.uptime());
            for_each(&missing, workers(self.threads, &self.options), |chore| {
                // Who opens the folder next waits for this, and many may be missing: of a store that never had any, all.
                if clock.uptime().saturating_sub(started) < AT_CLOSE_MAX {
                    self.put_footer(chore);
                }
            });
            self.reserve.remove();
        }
    }

    /// Cuts off the footers of segments that take twice what lives of them, or of all; says whether there were any. Without its footer no segment that
    /// is damaged lets the store open. A segment that was removed between its seal and the wish for its footer goes as well: whoever holds it holds its
    /// space.
    pub(super) fn give_up_footers(&self, all: bool) -> bool {
        let live = self.index.live_bytes();
        let is_too_much = |s: &Segment| all || s.disk_bytes() >= 2 * live.get(&s.id()).copied().unwrap_or(0);
        let (damaged, list) = (self.damaged.lock().clone(), self.table.load());
        self.chores.lock().retain(|chore| find(&list, chore.segment.id()).is_some());
        let with_footer = list.iter().filter(|s| s.footer_bytes() > 0 && !damaged.contains(&s.id()));
        let mut given = false;
        for segment in with_footer.filter(|s| is_too_much(s)) {
            given |= segment.cut_footer().is_ok();
        }
        given
    }

    /// Reads a segment that the open took on its footer's word, and serves it from memory from then on.
    fn check(&self, Chore { segment, seal, .. }: &Chore) {
        match segment.checksum() {
            Ok(crc) if crc == seal.crc => {
                if segment.is_mapped() {
                    segment.warm_up();
                    self.table.replace(segment);
                    self.balance_warmth();
                }
            }
            Ok(_) => {
                tracing::error!(segment = %segment.id(), "a segment is damaged; `verify` tells where, and what of it is read says so");
                self.found_damaged(segment.id());
            }
            Err(e) => {
                // Nobody reads it again to tell: it counts as damaged, as it does for `verify`.
                tracing::error!(error = %e, segment = %segment.id(), "a segment cannot be read; `verify` tells where");
                self.found_damaged(segment.id());
            }
        }
    }
}
