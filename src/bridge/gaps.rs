//! Which messages of other hosts are new, which came twice, and how many never came.
//!
//! Redis says nothing about what it lost; the sequence per (node, incarnation, channel) does. Pure.
//!
//! Invariants
//! - A message is delivered at most once, whatever is sent again and on however many connections.
//! - The first message of a node that was never heard on a channel is no gap: nobody knows what came before we
//!   listened. A known node with a new incarnation begins at 1, so there it is known.
//! - At most [`MAX_NODES`] nodes a channel are remembered, and [`INCARNATIONS`] runs of each: ids come from outside.

use std::collections::HashMap;

use crate::relay::{NodeId, Topic};

use super::envelope::Sender;

/// Nodes remembered a channel; beyond, the one heard longest ago is forgotten.
const MAX_NODES: usize = 1024;
/// Runs of one supervisor that may overlap: what was under way when it was replaced still counts as its own.
const INCARNATIONS: usize = 2;

/// What to make of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// So many of its first messages came before and must not be delivered again.
    pub repeated: u64,
    /// So many messages between the last one and these never came.
    pub missed: u64,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    channels: HashMap<Topic, HashMap<NodeId, Voice>>,
    clock: u64,
}

/// One node on one channel.
#[derive(Debug, Default)]
struct Voice {
    /// Counts envelopes, not time: only the order matters.
    heard_at: u64,
    /// Incarnation and its last sequence, the oldest first.
    last: Vec<(u64, u64)>,
}

impl Gaps {
    /// Takes note of `count` messages numbered from `first` and says what is new about them.
    pub(super) fn hear(&mut self, topic: &Topic, sender: Sender, first: u64, count: u64) -> Heard {
        self.clock += 1;
        if !self.channels.contains_key(topic) {
            self.channels.insert(topic.clone(), HashMap::new());
        }
        let nodes = self.channels.get_mut(topic).expect("inserted above");
        if nodes.len() >= MAX_NODES && !nodes.contains_key(&sender.node) {
            forget_oldest(nodes);
        }
        let voice = nodes.entry(sender.node).or_default();
        voice.heard_at = self.clock;
        voice.hear(sender.incarnation, first, count)
    }

    /// Forgets all channels but those that are still listened to: what is published meanwhile is not missed.
    pub(super) fn keep_only(&mut self, listened: impl Fn(&Topic) -> bool) {
        self.channels.retain(|topic, _| listened(topic));
    }
}

impl Voice {
    fn hear(&mut self, incarnation: u64, first: u64, count: u64) -> Heard {
        let end = first.saturating_add(count - 1);
        let known = self.last.iter_mut().find(|(known, _)| *known == incarnation);
        if let Some((_, last)) = known {
            let heard = Heard {
                repeated: last.saturating_add(1).saturating_sub(first).min(count),
                missed: first.saturating_sub(last.saturating_add(1)),
            };
            *last = end.max(*last);
            return heard;
        }
        let missed = if self.last.is_empty() { 0 } else { first - 1 };
        if self.last.len() == INCARNATIONS {
            self.last.remove(0);
        }
        self.last.push((incarnation, end));
        Heard { repeated: 0, missed }
    }
}

