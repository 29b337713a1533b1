//! In, relay, out: takes what arrives at wire, bridge and front, and hands it to where the relay says.
//!
//! Bridge and front never make this task wait; the wire does when its task is behind, and waits for nobody itself.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bridge::Bridge;
use crate::front::Front;
use crate::relay::{Message, Origin, Relay, ToFront};
use crate::wire::Wire;

/// Messages that may wait here. Ends that find it full wait (wire, front) or drop and count (bridge).
pub const ARRIVALS: usize = 4096;

/// The rules and the ends, replaced as a whole when an app or a setting comes or goes.
#[derive(Clone)]
pub struct Routes {
    pub relay: Arc<Relay>,
    pub bridge: Option<Bridge>,
    pub front: Option<Front>,
}

/// Moves messages until shutdown.
pub async fn run(
    mut arrivals: mpsc::Receiver<(Origin, Message)>,
    routes: watch::Receiver<Routes>,
    wire: Wire,
    shutdown: CancellationToken,
) {
    loop {
        let (origin, message) = tokio::select! {
            () = shutdown.cancelled() => return,
            arrival = arrivals.recv() => match arrival {
                Some(arrival) => arrival,
                None => return,
            },
        };
        let current = routes.borrow().clone();
        let departures = current.relay.route(origin, &message);
        if departures.bridge
            && let Some(bridge) = &current.bridge
        {
            bridge.publish(message.clone());
        }
        match (departures.front, &current.front) {
            (Some(ToFront::Channel), Some(front)) => {
                front.broadcast(&message.topic, message.tag, message.payload.clone());
            }
            (Some(ToFront::Session(session)), Some(front)) => {
                // A session that has gone meanwhile is the sender's to notice; its channel tells when it ends.
                front.send_to(session, message.tag, message.payload.clone());
            }
            _ => {}
        }
        if let Some(to) = departures.wire {
            wire.publish(to, message).await;
        }
    }
}
