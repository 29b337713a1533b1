//! What keeper and supervisor say to each other: one record of the socket pair is one message.
//!
//! A record is a header of 8 bytes `{type: u16, flags: u16, length: u32}`, little-endian, and a body of `length` bytes, its
//! fields in the order in which they stand below. Written by hand and frozen: keeper and supervisor may come from different releases. A later release
//! adds types, or fields at the end of a body; what is not known here is skipped. Neither side waits for the other
//! inside a message, and no message carries text of a user.
//!
//! | from the supervisor | from the keeper |
//! |---|---|
//! | `STORE name` (+1 descriptor), `DROP name`, `ACK sequence`, `ALIVE`, `READY`, `GOODBYE code` | `HELLO`, `FDS names` (+ descriptors), `EXIT`, `END`, `STOP`, `REFUSED name` |
//! | `UPGRADE` (+ program, + stderr), `QUIESCED`, `VALID`, `RENEW` (+ program) | `QUIESCE`, `TAKE`, `UPGRADED`, `UPGRADE-FAILED stage how value` |
//!
//! # Upgrade
//!
//! ```text
//! incumbent              keeper                        standby
//! UPGRADE ------------->  starts it ------------------> (reason "upgrade") HELLO, FDS, EXIT, END
//!                                   <------------------ VALID, or exit code 78 with a reason on stderr
//!   <------------ QUIESCE
//! (freezes, commits)
//! QUIESCED ------------->  TAKE, FDS, EXIT, END ------> (drops its first copies, adopts these)
//!                                   <------------------ READY, within 2 s of TAKE
//!   <------------ UPGRADED
//! (answers, exits; killed after 1 s)
//! ```
//!
//! Whatever goes wrong before READY ends the standby and tells the incumbent `UPGRADE-FAILED`. One that was not frozen yet
//! goes on; one that was answers whoever asked and exits, and the keeper starts its program again, as after a crash: the
//! standby may have acted meanwhile.

use std::fmt;
use std::time::Duration;

use herdwire_ipc::seqpacket::MAX_DESCRIPTORS;

use super::name::NAME_BYTES;

/// Version of this protocol, as `HELLO` tells it.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;

/// The most bytes that a record of this protocol takes: a full `FDS`.
pub const RECORD_BYTES: usize = HEADER_BYTES + MAX_DESCRIPTORS * NAME_BYTES;

/// A name as it travels. The keeper keeps names that it cannot read: a later supervisor can.
pub type RawName = [u8; NAME_BYTES];

/// What a message or a part of one is made of, in bytes.
trait Field<'a>: Sized {
    fn put(&self, record: &mut Record);
    fn take(body: &mut Body<'a>) -> Option<Self>;
}

/// A struct is its fields, one after the other.
macro_rules! fields {
    ($type:ident { $($name:ident),* }) => {
        impl Field<'_> for $type {
            fn put(&self, record: &mut Record) {
                $(self.$name.put(record);)*
            }
            fn take(body: &mut Body<'_>) -> Option<$type> {
                Some($type { $($name: Field::take(body)?),* })
            }
        }
    };
}

