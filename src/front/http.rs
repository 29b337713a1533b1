//! The HTTP side: accepts connections, answers requests, and hands a connection over once it speaks WebSocket.
//!
//! Owns every task of the front (one tracker), the limit of connections and the order of shutting down. What a
//! handshake must bring is decided by `handshake`, files come from `files`, and `connection` runs what was upgraded.
//!
//! Invariants
//! - A connection counts from accept to its last byte, whether it speaks HTTP or WebSocket.
//! - Every wait for a client has a limit: for a head, for progress of an answer, for an upgrade.
//! - No query is ever logged: it may hold a token.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::relay::{NodeId, SessionId};

use super::body::{Body, sentence};
use super::connection::{Arrivals, Connection};
use super::files::Files;
use super::handshake::{self, Refusal};
use super::limits::Limits;
use super::sessions::{Membership, Path, Sessions};

/// Connections over the limit that are told so at the same time; more are just closed.
const TURNED_AWAY: usize = 32;
/// How long one of them gets to take the answer.
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);
/// Waited when the process has no descriptor left: until then accepting again would only spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What all connections share.
pub struct Gate {
    pub sessions: Arc<Sessions>,
    /// Paths to their place in `sessions`.
    pub router: matchit::Router<usize>,
    pub origins: Vec<String>,
    pub files: Option<Files>,
    pub node: NodeId,
    pub arrivals: Arrivals,
    pub limits: Arc<Limits>,
    pub connections: Arc<Semaphore>,
    /// Asks everything to end.
    pub shutdown: CancellationToken,
    /// Every task of the front, but for the one that accepts.
    pub tasks: TaskTracker,
    /// Ends what has not ended when it was asked to.
    pub cut_off: CancellationToken,
}

/// Whether an HTTP connection gets on. Counts whatever moves.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Something moved.
    pub fn moved(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn seen(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One place among the connections. It is free again when the last clone is dropped.
type Place = Arc<OwnedSemaphorePermit>;

impl Gate {
    /// Runs a task that ends with the front at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut_off = self.cut_off.clone();
        // Boxed, because each future that owns another by value would hold it twice.
        let task = Box::pin(task);
        self.tasks.spawn(async move {
            // `None` when it was cut off; whoever does that says so.
            let _ended = cut_off.run_until_cancelled(task).await;
        });
    }
}

/// Accepts until the front is closed, then ends all connections. `done` drops when the last task has ended.
pub async fn run(gate: Arc<Gate>, listener: TcpListener, done: DropGuard) {
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    while let Some(accepted) = gate.shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => admit(&gate, stream, peer, &turned_away),
            Err(error) => wait_after(&error).await,
        }
    }
    drop(listener);
    end_all(&gate).await;
    drop(done);
}

/// A connection that broke before it was taken is nobody's concern; without descriptors there is nothing to do but wait.
async fn wait_after(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "front: cannot accept connections for now");
    sleep(ACCEPT_AGAIN).await;
}

async fn end_all(gate: &Gate) {
    gate.sessions.close_all();
    gate.tasks.close();
    if timeout(gate.limits.shutdown, gate.tasks.wait()).await.is_err() {
        let (sessions, tasks) = (gate.sessions.count(), gate.tasks.len());
        tracing::warn!(sessions, tasks, "front: some connections did not end in time and are cut off");
        gate.cut_off.cancel();
        gate.tasks.wait().await;
    }
}

fn admit(gate: &Arc<Gate>, stream: TcpStream, peer: SocketAddr, turned_away: &Arc<Semaphore>) {
    // Messages are gathered by us; the kernel should not wait for more. If it cannot be set they are only later.
    let _ = stream.set_nodelay(true);
    match gate.connections.clone().try_acquire_owned() {
        Ok(permit) => gate.spawn(serve(gate.clone(), stream, peer, Arc::new(permit))),
        Err(_) => {
            gate.sessions.counters.refused.fetch_add(1, Relaxed);
            if let Ok(permit) = turned_away.clone().try_acquire_owned() {
                gate.spawn(turn_away(stream, permit));
            }
        }
    }
}

