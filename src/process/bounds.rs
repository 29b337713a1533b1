//! Within which bounds an instance runs: priority, out-of-memory score, umask and the limits of `setrlimit(2)`.
//!
//! Runs in the trampoline. What cgroups bound stands in `cgroup`, whose user it is in `identity`.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::go::{ExecFailure, Step};
use super::spawn::OpenFiles;
use super::sys;
use crate::config::spec::{Bounds, Limit};

/// Added for the app unless it says otherwise: under memory pressure it goes before supervisor and keeper.
const OOM_SCORE: i32 = 200;
const UMASK: u32 = 0o022;

/// Sets priority, score and umask. Before the limits: these open files.
pub fn place(bounds: &Bounds) -> Result<(), ExecFailure> {
    match bounds.oom_score {
        Some(score) => set_oom_score(score)
            .map_err(|error| ExecFailure::new(Step::OomScore, number(&error)).about(&score.to_string()))?,
        None => volunteer_for_the_oom_killer(),
    }
    if let Some(nice) = bounds.nice {
        let failed = |error| ExecFailure::new(Step::Nice, number(&error)).about(&nice.to_string());
        sys::set_priority(nice).map_err(failed)?;
    }
    umask(Mode::from_bits_truncate(own_umask(bounds)));
    Ok(())
}

/// The umask of an app.
pub fn own_umask(bounds: &Bounds) -> u32 {
    bounds.umask.unwrap_or(UMASK)
}

/// Sets the limits: those of the bounds, and that on open files as the user has it.
pub fn limit(bounds: &Bounds, open_files: Option<OpenFiles>) -> Result<(), ExecFailure> {
    if let Some(OpenFiles { soft, hard }) = open_files
        && !bounds.limits.contains_key(&Limit::Nofile)
    {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(hard, |(_, ours)| ours.min(hard));
        set(Limit::Nofile, soft.min(hard), hard)?;
    }
    bounds.limits.iter().try_for_each(|(limit, (soft, hard))| set(*limit, *soft, *hard))
}

/// Files that keeper and supervisor have to be able to open, and those for each instance: six in each of two copies, and
/// a tenth to spare.
const OPEN_FILES: u64 = 128;
const OPEN_FILES_EACH: u64 = 14;

/// What the operator can do where this process may open too few files to run anything, if that is so.
pub fn open_files_hint() -> Option<String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (hard < OPEN_FILES).then(|| {
        format!(
            "{hard} files may be open here; Herdwire needs {OPEN_FILES}, and {OPEN_FILES_EACH} more for each instance: raise \
             the limit (`ulimit -n 4096`, or LimitNOFILE= of the unit) before the first start"
        )
    })
}

fn set(limit: Limit, soft: u64, hard: u64) -> Result<(), ExecFailure> {
    let (resource, name) = resource(limit);
    setrlimit(resource, soft, hard).map_err(|errno: Errno| ExecFailure::new(Step::Limit, errno as i32).about(name))
}

/// The kernel's word for a limit, and the operator's.
fn resource(limit: Limit) -> (Resource, &'static str) {
    match limit {
        Limit::As => (Resource::RLIMIT_AS, "as"),
        Limit::Core => (Resource::RLIMIT_CORE, "core"),
        Limit::Cpu => (Resource::RLIMIT_CPU, "cpu"),
        Limit::Data => (Resource::RLIMIT_DATA, "data"),
        Limit::Fsize => (Resource::RLIMIT_FSIZE, "fsize"),
        Limit::Memlock => (Resource::RLIMIT_MEMLOCK, "memlock"),
        Limit::Msgqueue => (Resource::RLIMIT_MSGQUEUE, "msgqueue"),
        Limit::Nice => (Resource::RLIMIT_NICE, "nice"),
        Limit::Nofile => (Resource::RLIMIT_NOFILE, "nofile"),
        Limit::Nproc => (Resource::RLIMIT_NPROC, "nproc"),
        Limit::Rss => (Resource::RLIMIT_RSS, "rss"),
        Limit::Rtprio => (Resource::RLIMIT_RTPRIO, "rtprio"),
        Limit::Rttime => (Resource::RLIMIT_RTTIME, "rttime"),
        Limit::Sigpending => (Resource::RLIMIT_SIGPENDING, "sigpending"),
        Limit::Stack => (Resource::RLIMIT_STACK, "stack"),
    }
}

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";

fn set_oom_score(score: i32) -> io::Result<()> {
    fs::write(OOM_SCORE_FILE, score.to_string())
}

/// Best effort: raising one's own score needs no right, but the file may be hidden.
fn volunteer_for_the_oom_killer() {
    const HIGHEST: i32 = 1000;
    let own = fs::read_to_string(OOM_SCORE_FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(own) = own {
        // The app runs without it as well.
        let _ = set_oom_score((own + OOM_SCORE).min(HIGHEST));
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}
