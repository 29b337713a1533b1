//! What one reader still holds: how far the writer may go before it overwrites something unread and kept.
//!
//! Pure numbers. Positions are the writer's; a reader's cursor is foreign and clamped before it is used.

/// What the writer knows about one slot that reads it. Outlives the slot's incarnations, but for `seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// The highest cursor seen.
    seen: u64,
    /// Where the first record stands that was kept for this reader while it had nothing else unread.
    first_kept: u64,
    /// Where the last record ends that is kept for it.
    last_kept: u64,
    /// It did not move for too long and holds nobody back until it has caught up.
    stalled: bool,
}

impl Held {
    /// A new incarnation reads: what was seen of the dead one's cursor says nothing any more.
    pub(crate) fn renew(&mut self) {
        self.seen = 0;
        self.stalled = false;
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub(crate) fn stall(&mut self) {
        self.stalled = true;
    }

    /// Takes in the reader's cursor, clamped to what is possible: it never goes back and never runs ahead of `head`.
    pub(crate) fn see(&mut self, cursor: u64, head: u64) -> u64 {
        self.seen = cursor.clamp(self.seen.min(head), head);
        self.seen
    }

    /// Keeps a record from `position` to `end`, `start` being where its padding begins. `cursor` is asked for only
    /// when it matters. Says what `resume` must be from now on, if it changes: it must be stored before the head.
    #[inline]
    pub(crate) fn keep(&mut self, start: u64, position: u64, end: u64, cursor: impl FnOnce() -> u64) -> Option<u64> {
        let gap = start != self.last_kept || start != position;
        let before = std::mem::replace(&mut self.last_kept, end);
        // Without a gap the reader cannot be overtaken in front of this record without losing it as well.
        if gap && self.see(cursor(), start) >= before {
            self.first_kept = position;
            return Some(position);
        }
        None
    }

    /// More records were kept for it, up to `end`, without a gap behind the last one.
    pub(crate) fn extend(&mut self, end: u64) {
        debug_assert!(end >= self.last_kept);
        self.last_kept = end;
    }

    /// How far this reader holds the writer back, if it does. `cursor` is its own word, just loaded; the caller fences
    /// before it overwrites anything.
    pub(crate) fn gate(&mut self, cursor: u64, head: u64, ring: u64) -> Option<u64> {
        let cursor = self.see(cursor, head);
        if self.stalled && head - cursor <= ring / 2 {
            self.stalled = false;
        }
        (!self.stalled && self.last_kept > cursor).then_some(cursor.max(self.first_kept))
    }

    /// Whether the reader has moved beyond `cursor`.
    pub(crate) fn moved_since(&self, cursor: u64) -> bool {
        self.seen > cursor
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RING: u64 = 1024;

    #[test]
    fn a_reader_without_unread_records_holds_nobody_back() {
        let mut held = Held::default();
        assert_eq!(held.gate(0, 9 * RING, RING), None);
        held.keep(9 * RING, 9 * RING, 9 * RING + 64, || 9 * RING);
        assert_eq!(held.gate(9 * RING + 64, 9 * RING + 64, RING), None);
    }

    #[test]
    fn what_is_not_kept_for_a_reader_may_be_overwritten_in_front_of_what_is() {
        let mut held = Held::default();
        // The reader sleeps at 0 while 8 rings of other channels go by; then comes one record for it.
        assert_eq!(held.keep(8 * RING, 8 * RING, 8 * RING + 64, || 0), Some(8 * RING));
        assert_eq!(held.gate(0, 8 * RING + 64, RING), Some(8 * RING));
    }

    #[test]
    fn a_cursor_that_lies_is_clamped() {
        let mut held = Held::default();
        held.keep(0, 64, 640, || 0);
        assert_eq!(held.gate(u64::MAX, 640, RING), None);
        let mut held = Held::default();
        held.keep(0, 0, 640, || 0);
        assert_eq!(held.gate(128, 640, RING), Some(128));
        assert_eq!(held.gate(0, 640, RING), Some(128));
    }

    #[test]
    fn a_stalled_reader_counts_again_once_it_has_caught_up() {
        let mut held = Held::default();
        held.keep(0, 0, 1024, || 0);
        held.stall();
        assert_eq!(held.gate(0, 1024, RING), None);
        assert_eq!(held.gate(512, 1024, RING), Some(512));
    }

    proptest! {
        /// Against a plain list of kept records: the gate never lets an unread one be overwritten, and holds no
        /// more back than the first unread one, or the cursor.
        #[test]
        fn the_gate_protects_exactly_what_is_kept_and_unread(steps in prop::collection::vec((0u8..4, 1u64..20), 1..60)) {
            let (mut held, mut head, mut cursor) = (Held::default(), 0u64, 0u64);
            let mut kept: Vec<(u64, u64)> = Vec::new();
            for (what, amount) in steps {
                let start = head;
                match what {
                    0 => head += amount * 64,
                    1 => {
                        head += amount * 64;
                        let resume = held.keep(start, start, head, || cursor);
                        kept.push((start, head));
                        let unread = kept.iter().find(|(_, end)| *end > cursor).unwrap();
                        if cursor < unread.0 && unread.0 == start {
                            prop_assert!(resume == Some(start) || cursor == start);
                        }
                    }
                    2 => cursor = (cursor + amount * 64).min(head),
                    _ => cursor = head,
                }
                let first_unread = kept.iter().find(|(_, end)| *end > cursor).map(|(at, _)| *at);
                let gate = held.gate(cursor, head, u64::MAX / 4);
                match first_unread {
                    None => prop_assert_eq!(gate, None),
                    Some(at) => {
                        prop_assert!(gate.unwrap() <= at.max(cursor));
                        prop_assert!(gate.unwrap() >= cursor);
                    }
                }
            }
        }
    }
}
