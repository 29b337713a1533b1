//! What instances use, and the machine as a whole.
//!
//! Instances: one `pread` of a kept-open `/proc/PID/stat` each, a few microseconds. The descriptor belongs to the
//! process it was opened for; when that is gone it reads as an error, and never as a stranger with the same pid.
//! Host totals come from sysinfo.
//!
//! Everything here blocks, on procfs alone, which does not wait for anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nix::unistd::{SysconfVar, sysconf};
use sysinfo::System;

use crate::snapshot::HostView;

/// More than the kernel ever writes: 52 numbers of at most 20 digits and a name of at most 64 bytes.
const STAT_BYTES: usize = 2048;

/// Readings closer together than this say more about the kernel's clock ticks than about the process.
const SHORTEST_INTERVAL_SECONDS: f64 = 0.05;

/// What one process used.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Of one core, since the sample before; 0 at the first.
    pub cpu_percent: f32,
    /// Resident set.
    pub memory_bytes: u64,
}

/// Reads what a set of processes use. Keys are the caller's: instance ids.
#[derive(Debug)]
pub struct Sampler {
    processes: BTreeMap<u32, Process>,
    ticks_per_second: f64,
    page_bytes: u64,
}

#[derive(Debug)]
struct Process {
    stat: File,
    /// CPU time in ticks, and when it was read.
    before: Option<(u64, Instant)>,
    usage: Usage,
}

/// The numbers of `/proc/PID/stat` that count here.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    resident_pages: u64,
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler::new()
    }
}

impl Sampler {
    /// A sampler of nothing yet.
    pub fn new() -> Sampler {
        let number = |name, usual| sysconf(name).ok().flatten().filter(|value| *value > 0).unwrap_or(usual);
        Sampler {
            processes: BTreeMap::new(),
            ticks_per_second: number(SysconfVar::CLK_TCK, 100) as f64,
            page_bytes: number(SysconfVar::PAGE_SIZE, 4096).unsigned_abs(),
        }
    }

    /// Samples `pid` from now on as `key`, in place of what `key` was before. Costs one descriptor.
    ///
    /// The caller makes sure that `pid` still is who it means, by asking its pidfd *after* this call: the process
    /// cannot have been replaced between the two then.
    ///
    /// # Errors
    /// When there is no such process, or no descriptor left. `key` is not sampled then.
    pub fn add(&mut self, key: u32, pid: u32) -> io::Result<()> {
        self.processes.remove(&key);
        let stat = File::open(format!("/proc/{pid}/stat"))?;
        self.processes.insert(key, Process { stat, before: None, usage: Usage::default() });
        Ok(())
    }

    /// Whether `key` is sampled.
    pub fn samples(&self, key: u32) -> bool {
        self.processes.contains_key(&key)
    }

    /// Samples `key` no longer. Nothing happens when it is not sampled.
    pub fn remove(&mut self, key: u32) {
        self.processes.remove(&key);
    }

    /// Reads everybody and says what they use, in the order of keys. Processes that are gone are no longer sampled and not in the answer;
    /// one that has exited and was not reaped is, with no memory.
    pub fn sample(&mut self) -> Vec<(u32, Usage)> {
        let (ticks_per_second, page_bytes) = (self.ticks_per_second, self.page_bytes);
        self.processes.retain(|_, process| process.read(Instant::now(), ticks_per_second, page_bytes).is_some());
        self.processes.iter().map(|(key, process)| (*key, process.usage)).collect()
    }
}

impl Process {
    /// Brings `usage` up to `now`; `None` when the process is gone.
    fn read(&mut self, now: Instant, ticks_per_second: f64, page_bytes: u64) -> Option<()> {
        let mut text = [0; STAT_BYTES];
        let length = self.stat.read_at(&mut text, 0).ok()?;
        let stat = parse(&text[..length])?;
        self.usage.memory_bytes = stat.resident_pages.saturating_mul(page_bytes);
        let Some((ticks, at)) = self.before else {
            self.before = Some((stat.cpu_ticks, now));
            return Some(());
        };
        let seconds = now.duration_since(at).as_secs_f64();
        if seconds >= SHORTEST_INTERVAL_SECONDS {
            let busy = stat.cpu_ticks.saturating_sub(ticks) as f64 / ticks_per_second;
            self.usage.cpu_percent = (100.0 * busy / seconds) as f32;
            self.before = Some((stat.cpu_ticks, now));
        }
        Some(())
    }
}

