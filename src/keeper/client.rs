//! The supervisor's side of the socket pair with its keeper.
//!
//! Owns descriptor 3 of a supervisor. Knows what the messages mean, not what is done about them: adoption and
//! lifecycle belong to `supervisor`.
//!
//! Invariants
//! - A send waits for [`SEND_LIMIT`] at most. The keeper never waits for us, so a longer wait means that it is stopped.
//! - A descriptor is handed out under the name with which it was stored, or closed.

#![allow(unsafe_code)] // Descriptor 3 is inherited by number, which only an unsafe constructor turns into an owner.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herdwire_ipc::seqpacket::{self, Wait};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::name::Name;
pub use super::protocol::Reason;
use super::protocol::{MAX_RECORD_BYTES, Message, PROTOCOL_VERSION, Words, exit, hello, verb};
use crate::process::program::LINE;

/// The longest wait for the keeper to take one record.
pub const SEND_LIMIT: Duration = Duration::from_secs(5);

/// What a keeper tells a running supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromKeeper {
    /// A child of the keeper ended. Told again until it is acknowledged: compare its sequence with the committed one.
    Exit(Exit),
    /// End all instances, then [`KeeperSender::goodbye`]. May be told more than once.
    Stop,
    /// The store is full; the descriptor of this name is not in it.
    StoreRefused(Name),
    /// The successor that was named serves. Answer whoever asked for it, and exit.
    Relieved,
    /// The keeper is gone. Nothing more will come.
    Gone,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// The end of one child of the keeper: an instance, or what an instance left behind, or a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Counts the exits of this keeper, from 1, without gaps. The same exit has the same number however often it is told.
    pub sequence: u64,
    pub pid: u32,
    /// Inode of the process's pidfd, which no other process of this boot has; 0 where the kernel has none (before 6.9).
    pub pidfd_inode: u64,
    pub status: ExitStatus,
}

/// What a supervisor is given when it starts.
#[derive(Debug)]
pub struct Inheritance {
    /// Counts the supervisors of this keeper, from 1.
    pub epoch: u64,
    pub keeper_pid: u32,
    pub reason: Reason,
    /// The keeper kept its terminal: output belongs there, and it exits when the apps have.
    pub foreground: bool,
    /// The most descriptors that the store takes.
    pub store_limit: u32,
    /// The soft limit of open descriptors as the user had it: what instances are to get.
    pub descriptor_limit: u64,
    /// All that the store holds, in the order of names. Copies: the store keeps its own until [`KeeperSender::forget`].
    pub descriptors: BTreeMap<Name, OwnedFd>,
    /// Exits that were not acknowledged, oldest first. Handle them after everything else is adopted.
    pub exits: Vec<Exit>,
    /// All of the above that is a number, as the keeper said it: for a standby, and for whoever keeps next.
    pub hello: Words,
}

/// The supervisor's end of the pair.
#[derive(Debug)]
pub struct KeeperLink {
    sender: KeeperSender,
    buffer: Box<[u8; MAX_RECORD_BYTES]>,
}

/// Speaks to the keeper; cheap to clone, for threads that store descriptors themselves.
#[derive(Debug, Clone)]
pub struct KeeperSender {
    socket: Arc<OwnedFd>,
}

