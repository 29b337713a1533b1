//! The shell that runs it all: takes an event, asks the rules, does what they say.
//!
//! [`core`] owns the registry and every child; [`births`] and [`deaths`] do what the lifecycle says, [`deploys`] what a
//! deployment says; [`adopt`] rebuilds it from what a predecessor left; [`requests`] carries out what the CLI asks, and
//! [`answers`] says when that is done; [`releases`] keeps what an app is and was;
//! [`health`] hears how instances are and what restarts them; [`traffic`] moves messages between wire, bridge and front;
//! [`spawner`] and [`control_server`] do what blocks or waits. [`rescue`] and [`orphans`] help adoption where state and
//! keeper do not tell; [`upgrade`], [`standby`] and [`departure`] are the two sides and the end of an upgrade.
//!
//! Invariants
//! - Nothing here that cannot be rebuilt from the state record, the store and the sealed specs.
//! - State is committed before it is acted on: a process is let go, and an exit acknowledged, only after the commit.

mod adopt;
mod answers;
mod applying;
mod births;
pub mod clock;
pub mod control;
mod control_server;
mod core;
mod deaths;
mod departure;
mod deploys;
mod errands;
mod foreground;
mod health;
mod journal;
mod leaving;
mod log_faults;
mod logs;
mod main_process;
mod ordering;
mod orphans;
mod place;
mod places;
mod preflight;
mod registry;
mod releases;
mod requests;
mod rescue;
mod resurrect;
mod safekeeping;
mod saved;
mod saving;
mod scaling;
mod settings;
mod spawner;
mod standby;
pub mod state;
mod traffic;
mod upgrade;
mod view;

use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::close;

use crate::config::home::Home;
use crate::keeper::client::{KeeperLink, Reason};
use departure::Departure;

/// How long the keeper may take to hand everything over.
const INHERITANCE_LIMIT: Duration = Duration::from_secs(10);

/// How long a standby waits for its turn: the one that serves ends long before, or ends it.
const TURN_LIMIT: Duration = Duration::from_secs(15);

/// How long threads that block may hold an exit up, and a freeze.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
const FREEZE_LIMIT: Duration = Duration::from_millis(300);

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
    let mut inheritance = keeper.inheritance(INHERITANCE_LIMIT)?;
    if inheritance.reason == Reason::Upgrade {
        Home::from_environment()?.node()?;
        standby::prove(&inheritance.descriptors)?;
        // The first copies go before the second ones come: together they might be too many.
        inheritance.descriptors.clear();
        keeper.ready()?;
        inheritance = keeper.inheritance(TURN_LIMIT)?;
    }
    make_room(inheritance.descriptors.len());
    let reopen = logs::take_signal()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("herdwire").enable_all().build()?;
    let departure = runtime.block_on(async move {
        let core = adopt::adopt(keeper, inheritance, reopen).await?;
        core.run().await
    });
    // No task runs after this. Threads that block (a splice into a dead disk) must not hold the exit up.
    let limit = if matches!(departure, Ok(Departure::Ended(_))) { EXIT_LIMIT } else { FREEZE_LIMIT };
    runtime.shutdown_timeout(limit);
    Ok(match departure? {
        Departure::Ended(code) => code,
        Departure::Frozen(frozen) => frozen.wait(),
        Departure::Heir(heir) => heir.succeed(),
    })
}

/// Makes the process's table of descriptors as large as it will be, while there is one thread: each time that it grows under
/// several, the kernel has all of them wait for all processors, for tens of milliseconds on a busy machine.
fn make_room(held: usize) {
    // A few hundred instances. Costs 8 bytes each, of the kernel's memory.
    const USUAL: usize = 4096;
    /// The supervisor's own, its mirror of the store, and what they are served with.
    const EACH: usize = 3;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let last = (held * EACH).max(USUAL) as u64;
    let last = RawFd::try_from(last.min(limit.saturating_sub(1))).unwrap_or(RawFd::MAX);
    let made = fcntl(io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(last)).and_then(close);
    if let Err(error) = made {
        tracing::debug!("the table of descriptors grows by and by: {error}");
    }
}
