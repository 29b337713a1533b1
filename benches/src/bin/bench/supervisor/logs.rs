//! How many lines a second get from a worker into its file: plain, with a stamp before each, and plain while somebody who
//! follows them is stopped.
//!
//! Timed from the moment that the worker names in its first line to the last change of the file that holds its last one: what
//! commands take and how often somebody looks is no part of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manager::{App, Manager};
use crate::figures::Figures;

/// The role of this program that prints.
pub const PRINTER: &str = "__print";
/// How long it prints.
const SECONDS: &str = "2";
/// Bytes of a line, its end included.
const LINE: usize = 64;
/// Bytes of one write.
const WRITE: usize = 64 << 10;
/// What stands before the time in its first line, and its last line.
const BEGAN: &str = "began at ";
const END: &str = "the end";
/// How long a manager may take for what was printed.
const LIMIT: Duration = Duration::from_secs(120);

/// Says when it begins, prints numbered lines, many in one write, until the time is over, says that it ends, and waits to be
/// stopped.
pub fn print_lines(seconds: f64) -> Result<()> {
    let block: Vec<u8> = (0..WRITE / LINE).flat_map(|line| format!("{line:0>63}\n").into_bytes()).collect();
    let mut out = std::io::stdout().lock();
    let (began, until) = (SystemTime::now(), Instant::now() + Duration::from_secs_f64(seconds));
    writeln!(out, "{BEGAN}{}", began.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?;
    while Instant::now() < until {
        out.write_all(&block)?;
    }
    writeln!(out, "{END}")?;
    out.flush()?;
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// One round of all three.
pub fn sample(manager: &Manager, figures: &mut Figures) -> Result<()> {
    for (metric, stamped, followed) in
        [("log_lines_plain", false, false), ("log_lines_stamped", true, false), ("log_lines_followed", false, true)]
    {
        let rate = rate(manager, stamped, followed)?;
        figures.add(&manager.metric(metric), "lines/s", rate);
    }
    Ok(())
}

fn rate(manager: &Manager, stamped: bool, followed: bool) -> Result<f64> {
    manager.kill()?;
    let program = std::env::current_exe()?;
    let script = program.to_str().context("this program's path is not UTF-8")?;
    let name = format!("printer-{stamped}-{followed}");
    let until = Instant::now() + LIMIT;
    manager.start_app(App { name: &name, script, args: &[PRINTER, SECONDS], stamped }, 1)?;
    let follower = followed.then(|| Follower::stopped(manager)).transpose()?;
    let list = manager.list()?;
    let log = list.first().and_then(|instance| instance["pm2_env"]["pm_out_log_path"].as_str());
    let log = PathBuf::from(log.context("the printer has no log")?);
    while !ends_with_the_end(&log) {
        ensure!(Instant::now() < until, "{}: the lines have not arrived", manager.name());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = fs::metadata(&log)?.modified()?.duration_since(began(&log)?)?;
    let lines = count_lines(&log)?;
    drop(follower);
    manager.kill()?;
    fs::remove_file(&log)?;
    Ok(lines as f64 / took.as_secs_f64())
}

/// When the printer has begun: what its first line says, behind a stamp if there is one.
fn began(log: &Path) -> Result<SystemTime> {
    let mut start = [0; 4 * LINE];
    let length = File::open(log)?.read(&mut start)?;
    let line = std::str::from_utf8(&start[..length])?.lines().next().unwrap_or_default();
    let (_, nanoseconds) = line.split_once(BEGAN).context("the log does not say when its printer began")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds.parse()?))
}

fn ends_with_the_end(log: &Path) -> bool {
    let tail = || -> std::io::Result<String> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LINE as u64)))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    tail().is_ok_and(|tail| tail.trim_end().ends_with(END))
}

fn count_lines(log: &Path) -> Result<u64> {
    let mut file = File::open(log)?;
    let (mut block, mut lines) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(lines),
            read => lines += block[..read].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

/// A `logs` command that has been stopped. Killed when dropped.
struct Follower(Child);

impl Follower {
    fn stopped(manager: &Manager) -> Result<Follower> {
        let arguments: &[&str] = if manager.name() == "pm2" { &["logs"] } else { &["logs", "-f"] };
        let mut follower = Follower(manager.spawn(arguments)?);
        // Once it prints, it follows.
        follower.0.stdout.as_mut().context("it has an output")?.read_exact(&mut [0; 1])?;
        kill(Pid::from_raw(follower.0.id() as i32), Signal::SIGSTOP)?;
        Ok(follower)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
