//! One question to the supervisor, one answer, on a connection of its own. Every wait has a limit.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use herdwire_ipc::{codec, frame};
use interprocess::ConnectWaitMode;
use interprocess::local_socket::prelude::*;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream};
use nix::unistd::geteuid;

use super::launch::{self, LaunchError};
use crate::config::home::Home;
use crate::supervisor::control::{self, CONTROL_VERSION, Request, Response};

/// How long a supervisor may take to accept a connection and take the question.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to look something up.
pub const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// How often a question that only looks is asked, when supervisors die over it.
const LOOKS: u32 = 3;
/// How long it may take to do something. A supervisor that hangs is ended by its keeper long before, which ends the
/// connection; this is the last resort.
pub const ACT_LIMIT: Duration = Duration::from_secs(600);

/// Asks the supervisor of one home.
pub struct Client {
    home: Home,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("no supervisor is running in `{}`", home.path().display())]
    NotRunning { home: Home },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("cannot reach the supervisor at `{}`", home.control().display())]
    Unreachable { home: Home, source: io::Error },
    #[error("`{}` is held by another user (uid {uid})", home.control().display())]
    Foreign { home: Home, uid: u32 },
    #[error("this is too much for one request: it takes more than {} KiB", codec::LIMIT / 1024)]
    TooMuch,
    #[error("the supervisor went away before it answered")]
    WentAway,
    #[error("the supervisor did not answer within {} s", limit.as_secs())]
    Silent { limit: Duration },
    #[error("the supervisor speaks version {theirs} of the control protocol, this program version {CONTROL_VERSION}")]
    Version { theirs: u16 },
    #[error("the supervisor's answer cannot be read")]
    Broken { source: Option<codec::CodecError> },
}

impl ClientError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            ClientError::NotRunning { .. } => "`herdwire start` starts one".into(),
            ClientError::Launch(error) => return error.hint(),
            ClientError::TooMuch => "start fewer apps at once, or a smaller environment".into(),
            ClientError::WentAway | ClientError::Silent { .. } => {
                "`herdwire list` shows what was done; the reason may stand in herdwire.log".into()
            }
            ClientError::Version { .. } => {
                "use the `herdwire` that started it, or `herdwire kill` with that one first".into()
            }
            ClientError::Foreign { .. } => "set HERDWIRE_HOME to a folder of your own".into(),
            ClientError::Unreachable { .. } | ClientError::Broken { .. } => return None,
        })
    }
}

impl Client {
    /// A client of the supervisor in `home`.
    pub fn new(home: Home) -> Client {
        Client { home }
    }

    /// Where the supervisor lives.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Asks the supervisor that runs; answers within `limit`, plus a few seconds to connect. A question that only looks
    /// is asked again when the supervisor dies over it: its successor knows the same.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is none, and whatever can go wrong on the way.
    pub fn ask(&self, request: &Request, limit: Duration) -> Result<Response, ClientError> {
        let frame = control::to_frame(request).map_err(|_| ClientError::TooMuch)?;
        let only_looks = matches!(request, Request::Ping | Request::Snapshot { .. } | Request::Journal { .. });
        let mut tries_left = if only_looks { LOOKS } else { 1 };
        loop {
            tries_left -= 1;
            let stream = self.connect()?.ok_or_else(|| ClientError::NotRunning { home: self.home.clone() })?;
            match (Connection { stream, home: &self.home }).exchange(&frame, limit) {
                Err(ClientError::WentAway) if tries_left > 0 => {}
                answer => return answer,
            }
        }
    }

    /// The same, but starts keeper and supervisor when none runs.
    ///
    /// # Errors
    /// As of [`Client::ask`]; [`ClientError::Launch`] when none could be started.
    pub fn ask_or_launch(&self, request: &Request, limit: Duration) -> Result<Response, ClientError> {
        let frame = control::to_frame(request).map_err(|_| ClientError::TooMuch)?;
        let stream = match self.connect()? {
            Some(stream) => stream,
            None => launch::launch(&self.home, || launch::spawn_keeper(&self.home), || self.connect())?,
        };
        Connection { stream, home: &self.home }.exchange(&frame, limit)
    }

    /// Asks for the end of everything and waits for it: returns when the connection ends, which it does when the last
    /// instance has.
    ///
    /// # Errors
    /// As of [`Client::ask`].
    pub fn ask_for_the_end(&self, limit: Duration) -> Result<Response, ClientError> {
        let frame = control::to_frame(&Request::Kill).map_err(|_| ClientError::TooMuch)?;
        let stream = self.connect()?.ok_or_else(|| ClientError::NotRunning { home: self.home.clone() })?;
        let mut connection = Connection { stream, home: &self.home };
        let response = connection.exchange(&frame, limit)?;
        if matches!(response, Response::Killing { .. }) {
            connection.wait_for_end(limit)?;
        }
        Ok(response)
    }

