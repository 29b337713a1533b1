//! Channels that cross to other hosts, through the pub/sub of one Redis.
//!
//! The guarantee is `fanout`: at most once, in order per channel and publishing host, losses counted. Owns the
//! connections to Redis, the spool of what has to leave, and the numbers by which hosts notice repetition and loss.
//! Leaves to the relay which messages cross and where an arriving one goes, and does not know wire and front.
//!
//! | file | idea |
//! |---|---|
//! | `name`, `envelope` | what a channel is called in Redis, what a message looks like there |
//! | `spool`, `parcel` | what has to leave: numbers, bounds, batches, outcomes |
//! | `gaps` | what arrived: new, repeated, missed |
//! | `backoff`, `trouble` | when to try again, and what is wrong |
//! | `connection`, `stream`, `sieve` | Redis itself; the only users of the `redis` crate and of sockets |
//! | `driver`, `inbox`, `arrivals` | the two tasks, and the queue between socket and relay |
//!
//! Invariants
//! - [`Bridge::publish`] never waits for Redis; what is queued is bounded in bytes and the oldest is given up first.
//! - A message never comes back to the host that sent it, and none is delivered twice.
//! - User and password of the URL are in no log, no error and no view.

mod arrivals;
mod backoff;
mod connection;
mod driver;
mod envelope;
mod gaps;
mod inbox;
mod name;
mod parcel;
mod sieve;
mod spool;
mod stream;
mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::spec::RedisSettings;
use crate::relay::{Message, NodeId, Origin, Topic};
use crate::snapshot::{BridgeState, BridgeView};

use self::spool::Spool;
use self::trouble::Trouble;

/// By their names in Redis.
type Topics = BTreeMap<String, Topic>;

/// The bridge of one supervisor. Cheap to clone; every clone is the same bridge.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What handle and tasks have in common.
struct Shared {
    /// Without user and password.
    address: String,
    sender: envelope::Sender,
    /// Held for moments only, never over an await.
    spool: Mutex<Spool>,
    /// There is something in the spool. One task waits for it.
    filled: Notify,
    /// Something has left the spool.
    settled: Notify,
    topics: watch::Sender<Arc<Topics>>,
    state: Mutex<BridgeState>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    missed: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
}

impl Bridge {
    /// Starts a bridge and returns at once; it connects in a task of its own, on the runtime of the caller.
    ///
    /// `incarnation` is a random number of this supervisor process. What other hosts publish goes to `arrivals`;
    /// when that is full the bridge waits, and what does not fit its own queue meanwhile is counted as missed. At
    /// `shutdown` what is spooled has half a second to leave.
    pub fn start(
        settings: RedisSettings,
        node: NodeId,
        incarnation: u64,
        arrivals: mpsc::Sender<(Origin, Message)>,
        shutdown: CancellationToken,
    ) -> Bridge {
        let target = connection::Target::parse(&settings.url, settings.redacted());
        let sender = envelope::Sender { node, incarnation };
        let shared = Arc::new(Shared::new(&settings, sender));
        let (entrance, inbox) = inbox::inbox(sender);
        let tasks = TaskTracker::new();
        tasks.spawn(driver::run(Arc::clone(&shared), target, entrance, shutdown.clone()));
        tasks.spawn(arrivals::run(Arc::clone(&shared), inbox, arrivals, shutdown));
        tasks.close();
        Bridge { shared, tasks }
    }

    /// Says which channels cross, from now on and over every reconnection.
    pub fn set_topics(&self, topics: impl IntoIterator<Item = Topic>) {
        self.shared.set_topics(topics);
    }

    /// Sends a message of a channel that crosses to the other hosts, now or when Redis is back. Never blocks: when the spool is full its oldest
    /// messages are given up and counted.
    pub fn publish(&self, message: Message) {
        self.shared.spool().push(message);
        self.shared.filled.notify_one();
    }

    /// How the bridge is.
    pub fn view(&self) -> BridgeView {
        let counters = &self.shared.counters;
        let (dropped, spooled_bytes) = {
            let spool = self.shared.spool();
            (spool.dropped(), spool.bytes())
        };
        BridgeView {
            address: self.shared.address.clone(),
            state: self.shared.state().clone(),
            sent: counters.sent.load(Ordering::Relaxed),
            received: counters.received.load(Ordering::Relaxed),
            dropped,
            missed: counters.missed.load(Ordering::Relaxed),
            spooled_bytes,
            reconnects: counters.connections.load(Ordering::Relaxed).saturating_sub(1),
        }
    }

    /// What came over Redis and was no envelope of ours, so far. Each was dropped.
    pub fn refused(&self) -> u64 {
        self.shared.counters.refused.load(Ordering::Relaxed)
    }

    /// Returns once all tasks of the bridge have ended, which they do after `shutdown`. Cancel safe.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("address", &self.shared.address).field("state", &*self.shared.state()).finish()
    }
}

impl Shared {
    fn new(settings: &RedisSettings, sender: envelope::Sender) -> Shared {
        Shared {
            address: settings.redacted(),
            sender,
            spool: Mutex::new(Spool::new(settings.spool_bytes)),
            filled: Notify::new(),
            settled: Notify::new(),
            topics: watch::Sender::new(Arc::default()),
            state: Mutex::new(BridgeState::Waiting("not connected yet".to_owned())),
            counters: Counters::default(),
        }
    }

    fn set_topics(&self, topics: impl IntoIterator<Item = Topic>) {
        let topics: Topics = topics.into_iter().map(|topic| (name::channel_of(&topic), topic)).collect();
        self.topics.send_if_modified(|current| {
            let changed = **current != topics;
            *current = Arc::new(topics);
            changed
        });
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().expect("nothing panics while it holds the spool")
    }

    fn state(&self) -> MutexGuard<'_, BridgeState> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// Returns when there is something to send. For one caller at a time; cancel safe.
    async fn spool_filled(&self) {
        // A notification that comes between the look and the wait is kept.
        while !self.spool().has_work() {
            self.filled.notified().await;
        }
    }

    /// Returns when all has been sent. Cancel safe.
    async fn spool_emptied(&self) {
        loop {
            let settled = self.settled.notified();
            if self.spool().is_empty() {
                return;
            }
            settled.await;
        }
    }

    fn set_connected(&self) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        *self.state() = BridgeState::Connected;
        tracing::info!(address = %self.address, "the bridge is connected");
    }

    fn set_waiting(&self, trouble: &Trouble) {
        let state = BridgeState::Waiting(trouble.sentence());
        let mut current = self.state();
        // The same trouble at every try is one line in the log, not thousands.
        if *current != state {
            tracing::warn!("the bridge waits: {}", trouble.sentence());
            *current = state;
        }
    }
}
