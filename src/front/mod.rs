//! The way in for browsers: HTTP, the WebSocket handshake, sessions.
//!
//! The front owns its listener, every connection and every session; workers may come and go. What a browser sends goes
//! to the relay (as `arrivals`), what is to reach browsers comes in by [`Front::broadcast`] and [`Front::send_to`]. It
//! knows neither the wire nor the bridge.
//!
//! Rules (no sockets, no clock, no runtime): `codec`, `frame`, `handshake`, `origin`, `token`, `plain`, `queue`,
//! `writer`, `pulse`, `file_path`, `close`. The shell around them: `http`, `connection`, `sessions`, `files`, `body`.
//!
//! Invariants
//! - Nobody who hands something in waits for a browser: queues are bounded, and who does not keep up is closed and
//!   counted.
//! - No token and no query is ever logged.
//! - After [`Front::stopped`] no task of the front runs.

mod body;
mod close;
mod codec;
mod connection;
mod error;
mod file_path;
mod files;
mod frame;
mod handshake;
mod http;
mod limits;
mod origin;
mod plain;
mod pulse;
mod queue;
mod sessions;
mod token;
mod writer;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use herdwire_ipc::Tag;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::spec::{FrontSettings, Handshake, PathSettings};
use crate::relay::{Message, NodeId, Origin, SessionId, Topic};
use crate::snapshot::FrontView;

pub use error::FrontError;
use files::Files;
use http::Gate;
use limits::Limits;
use sessions::Sessions;

/// Connections that may wait to be accepted. A reconnect of everybody comes at once.
const BACKLOG: i32 = 4096;

/// Binds the front's address, so that it can be kept and handed on while fronts come and go.
///
/// # Errors
/// [`FrontError::Bind`], with the address and a hint.
pub fn bind(address: SocketAddr) -> Result<TcpListener, FrontError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    bound().map_err(|source| FrontError::Bind { address, source })
}

/// A handle on the running front. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    gate: Arc<Gate>,
    address: SocketAddr,
    done: CancellationToken,
}

impl Front {
    /// Starts serving on `listener`. Messages of browsers go to `arrivals`; while it is full, browsers are not read.
    /// Ends when `shutdown` is cancelled.
    ///
    /// # Errors
    /// If the settings cannot be served, or the listener is none.
    pub async fn start(
        settings: FrontSettings,
        listener: TcpListener,
        node: NodeId,
        arrivals: mpsc::Sender<(Origin, Message)>,
        shutdown: CancellationToken,
    ) -> Result<Front, FrontError> {
        Front::start_with(settings, listener, node, arrivals, shutdown, Limits::default())
    }

    fn start_with(
        settings: FrontSettings,
        listener: TcpListener,
        node: NodeId,
        arrivals: mpsc::Sender<(Origin, Message)>,
        shutdown: CancellationToken,
        limits: Limits,
    ) -> Result<Front, FrontError> {
        let router = routes(&settings.paths)?;
        let files = settings.files.as_deref().map(open_files).transpose()?;
        listener.set_nonblocking(true).map_err(|source| FrontError::Listener { source })?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| FrontError::Listener { source })?;
        let address = listener.local_addr().map_err(|source| FrontError::Listener { source })?;
        warn_of_open_paths(&settings.paths, address);
        let gate = Arc::new(Gate {
            sessions: Arc::new(Sessions::new(&settings.paths)),
            router,
            origins: settings.origins,
            files,
            node,
            arrivals,
            limits: Arc::new(limits),
            connections: Arc::new(Semaphore::new(settings.max_connections as usize)),
            shutdown,
            tasks: TaskTracker::new(),
            cut_off: CancellationToken::new(),
        });
        let done = CancellationToken::new();
        tokio::spawn(http::run(gate.clone(), listener, done.clone().drop_guard()));
        Ok(Front { gate, address, done })
    }

    /// Where it listens; with port 0 in the settings, the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a message to every session whose path has the channel. Never blocks: it is framed once and queued; a
    /// session whose queue is full is closed and counted.
    pub fn broadcast(&self, topic: &Topic, tag: Tag, payload: Bytes) {
        self.gate.sessions.broadcast(topic, tag, &payload);
    }

    /// Sends a message to one session; whether it is here and takes it. Never blocks.
    pub fn send_to(&self, session: SessionId, tag: Tag, payload: Bytes) -> bool {
        self.gate.sessions.send_to(session, tag, &payload)
    }

    /// What an operator sees of it.
    pub fn view(&self) -> FrontView {
        let counters = &self.gate.sessions.counters;
        FrontView {
            address: self.address,
            sessions: u32::try_from(self.gate.sessions.count()).unwrap_or(u32::MAX),
            received: counters.received.load(Relaxed),
            sent: counters.sent.load(Relaxed),
            slow_closed: counters.slow_closed.load(Relaxed),
            refused: counters.refused.load(Relaxed),
        }
    }

    /// Waits until the last connection has ended: a few seconds after the shutdown was asked for at the latest, never
    /// before. Cancel safe.
    pub async fn stopped(&self) {
        self.done.cancelled().await;
    }
}

fn routes(paths: &[PathSettings]) -> Result<matchit::Router<usize>, FrontError> {
    let mut router = matchit::Router::new();
    for (place, settings) in paths.iter().enumerate() {
        let path = settings.path.clone();
        if !path.starts_with('/') {
            return Err(FrontError::Path { path, reason: "it does not begin with `/`".into() });
        }
        if settings.channels.is_empty() {
            return Err(FrontError::NoChannel { path });
        }
        if matches!(&settings.handshake, Handshake::Token(token) if token.is_empty()) {
            return Err(FrontError::EmptyToken { path });
        }
        router.insert(path.as_str(), place).map_err(|error| FrontError::Path { path, reason: error.to_string() })?;
    }
    Ok(router)
}

fn open_files(folder: &std::path::Path) -> Result<Files, FrontError> {
    Files::open(folder).map_err(|source| FrontError::Files { folder: folder.to_owned(), source })
}

fn warn_of_open_paths(paths: &[PathSettings], address: SocketAddr) {
    if address.ip().is_loopback() {
        return;
    }
    for path in paths.iter().filter(|path| path.handshake == Handshake::Open) {
        tracing::warn!(
            path = path.path,
            herd = path.herd,
            %address,
            "front: THIS PATH IS OPEN TO ANYBODY WHO REACHES THIS HOST: set a token, or listen on 127.0.0.1"
        );
    }
}
