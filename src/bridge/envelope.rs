//! What crosses Redis: the bytes of one `PUBLISH`.
//!
//! One envelope carries one or more messages of one channel, numbered in a row, so that a burst costs one command and
//! not a thousand. Written by hand and versioned, since hosts of different releases share a server. Pure.
//!
//! ```text
//! 0  magic "HW"   2  version   3  kind (1: messages)   4  node u64   12  incarnation u64   20  first sequence u64
//! 28 count u16    30 records, each: flags u8 (1: has a session), tag u8, [session u128], length u32, payload
//! ```
//! All numbers are little-endian.
//!
//! Invariants
//! - What is decoded was checked to the last byte before any of it is used; nothing is allocated by a number that
//!   the bytes do not bear out.
//! - Sequences begin at 1 and never wrap.

use bytes::{Buf, BufMut, Bytes};
use herdwire_ipc::Tag;

use crate::relay::{NodeId, SessionId};

const MAGIC: [u8; 2] = *b"HW";
const VERSION: u8 = 1;
const KIND_MESSAGES: u8 = 1;
const HEAD: usize = 30;
const RECORD: usize = 6;
const HAS_SESSION: u8 = 1;

/// The largest payload of one message that crosses.
pub(super) const MAX_PAYLOAD: usize = 16 << 20;
/// The largest envelope that is accepted: one message of the largest size, or many small ones.
pub(super) const MAX_ENVELOPE: usize = MAX_PAYLOAD + 1024;

/// Who publishes: the host, and which run of its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub node: NodeId,
    /// Random at the start of each supervisor process; sequences begin anew with it.
    pub incarnation: u64,
}

/// One message without its channel and number, which the envelope and its place in it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub session: Option<SessionId>,
    pub tag: Tag,
    pub payload: Bytes,
}

/// A decoded envelope; `records[i]` has the number `first + i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    pub sender: Sender,
    pub first: u64,
    pub records: Vec<Record>,
}

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it does not begin like an envelope of Herdwire, or was too large to be looked at")]
    Foreign,
    #[error("its version {0} is not known here (only {VERSION} is)")]
    Version(u8),
    #[error("its kind {0} is not known here")]
    Kind(u8),
    #[error("it is larger than {MAX_ENVELOPE} bytes")]
    TooLarge,
    #[error("it ends too early")]
    Short,
    #[error("it goes on after its last message")]
    Long,
    #[error("it holds no message")]
    Empty,
    #[error("its sequence is impossible")]
    Sequence,
    #[error("the flags {0:#04x} of a message are not known here")]
    Flags(u8),
    #[error("the tag {0} of a message is not known here")]
    Tag(u8),
}

/// An envelope that is being filled.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    count: u16,
}

