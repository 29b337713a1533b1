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
use super::protocol::{self, PROTOCOL_VERSION, RECORD_BYTES, ToKeeper};
pub use super::protocol::{Exit, ExitStatus, Reason, UpgradeFailure, UpgradeStage};

/// Where a supervisor finds its end of the pair.
pub const INHERITED: RawFd = 3;

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
    /// Freeze, commit everything, then [`KeeperSender::quiesced`]: a standby is about to take over.
    Quiesce,
    /// The standby serves. Answer whoever asked for it, and exit.
    Upgraded,
    /// The upgrade came to nothing. One that is frozen answers whoever asked, and exits: it is started again.
    UpgradeFailed(UpgradeFailure),
    /// The keeper is gone. Nothing more will come.
    Gone,
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
}

/// The supervisor's end of the pair.
#[derive(Debug)]
pub struct KeeperLink {
    sender: KeeperSender,
    buffer: Box<[u8; RECORD_BYTES]>,
    /// What the keeper said first.
    hello: Option<protocol::Hello>,
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
        let inherited = unsafe { BorrowedFd::borrow_raw(INHERITED) };
        let is_ours = getsockopt(&inherited, sockopt::SockType).is_ok_and(|kind| kind == SockType::SeqPacket);
        if !is_ours || TAKEN.swap(true, Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "descriptor 3 is not a keeper's socket"));
        }
        // SAFETY: the keeper put its socket there for us, and the swap above makes this the only owner.
        KeeperLink::from_socket(unsafe { OwnedFd::from_raw_fd(INHERITED) })
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
        Ok(KeeperLink { sender, buffer: Box::new([0; RECORD_BYTES]), hello: None })
    }

    /// Receives what the keeper hands over to a new supervisor. Blocks, for `limit` at most.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof` when the keeper went away; `Unsupported` when it speaks another protocol;
    /// `InvalidData` when descriptors were lost on the way (this process may open too few of them).
    pub fn inheritance(&mut self, limit: Duration) -> io::Result<Inheritance> {
        self.collect(limit, None)
    }

    /// For a standby that has said [`KeeperSender::valid`] and dropped all descriptors of its first [`Inheritance`]:
    /// waits for its turn, for `limit` at most, and receives everything anew, as it is now that the incumbent has
    /// frozen. From then on this process serves, and has two seconds to say that it is ready.
    ///
    /// # Errors
    /// As of [`KeeperLink::inheritance`]; `UnexpectedEof` also when the upgrade came to nothing.
    ///
    /// # Panics
    /// Without an [`KeeperLink::inheritance`] before.
    pub fn take(&mut self, limit: Duration) -> io::Result<Inheritance> {
        let hello = self.hello.expect("a standby has received its inheritance before it takes over");
        self.collect(limit, Some(hello))
    }

    /// Receives everything from `HELLO`, or from `TAKE` when the keeper has said hello before, up to `END`.
    fn collect(&mut self, limit: Duration, known: Option<protocol::Hello>) -> io::Result<Inheritance> {
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
            let message = protocol::FromKeeper::parse(&self.buffer[..received.length]);
            match (message, &mut inheritance, known) {
                (Some(protocol::FromKeeper::Hello(hello)), _, None) => {
                    inheritance = Some(begin(hello)?);
                    self.hello = Some(hello);
                }
                (Some(protocol::FromKeeper::Take), _, Some(hello)) => inheritance = Some(begin(hello)?),
                (Some(protocol::FromKeeper::Descriptors(names)), Some(all), _) => {
                    let known = |(raw, descriptor)| Some((Name::from_bytes(raw)?, descriptor));
                    all.descriptors.extend(names.iter().zip(received.descriptors).filter_map(known));
                }
                (Some(protocol::FromKeeper::Exit(exit)), Some(all), _) => all.exits.push(exit),
                (Some(protocol::FromKeeper::End), Some(_), _) => break,
                // `STOP` and `REFUSED` come after `END`, what comes before `TAKE` will come again, and anything else is of
                // a later keeper.
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
            match protocol::FromKeeper::parse(&self.buffer[..received.length]) {
                Some(protocol::FromKeeper::Exit(exit)) => return Ok(Some(FromKeeper::Exit(exit))),
                Some(protocol::FromKeeper::Stop) => return Ok(Some(FromKeeper::Stop)),
                Some(protocol::FromKeeper::Quiesce) => return Ok(Some(FromKeeper::Quiesce)),
                Some(protocol::FromKeeper::Upgraded) => return Ok(Some(FromKeeper::Upgraded)),
                Some(protocol::FromKeeper::UpgradeFailed(failure)) => {
                    return Ok(Some(FromKeeper::UpgradeFailed(failure)));
                }
                Some(protocol::FromKeeper::Refused(raw)) => {
                    if let Some(name) = Name::from_bytes(&raw) {
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
        self.send(ToKeeper::Store(name.to_bytes()), &[descriptor])
    }

    /// Has the keeper close what it holds under this name; nothing happens if it holds nothing.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn forget(&self, name: Name) -> io::Result<()> {
        self.send(ToKeeper::Drop(name.to_bytes()), &[])
    }

    /// Every exit up to and including `sequence` is committed.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn acknowledge(&self, sequence: u64) -> io::Result<()> {
        self.send(ToKeeper::Acknowledge(sequence), &[])
    }

    /// To be said once a second: a supervisor that says nothing for five is killed and replaced.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn alive(&self) -> io::Result<()> {
        self.send(ToKeeper::Alive, &[])
    }

    /// Everything is adopted and requests are answered. A death after this is followed by a successor at once.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn ready(&self) -> io::Result<()> {
        self.send(ToKeeper::Ready, &[])
    }

    /// Everything has ended; this process is about to, and the keeper is to exit with `code`.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn goodbye(&self, code: i32) -> io::Result<()> {
        self.send(ToKeeper::Goodbye(code), &[])
    }

    /// Has the keeper try `program` (open for execution) as our successor; what it says on stderr goes to `stderr`. The
    /// outcome comes as [`FromKeeper::Quiesce`] and [`FromKeeper::Upgraded`], or [`FromKeeper::UpgradeFailed`].
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn upgrade(&self, program: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
        self.send(ToKeeper::Upgrade, &[program, stderr])
    }

    /// Everything is committed and nothing will be touched.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn quiesced(&self) -> io::Result<()> {
        self.send(ToKeeper::Quiesced, &[])
    }

    /// This standby could take over.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn valid(&self) -> io::Result<()> {
        self.send(ToKeeper::Valid, &[])
    }

    /// Has the keeper replace itself by `program`, in place.
    ///
    /// # Errors
    /// As of [`KeeperSender::store`].
    pub fn renew(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.send(ToKeeper::Renew, &[program])
    }

    fn send(&self, message: ToKeeper, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = seqpacket::send(self.socket.as_fd(), message.to_record().as_bytes(), descriptors, Wait::Block);
        sent.map_err(|error| match error.kind() {
            // The socket blocks, with a limit of its own; that is how the kernel says that it has passed.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

fn begin(hello: protocol::Hello) -> io::Result<Inheritance> {
    if hello.protocol != PROTOCOL_VERSION {
        let text = format!("the keeper speaks protocol {}, this supervisor {PROTOCOL_VERSION}", hello.protocol);
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(Inheritance {
        epoch: hello.epoch,
        keeper_pid: hello.keeper_pid,
        reason: hello.reason,
        foreground: hello.foreground,
        store_limit: hello.store_limit,
        descriptor_limit: hello.descriptor_limit,
        descriptors: BTreeMap::new(),
        exits: Vec::new(),
    })
}
