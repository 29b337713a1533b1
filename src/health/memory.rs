//! What a whole group uses: an instance with all its processes.
//!
//! One walk over `/proc` for all instances that have a limit, then one `smaps_rollup` for each of their processes: exact, since
//! what processes share is counted once (by proportion), and not cheap (the kernel walks the process's page tables; about a
//! millisecond for each 100 MiB). So it is done only for apps with `max_memory_restart`, every few seconds.
//!
//! Counted are private memory, mapped files and what was swapped out. Shared memory counts, but the wire's rings do not: they are
//! the herd's. Telling the two apart needs the whole list of mappings, which is read only where shared memory would decide.
//!
//! Everything here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What shows a mapping of the wire in `smaps`.
const OF_THE_WIRE: &str = "/memfd:herdwire-";
/// Processes of one group that are looked at; a fork bomb must not keep us busy.
const MOST_PROCESSES: usize = 4096;

/// Who descends from whom.
#[derive(Debug, Default)]
pub struct Processes(BTreeMap<u32, Kin>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kin {
    parent: u32,
    session: u32,
}

impl Processes {
    /// All that are there now. What cannot be read is left out.
    pub fn now() -> Processes {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Processes(pids.filter_map(|pid| Some((pid, kin(pid)?))).collect())
    }

    /// The processes of an instance: its session's, those that are known to belong to it, and what descends from
    /// any of them.
    pub fn group_of(&self, leader: u32, known: &[u32]) -> Vec<u32> {
        let mut group: BTreeSet<u32> =
            self.0.iter().filter(|(pid, kin)| **pid == leader || kin.session == leader).map(|(pid, _)| *pid).collect();
        group.extend(known);
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (pid, kin) in &self.0 {
            children.entry(kin.parent).or_default().push(*pid);
        }
        let mut open: Vec<u32> = group.iter().copied().collect();
        while let Some(pid) = open.pop() {
            let new = children.get(&pid).into_iter().flatten().filter(|child| group.insert(**child));
            open.extend(new);
        }
        group.into_iter().take(MOST_PROCESSES).collect()
    }
}

fn kin(pid: u32) -> Option<Kin> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the program's name in brackets and may hold anything, so counting begins behind the last bracket.
fn parse_stat(stat: &[u8]) -> Option<Kin> {
    let behind_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[behind_name..]).ok()?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Kin { parent, session })
}

/// Bytes that the processes use together. Looks closer at shared memory only if it decides whether `limit` is exceeded.
pub fn used_by(group: &[u32], limit: u64) -> u64 {
    let mut own = 0u64;
    let mut shared = 0u64;
    for pid in group {
        let usage = usage(*pid).unwrap_or_default();
        own = own.saturating_add(usage.own);
        shared = shared.saturating_add(usage.shared);
    }
    if own > limit || own.saturating_add(shared) <= limit {
        // The rings are among it, and it is within the limit even so, or beyond it without.
        return own;
    }
    let shared = group.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps")).ok());
    own.saturating_add(shared.map(|smaps| shared_beside_the_wire(&smaps)).sum())
}

/// What one process uses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    /// Its own, and its part of files.
    own: u64,
    /// Its part of shared memory.
    shared: u64,
}

fn usage(pid: u32) -> Option<Usage> {
    // Of a process that is not to be looked into (another user's, or undumpable) only the resident set is known.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    rollup.as_deref().and_then(parse_rollup).or_else(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let figure = |key| figure(&status, key).unwrap_or(0);
        Some(Usage { own: figure("RssAnon") + figure("RssFile") + figure("VmSwap"), shared: figure("RssShmem") })
    })
}

fn parse_rollup(text: &str) -> Option<Usage> {
    let own = figure(text, "Pss_Anon")? + figure(text, "Pss_File")? + figure(text, "SwapPss").unwrap_or(0);
    Some(Usage { own, shared: figure(text, "Pss_Shmem")? })
}