/// An enum of messages, each with its type on the wire.
macro_rules! messages {
    ($(#[$about:meta])* $type:ident $(<$life:lifetime>)? {
        $($(#[$doc:meta])* $kind:literal = $variant:ident $(($($name:ident: $field:ty),*))?,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type $(<$life>)? {
            $($(#[$doc])* $variant $(($($field),*))?,)*
        }

        impl $(<$life>)? $type $(<$life>)? {
            /// The message as a record.
            pub fn to_record(&self) -> Record {
                match self {
                    $($type::$variant $(($($name),*))? => {
                        #[allow(unused_mut)] // Some messages are nothing but their type.
                        let mut record = Record::new($kind);
                        $($($name.put(&mut record);)*)?
                        record
                    })*
                }
            }

            /// Reads a record; `None` for what is not one of these or is too short.
            pub fn parse(record: &$($life)? [u8]) -> Option<Self> {
                #[allow(unused_mut)] // As above.
                let (kind, mut body) = split(record)?;
                Some(match kind {
                    $($kind => $type::$variant $(($(<$field>::take(&mut body)?),*))?,)*
                    _ => return None,
                })
            }
        }
    };
}

messages! {
    /// What a supervisor says.
    ToKeeper {
        /// Hold the descriptor that comes with this, under this name; one of the same name is replaced.
        1 = Store(name: RawName),
        /// Close the descriptor of this name.
        2 = Drop(name: RawName),
        /// Every exit up to and including this one is committed and need not be told again.
        3 = Acknowledge(sequence: u64),
        /// I am not hanging.
        4 = Alive,
        /// I have adopted everything and answer requests.
        5 = Ready,
        /// I have ended everything and end now; the keeper is to exit with this code.
        6 = Goodbye(code: i32),
        /// Try the program that comes with this as my successor. A second descriptor becomes its stderr.
        7 = Upgrade,
        /// I have committed everything, touch nothing any more, and wait for the outcome.
        8 = Quiesced,
        /// I can read the state, and am ready to take over.
        9 = Valid,
        /// Replace yourself by the program that comes with this, in place.
        10 = Renew,
    }
}

messages! {
    /// What a keeper says.
    FromKeeper<'a> {
        /// The first message: who speaks and why this supervisor was started.
        32 = Hello(hello: Hello),
        /// Names of the descriptors that come with this, in their order.
        33 = Descriptors(names: &'a [RawName]),
        /// A child of the keeper ended.
        34 = Exit(exit: Exit),
        /// That was all that there was; from now on news.
        35 = End,
        /// End all instances, say goodbye, end.
        36 = Stop,
        /// The store is full: the descriptor of this name is not in it.
        37 = Refused(name: RawName),
        /// To the incumbent: freeze, commit, say `QUIESCED`.
        38 = Quiesce,
        /// To the standby: forget the descriptors and exits that you have; all of them come again, then `END`. Then you serve.
        39 = Take,
        /// To the incumbent: your successor is ready; end.
        40 = Upgraded,
        /// To the incumbent: it came to nothing.
        41 = UpgradeFailed(failure: UpgradeFailure),
    }
}

messages! {
    /// What one keeper leaves to the next (`keeper::heir`). Descriptors are numbers, open in both.
    Legacy {
        /// The first one. How the keeper was (its epoch is that of the last supervisor), and the number that the last exit had.
        64 = Keeper(hello: Hello, last_exit: u64),
        /// An exit that nobody has acknowledged.
        66 = Exit(exit: Exit),
        /// A descriptor of the store.
        67 = Stored(name: RawName, descriptor: i32),
        /// A program of supervisors, the current one first.
        68 = Program(descriptor: i32),
        /// The supervisor that runs, and runs on: our end of its socket pair, and whether it is ready.
        69 = Supervisor(pid: u32, socket: i32, ready: bool),
    }
}

/// Why a supervisor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is the first of this keeper.
    First = 0,
    /// The one before it died.
    Crash = 1,
    /// The one before it did not say that it was alive and was killed.
    Hang = 2,
    /// It is a standby: it is to look, say whether it could take over, and touch nothing until it is told to take.
    Upgrade = 3,
}

/// The keeper's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u16,
    pub reason: Reason,
    pub foreground: bool,
    pub keeper_pid: u32,
    /// Counts the supervisors of this keeper, from 1.
    pub epoch: u64,
    /// The soft limit of open descriptors that the keeper was started with; its own is raised, an instance's must not be.
    pub descriptor_limit: u64,
    /// The most descriptors that the store takes.
    pub store_limit: u32,
}
fields!(Hello { protocol, reason, foreground, keeper_pid, epoch, descriptor_limit, store_limit });

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// From what `wait(2)` says of a process that has ended.
    pub fn of_wait(status: i32) -> ExitStatus {
        match status & 0x7f {
            0 => ExitStatus::Code(status >> 8 & 0xff),
            signal => ExitStatus::Signal(signal),
        }
    }

    fn to_wait(self) -> i32 {
        match self {
            ExitStatus::Code(code) => (code & 0xff) << 8,
            ExitStatus::Signal(signal) => signal & 0x7f,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exited with code {code}"),
            ExitStatus::Signal(number) => write!(f, "was ended by signal {number}"),
        }
    }
}

/// The end of one child of the keeper: an instance, or what an instance left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Counts the exits of this keeper, from 1, without gaps. The same exit has the same number however often it is told.
    pub sequence: u64,
    pub pid: u32,
    /// Inode of the process's pidfd, which no other process of this boot has; 0 where the kernel has none (before 6.9).
    pub pidfd_inode: u64,
    pub status: ExitStatus,
    /// Time that it, and those of its children that it waited for, computed.
    pub user_time: Duration,
    /// Time that the kernel computed for them.
    pub system_time: Duration,
}
fields!(Exit { sequence, pid, pidfd_inode, status, user_time, system_time });

