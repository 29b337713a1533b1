//! Takes connections and hands their requests to the site.
//!
//! Invariants
//! - At most [`Limits::connections`] at once; further ones wait in the kernel's queue.
//! - A connection that sends no whole head for [`Limits::head`], idle ones included, is closed; one that lives for
//!   [`Limits::life`] ends after its answer and is cut off [`Limits::grace`] later, so that one which never reads does
//!   not hold its place for ever.
//! - When `serve` returns, none of its tasks is left.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::access::Guard;
use super::look::Look;
use super::routes::{Answer, Site};

const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Without a pause, a process that has no descriptor left would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What one server grants its clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub connections: usize,
    pub head: Duration,
    pub life: Duration,
    pub grace: Duration,
}

impl Limits {
    /// The wait for a head is longer than the fifteen seconds between two scrapes of a usual Prometheus.
    pub const USUAL: Limits = Limits {
        connections: 256,
        head: Duration::from_secs(20),
        life: Duration::from_secs(300),
        grace: Duration::from_secs(3),
    };
}

/// Answers on `listener` until `shutdown`, then lets running answers end, for three seconds at most.
/// With a `token`, everything but `/healthz` and the page's own files asks for it.
///
/// Not cancel safe: dropping the future cuts off what is being answered.
///
/// # Errors
/// When `listener` cannot be used from this runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    token: Option<String>,
    look: Look,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_within(Limits::USUAL, listener, token, look, shutdown).await
}

/// [`serve`] with limits of one's own.
pub(super) async fn serve_within(
    limits: Limits,
    listener: std::net::TcpListener,
    token: Option<String>,
    look: Look,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let site = Arc::new(Site::new(Guard::new(listener.local_addr()?, token), look));
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(converse(limits, stream, peer, site.clone(), shutdown.clone()));
                }
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    drain(limits, connections).await;
    Ok(())
}

/// One connection, from its first request to its end.
async fn converse(limits: Limits, stream: TcpStream, peer: SocketAddr, site: Arc<Site>, shutdown: CancellationToken) {
    // Only answers come out a little later if this fails.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let site = site.clone();
        // The body is dropped unread: hyper closes the connection if there is much of it.
        let (head, _body) = request.into_parts();
        async move { Ok::<Answer, Infallible>(site.answer(&head).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => finish(limits, connection.as_mut()).await,
        () = sleep(limits.life) => finish(limits, connection.as_mut()).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection to the status page ended early");
    }
}

type Connection<S> = http1::Connection<TokioIo<TcpStream>, S>;

/// Lets the running answer end, within [`Limits::grace`].
async fn finish<S>(limits: Limits, mut connection: std::pin::Pin<&mut Connection<S>>) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = http_body_util::Full<bytes::Bytes>, Error = Infallible>,
{
    connection.as_mut().graceful_shutdown();
    timeout(limits.grace, connection).await.unwrap_or(Ok(()))
}

async fn drain(limits: Limits, mut connections: JoinSet<()>) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    // Each gives itself that grace; this is for one that is stuck all the same.
    if timeout(limits.grace * 2, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut off connections to the status page that did not end");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection to the status page failed");
    }
}

async fn pause_after(error: &io::Error) {
    // A caller that gave up while it waited is its own affair and no reason to make others wait.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    tracing::warn!(%error, "cannot take connections to the status page for a moment");
    sleep(ACCEPT_PAUSE).await;
}
