//! What keeper and supervisor say to each other: one record of the socket pair is one message.
//!
//! All records have one shape: one name (16 bytes), then ten words (u64, little-endian), the first of which is the verb,
//! and then as many further names as there are. A message uses of it what stands at its verb, and the rest is zero.
//! Frozen: keeper and supervisor may come from different releases. A later release adds verbs, or gives a meaning to what
//! is zero today; a verb that is not known is skipped. Neither side waits for the other inside a message, and no message
//! carries text of a user.
//!
//! | from the supervisor | from the keeper |
//! |---|---|
//! | `STORE name` (+ descriptor), `DROP name`, `ACK sequence`, `ALIVE`, `READY`, `GOODBYE code` | `HELLO`, `FDS names` (+ descriptors), `EXIT`, `END`, `STOP`, `REFUSED name` |
//! | `SUCCEED pid` (+ line), `RENEW` (+ program) | `RELIEVED` |
//!
//! # Upgrade
//!
//! ```text
//! keeper                incumbent                          standby
//!                       starts it, with a line ----------> (reason "upgrade") HELLO, FDS, END
//!                                        <---------------- READY, or exit code 78 with a reason on stderr
//!                       (freezes, commits)
//!   <------------------ SUCCEED, with its end of that line
//! HELLO, FDS, EXIT, END --------------------------------> (drops its first copies, adopts these)
//!   <---------------------------------------------------- READY, within 2 s of SUCCEED
//! RELIEVED -----------> (answers, exits; killed after 1 s)
//! ```
//!
//! The incumbent plays the keeper to a standby that proves itself, so that the keeper knows nothing of it: to the keeper
//! it is one more child. Whatever goes wrong before `SUCCEED` is the incumbent's to see, and it goes on. Whatever goes
//! wrong after it ends the standby, and the incumbent is told its `EXIT` like any other; it was frozen, and the standby
//! may have acted, so it answers whoever asked and exits, and the keeper starts a supervisor as after a crash.

use herdwire_ipc::seqpacket::MAX_DESCRIPTORS;

/// Version of this protocol, as `HELLO` tells it.
pub const PROTOCOL_VERSION: u64 = 1;

/// Bytes of a name.
pub const NAME_BYTES: usize = 16;

/// A name as it travels. The keeper reads none but those below, and keeps what it cannot read: a later supervisor can.
pub type RawName = [u8; NAME_BYTES];

/// What the names of pidfds begin with.
pub const PIDFD: [u8; 2] = [8, 0];

/// The program that supervisors are started with, and the one before it that got ready.
pub const PROGRAM: RawName = 21_u128.to_le_bytes();
pub const PROGRAM_BEFORE: RawName = (21_u128 | 1 << 16).to_le_bytes();

/// The socket of a service manager.
pub const SERVICE: RawName = 22_u128.to_le_bytes();

/// The words of a message, the verb first.
pub type Words = [u64; 10];

/// Bytes of a record without further names.
pub const RECORD_BYTES: usize = NAME_BYTES + size_of::<Words>();

/// The most bytes that a record takes: a full `FDS`.
pub const MAX_RECORD_BYTES: usize = RECORD_BYTES + MAX_DESCRIPTORS * NAME_BYTES;

/// What a message is about. What a supervisor says:
pub mod verb {
    /// Hold the descriptor that comes with this, under this name; one of the same name is replaced.
    pub const STORE: u64 = 1;
    /// Close the descriptor of this name.
    pub const DROP: u64 = 2;
    /// Every exit up to and including this number is committed and need not be told again.
    pub const ACKNOWLEDGE: u64 = 3;
    /// I am not hanging.
    pub const ALIVE: u64 = 4;
    /// To the incumbent: I could take over. To the keeper: I have adopted everything and serve.
    pub const READY: u64 = 5;
    /// I have ended everything and end now; the keeper is to exit with this code.
    pub const GOODBYE: u64 = 6;
    /// I have committed everything and touch nothing any more. The process of this pid is to serve in my place; it waits
    /// for you to speak over the line that comes with this.
    pub const SUCCEED: u64 = 7;
    /// Replace yourself by the program that comes with this, in place.
    pub const RENEW: u64 = 8;

    // What a keeper says.

    /// The first message, with the words of [`super::hello`].
    pub const HELLO: u64 = 32;
    /// The further names are those of the descriptors that come with this, in their order.
    pub const DESCRIPTORS: u64 = 33;
    /// A child of the keeper ended: an instance, what an instance left behind, or a supervisor that does not serve. With
    /// the words of [`super::exit`].
    pub const EXIT: u64 = 34;
    /// That was all that there was; from now on news.
    pub const END: u64 = 35;
    /// End all instances, say goodbye, end.
    pub const STOP: u64 = 36;
    /// The store is full: the descriptor of this name is not in it.
    pub const REFUSED: u64 = 37;
    /// Your successor is ready; end.
    pub const RELIEVED: u64 = 38;

