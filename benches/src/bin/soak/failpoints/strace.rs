//! strace as the hand that makes a system call fail: which calls a process makes, and one of them changed.
//!
//! Owns the strace that it started, and detaches it before anybody looks at what came of it. Occurrences are counted by
//! strace, in each thread by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use measure::stand::{is_alive, send};
use nix::sys::signal::Signal;

/// strace has attached itself at the latest.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// A process that is killed is gone after this time, mostly.
const DEATH: Duration = Duration::from_millis(50);
/// It lets go in order within this time.
const DETACH_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks whether the fault has been seen.
const LOOK: Duration = Duration::from_millis(2);

/// What is done to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is not made, and fails.
    Error,
    /// It is made later.
    Delay,
    /// Its process is killed over it.
    Kill,
}

/// One system call of one thread, and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    /// Its how manieth occurrence in its thread, from 1.
    pub occurrence: u32,
    pub fault: Fault,
}

/// A process that is traced, with all its threads and children.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    output: PathBuf,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<bool>>,
}

impl Tracer {
    /// Lists the calls of a process from now on.
    ///
    /// # Errors
    /// strace is missing or may not trace.
    pub fn list(pid: u32, folder: &Path) -> anyhow::Result<Tracer> {
        Tracer::attach(pid, folder, &[])
    }

    /// Has this happen to a process; it is let go as soon as it has.
    ///
    /// # Errors
    /// As of [`Tracer::list`].
    pub fn inject(pid: u32, folder: &Path, point: &Point, delay: Duration) -> anyhow::Result<Tracer> {
        let Point { call, occurrence, fault } = point;
        let what = match fault {
            Fault::Error => format!("error={}", error_of(call)),
            Fault::Delay => format!("delay_enter={}", delay.as_micros()),
            Fault::Kill => "signal=SIGKILL".to_owned(),
        };
        let inject = format!("inject={call}:{what}:when={occurrence}");
        let mut tracer = Tracer::attach(pid, folder, &["-e", &format!("trace={call}"), "-e", &inject])?;
        let (output, over, strace, fault) =
            (tracer.output.clone(), Arc::clone(&tracer.over), tracer.strace.id(), *fault);
        tracer.watch = Some(std::thread::spawn(move || {
            let mut over_since = None;
            loop {
                // Asked first: what was written before counts.
                let is_over = over.load(Relaxed);
                if was_hit(&fs::read_to_string(&output).unwrap_or_default()) {
                    if fault == Fault::Kill {
                        std::thread::sleep(DEATH);
                    }
                    let asked = Instant::now();
                    let _ = send(strace, Signal::SIGINT);
                    while is_alive(strace) && asked.elapsed() < DETACH_LIMIT {
                        std::thread::sleep(LOOK);
                    }
                    // See `end`. Its owner has not waited for it yet, so that the pid is its own.
                    let _ = send(strace, Signal::SIGKILL);
                    return true;
                }
                // A call that comes late is shown only once it has come.
                let patience = if fault == Fault::Delay { delay + LOOK * 10 } else { Duration::ZERO };
                if is_over && over_since.get_or_insert_with(Instant::now).elapsed() >= patience {
                    return false;
                }
                std::thread::sleep(LOOK);
            }
        }));
        Ok(tracer)
    }

    fn attach(pid: u32, folder: &Path, more: &[&str]) -> anyhow::Result<Tracer> {
        let (output, said) = (folder.join("strace.out"), folder.join("strace.err"));
        fs::write(&output, "")?;
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-o"]).arg(&output).args(more).args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said)?);
        let strace = command.spawn().context("strace cannot be run: it has to be installed")?;
        let tracer = Tracer { strace, output, over: Arc::default(), watch: None };
        let until = Instant::now() + ATTACH_LIMIT;
        loop {
            let words = fs::read_to_string(&said)?;
            if words.contains(" attached") {
                return Ok(tracer);
            }
            ensure!(is_alive(tracer.strace.id()) && Instant::now() < until, "strace does not attach: {}", words.trim());
            std::thread::sleep(LOOK);
        }
    }

    /// Lets go; whether the fault has happened.
    ///
    /// # Errors
    /// strace does not end.
    pub fn detach(mut self) -> anyhow::Result<bool> {
        self.over.store(true, Relaxed);
        let was_hit = self.watch.take().is_some_and(|watch| watch.join().expect("it only reads"));
        self.end()?;
        Ok(was_hit)
    }

    /// Lets go; how often each call was made by the thread that made it most.
    ///
    /// # Errors
    /// strace does not end.
    pub fn calls(mut self) -> anyhow::Result<BTreeMap<String, u32>> {
        self.end()?;
        Ok(count(&fs::read_to_string(&self.output)?))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let asked = Instant::now();
        // It has ended where all that it traced have.
        let _ = send(self.strace.id(), Signal::SIGINT);
        while self.strace.try_wait()?.is_none() {
            // One that lets go of a process that is just being killed waits for ever; its own end lets go of all.
            if asked.elapsed() >= DETACH_LIMIT {
                self.strace.kill()?;
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        // Ended already, mostly.
        let _ = self.end();
    }
}

/// Whether a listing shows a fault.
fn was_hit(listing: &str) -> bool {
    ["(INJECTED)", "(DELAYED)", "+++ killed by SIGKILL"].iter().any(|sign| listing.contains(sign))
}

/// How often each call was made by the thread that made it most.
fn count(listing: &str) -> BTreeMap<String, u32> {
    let mut by_thread: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in listing.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.is_empty()
            && call.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, call), times) in by_thread {
        let known = most.entry(call.to_owned()).or_insert(0);
        *known = times.max(*known);
    }
    most
}

/// The error that a call is likeliest to meet.
fn error_of(call: &str) -> &'static str {
    match call {
        "openat" | "pidfd_open" | "pipe2" | "socket" | "socketpair" | "accept4" | "eventfd2" | "epoll_create1"
        | "timerfd_create" | "signalfd4" | "inotify_init1" | "dup" | "dup2" | "dup3" | "fcntl" => "EMFILE",
        "clone" | "clone3" | "fork" | "vfork" | "setsid" => "EAGAIN",
        "mmap" | "mprotect" | "mremap" | "brk" | "memfd_create" | "execve" | "execveat" | "epoll_ctl" => "ENOMEM",
        "write" | "writev" | "pwrite64" | "ftruncate" | "fallocate" | "rename" | "renameat" | "renameat2" | "mkdir"
        | "mkdirat" | "splice" => "ENOSPC",
        "sendmsg" | "sendto" => "ENOBUFS",
        "kill" | "tgkill" | "pidfd_send_signal" | "setpriority" | "prctl" => "EPERM",
        _ => "EIO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_thread_and_the_busiest_one_counts() {
        let listing = "12 openat(AT_FDCWD, \"\"...) = 3\n12 close(3) = 0\n13 close(4) = 0\n13 close(5 <unfinished ...>\n\
                       13 <... close resumed>) = 0\n12 --- SIGCHLD {si_signo=SIGCHLD} ---\n13 +++ exited with 0 +++\n";
        let calls = count(listing);
        assert_eq!(calls.into_iter().collect::<Vec<_>>(), [("close".to_owned(), 2), ("openat".to_owned(), 1)]);
    }

    #[test]
    fn a_listing_shows_whether_the_fault_has_happened() {
        assert!(was_hit("9 openat(1) = -1 EMFILE (Too many open files) (INJECTED)\n"));
        assert!(was_hit("9 close(3) = ?\n9 +++ killed by SIGKILL +++\n"));
        assert!(!was_hit("9 close(3) = 0\n9 +++ exited with 0 +++\n"));
    }
}
