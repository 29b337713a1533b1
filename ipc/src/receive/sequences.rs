//! The numbers that a publisher's messages carry: what is missing between two of them is lost.
//!
//! Pure. One per publisher's ring: a successor counts from the beginning.

/// Which number comes next on a channel, learnt under a subscription of ours; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    subscription: u32,
    next: u32,
}

/// The numbers of one publisher.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    channels: Vec<Expected>,
    directed: Option<u32>,
}

impl Sequences {
    /// Takes in the number of a message to all subscribers; how many are missing before it. `channel` was checked.
    #[inline]
    pub(super) fn follow(&mut self, channel: u16, subscription: u32, sequence: u32) -> u32 {
        match self.channels.get_mut(usize::from(channel)) {
            Some(expected) if expected.subscription == subscription => {
                let missing = sequence.wrapping_sub(expected.next);
                expected.next = sequence.wrapping_add(1);
                missing
            }
            _ => self.learn(channel, subscription, sequence),
        }
    }

    /// Takes in messages that followed the last one of their channel without a gap.
    pub(super) fn pass(&mut self, channel: u16, messages: u32) {
        if let Some(expected) = self.channels.get_mut(usize::from(channel)) {
            expected.next = expected.next.wrapping_add(messages);
        }
    }

    /// Takes in the number of a message to us alone.
    pub(super) fn follow_directed(&mut self, sequence: u32) -> u32 {
        self.directed.replace(sequence.wrapping_add(1)).map_or(0, |expected| sequence.wrapping_sub(expected))
    }

    #[cold]
    fn learn(&mut self, channel: u16, subscription: u32, sequence: u32) -> u32 {
        let index = usize::from(channel);
        if index >= self.channels.len() {
            self.channels.resize(index + 1, Expected::default());
        }
        self.channels[index] = Expected { subscription, next: sequence.wrapping_add(1) };
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_what_is_missing_and_a_new_subscription_begins_anew() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.follow(7, 1, u32::MAX), 0);
        assert_eq!(sequences.follow(7, 1, 0), 0);
        assert_eq!(sequences.follow(7, 1, 5), 4);
        sequences.pass(7, 3);
        assert_eq!(sequences.follow(7, 1, 9), 0);
        assert_eq!(sequences.follow(7, 2, 900), 0);
        assert_eq!(sequences.follow(3, 2, 1), 0);
    }

    #[test]
    fn what_is_for_us_alone_is_numbered_by_itself() {
        let mut sequences = Sequences::default();
        assert_eq!(
            (sequences.follow_directed(4), sequences.follow_directed(5), sequences.follow_directed(8)),
            (0, 0, 2)
        );
    }
}
