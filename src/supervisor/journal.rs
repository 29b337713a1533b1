//! What changed last: numbered entries in a memfd that outlives the supervisor, and those who watch them.
//!
//! Owns the numbers and the memory. Whoever has something to tell calls [`Core::tell`]; whoever listens reads from a
//! number on ([`Reader`]), at its own pace and without a queue: it is told how far the journal goes, and reads the entries
//! themselves. One that falls behind by more than [`CAPACITY`] misses some, which the numbers show.
//!
//! ```text
//! entry n lies at ((n - 1) % CAPACITY) * 512:
//! 0 checksum u32 (of the rest) | 4 instance u32 (!0: none) | 8 sequence u64 | 16 at u64
//! 24 length of what u8 | 25 of app u8 | 26 of cause u16 | 28 what, app, cause | zero
//! ```
//!
//! Invariants
//! - Numbers count upwards by one across supervisors, and none is given twice to something that anybody was shown.
//! - An entry that is not whole (its writer died, or is writing it) is never shown.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::watch;

use super::clock;
use super::control::EventView;
use super::core::Core;
use crate::lifecycle::{Event as Life, Instance, State};

/// Entries that are kept.
pub const CAPACITY: u64 = 1024;

/// Divides a page, so that no entry lies in two.
const RECORD: usize = 512;
const HEADER: usize = 28;
const WHAT_LIMIT: usize = 40;
const APP_LIMIT: usize = 64;
const CAUSE_LIMIT: usize = RECORD - HEADER - WHAT_LIMIT - APP_LIMIT;
const NOBODY: u32 = u32::MAX;

/// The journal: the one writer of its memfd.
pub struct Journal {
    file: Arc<File>,
    /// The last number that was given.
    latest: watch::Sender<u64>,
}

/// One who reads it.
#[derive(Clone)]
pub struct Reader {
    file: Arc<File>,
    latest: watch::Receiver<u64>,
}

impl Journal {
    /// One in which nothing stands.
    ///
    /// # Errors
    /// Those of creating a memfd.
    pub fn create() -> io::Result<Journal> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"herdwire-journal", flags)?);
        file.set_len(CAPACITY * RECORD as u64)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        Ok(Journal::over(file, 0))
    }

    /// Goes on with what a predecessor left.
    ///
    /// # Errors
    /// It cannot be read, or is none of ours.
    pub fn open(memory: OwnedFd) -> io::Result<Journal> {
        let file = File::from(memory);
        if file.metadata()?.len() != CAPACITY * RECORD as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another size"));
        }
        let mut bytes = vec![0; CAPACITY as usize * RECORD];
        file.read_exact_at(&mut bytes, 0)?;
        let (records, _) = bytes.as_chunks::<RECORD>();
        let latest = records.iter().filter_map(read).map(|entry| entry.sequence).max().unwrap_or(0);
        Ok(Journal::over(file, latest))
    }

    fn over(file: File, latest: u64) -> Journal {
        Journal { file: Arc::new(file), latest: watch::Sender::new(latest) }
    }

    pub fn reader(&self) -> Reader {
        Reader { file: Arc::clone(&self.file), latest: self.latest.subscribe() }
    }

    /// Writes one down, under the next number.
    ///
    /// # Errors
    /// The kernel has no memory for it; its number stays free.
    pub fn write(&self, what: &str, app: Option<&str>, instance: Option<u32>, cause: &str) -> io::Result<()> {
        let sequence = *self.latest.borrow() + 1;
        let entry = EventView {
            sequence,
            at_ms: clock::wall_ms(),
            what: what.to_owned(),
            app: app.map(str::to_owned),
            instance,
            cause: cause.to_owned(),
        };
        self.file.write_all_at(&to_record(&entry), place(sequence))?;
        self.latest.send_replace(sequence);
        Ok(())
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Reader {
    /// The last number that was given.
    pub fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// The number to go on with for one who has seen everything up to `after`: what is still kept, and what is to
    /// come. One who comes from another journal (this one was lost) begins anew.
    pub fn resume(&self, after: Option<u64>) -> u64 {
        let latest = self.latest();
        let oldest = latest.saturating_sub(CAPACITY) + 1;
        match after {
            None => latest + 1,
            Some(after) if after > latest => oldest,
            Some(after) => oldest.max(after + 1),
        }
    }

    /// One entry; `None` when it is not kept any more or not whole.
    pub fn entry(&self, sequence: u64) -> Option<EventView> {
        let mut bytes = [0; RECORD];
        self.file.read_exact_at(&mut bytes, place(sequence)).ok()?;
        read(&bytes).filter(|entry| entry.sequence == sequence)
    }

    /// The last `count`, of one instance where one is given, oldest first.
    pub fn last(&self, count: usize, instance: Option<u32>) -> Vec<EventView> {
        let (latest, oldest) = (self.latest(), self.resume(Some(0)));
        let entries = (oldest..=latest).rev().filter_map(|sequence| self.entry(sequence));
        let mut entries: Vec<_> =
            entries.filter(|entry| instance.is_none() || entry.instance == instance).take(count).collect();
        entries.reverse();
        entries
    }

    /// Waits until something is written after `seen`; false when the journal is gone. Cancel safe.
    pub async fn written_after(&mut self, seen: u64) -> bool {
        self.latest.wait_for(|latest| *latest > seen).await.is_ok()
    }
}

impl Core {
    /// Tells those who watch that something changed: `what` in dotted words such as `app.added`, the cause in a sentence.
    /// `instance` is the number that users know. What is longer than the journal takes is cut.
    pub fn tell(&self, what: &str, app: Option<&str>, instance: Option<u32>, cause: impl AsRef<str>) {
        if let Err(error) = self.journal.write(what, app, instance, cause.as_ref()) {
            tracing::error!("`{what}` is not written down: {error}");
        }
    }

    /// Tells what became of an instance, by its id.
    pub fn tell_of(&self, id: u32, what: &str, cause: impl AsRef<str>) {
        if let Some(entry) = self.registry.instances.get(&id) {
            let app = &self.registry.app_of(entry).spec.name;
            self.tell(what, Some(app), Some(entry.number), cause);
        }
    }

    /// Tells what an event has made of an instance.
    pub(super) fn tell_life(&self, id: u32, before: &Instance, event: Life) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        let (life, rules) = (&entry.life, &self.registry.app_of(entry).spec.rules);
        if let Life::Exited(_, exit) = event {
            self.tell_of(id, "instance.exited", exit.to_string());
        }
        if life.is_queued() && !before.is_queued() {
            self.tell_of(id, "instance.queued", self.waits_for(entry).unwrap_or_default());
        }
        let is_new = life.incarnation() != before.incarnation();
        if is_new || std::mem::discriminant(&life.state()) != std::mem::discriminant(&before.state()) {
            let account = life.account(rules).unwrap_or_default();
            let failure = entry.failure.iter().filter(|_| !life.has_process());
            let cause = failure.fold(account, |account, failure| format!("{account}: {failure}"));
            self.tell_of(id, word(life.state()), cause);
        }
    }
}

