//! Where every shared word stands: all offsets of outbox and directory, in one place.
//!
//! Everything is little-endian 64-bit words; what is narrower stands in the lower bits of its word. Words of
//! different rhythm stand 128 bytes apart, since processors fetch lines in pairs. The hot words of an outbox move by
//! its slot, so that 256 outboxes do not share one set of the cache.
//!
//! ```text
//! outbox                                              who reads
//! 0x0000      identity (6 words)                      each peer, once
//! 0x0080 + s  head, intent                            readers
//! 0x0100 + s  park                                    publishers
//! 0x0180 + s  want                                    readers
//! 0x0200 + s  beat, leaving, seen                     supervisor
//! 0x0280 + s  marks (8 words)                         lapped readers
//! 0x0300 + s  mapped (4 words)                        whoever joins
//! 0x1000      256 x 64: cursor, done, lost, wake_at   publisher p
//! 0x5000      1024 x 32: published, delivered, lost, rejected
//! 0xd000      256 x 8: resume                         reader r, when lapped
//! 0xe000      ring                                    readers
//! ```

use crate::slots::{ChannelId, Slot};

/// Versions of the memory layout that this crate can read and write, lowest and highest.
pub const LAYOUT_VERSIONS: (u16, u16) = (1, 1);

/// Participants of one herd, the supervisor among them.
pub const MAX_SLOTS: usize = 256;
/// Channels of one herd.
pub const MAX_CHANNELS: usize = 1024;
/// Bytes of a channel's name, at most.
pub const MAX_NAME: usize = 255;

/// The smallest ring: 64 KiB.
pub const RING_MIN: u64 = 64 << 10;
/// The largest ring: 64 MiB.
pub const RING_MAX: u64 = 64 << 20;
/// The usual ring: 1 MiB.
pub const RING_DEFAULT: u64 = 1 << 20;

/// Records start at multiples of this.
pub(crate) const RECORD_ALIGN: u64 = 64;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: u64 = 32;
/// Positions stay below; a number beyond is a lie.
pub const POSITION_LIMIT: u64 = 1 << 62;

/// Bytes in front of the ring.
pub const OUTBOX_HEAD: u64 = 0xe000;
pub(crate) const OUTBOX_MAGIC: u64 = u64::from_le_bytes(*b"HWoutbox");

pub(crate) const WORD: usize = 8;
const CURSORS: usize = 0x1000;
const CURSOR_BYTES: usize = 64;
const COUNTERS: usize = 0x5000;
const COUNTER_BYTES: usize = 32;
const RESUME: usize = 0xd000;
const STAGGERS: usize = 24;

const fn stagger(slot: Slot) -> usize {
    0x80 * (slot as usize % STAGGERS)
}

/// The words of an identity, from word 0 on.
pub(crate) mod identity {
    pub(crate) const MAGIC: usize = 0;
    /// layout u16, slot u16, incarnation u32
    pub(crate) const PLACE: usize = 1;
    pub(crate) const RING_BYTES: usize = 2;
    pub(crate) const RING_OFFSET: usize = 3;
    pub(crate) const BASE: usize = 4;
    pub(crate) const HERD: usize = 5;
}

pub(crate) const fn head(slot: Slot) -> usize {
    (0x080 + stagger(slot)) / WORD
}
pub(crate) const fn intent(slot: Slot) -> usize {
    head(slot) + 1
}
pub(crate) const fn park(slot: Slot) -> usize {
    (0x100 + stagger(slot)) / WORD
}
pub(crate) const fn want(slot: Slot) -> usize {
    (0x180 + stagger(slot)) / WORD
}
pub(crate) const fn beat(slot: Slot) -> usize {
    (0x200 + stagger(slot)) / WORD
}
pub(crate) const fn leaving(slot: Slot) -> usize {
    beat(slot) + 1
}
pub(crate) const fn seen(slot: Slot) -> usize {
    beat(slot) + 2
}
/// How many parts of a ring have a mark.
pub(crate) const MARKS: usize = 8;
pub(crate) const fn mark(slot: Slot, index: usize) -> usize {
    (0x280 + stagger(slot)) / WORD + index
}
pub(crate) const fn mapped(slot: Slot, peer: Slot) -> usize {
    (0x300 + stagger(slot)) / WORD + peer as usize / 64
}
pub(crate) const fn cursor(publisher: Slot) -> usize {
    (CURSORS + CURSOR_BYTES * publisher as usize) / WORD
}
/// Up to where the messages of a publisher are done with. Reserved: as far as handlers have returned.
pub(crate) const fn done(publisher: Slot) -> usize {
    cursor(publisher) + 1
}
pub(crate) const fn lost(publisher: Slot) -> usize {
    cursor(publisher) + 2
}
/// Reserved: the position from which on a reader wants to be woken.
pub(crate) const fn wake_at(publisher: Slot) -> usize {
    cursor(publisher) + 3
}
pub(crate) const fn resume(reader: Slot) -> usize {
    RESUME / WORD + reader as usize
}
pub(crate) const fn ring(position: u64, ring_bytes: u64) -> usize {
    (OUTBOX_HEAD + (position & (ring_bytes - 1))) as usize / WORD
}

/// The four counters of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Published = 0,
    Delivered = 1,
    Lost = 2,
    Rejected = 3,
}

pub(crate) const fn counter(channel: ChannelId, which: Counter) -> usize {
    (COUNTERS + COUNTER_BYTES * channel.0 as usize) / WORD + which as usize
}

