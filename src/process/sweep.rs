//! The end of everything that descends from an instance.
//!
//! Owns the search in /proc and the SIGKILLs. An instance leads a session and a group, so most of what it starts is
//! reached at once; what began a session of its own is found by its ancestors or by the variables that it inherited.
//!
//! Invariants
//! - A process is killed through a pidfd that was opened before it was looked at for the last time, so that a number
//!   that changed hands meanwhile kills nobody.
//! - Never init, this process, or its parent.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use super::Pidfd;
use super::kinship::has_marks;

/// Between two looks when what was killed does not go at once.
const PAUSE: Duration = Duration::from_millis(5);

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Processes that were found alive and killed, the instance among them.
    pub killed: u32,
    /// Whether nothing was left at the end.
    pub clean: bool,
}

/// SIGKILLs the instance (the process behind `leader`, whose number was `pid`), its group, its session, and their
/// descendants, until nothing is found any more or `limit` has passed. Blocks for as long.
///
/// `marks` are entries (`KEY=VALUE`) of the instance's environment that together are unique to it; whatever has all
/// of them in the environment that it was started with belongs to the instance, too. With none, a process that left
/// the session and whose ancestors have ended is not found.
///
/// Best called before the instance has been reaped, but safe afterwards: a session whose number has been given to a
/// new process is left alone.
pub fn sweep_descendants(leader: &Pidfd, pid: u32, marks: &[String], limit: Duration) -> Swept {
    let deadline = Instant::now() + limit;
    let mut swept = Swept::default();
    let mut known = HashSet::from([pid]);
    let mut stopped: HashSet<(u32, u64)> = HashSet::new();
    loop {
        let family = Family { pid, session_is_ours: session_is_ours(leader, pid), marks };
        let found = family.living(&mut known);
        let in_time = Instant::now() < deadline;
        let newcomers: Vec<&Process> =
            found.iter().filter(|process| stopped.insert((process.pid, process.started))).collect();
        // First all of them stand still: the child of one that is killed between two looks would lose its ancestors.
        if in_time && !newcomers.is_empty() {
            newcomers.into_iter().for_each(|process| drop(process.signal(libc::SIGSTOP)));
            continue;
        }
        // Gone already, in part or altogether: that is what we want.
        let _ = leader.signal_group(libc::SIGKILL);
        let _ = leader.signal(libc::SIGKILL);
        let mut last = None;
        for process in &found {
            last = process.signal(libc::SIGKILL).or(last);
        }
        swept.killed = stopped.len() as u32;
        swept.clean = found.is_empty() && (leader.is_dead() || leader.is_reaped());
        if swept.clean || !in_time {
            return swept;
        }
        let pause = PAUSE.min(deadline.saturating_duration_since(Instant::now()));
        last.as_ref().unwrap_or(leader).wait_dead(pause);
    }
}

/// Once the leader has been reaped, a process with its number is a stranger, and so is the session of that number;
/// while any member of the old session lives, the number is not given away.
fn session_is_ours(leader: &Pidfd, pid: u32) -> bool {
    !leader.is_reaped() || Process::read(pid).is_none()
}

struct Family<'a> {
    pid: u32,
    session_is_ours: bool,
    marks: &'a [String],
}

impl Family<'_> {
    /// Members that run now. `known` grows by them, so that the children of those that end are still recognised.
    fn living(&self, known: &mut HashSet<u32>) -> Vec<Process> {
        let spared = [1, std::process::id(), std::os::unix::process::parent_id()];
        let mut others: Vec<Process> = all().filter(|process| !spared.contains(&process.pid)).collect();
        if !self.session_is_ours {
            known.remove(&self.pid);
        }
        let mut found = Vec::new();
        // Until a round adds nobody: a child may stand before its parent in the list.
        loop {
            let before = others.len();
            others.retain(|process| {
                let member = self.has(process, known);
                if member {
                    known.insert(process.pid);
                    found.push(*process);
                }
                !member
            });
            if others.len() == before {
                break;
            }
        }
        // Numbers of those that have ended may be given to strangers: forget them.
        let alive: HashSet<u32> = found.iter().map(|process| process.pid).collect();
        known.retain(|pid| alive.contains(pid) || *pid == self.pid);
        found.retain(|process| !process.ended);
        found
    }

    fn has(&self, process: &Process, known: &HashSet<u32>) -> bool {
        (self.session_is_ours && (process.session == self.pid || process.pid == self.pid))
            || known.contains(&process.parent)
            || self.is_marked(process)
    }

    fn is_marked(&self, process: &Process) -> bool {
        !process.ended && has_marks(process.pid, self.marks)
    }
}

/// What /proc says of a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub pid: u32,
    pub parent: u32,
    pub session: u32,
    pub started: u64,
    pub ended: bool,
}

impl Process {
    pub fn read(pid: u32) -> Option<Process> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, further parentheses and newlines included.
        let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let rest = std::str::from_utf8(&stat[after..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Process {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            ended: matches!(*fields.first()?, "Z" | "X"),
        })
    }

    /// Sends a signal, if the number still means this process once it is held by a descriptor.
    pub fn signal(&self, signal: i32) -> Option<Pidfd> {
        let handle = Pidfd::open(self.pid).ok()?;
        let same = Process::read(self.pid).is_some_and(|now| now.started == self.started);
        (same && handle.signal(signal).is_ok()).then_some(handle)
    }
}

pub(super) fn all() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
}
