//! `soak failpoints`: each system call that supervisor and keeper make on the way through a start, a crash, a stop, a
//! deletion, an upgrade and a death of the supervisor fails once, comes late once, and once kills its process; and each
//! time the herd is what it should be afterwards.
//!
//! A first pass lists the calls; every point after that is a round of its own. What fails is strace's doing
//! (`failpoints::strace`), so nothing in the product knows of it; a command that meets a fault may fail and is then given
//! again without one. Which call of which thread is hit depends on the moment, so a point that is not met is tried again,
//! and counted when it is never met.

mod herd;
mod strace;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use measure::stand::{Pids, send};
use measure::{figures, interrupt};
use nix::sys::signal::Signal;

use crate::footprint::settled_descriptors;
use crate::promise::Promises;
use crate::random::Random;
use herd::{Herd, SUBJECTS, Subject};
use strace::{Fault, Point, Tracer};

/// A crash or a death is over at the latest, when nobody says so.
const OVER_LIMIT: Duration = Duration::from_secs(10);
/// How often the calls of a phase are listed until it goes through.
const LISTINGS: u32 = 3;
/// How often a point is tried that is not met.
const TRIES: u32 = 2;
/// A round that takes so long is named: somebody has waited for a limit.
const LONG: Duration = Duration::from_secs(15);
/// A store may hold an outbox or a directory more, for a moment.
const TOLERANCE: u64 = 8;

/// Calls that no decision follows from: waiting, the time, memory that is given back, and what only describes a process.
/// An error of a lock is none that a kernel gives.
const WITHOUT_CHOICE: [&str; 21] = [
    "futex",
    "epoll_wait",
    "epoll_pwait",
    "poll",
    "ppoll",
    "clock_nanosleep",
    "nanosleep",
    "restart_syscall",
    "clock_gettime",
    "gettimeofday",
    "sched_yield",
    "sched_getaffinity",
    "madvise",
    "munmap",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "getpid",
    "gettid",
    "rseq",
];

/// Calls whose failure strace would make a lie: the kernel does them in any case, or they do not return.
const NEVER_FAIL: [&str; 6] = ["close", "exit", "exit_group", "close_range", "set_robust_list", "set_tid_address"];

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// End after so many seconds, though points are left; they are tried in any order.
    #[arg(long)]
    seconds: Option<u64>,
    /// How many occurrences of each call in a thread are tried.
    #[arg(long, default_value_t = 3)]
    occurrences: u32,
    /// How late a call comes that comes late.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    delay: u64,
    /// Only these faults.
    #[arg(long, value_delimiter = ',', default_values = ["error", "delay", "kill"])]
    faults: Vec<FaultName>,
    /// Only these calls.
    #[arg(long, value_delimiter = ',', value_name = "CALL")]
    calls: Vec<String>,
    /// Only these phases.
    #[arg(long, value_delimiter = ',', default_values = ["start", "crash", "stop", "delete", "upgrade", "death"])]
    phases: Vec<Phase>,
}

/// A fault by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FaultName {
    Error,
    Delay,
    Kill,
}

/// What is done while a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Phase {
    /// `subject` is started: spawn, store, commit.
    Start,
    /// An instance is killed, and comes back: exit, commit, spawn.
    Crash,
    /// `subject` is stopped.
    Stop,
    /// `subject` is deleted.
    Delete,
    /// The supervisor is replaced by an upgrade.
    Upgrade,
    /// The supervisor is killed, and its successor adopts.
    Death,
}

/// Whose calls: the keeper's are those of the supervisors that it starts as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Supervisor,
    Keeper,
}

type Place = (Phase, Whose, Point);

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    hit: BTreeSet<Place>,
    tried: BTreeSet<Place>,
    refused: u64,
    longest: Duration,
    broken: Vec<String>,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    let mut herd = Herd::start()?;
    let outcome = try_all(options, &mut herd);
    let ended = herd.stand.finish(keep);
    let promises = outcome?;
    ended?;
    Ok(promises.broken())
}

