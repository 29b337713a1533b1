//! The task that keeps a pair of connections alive, subscribed and busy.
//!
//! Owns reconnection and what is subscribed on the present pair. What leaves is `spool`'s to order and bound; what
//! arrives goes past this task into the inbox.
//!
//! Invariants
//! - `Connected` is said only after the server has confirmed every subscription on a checked pair.
//! - A batch whose outcome is unknown is sent again, in order and under its old numbers: the other hosts drop by number what
//!   they had, so nothing comes twice, even if the server runs the first one late.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::arrivals::Seldom;
use super::backoff::Backoff;
use super::connection::{Pair, Target};
use super::inbox::Entrance;
use super::parcel;
use super::trouble::Trouble;
use super::{Shared, Topics};

/// For what is still in the spool when the supervisor ends.
const FLUSH: Duration = Duration::from_millis(500);

/// How a pair ended.
struct End {
    trouble: Trouble,
    alive: Duration,
}

/// All that can wake a connected bridge.
enum Event {
    Lost(Trouble),
    Topics,
    Work,
}

/// Connects again and again until `shutdown`.
pub(super) async fn run(
    shared: Arc<Shared>,
    target: Result<Target, Trouble>,
    entrance: Entrance,
    shutdown: CancellationToken,
) {
    let target = match target {
        Ok(target) => target,
        Err(trouble) => {
            shared.set_waiting(&trouble);
            return shutdown.cancelled().await;
        }
    };
    let mut backoff = Backoff::default();
    loop {
        let mut crossing = pin!(cross(&shared, &target, &entrance));
        let end = tokio::select! {
            end = &mut crossing => end,
            () = shutdown.cancelled() => {
                let last_words = async { tokio::select! { _ = &mut crossing => (), () = shared.spool_emptied() => () } };
                if timeout(FLUSH, last_words).await.is_err() {
                    tracing::warn!("the bridge ends with messages that did not leave");
                }
                return;
            }
        };
        shared.set_waiting(&end.trouble);
        let alive_ms = u64::try_from(end.alive.as_millis()).unwrap_or(u64::MAX);
        // Without a random number the wait is the shortest one: no reason to fail.
        let random = getrandom::u64().unwrap_or(0);
        let wait = Duration::from_millis(backoff.after(end.trouble.pace(), alive_ms, random));
        tokio::select! {
            () = sleep(wait) => (),
            () = shutdown.cancelled() => return,
        }
    }
}

/// The life of one pair.
async fn cross(shared: &Shared, target: &Target, entrance: &Entrance) -> End {
    let mut pair = match Pair::open(target, entrance).await {
        Ok(pair) => pair,
        Err(trouble) => return End { trouble, alive: Duration::ZERO },
    };
    let since = Instant::now();
    match serve(shared, &mut pair).await {
        Ok(never) => match never {},
        Err(trouble) => End { trouble, alive: since.elapsed() },
    }
}

async fn serve(shared: &Shared, pair: &mut Pair) -> Result<Infallible, Trouble> {
    let mut topics = shared.topics.subscribe();
    let mut subscribed = BTreeSet::new();
    let wanted = Arc::clone(&topics.borrow_and_update());
    follow(pair, &mut subscribed, &wanted).await?;
    shared.set_connected();
    let mut complaints = Seldom::default();
    loop {
        let event = tokio::select! {
            trouble = pair.lost() => Event::Lost(trouble),
            // The sender lives in `shared`, so it is always a change.
            _ = topics.changed() => Event::Topics,
            () = shared.spool_filled() => Event::Work,
        };
        match event {
            Event::Lost(trouble) => return Err(trouble),
            Event::Topics => {
                let wanted = Arc::clone(&topics.borrow_and_update());
                follow(pair, &mut subscribed, &wanted).await?;
            }
            Event::Work => send(shared, pair, &mut complaints).await?,
        }
    }
}

/// Brings what is subscribed in line with what is wanted.
async fn follow(pair: &mut Pair, subscribed: &mut BTreeSet<String>, wanted: &Topics) -> Result<(), Trouble> {
    let gone: Vec<&str> = subscribed.iter().map(String::as_str).filter(|name| !wanted.contains_key(*name)).collect();
    pair.unsubscribe(&gone).await?;
    let new: Vec<&str> = wanted.keys().map(String::as_str).filter(|name| !subscribed.contains(*name)).collect();
    pair.subscribe(&new).await?;
    *subscribed = wanted.keys().cloned().collect();
    Ok(())
}

/// Sends one batch and settles it.
async fn send(shared: &Shared, pair: &mut Pair, complaints: &mut Seldom) -> Result<(), Trouble> {
    let taken = shared.spool().take();
    let parcels = parcel::pack(&taken, shared.sender);
    let (replies, trouble) = match pair.publish(&parcels).await {
        Ok(answer) => answer,
        Err(unknown) => {
            shared.spool().fail(taken);
            return Err(unknown);
        }
    };
    let outcome = parcel::outcome(&parcels, &replies);
    let all = outcome.done == taken.len();
    shared.spool().settle(taken, outcome.done, outcome.refused);
    shared.settled.notify_waiters();
    shared.counters.sent.fetch_add(outcome.done as u64 - outcome.refused, Ordering::Relaxed);
    match trouble {
        Some(trouble) if !all => Err(trouble),
        Some(trouble) => {
            if let Some(more) = complaints.allow() {
                tracing::warn!(refused = outcome.refused, more, "messages were given up: {}", trouble.sentence());
            }
            Ok(())
        }
        None => Ok(()),
    }
}
