//! The one socket that all instances notify: `NOTIFY_SOCKET`.
//!
//! Owns its name, and reading it with the sender's identity, which the kernel vouches for. A datagram is looked at before it is
//! taken out ([`NotifySocket::peek`], [`NotifySocket::consume`]): what a dying supervisor had read and not acted on is still
//! there for its successor.
//!
//! Invariants
//! - Descriptors that somebody sends along are closed at once, however many; those that find no room never open here.
//! - The name is abstract: it works for apps of any user, needs no folder, and is gone with the last descriptor of it.

// The control messages carry descriptors as numbers, and nix gives up a message whose descriptors found no room.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, setsockopt, sockopt};

use crate::relay::NodeId;

/// More than systemd takes (4,096): a longer datagram is left out whole.
const MOST_BYTES: usize = 4096;
/// Not yet known to libc: descriptors of senders, on kernels from 6.5.
const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 4;
/// For `SO_PEEK_OFF`: every look begins at the oldest datagram.
const FROM_THE_FIRST: libc::c_int = -1;

/// What one look at the socket brought.
#[derive(Debug)]
pub struct Datagram {
    /// `None` when it is too long.
    pub bytes: Option<Vec<u8>>,
    /// Who sent it, by our count of processes; `None` for one that has no number there (another PID namespace).
    pub pid: Option<u32>,
    /// The inode of the sender's pidfd, where the kernel gives it.
    pub inode: Option<u64>,
    /// Whom the sender runs as.
    pub user: Option<u32>,
}

/// The socket.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    name: String,
}

impl NotifySocket {
    /// Binds a name of its own, that nobody could have taken before.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn bind(node: NodeId) -> io::Result<NotifySocket> {
        let random = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("herdwire-{node}-{random:08x}");
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
        NotifySocket::open(socket)
    }

    /// Goes on with a socket that a predecessor bound.
    ///
    /// # Errors
    /// It is not such a socket.
    pub fn open(socket: OwnedFd) -> io::Result<NotifySocket> {
        setsockopt(&socket, sockopt::PassCred, &true)?;
        if let Err(error) = set_option(socket.as_fd(), SO_PASSPIDFD, 1) {
            tracing::debug!("this kernel tells senders by number alone: {error}");
        }
        // A predecessor may have died in the middle of a look.
        set_option(socket.as_fd(), libc::SO_PEEK_OFF, FROM_THE_FIRST)?;
        let address: UnixAddr = nix::sys::socket::getsockname(socket.as_raw_fd())?;
        let name = address.as_abstract().map(|name| String::from_utf8_lossy(name).into_owned());
        let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no abstract name"))?;
        Ok(NotifySocket { socket, name })
    }

    /// What `NOTIFY_SOCKET` says.
    pub fn variable(&self) -> String {
        format!("@{}", self.name)
    }

    /// The oldest datagram, which stays where it is. Does not wait.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn peek(socket: BorrowedFd<'_>) -> io::Result<Datagram> {
        let mut bytes = vec![0u8; MOST_BYTES];
        // Room for the sender, twice over, and a few descriptors; what is sent beyond that never opens here.
        let mut control = [0u64; 16];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: a message header is numbers and pointers, for which zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header points to one buffer and one control area, both ours, with their lengths, and both outlive
        // the call.
        let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) })?;
        let sender = Sender::read(&header);
        bytes.truncate(length.unsigned_abs());
        Ok(Datagram {
            bytes: (header.msg_flags & libc::MSG_TRUNC == 0).then_some(bytes),
            pid: sender.pid,
            inode: sender.inode,
            user: sender.user,
        })
    }

    /// All that wait, the oldest first, as far as `most` of them; they stay where they are. One
    /// without content may be left out. Does not wait.
    ///
    /// # Errors
    /// The kernel cannot look past the first.
    pub fn look_through(socket: BorrowedFd<'_>, most: usize) -> io::Result<Vec<Datagram>> {
        // From here on each look begins where the one before ended.
        set_option(socket, libc::SO_PEEK_OFF, 0)?;
        let found = std::iter::from_fn(|| NotifySocket::peek(socket).ok()).take(most).collect();
        set_option(socket, libc::SO_PEEK_OFF, FROM_THE_FIRST)?;
        Ok(found)
    }

    /// Takes the oldest datagram out, with all that came along. Nothing happens when there is none.
    pub fn consume(socket: BorrowedFd<'_>) {
        // Only "there is none" is left as an error, after a successful peek.
        let _ = nix::sys::socket::recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
    }

    /// The descriptor, for a runtime to watch.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is one int that outlives the call, and its length is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    Errno::result(set)?;
    Ok(())
}

/// Who sent a datagram.
#[derive(Debug, Default)]
struct Sender {
    pid: Option<u32>,
    inode: Option<u64>,
    user: Option<u32>,
}

