//! From a link to a place: hello, welcome, mapped, joined.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::ConnectError;
use super::herd::Me;
use super::link::{self, Link};
use crate::frame::Hello;
use crate::layout::LAYOUT_VERSIONS;
use crate::link::{LINK_VERSIONS, ToInstance, Welcome};
use crate::participant::{Control, Participant, Place, join};
use crate::publish::Publisher;
use crate::receive::Drain;
use crate::seqpacket::{self, MAX_RECORD, Wait};

const LIMIT: Duration = Duration::from_secs(10);
/// How long until the hello is said again: the supervisor that heard it may have died over it, and its successor says
/// nothing to whom it does not know. A hello said twice is answered as one.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// A worker's place and its link; leaves the herd when it is dropped.
pub(crate) struct Connection {
    pub(crate) link: Arc<Link>,
    pub(crate) control: Control,
    pub(crate) me: Me,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Only a panic of the thread could be heard here, and it has been printed.
            let _ = thread.join();
        }
    }
}

/// Takes the place that the supervisor gives over `socket`, and waits until everybody knows.
pub(crate) fn establish(socket: OwnedFd) -> Result<(Connection, Publisher, Drain), ConnectError> {
    let until = Instant::now() + LIMIT;
    let link = Arc::new(Link::new(socket).map_err(ConnectError::Link)?);
    let (welcome, descriptors) = greet(&link, until)?;
    if !(LAYOUT_VERSIONS.0..=LAYOUT_VERSIONS.1).contains(&welcome.layout) {
        return Err(ConnectError::Version { layout: welcome.layout });
    }
    let Participant { publisher, drain, control } = take_place(&welcome, descriptors)?;
    link.mapped();
    let thread = link::spawn(link.clone(), control.clone()).map_err(ConnectError::Link)?;
    let me = Me::new(welcome);
    let connection = Connection { link, control, me, thread: Mutex::new(Some(thread)) };
    if connection.link.wait_joined(until) {
        return Ok((connection, publisher, drain));
    }
    match connection.link.is_closed() {
        true => Err(ConnectError::Link(io::ErrorKind::UnexpectedEof.into())),
        false => Err(ConnectError::NoAnswer(LIMIT)),
    }
}

fn greet(link: &Link, until: Instant) -> Result<(Welcome, Vec<OwnedFd>), ConnectError> {
    let hello = Hello { link: LINK_VERSIONS, layout: LAYOUT_VERSIONS }.to_bytes();
    let say = || seqpacket::send(link.socket().as_fd(), &hello, &[], Wait::Never).map_err(ConnectError::Link);
    say()?;
    let mut buffer = vec![0; MAX_RECORD];
    loop {
        if !wait_readable(link, until)? {
            say()?;
            continue;
        }
        let received = match seqpacket::receive(link.socket().as_fd(), &mut buffer, Wait::Never) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other.map_err(ConnectError::Link)?,
        };
        if received.length == 0 {
            return Err(ConnectError::Link(io::ErrorKind::UnexpectedEof.into()));
        }
        let message = ToInstance::from_frame(&buffer[..received.length])
            .map_err(|error| ConnectError::Link(io::Error::other(error)))?;
        match message {
            Some((_, ToInstance::Welcome(welcome))) => return Ok((welcome, received.descriptors)),
            Some((_, ToInstance::Refused { reason })) => return Err(ConnectError::Refused { reason }),
            Some((_, ToInstance::Shutdown)) => link.note_shutdown(),
            _ => {}
        }
    }
}

/// Waits for the answer; false when it is time to ask again.
fn wait_readable(link: &Link, until: Instant) -> Result<bool, ConnectError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ConnectError::NoAnswer(LIMIT));
    }
    let mut watched = [PollFd::new(link.socket().as_fd(), PollFlags::POLLIN)];
    let millis = PollTimeout::try_from(left.min(SAY_AGAIN).as_millis() + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, millis) {
        Ok(0) => Ok(false),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(error) => Err(ConnectError::Link(error.into())),
    }
}

fn take_place(welcome: &Welcome, descriptors: Vec<OwnedFd>) -> Result<Participant, ConnectError> {
    let mut descriptors = descriptors.into_iter();
    let missing = || ConnectError::Link(io::Error::other("a descriptor of the welcome is missing"));
    let outbox = descriptors.next().ok_or_else(missing)?;
    let bell = descriptors.next().ok_or_else(missing)?;
    let directory = descriptors.next().ok_or_else(missing)?;
    let predecessor = if welcome.successor { Some(descriptors.next().ok_or_else(missing)?) } else { None };
    let place = Place {
        herd: welcome.herd,
        slot: welcome.slot,
        incarnation: welcome.incarnation,
        ring_bytes: welcome.ring_bytes,
        base: welcome.base,
        stall_timeout: Duration::from_millis(welcome.stall_timeout_ms),
        max_message: welcome.max_message,
    };
    Ok(join(&place, outbox, bell, directory, predecessor)?)
}