fn try_all(options: &Options, herd: &mut Herd) -> anyhow::Result<Promises> {
    let places = enumerate(options, herd)?;
    bring(herd, Subject::Online)?;
    let before = settled_descriptors(herd.pids)?;
    let until = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut tally = Tally::default();
    let mut random = Random::new()?;
    let mut waiting = places.clone();
    'all: for _ in 0..TRIES {
        for at in (1..waiting.len()).rev() {
            waiting.swap(at, random.below(at as u64 + 1) as usize);
        }
        for place in &waiting {
            if until.is_some_and(|until| Instant::now() >= until) {
                break 'all;
            }
            round(place, options, herd, &mut tally)?;
        }
        waiting.retain(|place| !tally.hit.contains(place));
    }
    bring(herd, Subject::Online)?;
    let leaked = settled_descriptors(herd.pids)?.saturating_sub(before + TOLERANCE);
    tally.print(&places);
    figures::print("both_died", herd.both_died, "times");
    figures::print("panics", herd.panics, "times");
    figures::print("descriptors_leaked", leaked, "descriptors");
    let mut promises = Promises::default();
    promises.is_zero("descriptors_leaked", leaked);
    for broken in tally.broken {
        promises.holds(false, || broken);
    }
    Ok(promises)
}

/// Lists which calls each phase makes, and what is to be done to which of them.
fn enumerate(options: &Options, herd: &mut Herd) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for phase in &options.phases {
        for whose in [Whose::Supervisor, Whose::Keeper] {
            let calls = list(*phase, whose, herd)?;
            places.extend(points(&calls, options).into_iter().map(|point| (*phase, whose, point)));
        }
    }
    Ok(places)
}

/// Which calls a phase makes, and how often. On a machine that has a lot else to do it may be too slow while it is
/// listened to, and is then done again.
fn list(phase: Phase, whose: Whose, herd: &mut Herd) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut tries_left = LISTINGS;
    loop {
        tries_left -= 1;
        bring(herd, phase.begins_with())?;
        let tracer = Tracer::list(whose.of(herd.pids), &herd.stand.work())?;
        let acted = phase.act(herd).with_context(|| format!("{phase:?}, with nothing wrong"));
        let calls = tracer.calls()?;
        herd.is_served()?;
        match acted {
            Ok(()) => {
                herd.is_right(phase.ends_with())?;
                return Ok(calls);
            }
            Err(error) if tries_left == 0 => return Err(error),
            Err(error) => eprintln!("{error:#}; once more"),
        }
    }
}

fn points(calls: &BTreeMap<String, u32>, options: &Options) -> Vec<Point> {
    let mut points = Vec::new();
    let is_meant = |call: &String| match options.calls.is_empty() {
        true => !WITHOUT_CHOICE.contains(&call.as_str()),
        false => options.calls.contains(call),
    };
    for (call, times) in calls.iter().filter(|(call, _)| is_meant(call)) {
        for name in &options.faults {
            // One that comes late does so in the same way each time, and takes its time.
            let (fault, most) = match name {
                FaultName::Error => (Fault::Error, options.occurrences),
                FaultName::Delay => (Fault::Delay, 1),
                FaultName::Kill => (Fault::Kill, options.occurrences),
            };
            if fault == Fault::Error && NEVER_FAIL.contains(&call.as_str()) {
                continue;
            }
            points.extend((1..=most.min(*times)).map(|occurrence| Point { call: call.clone(), occurrence, fault }));
        }
    }
    points
}

/// One point: the phase with this fault, and what must be true afterwards.
fn round(place: &Place, options: &Options, herd: &mut Herd, tally: &mut Tally) -> anyhow::Result<()> {
    let (phase, whose, point) = place;
    interrupt::check()?;
    bring(herd, phase.begins_with()).with_context(|| format!("before {place:?}"))?;
    let delay = Duration::from_millis(options.delay);
    let began = Instant::now();
    let tracer = Tracer::inject(whose.of(herd.pids), &herd.stand.work(), point, delay)?;
    let acted = phase.act(herd);
    let was_hit = tracer.detach()?;
    interrupt::check()?;
    tally.rounds += 1;
    tally.tried.insert(place.clone());
    if was_hit {
        tally.hit.insert(place.clone());
    }
    tally.refused += u64::from(acted.is_err());
    let right = herd
        .is_served()
        .and_then(|()| phase.make_up(acted.is_err(), herd))
        .and_then(|()| herd.is_right(phase.ends_with()));
    tally.took(began.elapsed(), place);
    if let Err(error) = right {
        tally.broken.push(format!("{phase:?} of the {whose:?}, {point:?}: {error:#}"));
        eprintln!("{place:?}: {error:#}");
        // The next round begins with a herd that is whole.
        let fresh = Herd::start()?;
        let wrong = std::mem::replace(herd, fresh);
        wrong.stand.finish(true)?;
    }
    Ok(())
}

