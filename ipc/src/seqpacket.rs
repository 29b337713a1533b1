//! Records with descriptors over a SOCK_SEQPACKET socket pair.
//!
//! One record is one message, so no half-read frame exists. Descriptors arrive close-on-exec. A record or a list of
//! descriptors that was cut short is an error, never a shorter one: descriptors would be lost silently.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// The most descriptors that one record may carry (the kernel refuses 254).
pub const MAX_DESCRIPTORS: usize = 200;

/// The most bytes that one record may carry.
pub const MAX_RECORD: usize = 64 * 1024;

/// A connected pair, both ends close-on-exec and blocking.
///
/// # Errors
/// Those of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Whether a call may wait for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait until the record can be sent or received.
    Block,
    /// `WouldBlock` instead of waiting.
    Never,
}

impl Wait {
    fn flags(self) -> MsgFlags {
        match self {
            Wait::Block => MsgFlags::empty(),
            Wait::Never => MsgFlags::MSG_DONTWAIT,
        }
    }
}

/// Sends one record with its descriptors.
///
/// # Errors
/// `WouldBlock` when `wait` says so and the socket is full, `BrokenPipe` when the other side is gone, `InvalidInput`
/// beyond [`MAX_DESCRIPTORS`].
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>], wait: Wait) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS || bytes.len() > MAX_RECORD {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = wait.flags() | MsgFlags::MSG_NOSIGNAL;
    retry(|| sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)).map(|_| ())
}

/// What one call of [`receive`] brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the record; 0 means that the other side is gone.
    pub length: usize,
    /// Its descriptors, in the sender's order.
    pub descriptors: Vec<OwnedFd>,
}

/// Receives one record into `buffer`.
///
/// # Errors
/// `WouldBlock` when `wait` says so and nothing is there; `InvalidData` when the record did not fit into `buffer` or
/// descriptors were dropped on the way.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> io::Result<Received> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let flags = wait.flags() | MsgFlags::MSG_CMSG_CLOEXEC;
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            // Told once, before what is still to be read, when the other side went away without having heard everything
            // itself. What it said counts all the same.
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNRESET) => continue,
            other => other?,
        };
        let mut descriptors = Vec::new();
        let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        if let Ok(messages) = message.cmsgs() {
            for control in messages {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    descriptors.extend(raw.into_iter().map(own));
                }
            }
        }
        if cut {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record or its descriptors were cut short"));
        }
        return Ok(Received { length: message.bytes, descriptors });
    }
}

#[allow(unsafe_code)] // One of the few places that may: the kernel hands descriptors over as numbers.
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel installed this descriptor for us with the record just received; nobody else knows it yet.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The peer's descriptors as borrowed ones, for [`send`].
pub fn borrow(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_arrives_whole_with_its_descriptors() {
        let (left, right) = pair().unwrap();
        let carried: Vec<OwnedFd> = (0..3).map(|_| left.try_clone().unwrap()).collect();
        send(left.as_fd(), b"three", &borrow(&carried), Wait::Block).unwrap();
        let mut buffer = [0; 64];
        let received = receive(right.as_fd(), &mut buffer, Wait::Never).unwrap();
        assert_eq!((&buffer[..received.length], received.descriptors.len()), (&b"three"[..], 3));
    }

    #[test]
    fn a_record_that_does_not_fit_is_an_error() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), &[7; 100], &[], Wait::Block).unwrap();
        let error = receive(right.as_fd(), &mut [0; 10], Wait::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_a_peer_said_before_it_went_away_is_heard_also_when_it_did_not_hear_us() {
        let (left, right) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(right.as_fd(), b"unheard", &[], Wait::Block).unwrap();
        send(left.as_fd(), b"last words", &[null.as_fd()], Wait::Block).unwrap();
        drop(left);
        let mut buffer = [0; 16];
        let received = receive(right.as_fd(), &mut buffer, Wait::Never).unwrap();
        assert_eq!((&buffer[..received.length], received.descriptors.len()), (&b"last words"[..], 1));
        assert_eq!(receive(right.as_fd(), &mut buffer, Wait::Never).unwrap().length, 0);
    }

    #[test]
    fn nothing_there_would_block_and_a_gone_peer_is_length_zero() {
        let (left, right) = pair().unwrap();
        let error = receive(right.as_fd(), &mut [0; 10], Wait::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(receive(right.as_fd(), &mut [0; 10], Wait::Never).unwrap().length, 0);
    }
}
