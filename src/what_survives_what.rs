//! What survives what: each thing that can happen, what is kept of it at each [`Durability`], what is told, and what to do.
//!
//! A page to read; there is nothing to call here. A write is *acknowledged* when its future is ready.
//!
//! # By durability
//!
//! | acknowledged at | process killed | power lost, kernel crashed | a write or sync of the log failed | clean close |
//! |---|---|---|---|---|
//! | [`Durability::Sync`] | kept | kept | kept | kept |
//! | [`Durability::Interval(d)`](crate::Durability::Interval) | kept | kept once older than `d` | kept once older than `d` when it failed | kept |
//! | [`Durability::Buffered`] | kept but for the last moments (some 10 ms) | kept but for about the last second | the same | kept |
//!
//! What is lost is always an end of the log: if a write is there, so is every write that was acknowledged before it at any durability, to this
//! session or another. A rotation, a sign-in, and a revocation of however many sessions, is there as a whole or not at all; sessions that gave way to a
//! sign-in may be gone without it, and it is never there without that. A write whose future was
//! dropped, or that got [`Error::DurabilityUnknown`], may be there or not; once a later open has found it, it stays. Until then reads show it as done.
//!
//! By default create (with an owner too), put and touch are `Interval(100 ms)`; delete, rotate, sign-in, bind and revoke are `Sync`, so that a power cut never
//! undoes a logout, nor makes a later one miss a session. An interval is from the write to the moment at which the sync that covers it begins. Behind a
//! process that was killed nobody syncs until the store is opened again: power that goes in between takes what was not synced when it was killed.
//!
//! The same holds for time. A session is never revived because a clock went back: what had expired when the store last wrote down the time
//! (with every group, in a store at rest within a second, at a close, and before a delete of who had just expired is answered) has expired at the next open too.
//!
//! # By event
//!
//! | event | what is kept | what is told | what to do |
//! |---|---|---|---|
//! | the process is killed, at any moment | the table above | the next open reads the end of the log and writes it again; a write that was cut in its midst counts in [`Recovery::torn_bytes`] | nothing |
//! | power is lost, at any moment, during an open too | the table above | as above; the bytes cut off stay in `torn-*` files if there is room, the last four of them | nothing |
//! | a write or a sync of the log fails | the table above; reads go on, of what is staged too | the store is *poisoned*: who waits gets [`Error::DurabilityUnknown`], who comes later [`Error::Poisoned`]; a close says so as well | mend the disk, open again; then repeat deletes and revocations that got an error, which harms nothing |
//! | a read fails | everything | [`Error::Io`] to this read alone; a compaction that meets it leaves the segment alone and tries again later; for the check behind an open it is damage | mend the disk |
//! | the device cannot read a file that is listed, at an open | the rest | [`OpenError::Io`]; under a map, as below | [`LogStore::salvage`], which reads around the places that cannot be read, and fails where the file cannot be opened; mend the cable first, if it is that: where nothing can be read nobody is certain |
//! | a device error under a memory map | as for a killed process | the kernel kills the process (SIGBUS), as with any map; where an open reads there, each time | open with [`ReadMode::Pread`], which maps nothing; then as for a read |
//! | the disk is full | everything; deletes, rotations and revocations go on until a sixteenth of a segment is used up by them; the space of sessions that end is given back as their segments are compacted, for which a reserve of one segment is kept; not while less than 4 KiB and a two-thousandth part is dead in each segment, which deletes spread evenly over many leave it at (by their size: a handful of 64 KiB, some hundreds of 64 MiB), and not what another program takes meanwhile; the store opens, if there is room for 16 KiB, the list, and what was not synced yet | [`Error::DiskFull`] before anything of the operation is written (sessions that were to give way to a sign-in may be gone); where the file system cannot set space aside, as if it copies on each write, or where the device itself is overcommitted, as a failed write | free space; nothing else |
//! | there are no descriptors left | everything; reads go on, writes until the segment is full | [`Error::Io`] | raise the limit: a store holds one descriptor a segment and a few more |
//! | the folder is renamed, deleted, or takes no changes any more | what is synced, where it went; reads go on | [`Error::Io`] or [`Error::Poisoned`] when the next segment is due; a folder that was put in its place is left alone | put it right, open again |
//! | the first open of a folder is cut short | nothing was there | the next open makes the store | nothing |
//! | a thread of the store panics | as for a failed write; a read that panics harms nothing else | as for a failed write; [`Error::Io`] to that read | report it, open again |
//! | two processes want one folder | the first has it, also where somebody has removed `LOCK` | [`OpenError::Locked`] names it, or whoever else has locked the folder or the file | [`LogStore::open_wait`] |
//! | the file system is mounted anew for reading alone | as for a write that fails; reads go on | as for a write that fails; an open, a verify and a read-only open get [`OpenError::Io`], since they lock the folder | mount it for writing, or work on a copy |
//! | another program cuts a file off under a map | as for a device error | as for a device error | as for a device error; then what is missing is damage |
//!
//! A read with [`Access::Touch`] is a write as well, once the deadline has to move: where writes are refused it is too, and [`Access::Peek`] goes on.
//! [`Session::load`] and the adapters go on by themselves, and what they read lives no longer for it.
//!
//! # By damage
//!
//! Every byte is checked on the read that serves it, so damage is told and never served.
//!
//! | damage | what is kept | what is told | what to do |
//! |---|---|---|---|
//! | of bytes that are known to have been on the device | all files, as they were | [`OpenError::Damaged`] with folder, file and offset; met later, [`Error::Corrupt`] for that session alone | [`LogStore::salvage`]; or restore a copy of the folder, and [`revoke`](crate::SessionStore::revoke) everybody: **a copy brings back who was signed out since it was made** |
//! | the same, in a segment that is so long that the open goes by its footer ([`Options::footers_from`], 1 MiB) | the same; whoever is not hit is served | the open does not see it: [`Error::Corrupt`] to the read that meets it, a page of keys or of an owner's sessions and a sign-in that has to end that session among them; behind the open a check of each such segment, as fast as the device reads, tells in the log and by [`Stats::damaged_segments`] (not what a read meets) | close, then as above |
//! | of a footer | everything | nothing: its segment is read whole | nothing |
//! | behind the last sync that the log itself tells of | what is before it | it cannot be told from a write that power loss cut short: cut, kept aside if there is room, counted in [`Recovery::torn_bytes`]. A store at rest closes this gap within a second of its last sync, but for damage that takes what says so as well, which lies right behind it; so does each new manifest, which says how much of the log was on the device. Whoever looks for damage looks at that number too | nothing |
//! | of the manifest, so that it cannot be read | everything by its copy, `MANIFEST.copy`, unless a crash cut off a compaction or tore the end of the log: then what is certain | [`OpenError::Damaged`] | as above |
//! | the manifest is an older one, or another store's | what is certain by it, which may be nothing; its copy is not asked, since a crash may have left that behind | [`OpenError::Damaged`], where anything is left that was written in a later life of the store, or a segment that is listed is not as the list says | put `MANIFEST.copy` in its place if that is known to be right, else as above |
//! | a segment is missing, cut short, or another store's | as for damage of all of it | [`OpenError::Damaged`] | as above |
//! | of `MANIFEST.copy`, of `torn-*` and `quarantine-*` files | everything | nothing: no open reads them; a repair does, where it was cut short | nothing |
//! | of a segment that no list names, left by a crash | everything, but where its header is damaged or cannot be read, and `MANIFEST.copy` is not the same as the manifest: then nobody is certain | nothing, unless its header is damaged and something was written behind it: then it may be one that a lost list named, and is refused; where the device cannot read it, [`OpenError::Io`] | [`LogStore::salvage`] moves it aside |
//!
//! [`LogStore::verify`] reads everything and lists every damaged place. [`LogStore::open_read_only`] serves meanwhile what is certain and changes no
//! file. [`LogStore::salvage`] keeps what is certain and moves the rest aside. *Certain* fails closed: a session is dropped as soon as a record
//! that is missing may have ended or replaced it, so **nobody is logged back in by a repair**. A salvage that is cut short leaves a
//! folder that is refused, as before, or repaired.
//!
//! # By clock
//!
//! | event | what happens |
//! |---|---|
//! | the wall clock steps, back or forward, while the store runs | nothing: a running store goes by a clock that never steps and counts suspended time. Behind a framework, which names ends by the wall clock, sessions last as long as was asked for, but of two requests at once that give one session other ends the longer may win, until the store is opened with the clocks in step |
//! | the machine is suspended | sessions end at their instant all the same |
//! | the wall clock is behind when the store opens | the store's time goes on from the last one that was written down; no session comes back, and none ends early: all live longer by as much as the clock is behind |
//! | it is more than a day ahead of the last time written down | sessions past their deadline are absent, and for an hour, or until an open that is an hour later, they are not removed and no time is written down: if the clock is set right by then and the store opened again, they are back. This is the only way in which a session comes back. Until then the expired take space and count against the limits, and what is created or used lives longer by as much as the clock was ahead. A store that was closed for more than a day begins so too |
//! | it is ahead by less, or for longer than an hour | what ends by it has ended |
//!
//! [`Access::Peek`]: crate::Access::Peek
//! [`Access::Touch`]: crate::Access::Touch
//! [`Durability`]: crate::Durability
//! [`Durability::Buffered`]: crate::Durability::Buffered
//! [`Durability::Sync`]: crate::Durability::Sync
//! [`Error::Corrupt`]: crate::Error::Corrupt
//! [`Error::DiskFull`]: crate::Error::DiskFull
//! [`Error::DurabilityUnknown`]: crate::Error::DurabilityUnknown
//! [`Error::Io`]: crate::Error::Io
//! [`Error::Poisoned`]: crate::Error::Poisoned
//! [`LogStore::open_read_only`]: crate::LogStore::open_read_only
//! [`LogStore::open_wait`]: crate::LogStore::open_wait
//! [`LogStore::salvage`]: crate::LogStore::salvage
//! [`LogStore::verify`]: crate::LogStore::verify
//! [`OpenError::Damaged`]: crate::OpenError::Damaged
//! [`OpenError::Io`]: crate::OpenError::Io
//! [`OpenError::Locked`]: crate::OpenError::Locked
//! [`Options::footers_from`]: crate::Options::footers_from
//! [`ReadMode::Pread`]: crate::ReadMode::Pread
//! [`Recovery::torn_bytes`]: crate::Recovery::torn_bytes
//! [`Session::load`]: crate::Session::load
//! [`Stats::damaged_segments`]: crate::Stats::damaged_segments