    /// Asks for something that is answered again and again.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is no supervisor, and whatever can go wrong on the way.
    pub fn watch(&self, request: &Request) -> Result<Watch<'_>, ClientError> {
        let frame = control::to_frame(request).map_err(|_| ClientError::TooMuch)?;
        let stream = self.connect()?.ok_or_else(|| ClientError::NotRunning { home: self.home.clone() })?;
        let mut connection = Connection { stream, home: &self.home };
        connection.put(&frame)?;
        Ok(Watch(connection))
    }

    /// A connection to the supervisor; `None` when nobody listens.
    pub(super) fn connect(&self) -> Result<Option<Stream>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { home: self.home.clone(), source };
        let until = Instant::now() + CONNECT_LIMIT;
        loop {
            let path = self.home.control();
            let name = path.to_fs_name::<GenericFilePath>().map_err(unreachable)?;
            let options = ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Timeout(CONNECT_LIMIT));
            match options.connect_sync() {
                Ok(stream) => return self.trusted(stream).map(Some),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return Ok(None);
                }
                // A Unix socket whose queue is full says so instead of waiting.
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(unreachable(error)),
            }
        }
    }

    /// Requests carry whole environments, so they go to nobody but ourselves.
    fn trusted(&self, stream: Stream) -> Result<Stream, ClientError> {
        let peer =
            stream.peer_creds().map_err(|source| ClientError::Unreachable { home: self.home.clone(), source })?;
        match peer.euid() {
            Some(uid) if uid != geteuid().as_raw() => Err(ClientError::Foreign { home: self.home.clone(), uid }),
            _ => Ok(stream),
        }
    }
}

/// A connection on which one answer follows the other.
pub struct Watch<'c>(Connection<'c>);

impl Watch<'_> {
    /// The next answer. Whoever does not know that one is on its way waits for it by the descriptor.
    ///
    /// # Errors
    /// [`ClientError::WentAway`] at the end of the connection.
    pub fn next(&mut self, limit: Duration) -> Result<Response, ClientError> {
        self.0.answer(limit)
    }
}

impl AsFd for Watch<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0.stream {
            Stream::UdSocket(socket) => socket.as_fd(),
        }
    }
}

/// One connection, for one exchange.
struct Connection<'c> {
    stream: Stream,
    home: &'c Home,
}

impl Connection<'_> {
    fn exchange(&mut self, request: &[u8], limit: Duration) -> Result<Response, ClientError> {
        self.put(request)?;
        self.answer(limit)
    }

    fn put(&mut self, request: &[u8]) -> Result<(), ClientError> {
        self.stream.set_send_timeout(Some(CONNECT_LIMIT)).map_err(|error| self.unreachable(error))?;
        match self.stream.write_all(request) {
            Ok(()) => Ok(()),
            // It may have said why before it closed: read on.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
            Err(error) if is_timeout(&error) => Err(ClientError::Silent { limit: CONNECT_LIMIT }),
            Err(error) => Err(self.unreachable(error)),
        }
    }

    fn answer(&mut self, limit: Duration) -> Result<Response, ClientError> {
        let until = Instant::now() + limit;
        let mut header = [0; frame::HEADER_BYTES];
        self.fill(&mut header, until, limit)?;
        let header = frame::Header::from_bytes(&header).ok_or(ClientError::Broken { source: None })?;
        if header.kind != CONTROL_VERSION {
            return Err(ClientError::Version { theirs: header.kind });
        }
        let length = header.length as usize;
        if length > codec::LARGE_LIMIT {
            return Err(ClientError::Broken { source: Some(codec::CodecError::TooLarge) });
        }
        let mut body = vec![0; length];
        self.fill(&mut body, until, limit)?;
        codec::decode_large(&body).map_err(|source| ClientError::Broken { source: Some(source) })
    }

    /// Reads until `buffer` is full.
    fn fill(&mut self, buffer: &mut [u8], until: Instant, limit: Duration) -> Result<(), ClientError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..], until, limit)? {
                0 => return Err(ClientError::WentAway),
                read => filled += read,
            }
        }
        Ok(())
    }

    fn wait_for_end(&mut self, limit: Duration) -> Result<(), ClientError> {
        let until = Instant::now() + limit;
        let mut ignored = [0; 256];
        while self.read(&mut ignored, until, limit)? > 0 {}
        Ok(())
    }

    /// One read; 0 at the end of the connection.
    fn read(&mut self, buffer: &mut [u8], until: Instant, limit: Duration) -> Result<usize, ClientError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Silent { limit });
            }
            self.stream.set_recv_timeout(Some(left)).map_err(|error| self.unreachable(error))?;
            match self.stream.read(buffer) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreachable(error)),
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable { home: self.home.clone(), source }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
