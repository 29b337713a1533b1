//! The end of what a dead herd left behind: processes that carry its marks, while nobody who knew them lives.
//!
//! Owns the search by environment and the waiting; the killing itself is as in `sweep`. What is asked politely and for
//! how long is the caller's word.
//!
//! Invariants
//! - A process is signalled through a pidfd that was opened before it was looked at for the last time.
//! - Never init, this process, or its parent.
//! - Every wait ends at the limit; what is left then is said, never waited for.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use super::Pidfd;
use super::sweep::{Process, all};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// What of the limit is left for those that have to be killed.
const FOR_THE_KILL: Duration = Duration::from_secs(2);

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Processes that were found alive.
    pub found: u32,
    /// How many of them had to be killed.
    pub killed: u32,
    /// Whether nothing was left at the end.
    pub clean: bool,
}

/// Ends every process that has all of `marks` (`KEY=VALUE`) in the environment that it was started with, and what
/// descends from them: sends each group's leader the signal that `ask` names for its environment, waits as long as
/// that says, then kills. Blocks, for `limit` at most.
pub fn end_orphans(marks: &[String], ask: impl Fn(&[u8]) -> (i32, Duration), limit: Duration) -> Ended {
    let deadline = Instant::now() + limit;
    let mut family = Family::new(marks);
    let found = family.living();
    let mut ended = Ended { found: found.len() as u32, ..Ended::default() };
    let mut patience = Duration::ZERO;
    for process in found.iter().filter(|process| process.pid == process.session) {
        let Ok(environment) = fs::read(format!("/proc/{}/environ", process.pid)) else { continue };
        let (signal, wait) = ask(&environment);
        let asked = process.handle().map(|handle| handle.signal_group(signal));
        if matches!(asked, Some(Ok(()))) {
            patience = patience.max(wait);
        }
    }
    let polite = (Instant::now() + patience).min(deadline - FOR_THE_KILL.min(limit));
    while Instant::now() < polite && !family.living().is_empty() {
        std::thread::sleep(PAUSE);
    }
    let mut stopped: HashSet<(u32, u64)> = HashSet::new();
    loop {
        let found = family.living();
        ended.clean = found.is_empty();
        if ended.clean || Instant::now() >= deadline {
            ended.killed = stopped.len() as u32;
            return ended;
        }
        let newcomers: Vec<&Process> =
            found.iter().filter(|process| stopped.insert((process.pid, process.started))).collect();
        // First all of them stand still: the child of one that is killed between two looks would lose its ancestors.
        if !newcomers.is_empty() {
            newcomers.into_iter().for_each(|process| drop(process.signal(libc::SIGSTOP)));
            continue;
        }
        found.iter().for_each(|process| drop(process.signal(libc::SIGKILL)));
        std::thread::sleep(PAUSE);
    }
}

/// Those that carry the marks, their sessions, and what descends from them.
struct Family<'a> {
    marks: &'a [String],
    /// Numbers of processes seen; their children belong to them, whatever their environment is.
    known: HashSet<u32>,
    /// Sessions led by one of them.
    sessions: HashSet<u32>,
    /// When the youngest process had started as this began. A younger one belongs by its marks or its parent alone:
    /// the number of a session that has ended may be another's by now.
    youngest: u64,
}

impl Family<'_> {
    fn new(marks: &[String]) -> Family<'_> {
        let youngest = all().map(|process| process.started).max().unwrap_or_default();
        Family { marks, known: HashSet::new(), sessions: HashSet::new(), youngest }
    }

    fn living(&mut self) -> Vec<Process> {
        let spared = [1, std::process::id(), std::os::unix::process::parent_id()];
        let mut others: Vec<Process> = all().filter(|process| !spared.contains(&process.pid)).collect();
        let mut found = Vec::new();
        // Until a round adds nobody: a child may stand before its parent in the list.
        loop {
            let before = others.len();
            others.retain(|process| {
                let member = self.has(process);
                if member {
                    self.known.insert(process.pid);
                    if process.pid == process.session {
                        self.sessions.insert(process.session);
                    }
                    found.push(*process);
                }
                !member
            });
            if others.len() == before {
                break;
            }
        }
        // Numbers of those that have ended may be given to strangers: forget them.
        self.known = found.iter().map(|process| process.pid).collect();
        found.retain(|process| !process.ended);
        found
    }

    fn has(&self, process: &Process) -> bool {
        self.known.contains(&process.parent)
            || (self.sessions.contains(&process.session) && process.started <= self.youngest)
            || self.is_marked(process)
    }

    fn is_marked(&self, process: &Process) -> bool {
        if self.marks.is_empty() || process.ended {
            return false;
        }
        let Ok(environment) = fs::read(format!("/proc/{}/environ", process.pid)) else { return false };
        let entries: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
        self.marks.iter().all(|mark| entries.contains(mark.as_bytes()))
    }
}

impl Process {
    /// A hold on it, if its number still means it.
    fn handle(&self) -> Option<Pidfd> {
        let handle = Pidfd::open(self.pid).ok()?;
        Process::read(self.pid).is_some_and(|now| now.started == self.started).then_some(handle)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Long enough to have to be waited for, short enough not to outlive a test that fails.
    const SOON: Duration = Duration::from_secs(30);

    fn marks(of: &str) -> Vec<String> {
        vec![format!("HW_TEST_MARK={of}-{}", std::process::id()), "HW_TEST=1".into()]
    }

    /// A shell script that leads a session, with marks in its environment; it has said a line when this returns.
    fn marked(marks: &[String], script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env_clear().env("PATH", "/usr/bin:/bin");
        for mark in marks {
            let (name, value) = mark.split_once('=').unwrap();
            command.env(name, value);
        }
        #[allow(unsafe_code)] // the only way to lead a session from the start
        // SAFETY: setsid is all that is called between fork and exec, and it is safe there.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    fn alive(marks: &[String]) -> usize {
        Family::new(marks).living().len()
    }

    #[test]
    fn one_that_ends_when_asked_is_not_killed() {
        let marks = marks("asked");
        let mut child = marked(&marks, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done");
        let ended = end_orphans(&marks, |_| (libc::SIGUSR1, SOON), SOON);
        assert_eq!((ended.killed, ended.clean), (0, true));
        assert!(ended.found >= 1);
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn one_that_does_not_listen_is_killed_with_all_that_descends_from_it() {
        let marks = marks("deaf");
        let script = "trap '' INT; setsid sh -c 'trap \"\" INT; sleep 300' & env -i sleep 300 & echo ready; wait";
        let mut child = marked(&marks, script);
        let bystander = Command::new("/bin/sleep").arg("300").env("HW_TEST", "1").spawn();
        let ended = end_orphans(&marks, |_| (libc::SIGINT, Duration::from_millis(50)), SOON);
        assert!(ended.clean && ended.killed >= 3, "{ended:?}");
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(alive(&marks), 0);
        let mut bystander = bystander.unwrap();
        assert_eq!(bystander.try_wait().unwrap(), None, "it has one of two marks");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn with_nobody_there_is_nothing_to_wait_for() {
        let nobody = end_orphans(&marks("nobody"), |_| (libc::SIGINT, SOON), SOON);
        assert_eq!(nobody, Ended { found: 0, killed: 0, clean: true });
        assert!(end_orphans(&[], |_| (libc::SIGINT, SOON), SOON).clean);
    }
}
