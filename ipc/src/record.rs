//! The header in front of every message in a ring, and what must be true of it.
//!
//! ```text
//! offset  field
//! 0       len u32            bytes of payload in this record
//! 4       kind 4 bits, tag 4 bits
//! 5       flags u8
//! 6       incarnation u16    low bits of the publisher's
//! 8       position u64       must equal the reader's cursor
//! 16      channel u16
//! 18      to u16             a slot, or 0xffff for all subscribers
//! 20      sequence u32       per channel for all subscribers, per receiver for one slot; a jump is a loss
//! 24      ref u64            reserved: request, or first record of a chain
//! 32      payload            the record's size is rounded up to 64
//! ```
//!
//! A header comes from foreign memory: [`Header::check`] stands between it and everything else. It must be told
//! first that the record was not overtaken, since an overtaken header is no lie.

use crate::layout::{RECORD_ALIGN, RECORD_HEADER};
use crate::rule::Rule;

/// `to` of a record for all subscribers.
pub(crate) const TO_ALL: u16 = 0xffff;
/// Bytes of a session's id in front of the payload.
pub(crate) const SESSION_BYTES: usize = 16;
/// The payload is preceded by the id of a session.
pub(crate) const FLAG_SESSION: u8 = 1 << 7;
/// The record is for one slot.
pub(crate) const FLAG_TO_ONE: u8 = 1 << 3;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    /// Fills the rest of the ring in front of its end.
    Pad,
    /// Part of a message larger than one record. Reserved: this version writes none and skips them.
    Chain,
}

/// Where the tag stands in the first word of a header.
pub(crate) const TAG_SHIFT: u32 = 36;
/// Where the sequence number stands in the third.
pub(crate) const SEQUENCE_SHIFT: u32 = 32;

const MESSAGE: u64 = 1;
const PAD: u64 = 2;
const CHAIN_FIRST: u64 = 3;
const CHAIN_ABANDONED: u64 = 6;

/// What in the first word of a header tells a message without a session and with a known tag from all else.
const PLAIN_BITS: u64 = 0xf << 32 | 0xc << TAG_SHIFT | (FLAG_SESSION as u64) << 40;

/// Whether the first word of a header is that of a message that has no session and carries a known tag.
#[inline]
pub(crate) const fn is_plain(first: u64) -> bool {
    first & PLAIN_BITS == MESSAGE << 32
}

/// The third word of the header of the next message on the same channel: its number is one higher, and wraps.
#[inline]
pub(crate) const fn next_third(third: u64) -> u64 {
    third.wrapping_add(1 << SEQUENCE_SHIFT)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) tag: u8,
    pub(crate) flags: u8,
    pub(crate) incarnation: u16,
    pub(crate) position: u64,
    pub(crate) channel: u16,
    pub(crate) to: u16,
    pub(crate) sequence: u32,
    pub(crate) reference: u64,
}

/// Bytes that a record with this payload takes in the ring.
pub(crate) const fn size_of(payload: u64) -> u64 {
    (RECORD_HEADER + payload).next_multiple_of(RECORD_ALIGN)
}

impl Header {
    pub(crate) const KIND_MESSAGE: u8 = MESSAGE as u8;

    pub(crate) fn pad(position: u64, bytes: u64, incarnation: u16) -> Header {
        let length = (bytes - RECORD_HEADER) as u32;
        Header { length, kind: PAD as u8, position, to: TO_ALL, incarnation, ..Header::default() }
    }

    pub(crate) fn to_words(self) -> [u64; 4] {
        let first = u64::from(self.length)
            | u64::from(self.kind & 0xf) << 32
            | u64::from(self.tag & 0xf) << TAG_SHIFT
            | u64::from(self.flags) << 40
            | u64::from(self.incarnation) << 48;
        let third = u64::from(self.channel) | u64::from(self.to) << 16 | u64::from(self.sequence) << SEQUENCE_SHIFT;
        [first, self.position, third, self.reference]
    }

    pub(crate) fn from_words(words: [u64; 4]) -> Header {
        let [first, position, third, reference] = words;
        Header {
            length: first as u32,
            kind: (first >> 32) as u8 & 0xf,
            tag: (first >> 36) as u8 & 0xf,
            flags: (first >> 40) as u8,
            incarnation: (first >> 48) as u16,
            position,
            channel: third as u16,
            to: (third >> 16) as u16,
            sequence: (third >> 32) as u32,
            reference,
        }
    }

