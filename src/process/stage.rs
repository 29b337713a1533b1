//! The trampoline: what our own binary does as `__stage`, between its birth and the app that it becomes.
//!
//! Runs alone in a fresh process that leads its session and has exactly these descriptors: 0 to 2, the listeners, the
//! link, a sealed record of the settings, the go socket. Signals arrive blocked. Uses std alone: no runtime, no thread.
//!
//! Invariants
//! - Nothing of the app happens before the word; without it the process ends with status 125.
//! - The app starts with default signals, nothing blocked, a session of its own, umask 022, and no descriptor but
//!   stdin, stdout, stderr, listeners, extra ones and link.
//! - A failure is told three times: on the go socket (step and number), on stderr (a line in the app's error log), and
//!   by status 127.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use herdwire_ipc::codec;
use herdwire_ipc::link::LINK_VARIABLE;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

use super::go::{self, ExecFailure, Step};
use super::spawn::{FIRST_LISTENER, Settings};
use super::sys;

/// The role's name on the command line: `herdwire __stage SETTINGS GO [LABEL]`, two descriptors and a name for `ps`.
pub const ROLE: &str = "__stage";

/// Ended without the word.
const NEVER_RELEASED: i32 = 125;
/// Released, and could not become the app.
const NOT_EXECUTED: i32 = 127;
/// Added for the app: under memory pressure it goes before supervisor and keeper.
const OOM_SCORE: i32 = 200;

/// Waits for the word, then becomes the app. `args` are those after the role's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    sys::reset_signals();
    let (settings, go) = match inherit(args) {
        Ok(inherited) => inherited,
        Err(reason) => {
            complain(&format!("`{ROLE}` is started by the supervisor only: {reason}"));
            std::process::exit(NEVER_RELEASED);
        }
    };
    if !go::wait_for_word(go.as_fd()) {
        std::process::exit(NEVER_RELEASED);
    }
    let failure = become_app(&settings, &go);
    go::say_failed(go.as_fd(), failure);
    complain(&sentence(&settings, failure));
    std::process::exit(NOT_EXECUTED);
}

/// Reads what the supervisor handed over.
fn inherit(args: impl IntoIterator<Item = OsString>) -> io::Result<(Settings, OwnedFd)> {
    let mut args = args.into_iter();
    let mut descriptor = || -> io::Result<OwnedFd> {
        let number = args.next().and_then(|arg| arg.to_str()?.parse::<RawFd>().ok()).filter(|fd| *fd >= FIRST_LISTENER);
        sys::inherit(number.ok_or_else(|| io::Error::other("a descriptor's number is missing"))?)
    };
    let (settings, go) = (File::from(descriptor()?), descriptor()?);
    if let Some(label) = args.next().and_then(|label| CString::new([b"hw:", label.as_bytes()].concat()).ok()) {
        sys::set_name(&label);
    }
    let length = settings.metadata()?.len();
    if length > codec::LIMIT as u64 {
        return Err(io::Error::other("the settings are too large"));
    }
    let mut bytes = vec![0; length as usize];
    settings.read_exact_at(&mut bytes, 0)?;
    let settings = codec::decode(&bytes).map_err(io::Error::other)?;
    Ok((settings, go))
}

/// Comes back only when it could not.
fn become_app(settings: &Settings, go: &OwnedFd) -> ExecFailure {
    let failed = |step| move |errno: Errno| ExecFailure { step, errno: errno as i32 };
    let attempt = || -> Result<std::convert::Infallible, ExecFailure> {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        nix::unistd::chdir(OsStr::from_bytes(&settings.cwd)).map_err(failed(Step::Folder))?;
        volunteer_for_the_oom_killer();
        if let Some(limit) = settings.open_files {
            let hard = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).map_or(limit.hard, |(_, hard)| hard);
            let hard = hard.min(limit.hard);
            setrlimit(Resource::RLIMIT_NOFILE, limit.soft.min(hard), hard).map_err(failed(Step::Limits))?;
        }
        close_the_rest(settings).map_err(|error| ExecFailure { step: Step::Close, errno: number(&error) })?;
        let (program, args, env) = strings(settings).map_err(failed(Step::Exec))?;
        go::say_executing(go.as_fd());
        nix::unistd::execve(&program, &args, &env).map_err(failed(Step::Exec))
    };
    match attempt() {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Best effort: raising one's own score needs no right, but the file may be hidden.
fn volunteer_for_the_oom_killer() {
    let path = "/proc/self/oom_score_adj";
    let own = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if own.is_some_and(|own| own < OOM_SCORE) {
        // The app runs without it as well.
        let _ = fs::write(path, OOM_SCORE.to_string());
    }
}

/// Marks every descriptor that is not the app's, also between those that are.
fn close_the_rest(settings: &Settings) -> io::Result<()> {
    let mut first = FIRST_LISTENER as u32 + settings.listeners;
    let mut others: Vec<u32> = settings.extra.iter().chain(&settings.link).map(|number| *number as u32).collect();
    others.sort_unstable();
    for kept in others {
        if first < kept {
            sys::close_on_exec(first, kept - 1)?;
        }
        first = kept + 1;
    }
    sys::close_on_exec(first, u32::MAX)
}

type Strings = (CString, Vec<CString>, Vec<CString>);

/// Program, arguments and environment for execve; the listeners' and the link's variables among them.
fn strings(settings: &Settings) -> nix::Result<Strings> {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let program = c_string(settings.program.clone())?;
    let args = std::iter::once(Ok(program.clone()))
        .chain(settings.args.iter().map(|arg| c_string(arg.clone().into_bytes())))
        .collect::<nix::Result<Vec<_>>>()?;
    let given = settings.env.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
    let env = given
        .map(|(key, value)| format!("{key}={value}"))
        .chain(own_variables(settings))
        .map(|entry| c_string(entry.into_bytes()))
        .collect::<nix::Result<Vec<_>>>()?;
    Ok((program, args, env))
}

const RESERVED: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", LINK_VARIABLE];

fn own_variables(settings: &Settings) -> Vec<String> {
    let mut variables = Vec::new();
    if settings.listeners > 0 {
        let names: Vec<String> = (0..settings.listeners).map(|place| format!("listen-{place}")).collect();
        variables.push(format!("LISTEN_FDS={}", settings.listeners));
        variables.push(format!("LISTEN_PID={}", std::process::id()));
        variables.push(format!("LISTEN_FDNAMES={}", names.join(":")));
    }
    if settings.env.iter().any(|(key, _)| key == "WATCHDOG_USEC") {
        variables.push(format!("WATCHDOG_PID={}", std::process::id()));
    }
    if let Some(number) = settings.link {
        variables.push(format!("{LINK_VARIABLE}={number}"));
    }
    variables
}

fn sentence(settings: &Settings, failure: ExecFailure) -> String {
    let about = match failure.step {
        Step::Folder => &settings.cwd,
        _ => &settings.program,
    };
    let hint = failure.hint().map_or(String::new(), |hint| format!(" ({hint})"));
    format!("{}: {failure}{hint}", Path::new(OsStr::from_bytes(about)).display())
}

/// One line for the app's error log, in one write.
fn complain(what: &str) {
    // stderr is all there is to say it on.
    let _ = io::stderr().write_all(format!("herdwire: {what}\n").as_bytes());
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}