const _: () = {
    let last = (STAGGERS - 1) as Slot;
    assert!(mapped(last, 255) < 0xf00 / WORD && mapped(last, 255) < cursor(0));
    assert!(identity::HERD < head(0));
    assert!(done(7) > cursor(7) && lost(7) > done(7) && wake_at(7) > lost(7) && wake_at(7) < cursor(8));
    assert!(cursor((MAX_SLOTS - 1) as Slot) + CURSOR_BYTES / WORD <= COUNTERS / WORD);
    assert!(counter(ChannelId(MAX_CHANNELS as u16 - 1), Counter::Rejected) < RESUME / WORD);
    assert!(resume((MAX_SLOTS - 1) as Slot) < OUTBOX_HEAD as usize / WORD);
    assert!(OUTBOX_HEAD.is_multiple_of(0x1000) && RING_MIN.is_multiple_of(0x1000));
    assert!(head(1) - head(0) == 128 / WORD && intent(3) + 1 < park(3));
    assert!(park(3) < want(3) && want(3) < beat(3) && leaving(3) < seen(3) && seen(3) < mark(3, 0));
    assert!(mark(3, MARKS - 1) < mapped(3, 0) && CURSOR_BYTES.is_multiple_of(64) && RESUME.is_multiple_of(64));
};

/// The directory.
///
/// ```text
/// 0x000  magic, layout, herd, epoch, length of the herd's name
/// 0x080  the herd's name, 256 bytes
/// 0x200  version, alone in its lines
/// 0x400  256 slots x 128: counter, two copies of 7 words
/// then   1024 channels x 448: counter, length of the name; two copies of 8 words at 64 and 128; the name at 192
/// ```
pub(crate) mod directory {
    use super::{ChannelId, MAX_CHANNELS, MAX_SLOTS, Slot, WORD};

    pub(crate) const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"HWherd01");
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const LAYOUT: usize = 1;
    pub(crate) const HERD: usize = 2;
    pub(crate) const EPOCH: usize = 3;
    pub(crate) const HERD_NAME_BYTES: usize = 4;
    pub(crate) const HERD_NAME: usize = 0x80 / WORD;
    pub(crate) const VERSION: usize = 0x200 / WORD;
    const SLOTS: usize = 0x400;
    const SLOT_BYTES: usize = 128;
    const CHANNELS: usize = SLOTS + SLOT_BYTES * MAX_SLOTS;
    const CHANNEL_BYTES: usize = 448;
    /// Bytes of the whole directory, full pages.
    pub(crate) const BYTES: u64 = ((CHANNELS + CHANNEL_BYTES * MAX_CHANNELS) as u64).next_multiple_of(0x1000);

    pub(crate) const SLOT_WORDS: usize = 7;
    pub(crate) const CHANNEL_WORDS: usize = 8;

    /// The counter of a slot's entry.
    pub(crate) const fn slot(slot: Slot) -> usize {
        (SLOTS + SLOT_BYTES * slot as usize) / WORD
    }
    pub(crate) const fn slot_copy(of: Slot, counter: u64) -> usize {
        slot(of) + 1 + SLOT_WORDS * (counter & 1) as usize
    }
    /// The counter of a channel's entry.
    pub(crate) const fn channel(id: ChannelId) -> usize {
        (CHANNELS + CHANNEL_BYTES * id.0 as usize) / WORD
    }
    pub(crate) const fn channel_name_bytes(id: ChannelId) -> usize {
        channel(id) + 1
    }
    pub(crate) const fn channel_copy(id: ChannelId, counter: u64) -> usize {
        channel(id) + 8 + CHANNEL_WORDS * (counter & 1) as usize
    }
    pub(crate) const fn channel_name(id: ChannelId) -> usize {
        channel(id) + 24
    }

    const _: () = {
        assert!(HERD_NAME + 256 / WORD < VERSION && VERSION + 128 / WORD <= SLOTS / WORD);
        assert!(slot_copy(0, 1) + SLOT_WORDS <= slot(1));
        assert!(channel_name(ChannelId(0)) + 256 / WORD <= channel(ChannelId(1)));
        assert!(channel_copy(ChannelId(0), 1) + CHANNEL_WORDS <= channel_name(ChannelId(0)));
    };
}

/// Bytes of a herd's directory.
pub const DIRECTORY_BYTES: u64 = directory::BYTES;

/// Whether a ring may have this size: a power of two from [`RING_MIN`] to [`RING_MAX`].
pub fn is_ring_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (RING_MIN..=RING_MAX).contains(&bytes)
}

/// The most bytes that one record of such a ring carries.
pub const fn record_limit(ring_bytes: u64) -> u64 {
    ring_bytes / 8 - RECORD_HEADER
}

/// The base position for a slot's next incarnation, given the highest cursor or head that its slot has seen (0 for
/// its first one). It leaves more than one ring between them, so that no position is ever used twice.
pub fn next_base(highest: u64, ring_bytes: u64) -> u64 {
    (highest / ring_bytes + 2) * ring_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_words_of_neighbouring_slots_never_share_a_pair_of_lines() {
        let words = [head(3), park(3), want(3), beat(3), mark(3, 0), mapped(3, 0)];
        for pair in words.windows(2) {
            assert!(pair[1] - pair[0] >= 16);
        }
        assert_eq!(head(0), head(24));
    }

    #[test]
    fn a_successor_starts_more_than_a_ring_beyond_everything_its_slot_has_seen() {
        for highest in [0, 1, RING_MIN - 64, RING_MIN, 7 * RING_MIN + 64] {
            let base = next_base(highest, RING_MIN);
            assert!(base > highest + RING_MIN - 1 && base.is_multiple_of(RING_MIN));
        }
    }
}