/// How far an upgrade came, and how the standby ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeFailure {
    pub stage: UpgradeStage,
    /// How it ended; `None` when it had to be killed because it, or the incumbent, did not answer in time.
    pub status: Option<ExitStatus>,
}
fields!(UpgradeFailure { stage, status });

/// The stages of an upgrade. A stage of a later keeper reads as the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum UpgradeStage {
    /// The program could not be started.
    Start = 0,
    /// It did not get as far as saying that it can read the state.
    Validation = 1,
    /// The incumbent did not freeze in time.
    Freeze = 2,
    /// It was told to take over and did not get ready.
    Takeover = 3,
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Field<'_> for $type {
            fn put(&self, record: &mut Record) {
                record.append(&self.to_le_bytes());
            }
            fn take(body: &mut Body<'_>) -> Option<$type> {
                take_bytes(body).map(<$type>::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64 u128 i32);

/// What is told as one of the numbers.
macro_rules! as_number {
    ($($type:ty, $number:ty, $to:expr, $from:expr;)*) => {$(
        impl Field<'_> for $type {
            fn put(&self, record: &mut Record) {
                let to: fn($type) -> $number = $to;
                to(*self).put(record);
            }
            fn take(body: &mut Body<'_>) -> Option<$type> {
                let from: fn($number) -> $type = $from;
                Field::take(body).map(from)
            }
        }
    )*};
}
as_number! {
    RawName, u128, u128::from_le_bytes, u128::to_le_bytes;
    ExitStatus, i32, ExitStatus::to_wait, ExitStatus::of_wait;
    Option<ExitStatus>, i32, |status| status.map_or(-1, ExitStatus::to_wait),
        |number| (number >= 0).then(|| ExitStatus::of_wait(number));
    bool, u8, u8::from, |number| number != 0;
    Duration, u64, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Duration::from_micros;
    // A reason of a later keeper is still some kind of crash to us: there is something to adopt.
    Reason, u8, |reason| reason as u8, |number| match number {
        0 => Reason::First,
        2 => Reason::Hang,
        3 => Reason::Upgrade,
        _ => Reason::Crash,
    };
    UpgradeStage, u32, |stage| u32::from(stage as u8), |number| match number {
        0 => UpgradeStage::Start,
        1 => UpgradeStage::Validation,
        2 => UpgradeStage::Freeze,
        _ => UpgradeStage::Takeover,
    };
}

impl<'a> Field<'a> for &'a [RawName] {
    fn put(&self, record: &mut Record) {
        record.append(self.as_flattened());
    }
    fn take(body: &mut Body<'a>) -> Option<&'a [RawName]> {
        Some(body.as_chunks().0)
    }
}

/// One message as bytes, in a buffer of fixed size.
pub struct Record {
    bytes: [u8; RECORD_BYTES],
    length: usize,
}

impl Record {
    fn new(kind: u16) -> Record {
        let mut record = Record { bytes: [0; RECORD_BYTES], length: HEADER_BYTES };
        record.bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        record
    }

    /// Appends to the body. No body of this protocol is larger than [`MAX_DESCRIPTORS`] names.
    fn append(&mut self, field: &[u8]) {
        let end = self.length + field.len();
        self.bytes[self.length..end].copy_from_slice(field);
        self.length = end;
        self.bytes[4..8].copy_from_slice(&((end - HEADER_BYTES) as u32).to_le_bytes());
    }