impl KeeperLink {
    /// Takes over descriptor 3. Works once in a process.
    ///
    /// # Errors
    /// Descriptor 3 is not a keeper's socket (this process was not started by a keeper), or was taken before.
    pub fn adopt_inherited() -> io::Result<KeeperLink> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        // SAFETY: only looked at, while nobody in this process can close it: its owner is made below, once.
        let inherited = unsafe { BorrowedFd::borrow_raw(LINE) };
        let is_ours = getsockopt(&inherited, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket);
        if !is_ours || TAKEN.swap(true, Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "descriptor 3 is not a keeper's socket"));
        }
        // SAFETY: the keeper put its socket there for us, and the swap above makes this the only owner.
        KeeperLink::from_socket(unsafe { OwnedFd::from_raw_fd(LINE) })
    }

    /// Speaks over `socket`, one end of a [`seqpacket::pair`].
    ///
    /// # Errors
    /// Those of setting up the socket.
    pub fn from_socket(socket: OwnedFd) -> io::Result<KeeperLink> {
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let limit = TimeVal::milliseconds(SEND_LIMIT.as_millis() as i64);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        let sender = KeeperSender { socket: Arc::new(socket) };
        Ok(KeeperLink { sender, buffer: Box::new([0; MAX_RECORD_BYTES]) })
    }

    /// Receives what is handed over to a new supervisor. Blocks, for `limit` at most.
    ///
    /// A standby ([`Reason::Upgrade`]) does this twice. The first time it is the incumbent that speaks: the standby says
    /// [`KeeperSender::ready`] if it could take over, drops all descriptors, and waits for its turn. Then the keeper
    /// speaks, everything comes anew, as it is now that the incumbent has frozen, and this process serves: it has two
    /// seconds to say again that it is ready.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof` when the other side went away; `Unsupported` when it speaks another protocol;
    /// `InvalidData` when descriptors were lost on the way (this process may open too few of them).
    pub fn inheritance(&mut self, limit: Duration) -> io::Result<Inheritance> {
        let deadline = Instant::now() + limit;
        let mut inheritance: Option<Inheritance> = None;
        loop {
            self.wait_readable(deadline)?;
            let received = match self.receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                other => other?,
            };
            if received.length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((message, names)) = Message::parse(&self.buffer[..received.length]) else { continue };
            match (message.words, &mut inheritance) {
                ([verb::HELLO, ..], _) => inheritance = Some(begin(message.words)?),
                ([verb::DESCRIPTORS, ..], Some(all)) => {
                    let known = |(raw, descriptor)| Some((Name::from_bytes(raw)?, descriptor));
                    all.descriptors.extend(names.iter().zip(received.descriptors).filter_map(known));
                }
                ([verb::EXIT, ..], Some(all)) => all.exits.push(exit_of(message.words)),
                ([verb::END, ..], Some(_)) => break,
                // `STOP` and `REFUSED` come after `END`, and anything else is of a later keeper.
                _ => {}
            }
        }
        inheritance.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The next news, `None` when there is none now. Never blocks.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`, other than that the keeper is gone.
    pub fn try_receive(&mut self) -> io::Result<Option<FromKeeper>> {
        loop {
            let received = match self.receive() {
                Ok(received) if received.length == 0 => return Ok(Some(FromKeeper::Gone)),
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::ConnectionReset => return Ok(Some(FromKeeper::Gone)),
                    // What was cut short is of a later keeper: nothing that is meant for us is that large.
                    io::ErrorKind::InvalidData => continue,
                    _ => return Err(error),
                },
            };
            let Some((message, _)) = Message::parse(&self.buffer[..received.length]) else { continue };
            match message.words[0] {
                verb::EXIT => return Ok(Some(FromKeeper::Exit(exit_of(message.words)))),
                verb::STOP => return Ok(Some(FromKeeper::Stop)),
                verb::RELIEVED => return Ok(Some(FromKeeper::Relieved)),
                verb::REFUSED => {
                    if let Some(name) = Name::from_bytes(&message.name) {
                        return Ok(Some(FromKeeper::StoreRefused(name)));
                    }
                }
                _ => {}
            }
        }
    }

    /// A handle that speaks over the same socket.
    pub fn sender(&self) -> KeeperSender {
        self.sender.clone()
    }

    /// See [`KeeperSender::store`].
    ///
    /// # Errors
    /// The same.
    pub fn store(&self, name: Name, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.sender.store(name, descriptor)
    }

    /// See [`KeeperSender::forget`].
    ///
    /// # Errors
    /// The same.
    pub fn forget(&self, name: Name) -> io::Result<()> {
        self.sender.forget(name)
    }

    /// See [`KeeperSender::acknowledge`].
    ///
    /// # Errors
    /// The same.
    pub fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        self.sender.acknowledge(sequence)
    }

    /// See [`KeeperSender::alive`].
    ///
    /// # Errors
    /// The same.
    pub fn alive(&self) -> io::Result<()> {
        self.sender.alive()
    }

    /// See [`KeeperSender::ready`].
    ///
    /// # Errors
    /// The same.
    pub fn ready(&self) -> io::Result<()> {
        self.sender.ready()
    }

    /// See [`KeeperSender::goodbye`].
    ///
    /// # Errors
    /// The same.
    pub fn goodbye(&self, code: i32) -> io::Result<()> {
        self.sender.goodbye(code)
    }

    fn receive(&mut self) -> io::Result<seqpacket::Received> {
        seqpacket::receive(self.sender.socket.as_fd(), &mut self.buffer[..], Wait::Never)
    }

    fn wait_readable(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut interest = [PollFd::new(self.sender.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut interest, timeout) {
                Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for KeeperLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sender.socket.as_fd()
    }
}

impl AsRawFd for KeeperLink {
    fn as_raw_fd(&self) -> RawFd {
        self.sender.socket.as_raw_fd()
    }
}

impl KeeperSender {
    /// Gives the keeper a copy of a descriptor to hold. It counts from the moment this returns, whatever happens to
    /// this process; only a full store refuses it, by [`FromKeeper::StoreRefused`].
    ///
    /// # Errors
    /// `TimedOut` when the keeper takes nothing for [`SEND_LIMIT`], `BrokenPipe` when it is gone.
    pub fn store(&self, name: Name, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.send(Message { name: name.to_bytes(), ..Message::new([verb::STORE]) }, &[descriptor])
    }

    /// Has the keeper close what it holds under this name; nothing happens if it holds nothing.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn forget(&self, name: Name) -> io::Result<()> {
        self.send(Message { name: name.to_bytes(), ..Message::new([verb::DROP]) }, &[])
    }

    /// Every exit up to and including `sequence` is committed.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        self.send(Message::new([verb::ACKNOWLEDGE, sequence]), &[])
    }

    /// To be said once a second: a supervisor that says nothing for five is killed and replaced.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn alive(&self) -> io::Result<()> {
        self.send(Message::new([verb::ALIVE]), &[])
    }

    /// Everything is adopted and requests are answered. A death after this is followed by a successor at once.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn ready(&self) -> io::Result<()> {
        self.send(Message::new([verb::READY]), &[])
    }

    /// Everything has ended; this process is about to, and the keeper is to exit with `code`.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn goodbye(&self, code: i32) -> io::Result<()> {
        self.send(Message::new([verb::GOODBYE, code as u64]), &[])
    }

    /// Everything is committed and nothing will be touched: the process of this pid, a child of the keeper that waits for the
    /// keeper to speak over `line`, is to serve in our place. The outcome comes as [`FromKeeper::Relieved`], or as its exit.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn succeed(&self, pid: u32, line: BorrowedFd<'_>) -> io::Result<()> {
        self.send(Message::new([verb::SUCCEED, pid.into()]), &[line])
    }

    /// Has the keeper replace itself by `program`, in place.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn renew(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.send(Message::new([verb::RENEW]), &[program])
    }

    fn send(&self, message: Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = seqpacket::send(self.socket.as_fd(), &message.to_record(&[]), descriptors, Wait::Block);
        sent.map_err(|error| match error.kind() {
            // The socket blocks, with a limit of its own; that is how the kernel says that it has passed.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

fn begin(hello: Words) -> io::Result<Inheritance> {
    if hello[hello::PROTOCOL] != PROTOCOL_VERSION {
        let text = format!("the keeper speaks protocol {}, this supervisor {PROTOCOL_VERSION}", hello[hello::PROTOCOL]);
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(Inheritance {
        epoch: hello[hello::EPOCH],
        keeper_pid: hello[hello::KEEPER_PID] as u32,
        reason: reason_of(hello[hello::REASON]),
        foreground: hello[hello::FOREGROUND] != 0,
        store_limit: hello[hello::STORE_LIMIT] as u32,
        descriptor_limit: hello[hello::DESCRIPTOR_LIMIT],
        descriptors: BTreeMap::new(),
        exits: Vec::new(),
        hello,
    })
}

fn reason_of(number: u64) -> Reason {
    let known = [Reason::First, Reason::Hang, Reason::Upgrade].into_iter().find(|reason| *reason as u64 == number);
    // A reason of a later keeper is still some kind of crash to us: there is something to adopt.
    known.unwrap_or(Reason::Crash)
}

fn exit_of(words: Words) -> Exit {
    let status = words[exit::STATUS] as i32;
    Exit {
        sequence: words[exit::SEQUENCE],
        pid: words[exit::PID] as u32,
        pidfd_inode: words[exit::PIDFD_INODE],
        status: match status & 0x7f {
            0 => ExitStatus::Code(status >> 8 & 0xff),
            signal => ExitStatus::Signal(signal),
        },
    }
}