/// Brings `subject` into a state, with nothing wrong.
fn bring(herd: &mut Herd, to: Subject) -> anyhow::Result<()> {
    herd.is_served()?;
    let file = herd.subject_file();
    let is_known = herd.stand.instances()?.iter().any(|one| one["name"] == "subject");
    match to {
        Subject::Online if herd.subjects()?.len() == SUBJECTS => {}
        Subject::Online => drop(herd.stand.herdwire(["start", &file])?),
        Subject::Stopped => drop(herd.stand.herdwire(["stop", "subject"])?),
        Subject::Gone if !is_known => {}
        Subject::Gone => drop(herd.stand.herdwire(["delete", "subject"])?),
    }
    herd.is_right(to)
}

impl Whose {
    fn of(self, pids: Pids) -> u32 {
        match self {
            Whose::Supervisor => pids.supervisor,
            Whose::Keeper => pids.keeper,
        }
    }
}

impl Phase {
    fn begins_with(self) -> Subject {
        if self == Phase::Start { Subject::Gone } else { Subject::Online }
    }

    fn ends_with(self) -> Subject {
        match self {
            Phase::Start | Phase::Crash | Phase::Upgrade | Phase::Death => Subject::Online,
            Phase::Stop => Subject::Stopped,
            Phase::Delete => Subject::Gone,
        }
    }

    /// Does it, and waits until it is over.
    fn act(self, herd: &mut Herd) -> anyhow::Result<()> {
        let file = herd.subject_file();
        match self {
            Phase::Start => drop(herd.stand.herdwire(["start", &file])?),
            Phase::Stop => drop(herd.stand.herdwire(["stop", "subject"])?),
            Phase::Delete => drop(herd.stand.herdwire(["delete", "subject"])?),
            Phase::Upgrade => drop(herd.stand.herdwire(["upgrade"])?),
            Phase::Crash => {
                // The fault may have struck while it was asked who is there.
                let victim = *herd.subjects()?.first().context("nobody is online")?;
                send(victim, Signal::SIGKILL)?;
                let is_back = || Ok(herd.subjects().is_ok_and(|now| now.len() == SUBJECTS && !now.contains(&victim)));
                ensure!(interrupt::wait_for(OVER_LIMIT, is_back)?, "it has not come back");
            }
            Phase::Death => {
                let before = herd.pids.supervisor;
                send(before, Signal::SIGKILL)?;
                let is_back = || Ok(herd.stand.pids().is_ok_and(|now| now.supervisor != before));
                ensure!(interrupt::wait_for(OVER_LIMIT, is_back)?, "there is no successor");
            }
        }
        Ok(())
    }

    /// A command that was refused is given again, without a fault, and must do.
    fn make_up(self, was_refused: bool, herd: &mut Herd) -> anyhow::Result<()> {
        match self {
            Phase::Start if was_refused => bring_anew(herd, Subject::Online),
            Phase::Stop if was_refused => bring_anew(herd, Subject::Stopped),
            Phase::Delete if was_refused => bring_anew(herd, Subject::Gone),
            Phase::Upgrade if was_refused => {
                herd.stand.herdwire(["upgrade"])?;
                herd.is_served()
            }
            _ => Ok(()),
        }
    }
}

fn bring_anew(herd: &mut Herd, to: Subject) -> anyhow::Result<()> {
    bring(herd, to).context("without a fault, it is refused as well")
}

impl Tally {
    fn took(&mut self, time: Duration, place: &Place) {
        if time >= LONG {
            eprintln!("{} s: {place:?}", time.as_secs());
        }
        self.longest = self.longest.max(time);
    }

    fn print(&self, places: &[Place]) {
        figures::print("points", places.len(), "points");
        figures::print("points_tried", self.tried.len(), "points");
        figures::print("points_hit", self.hit.len(), "points");
        for whose in [Whose::Supervisor, Whose::Keeper] {
            for fault in [Fault::Error, Fault::Delay, Fault::Kill] {
                let of_it = |place: &&Place| place.1 == whose && place.2.fault == fault;
                let (all, hit) = (places.iter().filter(of_it).count(), self.hit.iter().filter(of_it).count());
                let name =
                    format!("points_{}_{}", format!("{whose:?}").to_lowercase(), format!("{fault:?}").to_lowercase());
                figures::print(&name, format!("{hit} of {all}"), "hit");
            }
        }
        figures::print("rounds", self.rounds, "rounds");
        figures::print("longest_round_ms", self.longest.as_millis(), "ms");
        figures::print("commands_refused", self.refused, "commands");
        figures::print("rounds_broken", self.broken.len(), "rounds");
        for place in self.tried.difference(&self.hit) {
            eprintln!("never met: {place:?}");
        }
    }
}
