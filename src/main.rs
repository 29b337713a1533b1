//! The binary `herdwire`: parts its roles before anything else runs in the process.
//!
//! The keeper, the supervisor and the trampoline are this same program, named by the first argument. They must be told
//! apart before a runtime, a thread or a signal disposition is touched, so nothing stands before the `match` below.

use std::ffi::OsStr;
use std::process::ExitCode;

use herdwire::cli::{self, Foreground, Outcome};

fn main() -> ExitCode {
    let role = std::env::args_os().nth(1);
    match role.as_deref().and_then(OsStr::to_str) {
        Some("__keeper") => role_keeper(),
        Some("__supervisor") => role_supervisor(),
        Some("__stage") => role_stage(),
        _ => match cli::main() {
            Outcome::Exit(code) => code,
            Outcome::Foreground(foreground) => role_keeper_foreground(foreground),
        },
    }
}

/// The keeper, started by a command line: detaches, takes the home's lock, starts the supervisor.
fn role_keeper() -> ExitCode {
    not_in_this_build("keeper")
}

/// The keeper in the foreground, for `herdwire run`: keeps its stdio and hands the request to the supervisor.
fn role_keeper_foreground(foreground: Foreground) -> ExitCode {
    drop(foreground);
    not_in_this_build("keeper")
}

/// The supervisor, started by the keeper with their socket as descriptor 3.
fn role_supervisor() -> ExitCode {
    not_in_this_build("supervisor")
}

/// The trampoline that becomes an instance.
fn role_stage() -> ExitCode {
    not_in_this_build("stage")
}

fn not_in_this_build(role: &str) -> ExitCode {
    eprintln!("error: this build of herdwire has no {role}");
    ExitCode::from(70)
}
