//! The thread that makes processes: making one blocks until its trampoline runs.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::spec::{AppSpec, Transport};
use crate::lifecycle::Incarnation;
use crate::process::{self, Cgroups, Group, Launch, OpenFiles, Output, Parent, SpawnError, Spawned, env_file};

/// Orders that may wait. The core waits beyond that, which bounds how many processes are in the making.
const ORDERS: usize = 64;

/// For a child that could not be made and ends by itself: nobody else knows of it and its group.
const CHILD_ENDS: Duration = Duration::from_secs(1);

/// One process to make.
pub struct Order {
    pub instance: u32,
    pub incarnation: Incarnation,
    pub spec: Arc<AppSpec>,
    pub env: Vec<(String, String)>,
    /// Names in it that say who the instance is: no file of variables changes them.
    pub own: Vec<String>,
    /// Where its control group is made.
    pub cgroups: Option<Arc<Cgroups>>,
    pub cwd: PathBuf,
    pub listeners: Vec<OwnedFd>,
    /// The instance's end of its link.
    pub link: OwnedFd,
    /// What else it inherits, under these numbers.
    pub extra: Vec<(RawFd, OwnedFd)>,
    /// Where its stdout and stderr go.
    pub out: Output,
    pub err: Output,
    pub open_files: Option<OpenFiles>,
}

/// What came of it.
pub struct Outcome {
    pub instance: u32,
    pub incarnation: Incarnation,
    pub result: Result<Spawned, SpawnError>,
    /// What it has to do without.
    pub warnings: Vec<String>,
}

/// Starts the thread. It ends when the sender of orders is dropped.
pub fn start(outcomes: mpsc::Sender<Outcome>) -> std::io::Result<mpsc::Sender<Order>> {
    let (orders, mut queue) = mpsc::channel::<Order>(ORDERS);
    std::thread::Builder::new().name("spawner".into()).spawn(move || {
        while let Some(order) = queue.blocking_recv() {
            let outcome = make(order);
            if outcomes.blocking_send(outcome).is_err() {
                return;
            }
        }
    })?;
    Ok(orders)
}

fn make(mut order: Order) -> Outcome {
    let (instance, incarnation) = (order.instance, order.incarnation);
    let (group, warnings) = make_group(&order);
    let result = environment(&mut order).and_then(|env| spawn(order, env, group.as_ref()));
    if let (Some(group), Err(_)) = (&group, &result)
        && !group.end(CHILD_ENDS)
    {
        tracing::warn!("{} cannot be removed", group.path().display());
    }
    Outcome { instance, incarnation, result, warnings }
}

fn make_group(order: &Order) -> (Option<Group>, Vec<String>) {
    let Some(cgroups) = &order.cgroups else { return (None, Vec::new()) };
    match cgroups.make(order.instance, order.incarnation.0, &order.spec.bounds) {
        Ok((group, warnings)) => (Some(group), warnings),
        Err(error) => (None, vec![format!("no control group can be made: {error}")]),
    }
}

/// Reads the app's files of variables: here, where it may take its time, and so that they are kept nowhere.
fn environment(order: &mut Order) -> Result<Vec<(String, String)>, SpawnError> {
    let env = std::mem::take(&mut order.env);
    if order.spec.env_files.is_empty() {
        return Ok(env);
    }
    Ok(env_file::over(env, env_file::read(&order.spec.env_files)?, &order.own))
}

fn spawn(order: Order, env: Vec<(String, String)>, group: Option<&Group>) -> Result<Spawned, SpawnError> {
    let label = format!("{}:{}", order.spec.name, order.instance);
    let command = &order.spec.command;
    process::spawn(Launch {
        env,
        listeners: order.listeners.iter().map(AsFd::as_fd).collect(),
        link: Some(order.link),
        link_is_pipe: order.spec.transport == Transport::Pipe,
        extra: order.extra,
        out: order.out,
        err: order.err,
        bounds: Some(&order.spec.bounds),
        group,
        open_files: order.open_files,
        parent: Parent::Keeper,
        ..Launch::new(&command.program, &command.args, &order.cwd, &label)
    })
}