/// `KEY:    123 kB`, in bytes.
fn figure(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The part of shared memory that is not the wire's: the `Pss_Shmem`-like sum over `smaps`.
fn shared_beside_the_wire(smaps: &str) -> u64 {
    let mut counted = false;
    let mut sum = 0u64;
    for line in smaps.lines() {
        if is_mapping(line) {
            let name = line.split_ascii_whitespace().nth(5).unwrap_or("");
            let shared = ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"].iter().any(|place| name.starts_with(place));
            counted = shared && !name.starts_with(OF_THE_WIRE);
        } else if counted && line.starts_with("Pss:") {
            sum = sum.saturating_add(figure(line, "Pss").unwrap_or(0));
        }
    }
    sum
}

/// Whether a line of `smaps` begins a mapping: `7f00-7f01 rw-s ...`.
fn is_mapping(line: &str) -> bool {
    let range = line.split_ascii_whitespace().next().unwrap_or("");
    range.split_once('-').is_some_and(|(from, to)| {
        let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal(from) && hexadecimal(to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(list: &[(u32, u32, u32)]) -> Processes {
        Processes(
            list.iter().map(|(pid, parent, session)| (*pid, Kin { parent: *parent, session: *session })).collect(),
        )
    }

    #[test]
    fn a_group_is_a_session_and_all_that_descends_from_it() {
        let all = processes(&[
            (1, 0, 1),
            (10, 1, 10),
            (11, 10, 10),
            // Its parent has died, its session tells.
            (12, 1, 10),
            // In a session of its own, its parent tells.
            (13, 11, 13),
            (14, 13, 13),
            // A neighbour.
            (20, 1, 20),
            (21, 20, 20),
        ]);
        assert_eq!(all.group_of(10, &[]), [10, 11, 12, 13, 14]);
        // Its control group knows of one that nothing else tells of.
        assert_eq!(all.group_of(10, &[21]), [10, 11, 12, 13, 14, 21]);
        assert_eq!(all.group_of(20, &[20]), [20, 21]);
    }

    #[test]
    fn a_name_full_of_brackets_does_not_shift_the_figures() {
        assert_eq!(parse_stat(b"7 (a) R (1 2) 3) S 4 5 6 0 -1"), Some(Kin { parent: 4, session: 6 }));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 4 5"), None);
    }

    #[test]
    fn what_is_shared_is_told_apart_from_what_is_owned() {
        let rollup = "5500-7ffd ---p 0 00:00 0 [rollup]\nRss: 900 kB\nPss: 300 kB\nPss_Anon: 100 kB\nPss_File: 50 kB\nPss_Shmem: 150 kB\nSwapPss: 7 kB\n";
        assert_eq!(parse_rollup(rollup), Some(Usage { own: 157 << 10, shared: 150 << 10 }));
        assert_eq!(parse_rollup("Rss: 900 kB\n"), None);
    }

    #[test]
    fn the_rings_of_the_wire_are_nobodys() {
        let smaps = "\
7f00-7f10 r--s 00000000 00:01 5 /memfd:herdwire-outbox-1 (deleted)
Pss:                1000 kB
7f10-7f20 rw-s 00000000 00:01 6 /memfd:cache (deleted)
Pss:                  20 kB
Pss_Dirty:            20 kB
7f20-7f30 rw-p 00000000 00:00 0
Pss:                 400 kB
7f30-7f40 rw-s 00000000 00:01 7 /dev/shm/pool
Pss:                   3 kB
";
        assert_eq!(shared_beside_the_wire(smaps), 23 << 10);
    }

    #[test]
    fn our_own_memory_is_seen_when_it_grows() {
        let own = [std::process::id()];
        let before = used_by(&own, u64::MAX);
        let ballast = vec![1u8; 64 << 20];
        let after = used_by(&own, u64::MAX);
        assert!(after >= before + (60 << 20), "{before} to {after}");
        assert!(Processes::now().group_of(std::process::id(), &[]).contains(&std::process::id()));
        drop(ballast);
    }
}
