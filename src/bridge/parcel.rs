//! How numbered messages become `PUBLISH` commands, and what the replies to them mean. Pure.
//!
//! Invariants
//! - Messages leave in the order in which they were published, also across channels: only neighbours share a parcel.
//! - A message is never sent after a later one of its channel has been taken by the server: the other hosts would
//!   throw it away.

use std::sync::Arc;

use super::envelope::{Sender, Writer};
use super::spool::{Entry, Lane};

/// A parcel that holds more than one message is not larger than this.
const PARCEL_BYTES: usize = 64 * 1024;

/// One `PUBLISH`.
#[derive(Debug)]
pub(super) struct Parcel {
    pub lane: Arc<Lane>,
    pub bytes: Vec<u8>,
    pub messages: u16,
}

/// What the server said to one parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is on its way to whoever listens there.
    Taken,
    /// Never: missing rights, for example.
    Refused,
    /// Not now.
    Later,
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// The first so many messages are done with.
    pub done: usize,
    /// Of these, so many were not taken.
    pub refused: u64,
}

/// Packs a batch.
pub(super) fn pack(entries: &[Entry], sender: Sender) -> Vec<Parcel> {
    let joins = |one: &Entry, next: &Entry| Arc::ptr_eq(&one.lane, &next.lane) && one.sequence + 1 == next.sequence;
    entries.chunk_by(joins).flat_map(|row| pack_row(row, sender)).collect()
}

/// Settles what to do after the replies: see [`Outcome`]. A refusal that is followed by a success is final.
pub(super) fn outcome(parcels: &[Parcel], replies: &[Reply]) -> Outcome {
    let taken = replies.iter().rposition(|reply| *reply == Reply::Taken).map_or(0, |last| last + 1);
    let refused = replies[taken..].iter().take_while(|reply| **reply == Reply::Refused).count();
    let settled = || parcels.iter().zip(replies).take(taken + refused);
    Outcome {
        done: settled().map(|(parcel, _)| usize::from(parcel.messages)).sum(),
        refused: settled().filter(|(_, reply)| **reply != Reply::Taken).map(|(one, _)| u64::from(one.messages)).sum(),
    }
}

/// Packs neighbours of one channel without a hole.
fn pack_row(row: &[Entry], sender: Sender) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    let mut rest = row;
    while let Some(first) = rest.first() {
        let mut writer = Writer::new(sender, first.sequence);
        let mut count = 0;
        for entry in rest {
            let full = writer.len() + entry.record.payload.len() > PARCEL_BYTES || writer.count() == u16::MAX;
            if count > 0 && full {
                break;
            }
            writer.push(&entry.record);
            count += 1;
        }
        rest = &rest[count..];
        parcels.push(Parcel { lane: Arc::clone(&first.lane), messages: writer.count(), bytes: writer.finish() });
    }
    parcels
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use herdwire_ipc::Tag;

    use super::super::envelope::{self, Record};
    use super::*;
    use crate::relay::{NodeId, Topic};

    const SENDER: Sender = Sender { node: NodeId(1), incarnation: 2 };

    fn lane(channel: &str) -> Arc<Lane> {
        Arc::new(Lane { topic: Topic::new("shop", channel), name: channel.to_owned() })
    }

    fn entry(lane: &Arc<Lane>, sequence: u64, size: usize) -> Entry {
        let record = Record { session: None, tag: Tag::Bytes, payload: Bytes::from(vec![1; size]) };
        Entry { lane: Arc::clone(lane), sequence, record }
    }

    /// Channel, first number and count of each parcel.
    fn shape(parcels: &[Parcel]) -> Vec<(String, u64, usize)> {
        let describe = |parcel: &Parcel| {
            let envelope = envelope::decode(parcel.bytes.clone().into()).expect("our own");
            assert_eq!(envelope.records.len(), usize::from(parcel.messages));
            (parcel.lane.name.clone(), envelope.first, envelope.records.len())
        };
        parcels.iter().map(describe).collect()
    }

    fn parcels(messages: &[u16]) -> Vec<Parcel> {
        messages.iter().map(|messages| Parcel { lane: lane("a"), bytes: Vec::new(), messages: *messages }).collect()
    }

    #[test]
    fn neighbours_of_one_channel_share_a_parcel_and_others_keep_their_place() {
        let (a, b) = (lane("a"), lane("b"));
        let entries = [entry(&a, 1, 9), entry(&a, 2, 9), entry(&b, 7, 9), entry(&a, 3, 9), entry(&a, 5, 9)];
        let expected = [("a", 1, 2), ("b", 7, 1), ("a", 3, 1), ("a", 5, 1)];
        assert_eq!(
            shape(&pack(&entries, SENDER)),
            expected.map(|(name, first, count)| (name.to_owned(), first, count))
        );
    }

    #[test]
    fn a_parcel_is_bounded_but_takes_a_message_of_any_size() {
        let a = lane("a");
        let entries = [entry(&a, 1, 40_000), entry(&a, 2, 20_000), entry(&a, 3, 20_000), entry(&a, 4, 100_000)];
        let counts: Vec<_> =
            shape(&pack(&entries, SENDER)).into_iter().map(|(_, first, count)| (first, count)).collect();
        assert_eq!(counts, [(1, 2), (3, 1), (4, 1)]);
        let many: Vec<_> = (1..=70_000).map(|sequence| entry(&a, sequence, 0)).collect();
        assert_eq!(pack(&many, SENDER).iter().map(|parcel| usize::from(parcel.messages)).sum::<usize>(), 70_000);
    }

    #[test]
    fn what_the_server_could_not_take_now_is_sent_again_from_the_first_on() {
        use Reply::{Later, Refused, Taken};
        let parcels = parcels(&[1, 10, 100]);
        for (replies, done, refused) in [
            ([Taken, Taken, Taken], 111, 0),
            ([Taken, Later, Later], 1, 0),
            ([Later, Later, Later], 0, 0),
            ([Later, Taken, Later], 11, 1),
            ([Refused, Later, Refused], 1, 1),
            ([Taken, Refused, Refused], 111, 110),
            ([Taken, Refused, Taken], 111, 10),
        ] {
            assert_eq!(outcome(&parcels, &replies), Outcome { done, refused }, "{replies:?}");
        }
    }
}
