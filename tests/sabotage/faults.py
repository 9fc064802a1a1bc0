"""The faults: where each is, what stands there, what stands there with the fault in it, and which test must fail."""

from dataclasses import dataclass

IT = ["--test", "it"]
LIB = ["--lib"]
SIM = ["--test", "sim"]
MODELS = ["--manifest-path", "tests/shuttle/Cargo.toml"]


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    old: str
    new: str
    test: str
    target: tuple = tuple(IT)


FAULTS = [
    # The log.
    Fault(
        "sync is acknowledged when it is written",
        "src/log/staging.rs",
        "Durability::Sync => (Some(&mut self.synced), None),",
        "Durability::Sync => (Some(&mut self.written), None),",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "a sync leaves out the segment that the stream has left",
        "src/log/stream.rs",
        "for segment in &unsynced.segments {",
        "for segment in unsynced.segments.iter().skip(usize::from(unsynced.segments.len() > 1)) {",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "the watermark is the end of the group that carries it",
        "src/log/stream.rs",
        "let watermark = self.durable();\n        group.close(",
        "let watermark = group.end_position();\n        group.close(",
        "hole_followed_by_valid_groups_is_a_torn_tail",
    ),
    Fault(
        "what is written counts as durable before it is synced",
        "src/log/stream.rs",
        "        unsynced.upto = Some(group.end_position());\n",
        "        unsynced.upto = Some(group.end_position());\n        self.durable.fetch_max(pack(group.end_position()), Ordering::AcqRel);\n",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "a sync that failed is tried again",
        "src/log/stream.rs",
        "        *failed = true;\n        for segment in &unsynced.segments {",
        "        *failed = false;\n        for segment in &unsynced.segments {",
        "models::stream",
        tuple(MODELS),
    ),
    Fault(
        "who waits for a group that is not written is not told of a failure",
        "src/log/staging.rs",
        "g.waiters.written.drain(..).chain(g.waiters.synced.drain(..))",
        "g.waiters.written.drain(..).chain(g.waiters.synced.drain(..0))",
        "failing_call_among_threads_ends_as_documented",
    ),
    Fault(
        "a segment counts as left while its end is not durable",
        "src/log/stream.rs",
        "partition(|s| s.id() < durable.segment)",
        "partition(|s| s.id() <= durable.segment || durable.segment <= s.id())",
        "power_loss_among_threads_leaves_what_was_acknowledged",
    ),
    # Segments and manifest.
    Fault(
        "the folder is not synced when a segment is made",
        "src/engine/keeper.rs",
        "Ok(spare) => match self.disk.sync_folder() {",
        "Ok(spare) => match Ok::<(), io::Error>(()) {",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "the folder is not synced when the manifest is replaced",
        "src/engine/catalog.rs",
        "    disk.sync_folder().map_err(Unchanged::Unknown)\n",
        "    Ok(())\n",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "the new manifest is renamed before it is synced",
        "src/engine/catalog.rs",
        "    let written = match write_new(disk, MANIFEST_NEW, &bytes, true) {",
        "    let written = match write_new(disk, MANIFEST_NEW, &bytes, false) {",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "a segment takes groups before its listing is durable",
        "src/engine/keeper.rs",
        "        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {\n            for segment in &*to_seal {",
        "        if let Some(spare) = &spare {\n            self.table.put(spare);\n            self.log.give_spare(Arc::clone(spare));\n        }\n        let changed = self.catalog.change(self.clock.mark(), self.log.last_seq(), |manifest| {\n            for segment in &*to_seal {",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    # Recovery.
    Fault(
        "what lies above the watermark stays where a killed process left it",
        "src/engine/recover.rs",
        "let watermark = kept.iter().map(|tail| tail.scanned.watermark).fold(start, Ord::max);",
        "let watermark = kept.iter().map(|tail| Position { segment: tail.segment.id(), offset: tail.scanned.end }).fold(start, Ord::max);",
        "long_history_of_every_trouble_keeps_its_promises",
        tuple(SIM),
    ),
    Fault(
        "what is written again is not synced",
        "src/log/copy.rs",
        "        self.segment.trim()?;\n        self.segment.sync()?;\n",
        "        self.segment.trim()?;\n",
        "kill_after_any_operation_leaves_what_was_acknowledged",
    ),
    Fault(
        "damage below a later watermark is taken for a torn end",
        "src/engine/recover.rs",
        "Some(claimed) if claimed > position =>",
        "Some(claimed) if claimed > position && position.offset == 0 =>",
        "flipped_bit_below_a_later_watermark_is_refused",
    ),
    Fault(
        "a deadline is folded with the number of its content",
        "src/engine/fold.rs",
        "replay.content(&key, entry, owner, deadline_seq);",
        "replay.content(&key, entry, owner, seq);",
        "deadline_that_a_copy_carries_wins_over_an_older_touch_that_is_left",
    ),
    Fault(
        "a touch is taken for one of any content",
        "src/index/replay.rs",
        "let claim = Claim { seq, of, touched_in: Some(segment), deadlines };",
        "let claim = Claim { seq, of: Seq(of.0.min(0)), touched_in: Some(segment), deadlines };",
        "touch_of_a_content_that_is_gone_moves_no_older_one",
        tuple(LIB),
    ),
    Fault(
        "a lost manifest is not missed",
        "src/engine/open.rs",
        "        if holds_groups(&whole(disk, name).map_err(read)?, &header) {",
        "        if header.id != id && holds_groups(&whole(disk, name).map_err(read)?, &header) {",
        "lost_manifest_is_refused_while_there_are_segments_with_groups",
    ),
    # Compaction.
    Fault(
        "a tombstone is dropped while an older segment lives",
        "src/engine/compact/run.rs",
        "Kind::Delete | Kind::Revoke if header.deadlines.expires_at > now => {",
        "Kind::Revoke if header.deadlines.expires_at > now => {",
        "deleted_session_does_not_come_back_when_its_tombstone_is_dropped",
    ),
    Fault(
        "the half of a rotation that hides the old key is dropped",
        "src/engine/compact/run.rs",
        "            && rotated.hides_until > now\n",
        "            && rotated.hides_until < now\n",
        "background_work_ends_and_leaves_no_more_on_disk_than_allowed",
    ),
    Fault(
        "a segment that holds only touches is unlinked",
        "src/engine/compact/run.rs",
        "                if entry.as_ref().is_some_and(newest) {",
        "                if entry.as_ref().is_some_and(newest) && now == Timestamp::default() {",
        "touch_whose_segment_holds_nothing_else_is_kept",
    ),
    Fault(
        "a touch is not counted as live",
        "src/index/usage.rs",
        "        if let Some(segment) = entry.touched_in {\n            self.add(segment, u64::from(RECORD_HEADER_BYTES));\n        }\n",
        "",
        "no_dead_record_is_missed_and_nobody_who_ended_comes_back_later",
        tuple(LIB),
    ),
    Fault(
        "a copy says that its deadline is as old as its content",
        "src/engine/compact/run.rs",
        "                let deadline_seq = self.log.last_seq();",
        "                let deadline_seq = header.seq;",
        "deadline_that_a_copy_carries_wins_over_an_older_touch_that_is_left",
    ),
    Fault(
        "a copy is published over a fresh write",
        "src/index/shard.rs",
        "            let same = entry.address == read.address;\n",
        "            let same = entry.address != to;\n",
        "no_dead_record_is_missed_and_nobody_who_ended_comes_back_later",
        tuple(LIB),
    ),
    Fault(
        "records are dropped that only an unsynced one replaces",
        "src/engine/compact/run.rs",
        "        self.log.settle().map_err(|cause| io::Error::other(cause.to_string()))?;\n",
        "",
        "long_history_of_every_trouble_keeps_its_promises",
        tuple(SIM),
    ),
    Fault(
        "originals are unlinked before the copies are listed",
        "src/engine/compact/run.rs",
        "        if !self.list_copies(victims, &copies)? {",
        "        for id in victims {\n            drop(self.disk.remove(&segment_name(*id)));\n        }\n        if !self.list_copies(victims, &copies)? {",
        "power_loss_at_any_call_leaves_what_was_acknowledged",
    ),
    Fault(
        "a leftover is removed once more when its id is in use",
        "src/engine/catalog.rs",
        "        id.0 < self.list.lock().next_segment\n",
        "        id.0 < self.list.lock().next_segment.max(u32::MAX)\n",
        "leftover_that_could_not_be_removed_is_left_alone_when_its_id_is_in_use",
    ),
    # Expiry and time.
    Fault(
        "a session that an older version outlives ends without a tombstone",
        "src/index/shard.rs",
        "                Some(Outlived { key, until }) if until > now => {",
        "                Some(Outlived { key, until }) if until > now && until < now => {",
        "shortened_session_that_expired_does_not_come_back",
    ),
    Fault(
        "a tombstone hides only what the newest deadline says",
        "src/index/shard.rs",
        "        self.slab.slot(number).expires_at().max(outlived)\n",
        "        self.slab.slot(number).expires_at().max(outlived.min(Timestamp::default()))\n",
        "no_dead_record_is_missed_and_nobody_who_ended_comes_back_later",
        tuple(LIB),
    ),
    Fault(
        "store time starts at the wall clock",
        "src/clock.rs",
        "start: wall.max(mark),",
        "start: if wall > Timestamp::default() { wall } else { mark },",
        "expired_session_stays_gone_when_the_wall_steps_back_though_the_segment_is_full",
    ),
    Fault(
        "the time at which sessions ended is not written down",
        "src/engine/keeper.rs",
        "        if !self.log.mark(time) && time {",
        "        if !self.log.mark(false) && time {",
        "expired_session_stays_gone_when_the_wall_steps_back_though_the_segment_is_full",
    ),
    Fault(
        "a start that may be wrong removes what it says has ended",
        "src/engine/keeper.rs",
        "        if !self.clock.is_doubtful() {\n            self.expire();",
        "        if !self.clock.is_doubtful() || self.clock.is_doubtful() {\n            self.expire();",
        "wild_step_forward_that_is_withdrawn_gives_back_what_only_it_had",
    ),
    # Owners.
    Fault(
        "a session that is bound leaves its older versions in force",
        "src/engine/owners.rs",
        "                let body = body(hides_until);",
        "                let body = body(hides_until.min(now));",
        "version_from_before_the_sign_in_does_not_come_back",
    ),
    Fault(
        "a revocation is dropped with its segment",
        "src/engine/compact/run.rs",
        "Kind::Delete | Kind::Revoke if header.deadlines.expires_at > now => {",
        "Kind::Delete if header.deadlines.expires_at > now => {",
        "revocation_outlives_the_compaction_of_its_segment_and_goes_when_it_ends_nothing_more",
    ),
    Fault(
        "a save does not ask whether its session was revoked",
        "src/index/mod.rs",
        "        self.found.filter(|entry| entry.deadlines.is_live(now) && !self.is_revoked)",
        "        self.found.filter(|entry| entry.deadlines.is_live(now) && (!self.is_revoked || self.owner.is_some()))",
        "late_save_does_not_slip_past_a_revocation_that_is_not_swept_yet",
    ),
    Fault(
        "a save lets a revocation come between its look and its record",
        "src/index/mod.rs",
        "        Standing { found, owner: shard.owner(key), is_revoked, revocations: Some(revocations) }",
        "        drop(revocations);\n        Standing { found, owner: shard.owner(key), is_revoked, revocations: None }",
        "nobody_slips_past_a_revocation_whatever_is_in_flight",
        tuple(MODELS),
    ),
    Fault(
        "the writer is not woken for a record that somebody waits for",
        "src/log/stream.rs",
        "        let wake = was_empty || (!was_urgent && staging.is_urgent());",
        "        let wake = was_empty && !was_urgent && staging.is_urgent() && left > 0;",
        "everybody_is_answered_once_and_what_was_acknowledged_is_kept",
        tuple(MODELS),
    ),
    # Owners.
    Fault(
        "a sign-in counts without its owner's turn",
        "src/engine/turns.rs",
        "        self.0[usize::from(first) % TURNS].lock()",
        "        static FREE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);\n"
        "        self.0[(usize::from(first) + FREE.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % TURNS].lock()",
        "cap_holds_whatever_is_in_flight",
        tuple(MODELS),
    ),
    Fault(
        "a rotation moves a session beside who counts it",
        "src/engine/owners.rs",
        "                let _turn = owner.map(|owner| self.turns.take(owner));",
        "                let _turn = owner.filter(|_| !matches!(whom, Whom::Same)).map(|owner| self.turns.take(owner));",
        "cap_holds_whatever_is_in_flight",
        tuple(MODELS),
    ),
    Fault(
        "a cap counts the expired",
        "src/index/mod.rs",
        "            let all = shard.all_of(owner).filter(|(_, entry)| entry.deadlines.is_live(now));",
        "            let all = shard.all_of(owner).filter(|(_, entry)| entry.deadlines.is_live(now) || entry.owned);",
        "cap_does_not_count_the_expired_the_revoked_and_the_unbound",
    ),
    Fault(
        "a cap counts the revoked until the sweep",
        "src/index/mod.rs",
        "            live.extend(all.filter(|(prefix, entry)| !ended(prefix, entry)));",
        "            live.extend(all.filter(|(prefix, entry)| !ended(prefix, entry) || entry.owned));",
        "list_and_count_have_the_live_sessions_of_one_owner_alone",
    ),
    Fault(
        "who gives way is taken out of memory alone",
        "src/engine/owned.rs",
        "            self.end(&mut shard, key, Durability::Buffered, room)?;",
        "            let _ = (&room, Durability::Buffered);\n            shard.remove(key);",
        "after_a_crash_at_any_call_of_a_sign_in_the_cap_holds_and_who_was_told_is_signed_in",
    ),
    Fault(
        "a session that begins with an owner leaves what is older under its key",
        "src/engine/owners.rs",
        "                let rotated = found.map(|_| Rotated { old_key: key, hides_until });",
        "                let rotated = found.filter(|_| false).map(|_| Rotated { old_key: key, hides_until });",
        "version_of_a_visitor_does_not_come_back_once_the_session_that_began_under_its_key_is_revoked",
    ),
    Fault(
        "a save forgets the label",
        "src/engine/write.rs",
        '                    (_, Some((entry, _))) if !entry.labelled => "",',
        '                    (_, Some((entry, _))) if !entry.labelled || entry.owned => "",',
        "label_goes_where_its_session_goes",
    ),
    Fault(
        "recovery seals a segment where a watermark says, inside of a group or not",
        "src/engine/recover.rs",
        "            scan(&tail.bytes[..below as usize], tail.segment.header(), Trust::Whole, |_| {}).end",
        "            below",
        "watermark_inside_of_a_group_leaves_a_store_that_opens_again_with_everybody",
    ),
    Fault(
        "a session that is bound anew moves in the walks that are under way",
        "src/engine/owners.rs",
        "                    old.succeed(&key, began(&staged, &header), owner, now);",
        "                    old.remove(&key);\n                    old.set(&key, began(&staged, &header), owner, now);",
        "session_that_is_bound_anew_during_a_walk_is_met",
    ),
    # Events.
    Fault(
        "a session that was handed out is taken although it was written anew",
        "src/index/shard.rs",
        "|number| self.slab.slot(*number).version() == entry.version",
        "|number| self.slab.slot(*number).version() >= entry.version",
        "session_that_was_handed_out_is_taken_unless_it_was_written_anew",
        ("--lib",),
    ),
    Fault(
        "a new session hides the end of the one before it",
        "src/engine/write.rs",
        "            Some(_) => self.listeners.tell(Event::Expired { key }),",
        "            Some(_) => {}",
        "of_many_keys_that_threads_create_move_and_end_each_is_told_in_order",
    ),
    Fault(
        "whoever counts an owner's sessions takes no turn",
        "src/engine/owned.rs",
        "        let _turn = self.turns.take(owner);\n        Ok(",
        "        Ok(",
        "session_that_moves_is_counted_once_by_whoever_counts_meanwhile",
        tuple(MODELS),
    ),
    # Footers.
    Fault(
        "a footer is believed whatever its segment holds",
        "src/format/footer.rs",
        "            (len, of) if of == seal => Ok(len),",
        "            (len, of) if of.len == seal.len => Ok(len),",
        "footer_of_another_segment_or_another_seal_is_not_believed",
        tuple(LIB),
    ),
    Fault(
        "the end of a segment is cut off with its footer",
        "src/log/segment.rs",
        "        self.file.truncate(self.disk_bytes())",
        "        self.file.truncate(self.written().into())",
        "footer_stays_from_one_life_to_the_next_and_a_new_one_is_made_where_one_is_lost",
    ),
    Fault(
        "what an open took on its footer's word is never looked at",
        "src/engine/open.rs",
        "        if seal.len >= options.footers_from {",
        "        if seal.len >= options.footers_from && !is_check {",
        "damage_behind_a_footer_is_never_served_and_is_told_by_the_read_and_by_the_check",
    ),
    Fault(
        "a segment that was removed is held until its footer is written",
        "src/engine/compact/run.rs",
        "        self.chores.lock().retain(|chore| !victims.contains(&chore.segment.id()));\n",
        "",
        "segment_that_is_removed_before_its_footer_was_written_gives_its_space_back_at_once",
    ),
    Fault(
        "a repair takes a footer for a torn end",
        "src/engine/assess.rs",
        "                bytes.truncate(end as usize);",
        "                bytes.truncate(bytes.len().max(end as usize));",
        "damaged_list_alone_costs_nobody_unless_a_compaction_was_the_last_to_change_it",
    ),
    Fault(
        "the footers of a close take the room that the next open needs",
        "src/engine/chores.rs",
        "missing.peek().is_some() && self.reserve.hold(&self.catalog).is_ok()",
        "missing.peek().is_some()",
        "footers_of_a_close_leave_the_next_open_its_room",
    ),
    Fault(
        "compaction waits for all the checks behind an open",
        "src/engine/keeper.rs",
        "                more = self.compact() || did;",
        "                more = did || self.compact();",
        "compaction_goes_on_between_the_checks_behind_an_open",
    ),
    Fault(
        "compaction leaves footers out of account",
        "src/engine/compact/plan.rs",
        "(self.dead() + self.footer) * 2 >= self.bytes + self.footer",
        "self.dead() * 2 >= self.bytes",
        "disk_use_with_footers_is_bounded",
    ),
    # Repairs and the list.
    Fault(
        "the copy of a replaced manifest claims ids that it had not given",
        "src/engine/catalog.rs",
        "        replace(&*self.disk, &list.manifest, &next)?;",
        "        list.manifest.next_segment = list.next_segment;\n        replace(&*self.disk, &list.manifest, &next)?;",
        "records_that_recovery_moved_are_missed_where_only_the_list_before_it_is_left",
    ),
    Fault(
        "a repair keeps who may have been signed out in what is lost",
        "src/index/replay.rs",
        "            if self.newest[number as usize] <= seq {",
        "            if self.newest[number as usize] <= seq.min(Seq(0)) {",
        "damage_in_the_last_record_costs_everybody_whom_it_may_have_ended",
    ),
    Fault(
        "a revocation is remembered for a moment only",
        "src/index/revocations.rs",
        "            self.promised_ms.fetch_max(step_ms, Ordering::Relaxed);",
        "            self.promised_ms.fetch_max(step_ms.min(1), Ordering::Relaxed);",
        "revocation_outlives_the_compaction_of_its_segment_and_goes_when_it_ends_nothing_more",
    ),
]