/// What it is called that an instance has got there.
fn word(state: State) -> &'static str {
    match state {
        State::Stopped => "instance.stopped",
        State::Launching { .. } => "instance.launching",
        State::Online { .. } => "instance.online",
        State::Draining { .. } => "instance.draining",
        State::Stopping { .. } => "instance.stopping",
        State::WaitingRestart { .. } => "instance.waiting",
        State::Errored => "instance.errored",
    }
}

fn place(sequence: u64) -> u64 {
    (sequence.saturating_sub(1) % CAPACITY) * RECORD as u64
}

fn to_record(entry: &EventView) -> [u8; RECORD] {
    let what = cut(&entry.what, WHAT_LIMIT);
    let app = cut(entry.app.as_deref().unwrap_or_default(), APP_LIMIT);
    let cause = cut(&entry.cause, CAUSE_LIMIT);
    let mut bytes = [0; RECORD];
    bytes[4..8].copy_from_slice(&entry.instance.unwrap_or(NOBODY).to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&entry.at_ms.to_le_bytes());
    bytes[24] = what.len() as u8;
    bytes[25] = app.len() as u8;
    bytes[26..28].copy_from_slice(&(cause.len() as u16).to_le_bytes());
    let text = [what, app, cause].concat();
    bytes[HEADER..HEADER + text.len()].copy_from_slice(text.as_bytes());
    let checksum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a record; `None` when it is not whole, or was never written.
fn read(bytes: &[u8; RECORD]) -> Option<EventView> {
    let word = |at: usize| bytes[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let long = |at: usize| bytes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let sequence = long(8).filter(|sequence| *sequence > 0)?;
    if word(0)? != crc32fast::hash(&bytes[4..]) {
        return None;
    }
    let (what, rest) = bytes[HEADER..].split_at_checked(usize::from(bytes[24]))?;
    let (app, rest) = rest.split_at_checked(usize::from(bytes[25]))?;
    let cause = rest.get(..usize::from(u16::from_le_bytes([bytes[26], bytes[27]])))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(EventView {
        sequence,
        at_ms: long(16)?,
        what: text(what)?,
        app: Some(text(app)?).filter(|app| !app.is_empty()),
        instance: word(4).filter(|instance| *instance != NOBODY),
        cause: text(cause)?,
    })
}

/// As much of a text as there is room for, with a sign that it goes on.
fn cut(text: &str, limit: usize) -> String {
    const GOES_ON: &str = "…";
    if text.len() <= limit {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(limit - GOES_ON.len())];
    format!("{kept}{GOES_ON}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(journal: &Journal) -> Journal {
        Journal::open(journal.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    fn write(journal: &Journal, cause: &str) {
        journal.write("instance.online", Some("web"), Some(7), cause).unwrap();
    }

    #[test]
    fn what_is_written_is_read_again_with_its_number() {
        let journal = Journal::create().unwrap();
        write(&journal, "it runs");
        journal.write("supervisor.started", None, None, "").unwrap();
        let entry = journal.reader().entry(1).unwrap();
        assert_eq!((entry.sequence, entry.what.as_str(), entry.cause.as_str()), (1, "instance.online", "it runs"));
        assert_eq!((entry.app.as_deref(), entry.instance), (Some("web"), Some(7)));
        let entry = journal.reader().entry(2).unwrap();
        assert_eq!((entry.app, entry.instance, entry.cause), (None, None, String::new()));
        assert_eq!(journal.reader().entry(3), None);
    }

    #[test]
    fn a_successor_goes_on_counting() {
        let journal = Journal::create().unwrap();
        (0..3).for_each(|_| write(&journal, "before"));
        let next = again(&journal);
        write(&next, "after");
        assert_eq!(next.reader().latest(), 4);
        assert_eq!(next.reader().entry(4).unwrap().cause, "after");
        assert_eq!(next.reader().entry(3).unwrap().cause, "before");
    }

    #[test]
    fn an_entry_cut_at_any_byte_was_never_told_and_its_number_is_given_again() {
        let journal = Journal::create().unwrap();
        write(&journal, "one");
        let whole = to_record(&EventView { sequence: 2, ..journal.reader().entry(1).unwrap() });
        for length in 0..RECORD {
            // Behind the text a record is zero, as its place was.
            let is_whole = whole[length..].iter().all(|byte| *byte == 0);
            let mut torn = [0; RECORD];
            torn[..length].copy_from_slice(&whole[..length]);
            journal.file.write_all_at(&torn, place(2)).unwrap();
            assert_eq!(again(&journal).reader().latest(), if is_whole { 2 } else { 1 }, "{length}");
        }
    }

    #[test]
    fn only_the_last_are_kept_and_who_falls_behind_sees_it_by_the_numbers() {
        let journal = Journal::create().unwrap();
        (0..CAPACITY + 10).for_each(|_| write(&journal, "again"));
        let reader = again(&journal).reader();
        assert_eq!(reader.resume(Some(3)), 11);
        assert_eq!(reader.entry(10), None);
        assert_eq!(reader.last(usize::MAX, None).len() as u64, CAPACITY);
        let last = reader.last(2, Some(7));
        assert_eq!(last.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [CAPACITY + 9, CAPACITY + 10]);
        assert!(reader.last(5, Some(8)).is_empty());
    }

    #[test]
    fn one_goes_on_after_what_it_has_seen_with_what_is_new_or_anew_in_another_journal() {
        let journal = Journal::create().unwrap();
        (0..5).for_each(|_| write(&journal, ""));
        let reader = journal.reader();
        assert_eq!(reader.resume(Some(5)), 6);
        assert_eq!(reader.resume(Some(2)), 3);
        assert_eq!(reader.resume(None), 6);
        assert_eq!(reader.resume(Some(900)), 1);
    }

    #[test]
    fn what_is_too_long_is_cut_between_two_characters() {
        let journal = Journal::create().unwrap();
        journal.write(&"w".repeat(99), Some(&"ä".repeat(64)), None, &"ö".repeat(999)).unwrap();
        let entry = journal.reader().entry(1).unwrap();
        assert!(entry.what.len() <= WHAT_LIMIT && entry.cause.len() <= CAUSE_LIMIT);
        assert!(entry.app.unwrap().ends_with("ä…") && entry.cause.ends_with("ö…"));
    }

    #[test]
    fn memory_of_somebody_else_is_refused() {
        let foreign = crate::process::sealed::create("foreign", b"not a journal").unwrap();
        assert!(Journal::open(foreign).is_err());
    }
}
