//! The control socket: accepts the CLI, reads one request, writes one answer.
//!
//! Only the owner of the home gets in: the socket is 0600 in a 0700 folder, and the peer's credentials are checked.
//! Whoever is slow or sends nonsense is answered once, closed, and disturbs nobody; how many there may be is `places`' to say.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use herdwire_ipc::frame::{HEADER_BYTES, Header};
use interprocess::local_socket::tokio::{Listener, Stream, prelude::*};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::{self, Failure, Request, Response};
use super::journal::Reader;
use super::places::Places;

/// From the connection to the whole request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// For the answer to be taken.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// For a change to be taken by one who watches; it may ask again from where it was.
const WATCHER_LIMIT: Duration = Duration::from_secs(30);

/// A request with the place for its answer. `None` as an answer: the connection is held until the process ends.
pub type Asked = (Request, oneshot::Sender<Response>);

/// Where requests go.
#[derive(Clone)]
pub struct Desk {
    pub requests: mpsc::Sender<Asked>,
    /// Programs to be replaced by, and who asks.
    pub upgrades: mpsc::Sender<(PathBuf, Asker)>,
    /// What changes, for those who watch.
    pub journal: Reader,
}

/// Whoever asked for an upgrade. Its answer outlives every task of this process.
#[derive(Debug)]
pub struct Asker(UnixStream);

impl Asker {
    /// Answers, and closes the connection. Blocks for [`ANSWER_LIMIT`] at most.
    pub fn answer(self, response: &Response) {
        let Ok(frame) = control::to_answer(response) else { return };
        let mut stream = self.0;
        // Whoever does not take its answer has gone or hangs; either way there is nobody to tell.
        let _ = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_LIMIT)))
            .and_then(|()| stream.write_all(&frame));
    }
}

/// Accepts while `accepting`; every connection is a task of `connections`, until shutdown.
pub async fn serve(
    listener: Listener,
    desk: Desk,
    connections: TaskTracker,
    accepting: CancellationToken,
    shutdown: CancellationToken,
) {
    let places = Places::new();
    loop {
        let accepted = tokio::select! {
            () = accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let place = tokio::select! {
                    // All places are held by those that wait, and everything ends: so does this one.
                    () = accepting.cancelled() => return,
                    place = places.take() => place,
                };
                let (desk, places, shutdown) = (desk.clone(), places.clone(), shutdown.clone());
                connections.spawn(async move {
                    tokio::select! {
                        // First what is answered already: with nothing left to stop, `kill` ends the supervisor at once.
                        biased;
                        () = connection(stream, desk, &places) => {}
                        () = shutdown.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: those that are open will end, the idle ones now.
                tracing::warn!("a control connection cannot be accepted: {error}");
                places.close_oldest();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(mut stream: Stream, Desk { requests, upgrades, journal }: Desk, places: &Places) {
    let request = match places.idle(tokio::time::timeout(REQUEST_LIMIT, receive(&mut stream))).await {
        Some(Ok(Ok(Some(request)))) => request,
        Some(Ok(Ok(None)) | Err(_)) | None => return,
        Some(Ok(Err(failure))) => return answer(&mut stream, &Response::Failed(failure), places).await,
    };
    let _patience = match places.patience(&request) {
        Ok(patience) => patience,
        Err(failure) => return answer(&mut stream, &Response::Failed(failure), places).await,
    };
    if let Request::Upgrade { binary } = request {
        let Stream::UdSocket(socket) = &stream;
        if let Ok(own) = socket.as_fd().try_clone_to_owned() {
            // The supervisor ends, then nobody waits for the answer; or it is behind, and this waits with the asker.
            let _ = upgrades.send((binary, Asker(own.into()))).await;
        }
        return;
    }
    if let Request::Events { after } = request {
        return tell(&mut stream, journal, after).await;
    }
    let is_kill = request == Request::Kill;
    let (reply, response) = oneshot::channel();
    if requests.send((request, reply)).await.is_err() {
        return;
    }
    // Whoever has gone waits for nothing: its place is for others.
    let response = tokio::select! {
        response = response => response,
        () = gone(&mut stream) => return,
    };
    let Ok(response) = response else { return };
    answer(&mut stream, &response, places).await;
    if is_kill {
        // Its end tells the CLI that everything is over.
        std::future::pending::<()>().await;
    }
}

/// Tells what changes after a number, until the peer closes or takes nothing any more. Nothing is queued for it: it is as
/// far as it is in the journal, and what it is too slow for is missing in its numbers.
async fn tell(stream: &mut Stream, mut journal: Reader, after: Option<u64>) {
    let mut next = journal.resume(after);
    loop {
        while next <= journal.latest() {
            next = next.max(journal.resume(Some(0)));
            if let Some(event) = journal.entry(next)
                && !send(stream, &Response::Event(event), WATCHER_LIMIT).await
            {
                return;
            }
            next += 1;
        }
        let goes_on = tokio::select! {
            goes_on = journal.written_after(next - 1) => goes_on,
            () = gone(stream) => return,
        };
        if !goes_on {
            return;
        }
    }
}

/// Ends when the peer has closed, or says more than its one request.
async fn gone(stream: &mut Stream) {
    // Whatever comes, this connection is over.
    let _ = stream.read(&mut [0; 1]).await;
}

async fn answer(stream: &mut Stream, response: &Response, places: &Places) {
    let frame = control::to_answer(response).or_else(|error| {
        control::to_answer(&Response::Failed(Failure::new("the answer is too large to be sent").cause(error)))
    });
    let Ok(frame) = frame else { return };
    // Whoever does not take its answer has gone or hangs; either way there is nobody to tell.
    let _ = places.idle(tokio::time::timeout(ANSWER_LIMIT, stream.write_all(&frame))).await;
}

/// Sends one of several; false when the peer does not take it.
async fn send(stream: &mut Stream, response: &Response, limit: Duration) -> bool {
    let Ok(frame) = control::to_answer(response) else { return false };
    matches!(tokio::time::timeout(limit, stream.write_all(&frame)).await, Ok(Ok(())))
}

/// One request; `None` when the peer closed without one.
async fn receive(stream: &mut Stream) -> Result<Option<Request>, Failure> {
    check_peer(stream)?;
    let mut bytes = [0; HEADER_BYTES];
    if stream.read_exact(&mut bytes).await.is_err() {
        return Ok(None);
    }
    let header = Header::from_bytes(&bytes).expect("it has a header's length");
    let length = control::body_length(header)?;
    // Grown as bytes come, never by what the peer announces.
    let mut body = Vec::new();
    let mut rest = stream.take(u64::from(length));
    rest.read_to_end(&mut body).await.map_err(|error| Failure::new("the request could not be read").cause(error))?;
    control::from_body(&body).map(Some)
}

fn check_peer(stream: &Stream) -> Result<(), Failure> {
    let us = nix::unistd::geteuid().as_raw();
    let euid = stream.peer_creds().map(|credentials| credentials.euid());
    match euid {
        Ok(Some(euid)) if euid == us || euid == 0 => Ok(()),
        Ok(Some(euid)) => Err(Failure::new(format!("user {euid} may not control the supervisor of user {us}"))),
        Ok(None) | Err(_) => Err(Failure::new("the peer's user cannot be told")),
    }
}

/// Binds the control socket. The lock on the home is held, so what lies there is a dead one's and is replaced.
pub fn bind(path: &std::path::Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