    /// What the record at `cursor` is and how many bytes it takes, or the rule that it breaks. `head` is a validated
    /// head beyond `cursor`, `limit` the most payload that one record may have.
    pub(crate) fn check(&self, cursor: u64, head: u64, ring: u64, limit: u64) -> Result<(Kind, u64), Rule> {
        if self.position != cursor {
            return Err(Rule::Position);
        }
        // Before rounding up, which could overflow.
        if u64::from(self.length) > limit {
            return Err(Rule::Length);
        }
        let size = size_of(u64::from(self.length));
        let to_end = ring - (cursor & (ring - 1));
        if size > to_end || size > head.wrapping_sub(cursor) {
            return Err(Rule::Length);
        }
        match u64::from(self.kind) {
            MESSAGE if self.flags & FLAG_SESSION != 0 && (self.length as usize) < SESSION_BYTES => Err(Rule::Session),
            MESSAGE => Ok((Kind::Message, size)),
            PAD if size != to_end => Err(Rule::Length),
            PAD => Ok((Kind::Pad, size)),
            CHAIN_FIRST..=CHAIN_ABANDONED => Ok((Kind::Chain, size)),
            _ => Err(Rule::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::{RING_MIN, record_limit};

    const RING: u64 = RING_MIN;
    const LIMIT: u64 = record_limit(RING);

    fn message(position: u64, length: u32) -> Header {
        Header { length, kind: Header::KIND_MESSAGE, position, ..Header::default() }
    }

    #[test]
    fn a_record_must_carry_its_own_position() {
        let header = message(RING + 64, 10);
        assert_eq!(header.check(RING + 64, RING + 128, RING, LIMIT), Ok((Kind::Message, 64)));
        assert_eq!(header.check(RING, RING + 128, RING, LIMIT), Err(Rule::Position));
    }

    #[test]
    fn a_record_must_lie_below_the_head_and_within_the_ring() {
        assert_eq!(message(0, 33).check(0, 64, RING, LIMIT), Err(Rule::Length));
        assert_eq!(message(RING - 64, 33).check(RING - 64, RING + 64, RING, LIMIT), Err(Rule::Length));
        assert_eq!(message(0, u32::MAX).check(0, RING, RING, LIMIT), Err(Rule::Length));
    }

    #[test]
    fn a_pad_must_end_with_the_ring() {
        let pad = Header::pad(RING - 128, 128, 1);
        assert_eq!(pad.check(RING - 128, RING, RING, LIMIT), Ok((Kind::Pad, 128)));
        let short = Header::pad(RING - 128, 64, 1);
        assert_eq!(short.check(RING - 128, RING, RING, LIMIT), Err(Rule::Length));
    }

    #[test]
    fn unknown_kinds_and_sessions_without_bytes_are_lies() {
        let mut header = message(0, 15);
        header.flags = FLAG_SESSION;
        assert_eq!(header.check(0, 64, RING, LIMIT), Err(Rule::Session));
        header.kind = 0;
        assert_eq!(header.check(0, 64, RING, LIMIT), Err(Rule::Kind));
    }

    #[test]
    fn a_plain_message_has_no_session_and_a_known_tag() {
        let plain = |kind, tag, flags| is_plain(Header { kind, tag, flags, ..message(64, 99) }.to_words()[0]);
        assert!((0..4).all(|tag| plain(1, tag, FLAG_TO_ONE)));
        assert!(!(4..16).any(|tag| plain(1, tag, 0)));
        assert!(!plain(1, 0, FLAG_SESSION));
        assert!(![0, 2, 3, 4, 5, 6, 7, 9].into_iter().any(|kind| plain(kind, 0, 0)));
    }

    proptest! {
        #[test]
        fn a_header_comes_back_as_it_went(words: [u64; 4]) {
            let header = Header::from_words(words);
            prop_assert_eq!(Header::from_words(header.to_words()), header);
            prop_assert_eq!(header.to_words(), words);
        }

        #[test]
        fn whatever_is_accepted_lies_between_cursor_head_and_the_end_of_the_ring(
            first: u64, third: u64, at in 0u64..3 * RING / 64, ahead in 1u64..RING / 64, short: bool,
        ) {
            let (cursor, head) = (at * 64, (at + ahead) * 64);
            let first = if short { first & !0xffff_f000 } else { first };
            let header = Header::from_words([first, cursor, third, 0]);
            if let Ok((_, size)) = header.check(cursor, head, RING, LIMIT) {
                prop_assert!(size >= RECORD_HEADER + u64::from(header.length));
                prop_assert!(size.is_multiple_of(64) && cursor + size <= head);
                prop_assert!((cursor & (RING - 1)) + size <= RING);
            }
        }
    }
}