    // What one keeper leaves to the next, besides exits.

    /// A descriptor of the store, open under this number in both.
    pub const LEFT: u64 = 64;
    /// The pid of the supervisor that runs on, the number of our end of its line, and whether it is ready.
    pub const SERVING: u64 = 65;
}

/// The places of the words of `HELLO`.
pub mod hello {
    pub const PROTOCOL: usize = 1;
    /// A [`super::Reason`].
    pub const REASON: usize = 2;
    /// 1 where the keeper kept its terminal and ends with its apps.
    pub const FOREGROUND: usize = 3;
    pub const KEEPER_PID: usize = 4;
    /// Counts the supervisors of this keeper, from 1.
    pub const EPOCH: usize = 5;
    /// The soft limit of open descriptors that the keeper was started with; its own is raised, an instance's must not be.
    pub const DESCRIPTOR_LIMIT: usize = 6;
    /// The most descriptors that the store takes.
    pub const STORE_LIMIT: usize = 7;
    /// From one keeper to the next: the number of the last exit that need not be told again.
    pub const LAST_EXIT: usize = 8;
    /// How often a service manager is to hear that all is well, in microseconds; 0 for never.
    pub const WATCHDOG_US: usize = 9;
}

/// The places of the words of `EXIT`.
pub mod exit {
    /// Counts the exits of this keeper, from 1, without gaps. The same exit has the same number however often it is told.
    pub const SEQUENCE: usize = 1;
    pub const PID: usize = 2;
    /// Inode of the process's pidfd, which no other process of this boot has; 0 where the kernel has none (before 6.9).
    pub const PIDFD_INODE: usize = 3;
    /// As `wait(2)` tells it.
    pub const STATUS: usize = 4;
}

/// Why a supervisor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is the first of this keeper.
    First = 0,
    /// The one before it died.
    Crash = 1,
    /// The one before it did not say that it was alive and was killed.
    Hang = 2,
    /// It is a standby: it is to look and say whether it could take over. Then everything is told anew, and it serves.
    Upgrade = 3,
}

/// What is said, but for further names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub name: RawName,
    pub words: Words,
}

impl Message {
    /// A message of these words and zeroes, about nothing that has a name.
    pub fn new<const N: usize>(first: [u64; N]) -> Message {
        let mut words = Words::default();
        words[..N].copy_from_slice(&first);
        Message { name: [0; NAME_BYTES], words }
    }

    /// The message as a record, with these further names.
    pub fn to_record(&self, names: &[RawName]) -> Vec<u8> {
        [&self.name, self.words.map(u64::to_le_bytes).as_flattened(), names.as_flattened()].concat()
    }

    /// Reads a record, and its further names; `None` for what is none.
    pub fn parse(record: &[u8]) -> Option<(Message, &[RawName])> {
        let (name, rest) = record.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk::<{ size_of::<Words>() }>()?;
        let mut words = Words::default();
        words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        match rest.as_chunks() {
            (names, []) => Some((Message { name: *name, words }, names)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_with_its_names() {
        let names = [[7; 16]; MAX_DESCRIPTORS];
        let full = Message { name: [9; 16], words: [1, 2, 3, 4, 5, 6, 7, 8, 9, u64::MAX] };
        for message in [
            full,
            Message { name: [1; 16], ..Message::new([verb::STORE]) },
            Message::new([verb::ACKNOWLEDGE, u64::MAX]),
        ] {
            for names in [&names[..], &[]] {
                assert_eq!(Message::parse(&message.to_record(names)), Some((message, names)));
            }
        }
        assert_eq!(full.to_record(&names).len(), MAX_RECORD_BYTES);
    }

    #[test]
    fn a_record_that_is_cut_short_is_no_message() {
        let whole = Message::new([verb::EXIT, 7, 4711]).to_record(&[[3; 16]]);
        let read: Vec<usize> = (0..=whole.len()).filter(|length| Message::parse(&whole[..*length]).is_some()).collect();
        assert_eq!(read, [RECORD_BYTES, whole.len()], "without its names, and with them");
    }

    #[test]
    fn the_layout_is_frozen() {
        let record = Message { name: [5; 16], ..Message::new([verb::STORE, 0x0102]) }.to_record(&[]);
        assert_eq!((&record[..16], &record[16..24]), (&[5; 16][..], &[1, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(record[24..32], [2, 1, 0, 0, 0, 0, 0, 0]);
    }
}