/// Reads the two figures. The second field is the program's name in brackets and may hold anything, brackets and
/// blanks too, so counting begins behind the last bracket: there stands field 3.
fn parse(text: &[u8]) -> Option<Stat> {
    let behind_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&text[behind_name..]).ok()?.split_ascii_whitespace();
    let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let resident_pages = fields.nth(24 - 16)?.parse().ok()?;
    Some(Stat { cpu_ticks: user.saturating_add(system), resident_pages })
}

/// The machine as a whole.
#[derive(Debug)]
pub struct Host {
    system: System,
    name: String,
    cpus: u32,
}

/// The machine's figures cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the host's totals from /proc")]
pub struct HostError(#[source] sysinfo::Error);

impl Host {
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn new() -> Result<Host, HostError> {
        let system = System::new().map_err(HostError)?;
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let name = System::host_name().unwrap_or_else(|_| "localhost".to_owned());
        Ok(Host { system, name, cpus })
    }

    /// The figures of this moment. What cannot be read is 0.
    pub fn view(&mut self) -> HostView {
        self.system.refresh_memory();
        HostView {
            name: self.name.clone(),
            cpus: self.cpus,
            load_1m: System::load_average().map_or(0.0, |load| load.one),
            memory_total_bytes: self.system.total_memory(),
            memory_used_bytes: self.system.used_memory(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// Ends its process, whatever becomes of the test.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            // Fails when it has ended already, which is as good.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn run(script: &str) -> Ended {
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Ended(child.unwrap())
    }

    #[test]
    fn a_name_full_of_brackets_and_blanks_does_not_shift_the_figures() {
        let text = b"7 (a) R (1 2) 3) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 12345 1000000 321 18446744073709551615 1";
        assert_eq!(parse(text), Some(Stat { cpu_ticks: 300, resident_pages: 321 }));
    }

    #[test]
    fn a_line_that_is_cut_short_is_refused() {
        let text = b"7 (a) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 12345 1000000 321 1";
        for length in 0..text.len() - 5 {
            assert_eq!(parse(&text[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_busy_process_is_seen_busy_and_an_idle_one_idle() {
        let (busy, idle) = (run("while :; do :; done"), run("read line"));
        let mut sampler = Sampler::new();
        sampler.add(1, busy.0.id()).unwrap();
        sampler.add(2, idle.0.id()).unwrap();
        sampler.sample();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            std::thread::yield_now();
            let seen: BTreeMap<u32, Usage> = sampler.sample().into_iter().collect();
            if seen[&1].cpu_percent > 20.0 {
                assert!(seen[&2].cpu_percent < seen[&1].cpu_percent);
                assert!(seen[&2].memory_bytes > 100 << 10, "{seen:?}");
                return;
            }
            assert!(Instant::now() < deadline, "{seen:?}");
        }
    }

    #[test]
    fn a_process_that_is_gone_is_forgotten_and_a_key_can_be_given_again() {
        let first = run("read line");
        let mut sampler = Sampler::new();
        sampler.add(1, first.0.id()).unwrap();
        let gone = first.0.id();
        drop(first);
        assert_eq!(sampler.sample(), []);
        assert_eq!(sampler.add(1, gone).unwrap_err().kind(), io::ErrorKind::NotFound);
        let second = run("read line");
        sampler.add(1, second.0.id()).unwrap();
        assert_eq!(sampler.sample().len(), 1);
        sampler.remove(1);
        assert_eq!(sampler.sample(), []);
    }

    #[test]
    fn the_host_has_a_name_cores_and_memory() {
        let view = Host::new().unwrap().view();
        assert!(!view.name.is_empty() && view.cpus > 0, "{view:?}");
        assert!(view.memory_used_bytes > 0 && view.memory_used_bytes < view.memory_total_bytes, "{view:?}");
    }
}
