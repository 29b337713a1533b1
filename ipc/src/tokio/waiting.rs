//! Waiting in a runtime: for news, and for room. Yields to other tasks where the blocking client yields to processes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ::tokio::task::yield_now;

use super::Watched;
use crate::bell::{self, LONGEST_SLEEP};
use crate::publish::{Outgoing, PublishError, Published, Publisher, Refusal};
use crate::receive::Drain;
use crate::slots::ChannelId;

/// How often a dense reader or a full publisher lets other tasks run before it sleeps.
const YIELDS: usize = 4;
/// How long a full publisher sleeps before it looks again by itself.
const NAP: Duration = Duration::from_millis(20);

/// Lets a drain sleep in a runtime until it has news, at most a second. `bell` watches the drain's own bell. Cancel
/// safe: the announcement is taken back.
pub async fn wait_for_news(drain: &mut Drain, bell: &Watched) {
    if drain.is_dense() {
        drain.gather();
        for _ in 0..YIELDS {
            yield_now().await;
            if drain.has_news() {
                return;
            }
        }
    }
    // From the announcement to the sleep there is no await.
    let Some(announced) = drain.announce() else { return };
    if !bell.edge(LONGEST_SLEEP).await {
        bell::empty(bell.get_ref().as_fd());
    }
    drop(announced);
}

/// Publishes in a runtime; waits for room as [`Publisher::publish`] does. `bell` watches a descriptor of the own bell
/// (not the one that the drain's [`Watched`] has: clone it). `relief` is called now and then meanwhile. Cancel safe:
/// the message is published whole or not at all.
///
/// # Errors
/// As [`Publisher::publish`].
pub async fn publish(
    publisher: &mut Publisher,
    bell: &Watched,
    channel: ChannelId,
    message: Outgoing<'_>,
    mut relief: impl FnMut(),
) -> Result<Published, PublishError> {
    let mut written = publisher.attempt(channel, &message);
    if written == Err(Refusal::Full) {
        let room = wait_for_room(&mut Asking(publisher), bell, &message, &mut relief).await;
        // The gate was refreshed for this very message, and nobody else writes.
        written = room.and_then(|()| publisher.attempt(channel, &message));
    }
    written.map(Published::from).map_err(|refusal| publisher.reject(channel, &message, refusal))
}

/// A publisher that has asked for room; dropping it takes the wish back.
struct Asking<'a>(&'a mut Publisher);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.stop_asking();
    }
}

async fn wait_for_room(
    asking: &mut Asking<'_>,
    bell: &Watched,
    message: &Outgoing<'_>,
    relief: &mut impl FnMut(),
) -> Result<(), Refusal> {
    let publisher = &mut *asking.0;
    let mut wait = publisher.start_waiting(message);
    loop {
        relief();
        for _ in 0..YIELDS {
            yield_now().await;
            if publisher.has_room(&wait) {
                return Ok(());
            }
        }
        if publisher.ask(&wait) {
            return Ok(());
        }
        let left = wait.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return if publisher.stall(&mut wait) { Ok(()) } else { Err(Refusal::Full) };
        }
        bell.edge(left.min(NAP)).await;
    }
}