impl Writer {
    /// Begins an envelope whose first message has the number `first`.
    pub(super) fn new(sender: Sender, first: u64) -> Writer {
        let mut bytes = Vec::with_capacity(256);
        bytes.put_slice(&MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_u8(KIND_MESSAGES);
        bytes.put_u64_le(sender.node.0);
        bytes.put_u64_le(sender.incarnation);
        bytes.put_u64_le(first);
        bytes.put_u16_le(0);
        Writer { bytes, count: 0 }
    }

    /// Adds the message with the next number. The caller keeps to [`MAX_PAYLOAD`] and to `u16::MAX` messages.
    pub(super) fn push(&mut self, record: &Record) {
        self.count += 1;
        self.bytes.put_u8(if record.session.is_some() { HAS_SESSION } else { 0 });
        self.bytes.put_u8(record.tag as u8);
        if let Some(session) = record.session {
            self.bytes.put_u128_le(session.0);
        }
        self.bytes.put_u32_le(u32::try_from(record.payload.len()).expect("payloads are at most MAX_PAYLOAD"));
        self.bytes.put_slice(&record.payload);
    }

    /// How large it is so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages it holds so far.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// The finished bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes[HEAD - 2..HEAD].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

/// Who sent it, without looking at the rest: our own echoes, half of all that arrives, are dropped by this.
pub(super) fn sender_of(bytes: &[u8]) -> Option<Sender> {
    let mut head = bytes.get(..HEAD)?;
    if head[..2] != MAGIC || head[2] != VERSION {
        return None;
    }
    head.advance(4);
    Some(Sender { node: NodeId(head.get_u64_le()), incarnation: head.get_u64_le() })
}

/// Takes an envelope apart. Payloads share the memory of `bytes`.
pub(super) fn decode(mut bytes: Bytes) -> Result<Envelope, Malformed> {
    if bytes.len() > MAX_ENVELOPE {
        return Err(Malformed::TooLarge);
    }
    if bytes.len() < 4 || bytes[..2] != MAGIC {
        return Err(Malformed::Foreign);
    }
    match (bytes[2], bytes[3]) {
        (VERSION, KIND_MESSAGES) => (),
        (VERSION, kind) => return Err(Malformed::Kind(kind)),
        (version, _) => return Err(Malformed::Version(version)),
    }
    let sender = sender_of(&bytes).ok_or(Malformed::Short)?;
    bytes.advance(HEAD - 10);
    let first = bytes.get_u64_le();
    let count = bytes.get_u16_le();
    match (first, count) {
        (_, 0) => return Err(Malformed::Empty),
        (0, _) => return Err(Malformed::Sequence),
        _ => first.checked_add(u64::from(count)).ok_or(Malformed::Sequence)?,
    };
    let mut records = Vec::with_capacity(usize::from(count).min(bytes.len() / RECORD));
    for _ in 0..count {
        records.push(decode_record(&mut bytes)?);
    }
    if bytes.is_empty() { Ok(Envelope { sender, first, records }) } else { Err(Malformed::Long) }
}

fn decode_record(bytes: &mut Bytes) -> Result<Record, Malformed> {
    let flags = bytes.try_get_u8().map_err(|_| Malformed::Short)?;
    if flags & !HAS_SESSION != 0 {
        return Err(Malformed::Flags(flags));
    }
    let tag = bytes.try_get_u8().map_err(|_| Malformed::Short)?;
    let tag = Tag::from_number(tag).ok_or(Malformed::Tag(tag))?;
    let session = match flags & HAS_SESSION {
        0 => None,
        _ => Some(SessionId(bytes.try_get_u128_le().map_err(|_| Malformed::Short)?)),
    };
    let length = bytes.try_get_u32_le().map_err(|_| Malformed::Short)? as usize;
    if length > bytes.len() {
        return Err(Malformed::Short);
    }
    Ok(Record { session, tag, payload: bytes.split_to(length) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: Sender = Sender { node: NodeId(7), incarnation: 9 };

    fn encoded(first: u64, records: &[Record]) -> Vec<u8> {
        let mut writer = Writer::new(SENDER, first);
        records.iter().for_each(|record| writer.push(record));
        writer.finish()
    }

    fn two() -> Vec<u8> {
        let to_one = Record { session: Some(SessionId(3)), tag: Tag::Json, payload: Bytes::from_static(b"[1]") };
        let to_all = Record { session: None, tag: Tag::Bytes, payload: Bytes::new() };
        encoded(5, &[to_one, to_all])
    }

    fn record() -> impl Strategy<Value = Record> {
        (any::<Option<u128>>(), 0u8..4, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(session, tag, payload)| {
                let tag = Tag::from_number(tag).expect("four tags");
                Record { session: session.map(SessionId), tag, payload: payload.into() }
            },
        )
    }

    #[test]
    fn the_layout_is_the_one_in_the_doc() {
        #[rustfmt::skip]
        let expected = [
            b'H', b'W', 1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0,
            1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, b'[', b'1', b']',
            0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(two(), expected);
    }

    #[test]
    fn an_envelope_cut_anywhere_is_refused() {
        let whole = two();
        assert!(decode(whole.clone().into()).is_ok());
        for end in 0..whole.len() {
            assert!(decode(whole[..end].to_vec().into()).is_err(), "cut at {end}");
        }
        let longer = [whole, vec![0]].concat();
        assert_eq!(decode(longer.into()), Err(Malformed::Long));
    }

    #[test]
    fn what_is_not_known_here_is_refused_by_name() {
        let changed = |at: usize, to: u8| {
            let mut bytes = two();
            bytes[at] = to;
            decode(bytes.into()).map(|_| ())
        };
        assert_eq!(changed(0, b'h'), Err(Malformed::Foreign));
        assert_eq!(changed(2, 2), Err(Malformed::Version(2)));
        assert_eq!(changed(3, 2), Err(Malformed::Kind(2)));
        assert_eq!(changed(20, 0), Err(Malformed::Sequence));
        assert_eq!(changed(28, 0), Err(Malformed::Empty));
        assert_eq!(changed(28, 3), Err(Malformed::Short));
        assert_eq!(changed(30, 3), Err(Malformed::Flags(3)));
        assert_eq!(changed(31, 4), Err(Malformed::Tag(4)));
        assert_eq!(decode(encoded(u64::MAX, &[]).into()), Err(Malformed::Empty));
        let last = Record { session: None, tag: Tag::Text, payload: Bytes::new() };
        assert_eq!(decode(encoded(u64::MAX, &[last]).into()), Err(Malformed::Sequence));
        assert_eq!(decode(vec![0; MAX_ENVELOPE + 1].into()), Err(Malformed::TooLarge));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(first in 1..u64::MAX / 2, records in prop::collection::vec(record(), 1..20)) {
            let bytes = encoded(first, &records);
            prop_assert_eq!(sender_of(&bytes), Some(SENDER));
            prop_assert_eq!(decode(bytes.into()), Ok(Envelope { sender: SENDER, first, records }));
        }

        #[test]
        fn any_bytes_are_refused_or_read_and_never_worse(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120), genuine in any::<bool>()
        ) {
            if genuine && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[b'H', b'W', 1, 1]);
            }
            let _either = decode(bytes.into());
        }
    }
}