/// Linear, but only when a channel has more nodes than any herd: real nodes speak often and stay.
fn forget_oldest(nodes: &mut HashMap<NodeId, Voice>) {
    if let Some(oldest) = nodes.iter().min_by_key(|(_, voice)| voice.heard_at).map(|(node, _)| *node) {
        nodes.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: Heard = Heard { repeated: 0, missed: 0 };

    fn orders() -> Topic {
        Topic::new("shop", "orders")
    }

    fn sender(node: u64, incarnation: u64) -> Sender {
        Sender { node: NodeId(node), incarnation }
    }

    #[test]
    fn a_first_sight_is_no_gap() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 500, 1), NEW);
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 501, 1), NEW);
        assert_eq!(gaps.hear(&orders(), sender(2, 1), 9, 1), NEW, "nodes are counted apart");
        assert_eq!(gaps.hear(&Topic::new("shop", "chat"), sender(1, 1), 9, 1), NEW, "and so are channels");
    }

    #[test]
    fn what_lies_between_is_missed_and_what_comes_again_is_repeated() {
        let mut gaps = Gaps::default();
        gaps.hear(&orders(), sender(1, 1), 1, 10);
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 14, 2), Heard { repeated: 0, missed: 3 });
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 14, 2), Heard { repeated: 2, missed: 0 });
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 13, 5), Heard { repeated: 3, missed: 0 });
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 18, 1), NEW);
    }

    #[test]
    fn a_new_incarnation_of_a_known_node_begins_at_one() {
        let mut gaps = Gaps::default();
        gaps.hear(&orders(), sender(1, 1), 100, 1);
        assert_eq!(gaps.hear(&orders(), sender(1, 2), 4, 1), Heard { repeated: 0, missed: 3 });
        assert_eq!(gaps.hear(&orders(), sender(1, 2), 5, 1), NEW);
    }

    #[test]
    fn what_the_last_incarnation_left_under_way_still_counts_as_its_own() {
        let mut gaps = Gaps::default();
        gaps.hear(&orders(), sender(1, 1), 1, 100);
        gaps.hear(&orders(), sender(1, 2), 1, 1);
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 100, 2), Heard { repeated: 1, missed: 0 });
        assert_eq!(gaps.hear(&orders(), sender(1, 2), 2, 1), NEW);
    }

    #[test]
    fn a_channel_that_is_left_and_joined_again_begins_anew() {
        let mut gaps = Gaps::default();
        gaps.hear(&orders(), sender(1, 1), 1, 1);
        gaps.keep_only(|topic| *topic != orders());
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 50, 1), NEW);
    }

    #[test]
    fn made_up_nodes_do_not_fill_the_memory_and_do_not_push_out_those_that_speak() {
        let mut gaps = Gaps::default();
        for round in 0..3 * MAX_NODES as u64 {
            gaps.hear(&orders(), sender(1_000_000 + round, 1), 1, 1);
            assert_eq!(gaps.hear(&orders(), sender(1, 1), round + 1, 1), NEW);
        }
        assert_eq!(gaps.channels[&orders()].len(), MAX_NODES);
    }

    #[test]
    fn the_largest_numbers_do_no_harm() {
        let mut gaps = Gaps::default();
        gaps.hear(&orders(), sender(1, 1), 1, 1);
        gaps.hear(&orders(), sender(1, 1), u64::MAX - 1, 1);
        assert_eq!(gaps.hear(&orders(), sender(1, 1), u64::MAX, u64::MAX), Heard { repeated: 0, missed: 0 });
        assert_eq!(gaps.hear(&orders(), sender(1, 1), 1, 1), Heard { repeated: 1, missed: 0 });
    }

    proptest! {
        /// Envelopes of one publisher arrive in order, with losses, and any tail of them is sent again.
        #[test]
        fn every_message_is_delivered_once_or_counted_missed(
            steps in prop::collection::vec((1u64..5, 0u64..4, 0u64..8), 1..50)
        ) {
            let mut gaps = Gaps::default();
            gaps.hear(&orders(), sender(1, 1), 1, 1);
            let (mut highest, mut delivered, mut missed) = (1u64, vec![1], 0);
            for (count, lost, back) in steps {
                let first = (highest + 1 + lost).saturating_sub(back).max(1);
                let heard = gaps.hear(&orders(), sender(1, 1), first, count);
                delivered.extend(first + heard.repeated..first + count);
                missed += heard.missed;
                highest = highest.max(first + count - 1);
            }
            prop_assert!(delivered.is_sorted_by(|a, b| a < b), "in order, none twice");
            prop_assert_eq!(delivered.len() as u64 + missed, highest);
        }
    }
}