/// Says why and closes, without a reset that would take the answer away.
async fn turn_away(mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
        content-type: text/plain; charset=utf-8\r\ncontent-length: 43\r\n\r\nall connections are taken: try again later\n";
    let answer = async {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // It is turned away in any case.
    let _ = timeout(TURN_AWAY_WITHIN, answer).await;
}

/// Speaks HTTP until the connection ends, is upgraded, or gets stuck.
async fn serve(gate: Arc<Gate>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let progress = Progress::default();
    let (limits, shutdown) = (gate.limits.clone(), gate.shutdown.clone());
    let service = {
        let progress = progress.clone();
        service_fn(move |request| {
            let (gate, place, progress) = (gate.clone(), place.clone(), progress.clone());
            async move {
                progress.moved();
                Ok::<_, Infallible>(answer(&gate, request, &place, progress).await)
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut leaving = false;
    loop {
        let before = progress.seen();
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "front: an HTTP connection ended badly");
                }
                return;
            }
            () = shutdown.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(limits.http_stall) => {
                if progress.seen() == before {
                    tracing::debug!(%peer, "front: an HTTP connection is stuck and is dropped");
                    return;
                }
            }
        }
    }
}

async fn answer(gate: &Arc<Gate>, request: Request<Incoming>, place: &Place, progress: Progress) -> Response<Body> {
    let path = request.uri().path();
    if let Ok(found) = gate.router.at(path) {
        let path = gate.sessions.paths()[*found.value].clone();
        return upgrade(gate, request, path, place);
    }
    match &gate.files {
        Some(files) => files.answer(gate, request.method(), path, request.headers(), progress).await,
        None => sentence(StatusCode::NOT_FOUND, "there is nothing at this address"),
    }
}

/// Answers a handshake and, if it is accepted, starts the session.
fn upgrade(gate: &Arc<Gate>, request: Request<Incoming>, path: Arc<Path>, place: &Place) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let accepted = match handshake::judge(&parts, &gate.origins, &path.settings.handshake) {
        Ok(accepted) => accepted,
        Err(refusal) => return refuse(gate, &path, refusal),
    };
    let Ok(random) = getrandom::u64() else {
        return sentence(StatusCode::SERVICE_UNAVAILABLE, "no session can be made for now");
    };
    if gate.shutdown.is_cancelled() {
        return sentence(StatusCode::SERVICE_UNAVAILABLE, "the server is going away");
    }
    // Before the answer leaves: from the moment a browser sees the connection open, it hears its channels.
    let member = gate.sessions.join(&path, SessionId::new(gate.node, random));
    let upgraded = hyper::upgrade::on(Request::from_parts(parts, body));
    let (limits, arrivals, place) = (gate.limits.clone(), gate.arrivals.clone(), place.clone());
    gate.spawn(async move {
        let Ok(Ok(upgraded)) = timeout(limits.header, upgraded).await else {
            return;
        };
        take_over(upgraded, member, arrivals, limits).run().await;
        drop(place);
    });
    switching(&accepted)
}

/// Takes the socket out of hyper's hands, with what it had read ahead.
fn take_over(upgraded: Upgraded, member: Membership, arrivals: Arrivals, limits: Arc<Limits>) -> Connection {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("the connection was made of a TcpStream");
    Connection::new(parts.io.into_inner(), &parts.read_buf, member, arrivals, limits)
}

fn switching(accepted: &handshake::Accepted) -> Response<Body> {
    let handshake::Accepted { accept, protocol: handshake::Protocol::Plain } = accepted;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = HeaderValue::from_str(accept).expect("base64 is visible ASCII");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn refuse(gate: &Gate, path: &Path, refusal: Refusal) -> Response<Body> {
    gate.sessions.counters.refused.fetch_add(1, Relaxed);
    tracing::debug!(path = path.settings.path, %refusal, "front: a handshake is refused");
    let mut response = sentence(refusal.status(), &refusal.to_string());
    if let Some((name, value)) = refusal.header() {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
