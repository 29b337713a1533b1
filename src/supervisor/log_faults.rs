//! Which logs take nothing, as long as they do: what `list` and `describe` say of it.
//!
//! Owns the standing faults, at most one for each output of a process, and their words. The pump tells of them
//! (`logs`); nothing is decided by them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::logs::{Kind, StreamKey};

/// Sentences that are shown; a full disk has one for each log.
const SHOWN: usize = 5;

/// The faults that stand.
#[derive(Debug, Default)]
pub struct LogFaults {
    standing: BTreeMap<(u32, u32, bool), Fault>,
}

#[derive(Debug)]
struct Fault {
    path: PathBuf,
    sentence: String,
}

impl LogFaults {
    /// A log takes nothing; its lines wait, or are dropped. Says so in a sentence.
    pub fn note(&mut self, stream: StreamKey, path: &Path, error: &io::Error, drops: bool) -> String {
        let what = match drops {
            true => "its lines are dropped and counted until it can be",
            false => "its lines wait",
        };
        let sentence = format!("the log {} cannot be written, {what}: {error}", path.display());
        self.standing.insert(place(stream), Fault { path: path.to_owned(), sentence: sentence.clone() });
        sentence
    }

    /// The log takes bytes again, or nobody writes to it any more: which one it was.
    pub fn over(&mut self, stream: StreamKey) -> Option<PathBuf> {
        self.standing.remove(&place(stream)).map(|fault| fault.path)
    }

    /// What is wrong with the logs of an instance, by its id.
    pub fn of(&self, instance: u32) -> Option<String> {
        let own = self.standing.range((instance, 0, false)..=(instance, u32::MAX, true));
        let sentences: BTreeSet<&str> = own.map(|(_, fault)| fault.sentence.as_str()).collect();
        (!sentences.is_empty()).then(|| sentences.into_iter().collect::<Vec<_>>().join("; "))
    }

    /// Everything that is wrong, in few sentences.
    pub fn sentences(&self) -> Vec<String> {
        let all: BTreeSet<&str> = self.standing.values().map(|fault| fault.sentence.as_str()).collect();
        let mut shown: Vec<String> = all.iter().take(SHOWN).map(|sentence| (*sentence).to_owned()).collect();
        if all.len() > SHOWN {
            shown.push(format!("{} more logs cannot be written", all.len() - SHOWN));
        }
        shown
    }
}

fn place(stream: StreamKey) -> (u32, u32, bool) {
    (stream.instance, stream.incarnation, stream.kind == Kind::Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(instance: u32, kind: Kind) -> StreamKey {
        StreamKey { instance, incarnation: 1, kind }
    }

    fn full() -> io::Error {
        io::Error::from_raw_os_error(nix::libc::ENOSPC)
    }

    #[test]
    fn a_log_that_is_shared_is_said_once_and_until_nobody_has_trouble_with_it() {
        let mut faults = LogFaults::default();
        faults.note(stream(1, Kind::Out), Path::new("/l/a"), &full(), false);
        faults.note(stream(1, Kind::Err), Path::new("/l/a"), &full(), false);
        let words = "the log /l/a cannot be written, its lines wait: No space left on device (os error 28)";
        assert_eq!((faults.sentences(), faults.of(1)), (vec![words.to_owned()], Some(words.to_owned())));
        assert_eq!(faults.of(2), None);
        faults.over(stream(1, Kind::Out));
        assert!(faults.of(1).is_some());
        assert_eq!(faults.over(stream(1, Kind::Err)), Some("/l/a".into()));
        assert!(faults.of(1).is_none() && faults.sentences().is_empty());
    }

    #[test]
    fn lines_that_are_dropped_do_not_wait() {
        let mut faults = LogFaults::default();
        faults.note(stream(1, Kind::Out), Path::new("/l/a"), &full(), false);
        let words = faults.note(stream(1, Kind::Out), Path::new("/l/a"), &full(), true);
        assert!(words.contains("are dropped") && !words.contains("wait"), "{words}");
        assert_eq!(faults.of(1), Some(words));
    }

    #[test]
    fn a_thousand_logs_on_a_full_disk_are_few_sentences() {
        let mut faults = LogFaults::default();
        for instance in 0..1000 {
            faults.note(stream(instance, Kind::Out), Path::new(&format!("/l/{instance}")), &full(), true);
        }
        let said = faults.sentences();
        assert_eq!((said.len(), said[5].as_str()), (6, "995 more logs cannot be written"));
    }
}
