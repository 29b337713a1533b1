//! The shell that runs it all: takes an event, asks the rules, does what they say.
//!
//! [`core`] owns the registry and every child; [`births`] and [`deaths`] do what the lifecycle says; [`adopt`] rebuilds it from what a predecessor left; [`requests`]
//! carries out what the CLI asks; [`health`] hears how instances are and what restarts them; [`traffic`] moves messages between wire, bridge and front; [`spawner`] and
//! [`control_server`] do what blocks or waits.
//!
//! Invariants
//! - Nothing here that cannot be rebuilt from the state record, the store and the sealed specs.
//! - State is committed before it is acted on: a process is let go, and an exit acknowledged, only after the commit.

mod adopt;
mod births;
pub mod clock;
pub mod control;
mod control_server;
mod core;
mod deaths;
mod foreground;
mod health;
mod journal;
mod ordering;
mod registry;
mod requests;
mod settings;
mod spawner;
pub mod state;
mod traffic;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use crate::keeper::client::KeeperLink;

/// How long the keeper may take to hand everything over.
const INHERITANCE_LIMIT: Duration = Duration::from_secs(10);

/// Exit code of a supervisor that was not started by a keeper or could not use what it was given.
const UNUSABLE: u8 = 78;

/// The role `__supervisor`: started by the keeper, with its socket at descriptor 3.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    match run() {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("the supervisor ends: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut keeper = KeeperLink::adopt_inherited()?;
    let inheritance = keeper.inheritance(INHERITANCE_LIMIT)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("herdwire").enable_all().build()?;
    let code = runtime.block_on(async move {
        let core = adopt::adopt(keeper, inheritance).await?;
        core.run().await
    });
    // Threads that block (a splice into a dead disk) must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}
