//! The thread that makes processes: making one blocks until its trampoline runs.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::spec::AppSpec;
use crate::lifecycle::Incarnation;
use crate::process::{self, Launch, OpenFiles, Output, Parent, SpawnError, Spawned};

/// Orders that may wait. The core waits beyond that, which bounds how many processes are in the making.
const ORDERS: usize = 64;

/// One process to make.
pub struct Order {
    pub instance: u32,
    pub incarnation: Incarnation,
    pub spec: Arc<AppSpec>,
    pub env: Vec<(String, String)>,
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

fn make(order: Order) -> Outcome {
    let label = format!("{}:{}", order.spec.name, order.instance);
    let command = &order.spec.command;
    let result = process::spawn(Launch {
        env: order.env,
        listeners: order.listeners.iter().map(AsFd::as_fd).collect(),
        link: Some(order.link),
        extra: order.extra,
        out: order.out,
        err: order.err,
        bounds: Some(&order.spec.bounds),
        open_files: order.open_files,
        parent: Parent::Keeper,
        ..Launch::new(&command.program, &command.args, &order.cwd, &label)
    });
    Outcome { instance: order.instance, incarnation: order.incarnation, result }
}
