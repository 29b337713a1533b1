//! The binary `herdwire`: parts its roles before anything else runs in the process.
//!
//! The keeper, the supervisor and the trampoline are this same program, named by the first argument. They must be told
//! apart before a runtime, a thread or a signal disposition is touched, so nothing stands before the `match` below.

use std::ffi::OsStr;
use std::process::ExitCode;

use herdwire::cli::{self, Foreground, Outcome};
use herdwire::config::home::Home;
use herdwire::keeper;
use herdwire::keeper::name::{Kind, Name};
use herdwire::keeper::start::{self, KeeperOptions, SetupError};

fn main() -> ExitCode {
    let role = std::env::args_os().nth(1);
    match role.as_deref().and_then(OsStr::to_str) {
        Some("__keeper") => role_keeper(),
        Some("__supervisor") => herdwire::supervisor::main(),
        Some("__stage") => herdwire::process::stage::main(std::env::args_os().skip(2)),
        _ => match cli::main() {
            Outcome::Exit(code) => code,
            Outcome::Foreground(foreground) => role_keeper_foreground(foreground),
        },
    }
}

/// The keeper, executed with the number of what was left to it. Or started by a command line: detaches, takes the home's
/// lock, and becomes the keeper.
fn role_keeper() -> ExitCode {
    if let Some(left) = std::env::args_os().nth(2).and_then(|number| number.to_str()?.parse().ok()) {
        return ended(keeper::keep(left).map_err(|source| SetupError::System { source }));
    }
    match Home::from_environment() {
        Ok(home) => ended(start::start(KeeperOptions::new(home.path().to_owned()))),
        Err(error) => unusable(&error),
    }
}

/// The keeper in the foreground, for `herdwire run` and for units: keeps its stdio and hands the request to the supervisor.
fn role_keeper_foreground(Foreground { home, request, passed, serves }: Foreground) -> ExitCode {
    let mut stored = vec![(Name::new(Kind::Run, 0, 0), request)];
    // Of no app yet: the supervisor finds out whose they are.
    stored.extend((0..).zip(passed).map(|(place, listener)| (Name::part(Kind::Listener, 0, place, 0), listener)));
    // One that serves ends when it is told to, not with its apps.
    let (foreground, attached) = (!serves, serves);
    ended(start::start(KeeperOptions { foreground, attached, stored, ..KeeperOptions::new(home.path().to_owned()) }))
}

fn ended(code: Result<i32, SetupError>) -> ExitCode {
    match code {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            let code = unusable(&error);
            error.hint().iter().for_each(|hint| eprintln!("hint:  {hint}"));
            code
        }
    }
}

/// A role that cannot begin. Its stderr is the home's log, or the terminal in the foreground.
fn unusable(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    if let Some(cause) = error.source() {
        eprintln!("cause: {cause}");
    }
    ExitCode::FAILURE
}
