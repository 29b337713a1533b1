//! A front with its surroundings: settings, what arrives at the relay, and the end of it all.

use std::net::SocketAddr;

use bytes::Bytes;
use herdwire_ipc::Tag;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::spec::{FrontSettings, Handshake, PathSettings};
use crate::relay::{Message, NodeId, Origin, Topic};

use super::super::limits::Limits;
use super::super::{Front, bind};
use super::client::soon;

pub const NODE: NodeId = NodeId(0xABCD);

/// A running front. It ends with the runtime of its test.
pub struct Stand {
    pub front: Front,
    pub arrivals: mpsc::Receiver<(Origin, Message)>,
    pub shutdown: CancellationToken,
}

/// What a test changes before the front starts.
pub struct Plan {
    pub settings: FrontSettings,
    pub limits: Limits,
    /// Messages that may wait at the relay.
    pub room: usize,
}

impl Plan {
    /// A front on a free port of loopback with the paths `/chat` (herd `shop`, channels `chat` and `news`) and `/news`
    /// (`news` alone).
    pub fn new() -> Plan {
        let settings = FrontSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            files: None,
            max_connections: 1000,
            origins: vec![],
            paths: vec![path("/chat", &["chat", "news"]), path("/news", &["news"])],
        };
        Plan { settings, limits: Limits::default(), room: 100 }
    }

    pub async fn start(self) -> Stand {
        let listener = bind(self.settings.listen).unwrap();
        let (sender, arrivals) = mpsc::channel(self.room);
        let shutdown = CancellationToken::new();
        let front = Front::start_with(self.settings, listener, NODE, sender, shutdown.clone(), self.limits).unwrap();
        Stand { front, arrivals, shutdown }
    }
}

pub fn path(path: &str, channels: &[&str]) -> PathSettings {
    PathSettings {
        path: path.into(),
        herd: "shop".into(),
        channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
        handshake: Handshake::Open,
        max_message: 64 * 1024,
        queue_bytes: 256 * 1024,
    }
}

pub async fn stand() -> Stand {
    Plan::new().start().await
}

impl Stand {
    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// Publishes a JSON text on a channel of the herd.
    pub fn publish(&self, channel: &str, json: &str) {
        self.front.broadcast(&Topic::new("shop", channel), Tag::Json, Bytes::copy_from_slice(json.as_bytes()));
    }

    /// The next message of a browser.
    pub async fn arrival(&mut self) -> Message {
        let (origin, message) = soon(self.arrivals.recv()).await.unwrap();
        assert_eq!(origin, Origin::Front);
        message
    }

    /// Closes the front and waits for the last task.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        soon(self.front.stopped()).await;
    }
}
