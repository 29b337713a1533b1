//! The herd that faults are tried on, and what must be true of it whatever has failed.
//!
//! `keep` is an app that no command of a run is about: its instances print numbered lines and must never be touched.
//! `subject` is started, crashes, is stopped and deleted.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use measure::interrupt;
use measure::stand::{Pids, Stand, is_alive};
use nix::unistd::{Pid, getsid};
use serde_json::Value;

use crate::exits;
use crate::footprint::processes;

/// Everything is as it should be again, at the latest.
const SETTLE: Duration = Duration::from_secs(30);
const KEPT: usize = 2;
pub const SUBJECTS: usize = 2;

/// What should have become of `subject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Online,
    Stopped,
    Gone,
}

/// The herd of a run.
pub struct Herd {
    pub stand: Stand,
    /// Who serves, as far as is known.
    pub pids: Pids,
    /// Id, pid and log of each instance that nothing may happen to.
    kept: Vec<(u64, u64, PathBuf)>,
    /// How much of the log has been looked at.
    read: usize,
    /// How often a supervisor has panicked.
    pub panics: u64,
    /// How often both had died, so that everything was started again.
    pub both_died: u64,
}

impl Herd {
    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start() -> anyhow::Result<Herd> {
        let mut stand = Stand::new()?;
        let keep = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
        let pids = stand.start(&format!(
            "[status]\nlisten = \"127.0.0.1:0\"\n\n[[app]]\nname = \"keep\"\nscript = \"/bin/sh\"\nargs = [\"-c\", {keep:?}]\n\
             interpreter = \"none\"\ninstances = {KEPT}\n"
        ))?;
        let subject = format!(
            "[[app]]\nname = \"subject\"\nscript = \"/bin/sleep\"\nargs = [\"infinity\"]\ninterpreter = \"none\"\ninstances = {SUBJECTS}\n\
             listen = [\"tcp://127.0.0.1:0\"]\nmin_uptime = 0\nmax_restarts = 1000000\n"
        );
        fs::write(stand.work().join("subject.toml"), subject)?;
        let mut herd = Herd { stand, pids, kept: Vec::new(), read: 0, panics: 0, both_died: 0 };
        herd.know_kept()?;
        Ok(herd)
    }

    /// The file that starts `subject`.
    pub fn subject_file(&self) -> String {
        self.stand.work().join("subject.toml").display().to_string()
    }

    fn know_kept(&mut self) -> anyhow::Result<()> {
        let all = self.stand.instances()?;
        let kept = all.iter().filter(|one| one["name"] == "keep");
        self.kept = kept.map(place).collect::<Option<_>>().context("an odd list")?;
        Ok(())
    }