    /// Header and body.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What is left to read of a body.
type Body<'a> = &'a [u8];

fn take_bytes<const N: usize>(body: &mut Body<'_>) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*head)
}

/// Type and body of a record whose length says what it is.
fn split(mut record: &[u8]) -> Option<(u16, Body<'_>)> {
    let (kind, _flags) = (u16::take(&mut record)?, u16::take(&mut record)?);
    let length = u32::take(&mut record)? as usize;
    Some((kind, record.get(..length)?))
}

/// The first of the records that lie one behind the other in `bytes`, and what follows it.
pub fn split_off(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, body) = split(bytes)?;
    bytes.split_at_checked(HEADER_BYTES + body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit() -> Exit {
        Exit {
            sequence: 70_000_000_000,
            pid: 4_000_000,
            pidfd_inode: u64::MAX - 1,
            status: ExitStatus::Signal(9),
            user_time: Duration::from_micros(17),
            system_time: Duration::from_secs(3),
        }
    }

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::Hang,
            foreground: true,
            epoch: 1 << 40,
            keeper_pid: 77,
            store_limit: 14_745,
            descriptor_limit: 1024,
        }
    }

    #[test]
    fn every_message_of_a_supervisor_comes_back() {
        let messages = [
            ToKeeper::Store([1; 16]),
            ToKeeper::Drop([2; 16]),
            ToKeeper::Acknowledge(u64::MAX),
            ToKeeper::Alive,
            ToKeeper::Ready,
            ToKeeper::Goodbye(-3),
            ToKeeper::Upgrade,
            ToKeeper::Quiesced,
            ToKeeper::Valid,
            ToKeeper::Renew,
        ];
        for message in messages {
            assert_eq!(ToKeeper::parse(message.to_record().as_bytes()), Some(message));
        }
    }

    #[test]
    fn every_message_of_a_keeper_comes_back() {
        let names = [[7; 16]; MAX_DESCRIPTORS];
        let messages = [
            FromKeeper::Hello(hello()),
            FromKeeper::Descriptors(&names),
            FromKeeper::Descriptors(&[]),
            FromKeeper::Exit(exit()),
            FromKeeper::Exit(Exit { status: ExitStatus::Code(255), ..exit() }),
            FromKeeper::End,
            FromKeeper::Stop,
            FromKeeper::Refused([3; 16]),
            FromKeeper::Quiesce,
            FromKeeper::Take,
            FromKeeper::Upgraded,
            FromKeeper::UpgradeFailed(UpgradeFailure { stage: UpgradeStage::Validation, status: None }),
            FromKeeper::UpgradeFailed(UpgradeFailure {
                stage: UpgradeStage::Takeover,
                status: Some(ExitStatus::Code(78)),
            }),
        ];
        for message in messages {
            assert_eq!(FromKeeper::parse(message.to_record().as_bytes()), Some(message));
        }
    }

    #[test]
    fn what_is_left_to_a_later_keeper_is_read_record_by_record() {
        let legacies = [
            Legacy::Keeper(hello(), u64::MAX),
            Legacy::Exit(exit()),
            Legacy::Stored([9; 16], 12),
            Legacy::Program(5),
            Legacy::Supervisor(4_000_000, 7, true),
        ];
        let bytes: Vec<u8> = legacies.iter().flat_map(|legacy| legacy.to_record().as_bytes().to_vec()).collect();
        let (mut rest, mut read) = (&bytes[..], Vec::new());
        while let Some((record, behind)) = split_off(rest) {
            read.extend(Legacy::parse(record));
            rest = behind;
        }
        assert_eq!((&read[..], rest.len()), (&legacies[..], 0));
    }

    #[test]
    fn a_record_that_is_cut_short_is_no_message() {
        for whole in [FromKeeper::Hello(hello()).to_record(), FromKeeper::Exit(exit()).to_record()] {
            for length in 0..whole.as_bytes().len() {
                assert_eq!(FromKeeper::parse(&whole.as_bytes()[..length]), None);
            }
        }
    }

    #[test]
    fn an_unknown_type_is_skipped_and_longer_bodies_are_read() {
        assert_eq!(ToKeeper::parse(Record::new(999).as_bytes()), None);
        let mut longer = FromKeeper::Exit(exit()).to_record();
        longer.append(b"a field of a later release");
        assert_eq!(FromKeeper::parse(longer.as_bytes()), Some(FromKeeper::Exit(exit())));
    }
}
