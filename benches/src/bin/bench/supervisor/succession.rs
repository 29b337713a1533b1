//! How long after a worker's SIGKILL its successor is executed: from before the signal to the kernel's word that the
//! worker's program, a file that nobody else uses, has been opened for it.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manager::{App, Manager};
use crate::figures::{Figures, median};

/// Kills in each round.
const KILLS: usize = 30;
/// A successor comes within this time, or never.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two kills: nobody is restarted because of a restart.
const PAUSE: Duration = Duration::from_millis(50);

/// Kills a worker again and again; the median becomes a sample.
pub fn sample(manager: &Manager, folder: &Path, figures: &mut Figures) -> Result<()> {
    let program = folder.join(format!("victim-{}", manager.name()));
    fs::copy("/bin/sleep", &program)?;
    let script = program.to_str().context("the folder's path is not UTF-8")?;
    manager.kill()?;
    manager.start_app(App { name: "victim", script, args: &["3600"], stamped: false }, 1)?;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    watch.add_watch(&program, AddWatchFlags::IN_OPEN)?;
    let mut times = Vec::with_capacity(KILLS);
    for _ in 0..KILLS {
        std::thread::sleep(PAUSE);
        let pid = worker(manager)?;
        // What was opened before is not what we wait for.
        while watch.read_events().is_ok() {}
        let killed = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        let mut waiting = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut waiting, PollTimeout::try_from(LIMIT)?)? > 0, "{}: no successor", manager.name());
        times.push(killed.elapsed().as_secs_f64() * 1e3);
    }
    figures.add(&manager.metric("kill_to_exec_p50"), "ms", median(times));
    manager.kill()
}

/// The pid of the one worker, once it runs.
fn worker(manager: &Manager) -> Result<i32> {
    let until = Instant::now() + LIMIT;
    loop {
        let list = manager.list()?;
        let online = list.first().filter(|instance| instance["pm2_env"]["status"] == "online");
        if let Some(pid) = online.and_then(|instance| instance["pid"].as_i64()).filter(|pid| *pid > 0) {
            return Ok(pid as i32);
        }
        ensure!(Instant::now() < until, "{}: the worker is not online", manager.name());
    }
}
