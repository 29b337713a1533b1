//! The trampoline: what our own binary does as `__stage`, between its birth and the app that it becomes.
//!
//! Runs alone in a fresh process that leads its session and has exactly these descriptors: 0 to 2, the listeners, the
//! link, a sealed record of the settings, the go socket. Signals arrive blocked. No runtime, no thread.
//!
//! Invariants
//! - Nothing of the app happens before the word; without it the process ends with status 125.
//! - The app starts with default signals, nothing blocked, a session of its own, the umask of its bounds (022), and no
//!   descriptor but stdin, stdout, stderr, listeners, extra ones and link.
//! - Everything that takes memory, files or rights comes before the bounds that might deny it.
//! - A failure is told three times: on the go socket (step and number), on stderr (a line in the app's error log), and
//!   by status 127.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use herdwire_ipc::codec;
use herdwire_ipc::link::LINK_VARIABLE;
use nix::errno::Errno;

use super::go::{self, ExecFailure, Step};
use super::identity::{self, Identity};
use super::spawn::{FIRST_LISTENER, Settings};
use super::{bounds, sys};

/// The role's name on the command line: `herdwire __stage SETTINGS GO [LABEL]`, two descriptors and a name for `ps`.
pub const ROLE: &str = "__stage";

/// Ended without the word.
const NEVER_RELEASED: i32 = 125;
/// Released, and could not become the app.
const NOT_EXECUTED: i32 = 127;

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
    go::say_failed(go.as_fd(), &failure);
    complain(&sentence(&settings, &failure));
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
    let failed = |step| move |errno: Errno| ExecFailure::new(step, errno as i32);
    let attempt = || -> Result<std::convert::Infallible, ExecFailure> {
        let identity = identity::find(&settings.bounds)?;
        let (program, args, env) = strings(settings, &identity).map_err(failed(Step::Exec))?;
        bounds::place(&settings.bounds)?;
        bounds::limit(&settings.bounds, settings.open_files)?;
        identity.own_pipes();
        if settings.bounds.user.is_some() || settings.bounds.umask.is_some() {
            let listeners = (FIRST_LISTENER..).take(settings.listeners as usize);
            identity.own_sockets(listeners, 0o777 & !bounds::own_umask(&settings.bounds));
        }
        identity.assume()?;
        // As the user: it may be the only one who can enter it.
        nix::unistd::chdir(OsStr::from_bytes(&settings.cwd)).map_err(failed(Step::Folder))?;
        if settings.bounds.no_new_privs {
            nix::sys::prctl::set_no_new_privs().map_err(failed(Step::Privileges))?;
        }
        close_the_rest(settings).map_err(|error| ExecFailure::new(Step::Close, number(&error)))?;
        go::say_executing(go.as_fd());
        nix::unistd::execve(&program, &args, &env).map_err(failed(Step::Exec))
    };
    match attempt() {
        Err(failure) => failure,
        Ok(never) => match never {},
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

/// Program, arguments and environment for execve; the user's, the listeners' and the link's variables among them.
fn strings(settings: &Settings, identity: &Identity) -> nix::Result<Strings> {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let program = c_string(settings.program.clone())?;
    let args = std::iter::once(Ok(program.clone()))
        .chain(settings.args.iter().map(|arg| c_string(arg.clone().into_bytes())))
        .collect::<nix::Result<Vec<_>>>()?;
    let given = settings.env.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
    let is_given = |name: &str| settings.env.iter().any(|(key, _)| key == name);
    let of_user = identity.variables().iter().filter(|(name, _)| !is_given(name));
    let env = given
        .map(|(key, value)| format!("{key}={value}"))
        .chain(of_user.map(|(name, value)| format!("{name}={value}")))
        .chain(own_variables(settings))
        .map(|entry| c_string(entry.into_bytes()))
        .collect::<nix::Result<Vec<_>>>()?;
    Ok((program, args, env))
}

/// The environment variable that carries the number of a pipe's descriptor.
pub(super) const PIPE_VARIABLE: &str = "HERDWIRE_PIPE_FD";

const RESERVED: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", LINK_VARIABLE, PIPE_VARIABLE];

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
        let variable = if settings.link_is_pipe { PIPE_VARIABLE } else { LINK_VARIABLE };
        variables.push(format!("{variable}={number}"));
    }
    variables
}

fn sentence(settings: &Settings, failure: &ExecFailure) -> String {
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