impl Sender {
    /// Reads the control messages, and closes every descriptor among them.
    fn read(header: &libc::msghdr) -> Sender {
        let mut sender = Sender::default();
        // SAFETY: the header was filled by a recvmsg that succeeded, and its control area lives.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: the macros return null or a whole control message within the area that the kernel has filled.
            let (message, data) = unsafe { (&*next, libc::CMSG_DATA(next)) };
            #[allow(clippy::unnecessary_cast)] // Some C libraries have it narrower.
            let length = (message.cmsg_len as usize).saturating_sub(data as usize - next as usize);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    // SAFETY: the message says that a whole ucred stands there; it may be unaligned.
                    let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                    sender.pid = u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0);
                    sender.user = Some(credentials.uid);
                }
                (libc::SOL_SOCKET, SCM_PIDFD) => {
                    for pidfd in descriptors(data, length) {
                        sender.inode = nix::sys::stat::fstat(&pidfd).ok().map(|stat| stat.st_ino);
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => drop(descriptors(data, length)),
                _ => {}
            }
            // SAFETY: as above; `next` is a message of this header.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        sender
    }
}

/// The descriptors of one control message, owned.
fn descriptors(data: *const u8, length: usize) -> Vec<OwnedFd> {
    let numbers = (0..length / size_of::<RawFd>()).map(|place| {
        // SAFETY: the message is so long; its numbers may be unaligned.
        unsafe { data.cast::<RawFd>().add(place).read_unaligned() }
    });
    // SAFETY: the kernel has just opened these for us; nobody else knows them. A negative one says that it could not.
    numbers.filter(|number| *number >= 0).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn pair() -> (NotifySocket, UnixDatagram) {
        let socket = NotifySocket::bind(NodeId(7)).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let name = socket.variable();
        sender.connect_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap();
        (socket, sender)
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn a_datagram_says_who_sent_it_and_stays_until_it_is_consumed() {
        let (socket, sender) = pair();
        sender.send(b"READY=1").unwrap();
        for _ in 0..2 {
            let seen = NotifySocket::peek(socket.as_fd()).unwrap();
            assert_eq!(seen.bytes.as_deref(), Some(&b"READY=1"[..]));
            assert_eq!(seen.pid, Some(std::process::id()));
            assert_eq!(seen.user, Some(nix::unistd::getuid().as_raw()));
            let own = crate::process::Pidfd::open(std::process::id()).unwrap();
            assert!(seen.inode.is_none_or(|inode| inode == own.inode().unwrap()));
        }
        NotifySocket::consume(socket.as_fd());
        let error = NotifySocket::peek(socket.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_successor_reads_on_under_the_same_name() {
        let (socket, sender) = pair();
        sender.send(b"one").unwrap();
        let name = socket.variable();
        let successor = NotifySocket::open(socket.into_fd()).unwrap();
        assert_eq!(successor.variable(), name);
        assert_eq!(NotifySocket::peek(successor.as_fd()).unwrap().bytes.as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn a_look_through_the_socket_sees_all_and_takes_none() {
        let (socket, sender) = pair();
        let texts = [&b"one"[..], b"two", b"three"];
        for text in texts {
            sender.send(text).unwrap();
        }
        for most in [10, 2, 10] {
            let seen = NotifySocket::look_through(socket.as_fd(), most).unwrap();
            let seen: Vec<_> = seen.iter().map(|datagram| datagram.bytes.as_deref().unwrap()).collect();
            assert_eq!(seen, texts[..most.min(3)]);
        }
        for text in texts {
            assert_eq!(NotifySocket::peek(socket.as_fd()).unwrap().bytes.as_deref(), Some(text));
            NotifySocket::consume(socket.as_fd());
        }
    }

    #[test]
    fn what_is_too_long_is_left_out_and_still_has_a_sender() {
        let (socket, sender) = pair();
        sender.send(&[b'x'; MOST_BYTES + 1]).unwrap();
        let seen = NotifySocket::peek(socket.as_fd()).unwrap();
        assert!(seen.bytes.is_none());
        assert_eq!(seen.pid, Some(std::process::id()));
    }

    // Alone in its process under nextest, so nobody else opens descriptors meanwhile.
    #[test]
    fn descriptors_that_come_along_are_closed_however_many() {
        let (socket, sender) = pair();
        let file = File::open("/dev/null").unwrap();
        let before = open_descriptors();
        for count in [1, 3, 253] {
            let numbers = vec![file.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&numbers)];
            let bytes = [IoSlice::new(b"FDSTORE=1")];
            sendmsg::<()>(sender.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
            let seen = NotifySocket::peek(socket.as_fd()).unwrap();
            assert_eq!((seen.bytes.as_deref(), seen.pid), (Some(&b"FDSTORE=1"[..]), Some(std::process::id())));
            NotifySocket::consume(socket.as_fd());
            assert_eq!(open_descriptors(), before, "after {count}");
        }
    }
}
