//! The command line: verbs, output, exit codes.
//!
//! Asks the supervisor over its control socket and prints what it answers; keeps no state of its own. One file for
//! each group of verbs.
//!
//! Exit codes: 0 done, 1 refused or failed (an `error:` line says why), 2 the command line itself is wrong or a reload
//! was refused before it touched anything, 3 a reload has failed.

mod apply;
mod arguments;
mod client;
mod describe;
mod error;
mod events;
mod flags;
mod flush;
mod inspect;
mod jlist;
mod launch;
mod list;
mod log_view;
mod logs;
mod lookup;
mod manage;
mod monit;
mod outlast;
mod output;
mod reload;
mod run;
mod save;
mod scale;
mod select;
mod start;
mod startup;
#[cfg(test)]
mod testing;
mod upgrade;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::{Arguments, Verb};
use error::CliError;
use output::Output;

pub use client::{Client, ClientError};
pub use run::Foreground;

use crate::config::home::Home;

/// What is left to do when the command line is through.
pub enum Outcome {
    /// Nothing: the process ends with this.
    Exit(ExitCode),
    /// The process becomes the keeper and stays in the foreground.
    Foreground(Foreground),
}

/// Runs the command line of this process.
pub fn main() -> Outcome {
    run_with(std::env::args_os())
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> Outcome {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_short = arguments.get(1).is_some_and(|first| first == "-v");
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // As pm2 says it, for scripts that compare.
        Err(error) if is_short && error.kind() == ErrorKind::DisplayVersion => {
            // Nobody is left to tell when the terminal is gone.
            let _ = writeln!(io::stdout(), "{}", env!("CARGO_PKG_VERSION"));
            return Outcome::Exit(ExitCode::SUCCESS);
        }
        // Help and version too come this way.
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            let _ = error.print();
            return Outcome::Exit(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    let mut out = Output::stdout();
    let done = execute(arguments.verb, &mut out).and_then(|outcome| {
        out.flush()?;
        Ok(outcome)
    });
    done.unwrap_or_else(|error| Outcome::Exit(report(&error)))
}

fn execute(verb: Verb, out: &mut Output) -> Result<Outcome, CliError> {
    // These may be run by root for somebody else's home, which is not looked into.
    match &verb {
        Verb::Startup(options) => return startup::startup(options, out).map(|()| Outcome::Exit(ExitCode::SUCCESS)),
        Verb::Unstartup(options) => return startup::unstartup(options, out).map(|()| Outcome::Exit(ExitCode::SUCCESS)),
        _ => {}
    }
    let home = Home::from_environment()?;
    home.check()?;
    let client = Client::new(home);
    match verb {
        Verb::Start(options) => start::start(&client, &options, out)?,
        Verb::Run { file } => return run::prepare(&client, &file).map(Outcome::Foreground),
        Verb::List { json } => list::list(&client, json, out)?,
        Verb::Jlist => jlist::jlist(&client, out)?,
        Verb::Prettylist => jlist::prettylist(&client, out)?,
        Verb::Monit => monit::monit(&client, out)?,
        Verb::Pid { select } => lookup::pid(&client, select.as_deref(), out)?,
        Verb::Id { name } => lookup::id(&client, &name, out)?,
        Verb::Env { select, show } => lookup::env(&client, &select, show, out)?,
        Verb::Describe { select, json } => describe::describe(&client, &select, json, out)?,
        Verb::Events(options) => events::events(&client, &options, out)?,
        Verb::Logs(options) => logs::logs(&client, &options, out)?,
        Verb::Flush { select } => flush::flush(&client, &select, out)?,
        Verb::ReloadLogs { select } => flush::reopen(&client, &select, out)?,
        Verb::Stop { select } => manage::stop(&client, &select, out)?,
        Verb::Restart { select, env } => {
            env.warn();
            manage::restart(&client, &select, out)?;
        }
        Verb::Reset { select } => manage::reset(&client, &select, out)?,
        Verb::SendSignal { signal, select } => manage::send_signal(&client, &signal, &select, out)?,
        Verb::Reload(arguments) => reload::reload(&client, &arguments, out)?,
        Verb::Scale { app, to } => scale::scale(&client, &app, &to, out)?,
        Verb::Apply(arguments) => apply::apply(&client, &arguments, out)?,
        Verb::Delete { select } => manage::delete(&client, &select, out)?,
        Verb::Save { force } => save::save(&client, force, out)?,
        Verb::Resurrect { no_daemon: true } => return save::serve(&client).map(Outcome::Foreground),
        Verb::Resurrect { no_daemon: false } => save::resurrect(&client, out)?,
        Verb::Startup(_) | Verb::Unstartup(_) => unreachable!("done above"),
        Verb::Kill => manage::kill(&client, out)?,
        Verb::Upgrade { binary } => upgrade::upgrade(&client, binary.as_deref(), out)?,
        Verb::Ping { json } => manage::ping(&client, json, out)?,
    }
    Ok(Outcome::Exit(ExitCode::SUCCESS))
}

/// Says on stderr what went wrong, and which exit code that is.
fn report(error: &CliError) -> ExitCode {
    if error.is_closed_pipe() {
        // Whoever read us has seen enough: `herdwire list | head -1` is no failure.
        return ExitCode::SUCCESS;
    }
    let mut stderr = io::stderr().lock();
    // Nothing can be said about a stderr that cannot be written to.
    let _ = write!(stderr, "{}", error.report());
    ExitCode::from(error.exit_code())
}