    /// Pids of `subject` that are online.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn subjects(&self) -> anyhow::Result<Vec<u32>> {
        let all = self.stand.instances()?;
        let online = all.iter().filter(|one| one["name"] == "subject" && one["pm2_env"]["status"] == "online");
        Ok(online.filter_map(|one| one["pid"].as_u64().map(|pid| pid as u32)).collect())
    }

    /// Waits until somebody answers, and has everything started again where both have died.
    ///
    /// # Errors
    /// Nobody ever does.
    pub fn is_served(&mut self) -> anyhow::Result<()> {
        let before = self.pids;
        let mut now = None;
        let mut both_died = false;
        let answers = interrupt::wait_for(SETTLE, || {
            now = self.stand.pids().ok();
            // A supervisor that becomes the keeper keeps its pid.
            both_died =
                now.is_none() && !is_alive(before.keeper) && !is_alive(before.supervisor) && self.managers() == 0;
            Ok(now.is_some() || both_died)
        })?;
        if both_died {
            self.both_died += 1;
            self.stand.herdwire(["resurrect"])?;
            now = Some(self.stand.pids()?);
        }
        ensure!(answers, "nobody answers any more");
        self.pids = now.context("nobody answers any more")?;
        if both_died {
            // What ran is started again, with logs that begin anew in the middle.
            let is_back = || Ok(self.stand.instances()?.iter().all(|one| one["pm2_env"]["status"] != "launching"));
            interrupt::wait_for(SETTLE, is_back)?;
            for verb in ["stop", "flush", "start"] {
                self.stand.herdwire([verb, "keep"])?;
            }
            self.know_kept()?;
        }
        Ok(())
    }

    /// Keepers and supervisors of this home.
    fn managers(&self) -> usize {
        let all = processes(&self.stand.home()).unwrap_or_default();
        all.iter().filter(|pid| is_manager(**pid)).count()
    }

    /// Waits until everything is as it should be.
    ///
    /// # Errors
    /// What is not, after all.
    pub fn is_right(&mut self, subject: Subject) -> anyhow::Result<()> {
        let mut wrong = Ok(());
        let is_right = interrupt::wait_for(SETTLE, || {
            wrong = self.look(subject);
            Ok(wrong.is_ok())
        })?;
        if !is_right {
            return wrong;
        }
        self.exits()?;
        self.lines()
    }

    fn look(&self, subject: Subject) -> anyhow::Result<()> {
        let all = self.stand.instances()?;
        let kept: Vec<_> = all.iter().filter(|one| one["name"] == "keep").collect();
        let places: Option<Vec<_>> = kept.iter().map(|one| place(one)).collect();
        ensure!(places.as_ref() == Some(&self.kept), "`keep` was touched: {:?} became {places:?}", self.kept);
        ensure!(kept.iter().all(|one| one["pm2_env"]["status"] == "online"), "`keep` is not online");
        let subjects: Vec<_> = all.iter().filter(|one| one["name"] == "subject").collect();
        let states: Vec<_> = subjects.iter().map(|one| one["pm2_env"]["status"].as_str().unwrap_or("?")).collect();
        let expected = match subject {
            Subject::Online => vec!["online"; SUBJECTS],
            Subject::Stopped => vec!["stopped"; SUBJECTS],
            Subject::Gone => Vec::new(),
        };
        ensure!(states == expected, "`subject` is {states:?} and should be {expected:?}");
        let known: BTreeSet<u32> = all.iter().filter_map(|one| one["pid"].as_u64()).map(|pid| pid as u32).collect();
        let known: BTreeSet<u32> = known.into_iter().filter(|pid| *pid != 0).collect();
        let running = processes(&self.stand.home())?;
        // What instances start themselves is in their sessions.
        let running: BTreeSet<u32> =
            running.into_iter().filter(|pid| !is_manager(*pid) && leads_a_session(*pid)).collect();
        ensure!(known == running, "{known:?} are listed, {running:?} run");
        let managers = self.managers();
        ensure!(managers == 2, "{managers} keepers and supervisors run");
        Ok(())
    }

    /// Every process has one end: what is told of it twice is the same.
    fn exits(&mut self) -> anyhow::Result<()> {
        let log = self.stand.log()?;
        let new = log.get(self.read..).unwrap_or_default();
        for ((id, incarnation), words) in exits::told(new) {
            ensure!(words.len() == 1, "instance {id}, incarnation {incarnation}: told as {words:?}");
        }
        // One whose waker, allocator or clock fails has no choice; it is followed like any other that dies.
        for line in new.lines().filter(|line| line.contains("panicked at")) {
            eprintln!("{line}");
            self.panics += 1;
        }
        self.read = log.len();
        Ok(())
    }

    fn lines(&self) -> anyhow::Result<()> {
        for (id, _, log) in &self.kept {
            let text = fs::read_to_string(log)?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for (number, line) in (1..).zip(whole.lines()) {
                ensure!(line == format!("line {number}"), "instance {id}: `{line}` where line {number} should be");
            }
        }
        Ok(())
    }
}

fn place(instance: &Value) -> Option<(u64, u64, PathBuf)> {
    let log = instance["pm2_env"]["pm_out_log_path"].as_str()?;
    Some((instance["pm_id"].as_u64()?, instance["pid"].as_u64()?, PathBuf::from(log)))
}

/// Whether a process is a keeper or a supervisor, by its arguments.
fn is_manager(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let role = arguments.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    role.starts_with(b"__keeper") || role.starts_with(b"__supervisor")
}

fn leads_a_session(pid: u32) -> bool {
    let pid = Pid::from_raw(pid as i32);
    getsid(Some(pid)).is_ok_and(|session| session == pid)
}
