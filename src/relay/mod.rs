//! Where a message goes on: the one table between wire, bridge and front.
//!
//! The three ends do not know one another. Each hands what arrives to the relay and gets from it what is to leave, so
//! that a message's way is always *in, relay, out*. This module is pure: no I/O, no clock, no runtime; the shell
//! around it is `supervisor::traffic`.
//!
//! Invariants
//! - A message never leaves by the end it came from, so two hosts cannot make a loop.
//! - A channel that no rule names leaves nowhere.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use herdwire_ipc::Tag;
use serde::{Deserialize, Serialize};

/// A random number that is one home's for ever: two homes on one machine are two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One browser's place at a front. The upper half is the node that holds it, so that any host knows where it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

impl SessionId {
    /// A session of `node`; `random` must be unguessable.
    pub fn new(node: NodeId, random: u64) -> SessionId {
        SessionId(u128::from(node.0) << 64 | u128::from(random))
    }

    /// The host that holds it.
    pub fn node(self) -> NodeId {
        NodeId((self.0 >> 64) as u64)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A channel of a herd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// The herd's name.
    pub herd: Arc<str>,
    /// The channel's name within it.
    pub channel: Arc<str>,
}

impl Topic {
    /// Names a channel of a herd.
    pub fn new(herd: &str, channel: &str) -> Topic {
        Topic { herd: herd.into(), channel: channel.into() }
    }
}

/// One message on its way through the supervisor. Cheap to clone: the payload is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: Topic,
    /// To (from a worker) or from (from a browser) this session alone.
    pub session: Option<SessionId>,
    /// What the payload is.
    pub tag: Tag,
    /// Opaque bytes.
    pub payload: Bytes,
}

/// Which end a message came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An instance of this host published it.
    Wire,
    /// Another host did.
    Bridge,
    /// A browser sent it.
    Front,
}

/// What is to be done with one message. At most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Departures {
    /// Into the wire of the herd.
    pub wire: Option<ToWire>,
    /// To the other hosts.
    pub bridge: bool,
    /// To browsers of this host.
    pub front: Option<ToFront>,
}

/// Whom of the herd a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToWire {
    /// All subscribers of the channel.
    Subscribers,
    /// One subscriber of the channel, the same for one session as long as it lives.
    OneFor(SessionId),
}

/// Whom at the front a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToFront {
    /// Every session that hears the channel.
    Channel,
    /// One session.
    Session(SessionId),
}

/// The rules, built from the configuration of all apps.
#[derive(Debug, Default, Clone)]
pub struct Relay {
    node: Option<NodeId>,
    bridged: BTreeSet<Topic>,
    shown: BTreeSet<Topic>,
}

impl Relay {
    /// A relay that sends nothing anywhere until rules are added.
    pub fn new(node: NodeId) -> Relay {
        Relay { node: Some(node), ..Relay::default() }
    }

    /// Lets a channel cross to other hosts.
    pub fn bridge(&mut self, topic: Topic) {
        self.bridged.insert(topic);
    }

    /// Shows a channel at the front, both ways.
    pub fn show(&mut self, topic: Topic) {
        self.shown.insert(topic);
    }

    /// Every channel that the supervisor must hear in the wire.
    pub fn heard(&self) -> impl Iterator<Item = &Topic> {
        self.bridged.iter().chain(self.shown.iter().filter(|topic| !self.bridged.contains(*topic)))
    }

    /// Every channel that crosses hosts.
    pub fn bridged(&self) -> impl Iterator<Item = &Topic> {
        self.bridged.iter()
    }

    /// Whether a channel crosses hosts.
    pub fn is_bridged(&self, topic: &Topic) -> bool {
        self.bridged.contains(topic)
    }

    /// Whether a channel is shown at the front.
    pub fn is_shown(&self, topic: &Topic) -> bool {
        self.shown.contains(topic)
    }

    /// Decides where a message goes on.
    pub fn route(&self, origin: Origin, message: &Message) -> Departures {
        let bridged = self.is_bridged(&message.topic);
        let shown = self.is_shown(&message.topic);
        let here = message.session.is_none_or(|session| Some(session.node()) == self.node);
        match (origin, message.session) {
            (Origin::Wire, None) => {
                Departures { bridge: bridged, front: shown.then_some(ToFront::Channel), wire: None }
            }
            (Origin::Wire, Some(session)) if here => {
                Departures { front: shown.then_some(ToFront::Session(session)), ..Departures::default() }
            }
            // Held by another host, which finds it by its own rules.
            (Origin::Wire, Some(_)) => Departures { bridge: bridged, ..Departures::default() },
            (Origin::Bridge, None) => Departures {
                wire: bridged.then_some(ToWire::Subscribers),
                front: shown.then_some(ToFront::Channel),
                bridge: false,
            },
            (Origin::Bridge, Some(session)) => {
                Departures { front: (shown && here).then_some(ToFront::Session(session)), ..Departures::default() }
            }
            (Origin::Front, Some(session)) => {
                Departures { wire: shown.then_some(ToWire::OneFor(session)), ..Departures::default() }
            }
            // A browser's message always says whose it is.
            (Origin::Front, None) => Departures::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeId = NodeId(1);

    fn relay() -> Relay {
        let mut relay = Relay::new(HERE);
        relay.bridge(Topic::new("shop", "orders"));
        relay.bridge(Topic::new("shop", "chat"));
        relay.show(Topic::new("shop", "chat"));
        relay
    }

    fn message(channel: &str, session: Option<SessionId>) -> Message {
        Message { topic: Topic::new("shop", channel), session, tag: Tag::Json, payload: Bytes::from_static(b"1") }
    }

    #[test]
    fn what_a_worker_publishes_reaches_every_other_end_that_has_the_channel() {
        let departures = relay().route(Origin::Wire, &message("chat", None));
        assert_eq!(departures, Departures { wire: None, bridge: true, front: Some(ToFront::Channel) });
        let departures = relay().route(Origin::Wire, &message("orders", None));
        assert_eq!(departures, Departures { wire: None, bridge: true, front: None });
    }

    #[test]
    fn what_came_over_the_bridge_never_goes_back() {
        for channel in ["chat", "orders", "unknown"] {
            assert!(!relay().route(Origin::Bridge, &message(channel, None)).bridge);
        }
    }

    #[test]
    fn an_unknown_channel_leaves_nowhere() {
        let session = SessionId::new(HERE, 7);
        for origin in [Origin::Wire, Origin::Bridge, Origin::Front] {
            for session in [None, Some(session)] {
                assert_eq!(relay().route(origin, &message("unknown", session)), Departures::default());
            }
        }
    }

    #[test]
    fn a_message_to_a_session_goes_to_the_host_that_holds_it() {
        let (ours, theirs) = (SessionId::new(HERE, 7), SessionId::new(NodeId(2), 7));
        let departures = relay().route(Origin::Wire, &message("chat", Some(ours)));
        assert_eq!(departures, Departures { front: Some(ToFront::Session(ours)), ..Departures::default() });
        let departures = relay().route(Origin::Wire, &message("chat", Some(theirs)));
        assert_eq!(departures, Departures { bridge: true, ..Departures::default() });
        assert_eq!(relay().route(Origin::Bridge, &message("chat", Some(theirs))), Departures::default());
    }

    #[test]
    fn what_a_browser_sends_reaches_one_worker_and_nobody_else() {
        let session = SessionId::new(HERE, 7);
        let departures = relay().route(Origin::Front, &message("chat", Some(session)));
        assert_eq!(departures, Departures { wire: Some(ToWire::OneFor(session)), ..Departures::default() });
    }
}
