//! Participants of a herd made by hand, in one process: publishing, receiving, order, loss, death and succession.

mod common;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::*;
use herdwire_ipc::{
    ChannelId, Directory, LossCause, Outgoing, Participant, PeerError, PublishError, Rule, SUPERVISOR, SlotState, Tag,
    To, layout, memory,
};

fn text(text: &str) -> Outgoing<'_> {
    Outgoing { to: To::Subscribers, tag: Tag::Text, session: None, payload: text.as_bytes() }
}

#[test]
fn a_message_reaches_every_subscriber_but_its_publisher() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2, 3, 4]);
    let chat = herd.subscribe("chat", [1, 2, 3]);
    let published = seated[0].0.publisher.try_publish(chat, text("hello")).unwrap();
    assert!(published.position.is_some());
    for (index, expected) in [(0, 0), (1, 1), (2, 1), (3, 0)] {
        let got = drain_all(&mut seated[index].0);
        assert_eq!(got.len(), expected, "participant {index}");
        if let Some(got) = got.first() {
            assert_eq!((got.from, got.from_incarnation, got.channel, got.to_me_alone), (1, 1, chat, false));
            assert_eq!(got.payload, b"hello");
        }
    }
}

#[test]
fn a_message_that_nobody_hears_is_counted_and_not_written() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [1]);
    let publisher = &mut seated[0].0.publisher;
    let head = publisher.head();
    assert_eq!(publisher.try_publish(chat, text("hello")).unwrap().position, None);
    assert_eq!(publisher.head(), head);
    assert_eq!(seated[0].0.control.counters(1, chat).unwrap().published, 1);
    assert_eq!(seated[1].0.control.counters(1, chat).unwrap().published, 1);
}

#[test]
fn a_subscription_counts_from_the_directorys_next_version_on() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", []);
    seated[0].0.publisher.try_publish(chat, text("one")).unwrap();
    herd.subscribe("chat", [2]);
    seated[0].0.publisher.try_publish(chat, text("two")).unwrap();
    herd.directory.set_subscribed(chat, 2, false);
    herd.directory.bump();
    seated[0].0.publisher.try_publish(chat, text("three")).unwrap();
    assert_eq!(drain_all(&mut seated[1].0).len(), 0, "no longer subscribed when it looked");
    herd.subscribe("chat", [2]);
    seated[0].0.publisher.try_publish(chat, text("four")).unwrap();
    assert_eq!(payloads(&drain_all(&mut seated[1].0)), ["four"]);
    assert_eq!(seated[1].0.drain.lost(), [], "what was published meanwhile was not for it");
}

#[test]
fn a_message_to_one_slot_is_read_there_alone_and_needs_no_subscription() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([0, 1, 2, 3]);
    let chat = herd.subscribe("chat", [3]);
    let session = Some(u128::MAX - 5);
    let message = Outgoing { to: To::Slot(2), tag: Tag::Json, session, payload: b"{}" };
    seated[1].0.publisher.try_publish(chat, message).unwrap();
    let message = Outgoing { to: To::Slot(SUPERVISOR), ..message };
    seated[1].0.publisher.try_publish(chat, message).unwrap();
    assert_eq!(drain_all(&mut seated[3].0), []);
    let got = drain_all(&mut seated[2].0);
    assert_eq!((got.len(), got[0].session, &got[0].payload[..], got[0].to_me_alone), (1, session, &b"{}"[..], true));
    assert_eq!(drain_all(&mut seated[0].0).len(), 1);
    let nobody = Outgoing { to: To::Slot(9), ..message };
    assert_eq!(seated[1].0.publisher.try_publish(chat, nobody), Err(PublishError::NobodyThere(9)));
    let myself = Outgoing { to: To::Slot(1), ..message };
    assert_eq!(seated[1].0.publisher.try_publish(chat, myself), Err(PublishError::NobodyThere(1)));
}

#[test]
fn messages_of_every_size_arrive_in_order_over_many_turns_of_the_ring() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let limit = layout::record_limit(RING) as usize;
    let (mut sent, mut received) = (0usize, 0usize);
    let payload = |number: usize| vec![(number % 251) as u8; (number * 37) % (limit + 1)];
    while sent < 3000 {
        let message = payload(sent);
        match seated[0].0.publisher.try_publish(chat, Outgoing::bytes(&message)) {
            Ok(_) => sent += 1,
            Err(PublishError::Full) => {
                let got = drain_all(&mut seated[1].0);
                assert!(!got.is_empty(), "a full ring must have something unread");
                for got in got {
                    assert_eq!(got.payload, payload(received));
                    received += 1;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    received += drain_all(&mut seated[1].0).len();
    assert_eq!(received, sent);
    assert_eq!(seated[1].0.drain.lost(), []);
    let counters = seated[0].0.control.counters(2, chat).unwrap();
    assert_eq!((counters.delivered, counters.lost), (3000, 0));
}

#[test]
fn a_message_larger_than_a_record_and_an_unknown_channel_are_clear_errors() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let limit = layout::record_limit(RING);
    let large = vec![0; limit as usize + 1];
    let error = seated[0].0.publisher.try_publish(chat, Outgoing::bytes(&large)).unwrap_err();
    assert_eq!(error, PublishError::TooLarge { bytes: limit + 1, limit });
    let unknown = ChannelId(5);
    let error = seated[0].0.publisher.try_publish(unknown, text("x")).unwrap_err();
    assert_eq!(error, PublishError::UnknownChannel(unknown));
    assert!(seated[0].0.publisher.try_publish(ChannelId(2000), text("x")).is_err());
}

#[test]
fn a_publisher_never_waits_for_the_supervisor_which_is_told_what_it_missed() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([0, 1]);
    let chat = herd.subscribe("chat", [0]);
    for number in 0..5000u32 {
        seated[1].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let got = payloads(&drain_all(&mut seated[0].0));
    let first: u32 = got[0].parse().unwrap();
    assert!(first > 0 && got.last().unwrap() == "4999" && got.len() as u32 == 5000 - first);
    // It had no number to count from yet; the bytes it knows.
    let lost = seated[0].0.drain.lost();
    assert!(lost.iter().any(|loss| loss.bytes == u64::from(first) * 64 && loss.cause == LossCause::Lagged));
    for number in 5000..10_000u32 {
        seated[1].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let got = payloads(&drain_all(&mut seated[0].0));
    let missed = u64::from(got[0].parse::<u32>().unwrap() - 5000);
    let records: u64 = seated[0].0.drain.lost().iter().map(|loss| loss.records).sum();
    assert_eq!((records, got.len() as u64), (missed, 5000 - missed));
    assert_eq!(seated[0].0.control.counters(0, chat).unwrap().lost, missed);
}

#[test]
fn a_reader_that_does_not_move_is_stalled_after_the_time_limit_and_catches_up() {
    let mut herd = Herd::new();
    herd.stall_timeout = Duration::from_millis(50);
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let before = Instant::now();
    let fits = RING / 64;
    for number in 0..fits + 1 {
        seated[0].0.publisher.publish(chat, text(&number.to_string())).unwrap();
    }
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert!(seated[0].0.publisher.stalled().contains(2) && seated[0].0.publisher.stalls() == 1);
    for number in fits + 1..2 * fits {
        seated[0].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let got = drain_all(&mut seated[1].0);
    assert_eq!(payloads(&got).last().unwrap(), &(2 * fits - 1).to_string());
    // Caught up: it holds the publisher again as soon as it is looked at.
    for _ in 0..fits {
        seated[0].0.publisher.try_publish(chat, text("x")).unwrap();
    }
    assert_eq!(seated[0].0.publisher.try_publish(chat, text("x")), Err(PublishError::Full));
    assert!(seated[0].0.publisher.stalled().is_empty());
}

#[test]
fn a_waiting_publisher_goes_on_when_its_reader_makes_room_and_when_it_dies() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let (mut reader, _) = seated.pop().unwrap();
    let (writer, _) = seated.pop().unwrap();
    let control = writer.control.clone();
    let mut publisher = writer.publisher;
    let total = 4 * RING / 64;
    let thread = std::thread::spawn(move || {
        for number in 0..total {
            publisher.publish(chat, text(&number.to_string())).unwrap();
        }
        publisher.stalls()
    });
    let mut received = 0;
    let deadline = deadline();
    while received < total / 2 {
        reader.drain.turn(256, |_| received += 1);
        reader.drain.wait(Duration::from_millis(100));
        assert!(Instant::now() < deadline);
    }
    // It reads no more: the publisher waits until it is told that the reader is dead.
    control.gone(2, 1);
    assert_eq!(thread.join().unwrap(), 0);
}

#[test]
fn two_publishers_that_wait_for_each_other_get_on_when_each_drains_meanwhile() {
    let mut herd = Herd::new();
    let seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [1, 2]);
    let total = 8 * RING / 64;
    let threads: Vec<_> = seated
        .into_iter()
        .map(|(mut participant, _)| {
            std::thread::spawn(move || {
                let mut received = 0;
                for _ in 0..total {
                    let drain = &mut participant.drain;
                    let relief = || {
                        drain.turn(256, |_| received += 1);
                    };
                    participant.publisher.publish_with(chat, text("x"), relief).unwrap();
                }
                let deadline = deadline();
                while received < total {
                    participant.drain.turn(256, |_| received += 1);
                    participant.drain.wait(Duration::from_millis(100));
                    assert!(Instant::now() < deadline);
                }
                (received, participant.publisher.stalls())
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (total, 0));
    }
}

#[test]
fn what_a_dead_publisher_committed_is_read_to_the_end_and_then_its_successor() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    for number in 0..10 {
        seated[0].0.publisher.try_publish(chat, text(&format!("old {number}"))).unwrap();
    }
    let highest = seated[1].0.control.peer_position(1).unwrap().head;
    seated[1].0.control.gone(1, 1);
    let (mut successor, kept) = herd.seat(1, 2, highest, Some(&seated[0].1));
    introduce(&successor, &seated[1].1);
    introduce(&seated[1].0, &kept);
    herd.run(1, 2);
    successor.publisher.try_publish(chat, text("new 0")).unwrap();
    let got = drain_all(&mut seated[1].0);
    assert_eq!(got.len(), 11);
    assert_eq!((got[9].from_incarnation, got[10].from_incarnation), (1, 2));
    assert_eq!(payloads(&got)[9..], ["old 9", "new 0"]);
    assert_eq!(seated[1].0.drain.lost(), []);
}

#[test]
fn a_successor_reads_what_its_predecessor_had_not_shown_as_read() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    for number in 0..300 {
        seated[0].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let mut handed = Vec::new();
    seated[1].0.drain.turn(100, |delivery| handed.push(Got::of(delivery)));
    assert_eq!(handed.len(), 100);
    // It dies; the publisher is told, and goes on.
    seated[0].0.control.gone(2, 1);
    herd.directory.set_slot(2, SlotState::Down, 1, Some(102));
    herd.directory.bump();
    for number in 300..600 {
        seated[0].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let (mut successor, kept) = herd.seat(2, 2, 0, Some(&seated[1].1));
    introduce(&successor, &seated[0].1);
    introduce(&seated[0].0, &kept);
    herd.run(2, 2);
    let got = payloads(&drain_all(&mut successor));
    assert_eq!((got.len(), &got[0][..], &got[499][..]), (500, "100", "599"));
    // And from now on it holds the publisher again.
    while seated[0].0.publisher.try_publish(chat, text("x")).is_ok() {}
    assert_eq!(drain_all(&mut successor).len() as u64, RING / 64);
}

#[test]
fn a_slot_that_is_down_delays_nobody_and_its_successor_counts_what_was_overwritten() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    seated[0].0.control.gone(2, 1);
    herd.directory.set_slot(2, SlotState::Down, 1, Some(102));
    herd.directory.bump();
    for number in 0..3 * RING / 64 {
        seated[0].0.publisher.try_publish(chat, text(&number.to_string())).unwrap();
    }
    let (mut successor, kept) = herd.seat(2, 2, 0, Some(&seated[1].1));
    introduce(&successor, &seated[0].1);
    introduce(&seated[0].0, &kept);
    herd.run(2, 2);
    let got = payloads(&drain_all(&mut successor));
    assert_eq!(got.last().unwrap(), &(3 * RING / 64 - 1).to_string());
    assert!(successor.drain.lost().iter().any(|loss| loss.bytes > RING));
}

#[test]
fn a_slow_reader_of_a_rare_channel_delays_nobody_and_misses_nothing() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2, 3]);
    let (rare, busy) = (herd.subscribe("rare", [2]), herd.subscribe("busy", [3]));
    let mut rare_sent = Vec::new();
    for round in 0..50 {
        for _ in 0..400 {
            seated[0].0.publisher.try_publish(busy, text("x")).unwrap();
            drain_all(&mut seated[2].0);
        }
        let name = format!("rare {round}");
        seated[0].0.publisher.try_publish(rare, text(&name)).unwrap();
        rare_sent.push(name);
        if round % 2 == 1 {
            let got = payloads(&drain_all(&mut seated[1].0));
            assert_eq!(got, rare_sent[round - 1..], "lapped by others, it resumes at its own first record");
            assert_eq!(seated[1].0.drain.lost(), []);
        }
    }
}

#[test]
fn a_parked_reader_is_rung_once_per_sleep() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let bell = seated[1].1.bell();
    let rings = || {
        let mut count = [0; 8];
        nix::unistd::read(bell.as_fd(), &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    };
    drain_all(&mut seated[1].0);
    rings();
    seated[0].0.publisher.try_publish(chat, text("awake")).unwrap();
    assert_eq!(rings(), 0);
    drain_all(&mut seated[1].0);
    let (writer, reader) = seated.split_at_mut(1);
    let publisher = &mut writer[0].0.publisher;
    let announced = reader[0].0.drain.announce().unwrap();
    for _ in 0..5 {
        publisher.try_publish(chat, text("parked")).unwrap();
    }
    assert_eq!(rings(), 1);
    drop(announced);
    assert!(reader[0].0.drain.announce().is_none(), "there is something to read");
    publisher.try_publish(chat, text("awake again")).unwrap();
    assert_eq!(rings(), 0);
}

#[test]
fn a_reader_that_sleeps_is_woken_by_a_message_and_by_control() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let (mut reader, _) = seated.pop().unwrap();
    let control = reader.control.clone();
    let (told, news) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        for _ in 0..2 {
            let before = Instant::now();
            while !reader.drain.has_news() {
                reader.drain.wait(Duration::from_secs(30));
            }
            let records = reader.drain.turn(256, |_| {}).records;
            told.send((records, before.elapsed())).unwrap();
        }
    });
    // The peers that came at the beginning.
    assert_eq!(news.recv_timeout(Duration::from_secs(60)).unwrap().0, 0);
    control.wake();
    seated[0].0.publisher.try_publish(chat, text("x")).unwrap();
    assert!(news.recv_timeout(Duration::from_secs(60)).is_ok());
    thread.join().unwrap();
}

#[test]
fn a_peer_that_is_not_what_the_supervisor_says_is_refused() {
    let mut herd = Herd::new();
    let seated = herd.seat_all([1, 2]);
    let control = &seated[0].0.control;
    let stranger = herd.make(5, 1);
    let refused = control.add_peer(5, 1, stranger.outbox(), stranger.bell(), false);
    assert!(matches!(refused, Err(PeerError::Memory { .. })), "not sealed");
    memory::seal(stranger.outbox.as_fd()).unwrap();
    let refused = control.add_peer(5, 1, stranger.outbox(), stranger.bell(), false);
    assert!(matches!(refused, Err(PeerError::Identity { field: "magic", .. })));
    let (_, other) = herd.seat(6, 3, 0, None);
    let refused = control.add_peer(5, 3, other.outbox(), other.bell(), false);
    assert!(matches!(refused, Err(PeerError::Identity { field: "slot", .. })));
    let refused = control.add_peer(6, 2, other.outbox(), other.bell(), false);
    assert!(matches!(refused, Err(PeerError::Identity { field: "incarnation", .. })));
    control.add_peer(6, 3, other.outbox(), other.bell(), false).unwrap();
    control.add_peer(6, 3, other.outbox(), other.bell(), false).unwrap();
    assert!(matches!(control.add_peer(6, 2, other.outbox(), other.bell(), false), Err(PeerError::Stale { .. })));
    assert!(matches!(control.add_peer(1, 1, other.outbox(), other.bell(), false), Err(PeerError::Slot { .. })));
}

#[test]
fn a_new_supervisors_introductions_begin_no_ring_again_and_tell_of_deaths_that_were_missed() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [1, 2]);
    seated[0].0.publisher.try_publish(chat, text("once")).unwrap();
    assert_eq!(payloads(&drain_all(&mut seated[1].0)), ["once"]);
    let again = |to: &Participant, peer: &Kept, retired: bool| {
        to.control.add_peer(peer.slot, peer.incarnation, peer.outbox(), peer.bell(), retired).unwrap();
    };
    // The death of slot 1 was never told, or was: it comes to the same.
    again(&seated[1].0, &seated[0].1, true);
    assert_eq!(seated[1].0.control.peer_position(1).unwrap().incarnation, None);
    again(&seated[1].0, &seated[0].1, true);
    assert_eq!(drain_all(&mut seated[1].0), []);
    let highest = seated[1].0.control.peer_position(1).unwrap().head;
    let (mut successor, kept) = herd.seat(1, 2, highest, Some(&seated[0].1));
    introduce(&successor, &seated[1].1);
    introduce(&seated[1].0, &kept);
    herd.run(1, 2);
    successor.publisher.try_publish(chat, text("twice")).unwrap();
    assert_eq!(payloads(&drain_all(&mut seated[1].0)), ["twice"]);
    // All of it once more, the dead first.
    again(&seated[1].0, &seated[0].1, true);
    introduce(&seated[1].0, &kept);
    assert_eq!(seated[1].0.control.peer_position(1).unwrap().incarnation, Some(2));
    assert_eq!(drain_all(&mut seated[1].0), []);
}

#[test]
fn a_new_directory_keeps_every_channels_number_and_goes_on_counting() {
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [2]);
    let orders = herd.subscribe("orders", [1, 2]);
    let new_fd = memory::create_directory("test").unwrap();
    let mut new = Directory::succeed(new_fd.as_fd(), herd.directory_fd.as_fd()).unwrap();
    assert_eq!((new.channel("chat"), new.channel("orders"), new.herd_name()), (Some(chat), Some(orders), "test"));
    assert_eq!((new.epoch(), new.version()), (2, herd.directory.version() + 1));
    assert_eq!(new.subscribers(orders), herd.directory.subscribers(orders));
    assert_eq!(new.slot(2), herd.directory.slot(2));
    for (participant, _) in &seated {
        participant.control.renew_directory(new_fd.try_clone().unwrap()).unwrap();
    }
    new.set_subscribed(chat, 2, false);
    let version = new.bump();
    assert_eq!(seated[0].0.control.directory_version(), version);
    assert_eq!(seated[0].0.publisher.try_publish(chat, text("x")).unwrap().position, None);
    seated[0].0.publisher.try_publish(orders, text("y")).unwrap();
    assert_eq!(payloads(&drain_all(&mut seated[1].0)), ["y"]);
}

#[test]
fn a_peer_that_breaks_a_rule_is_dropped_reported_and_delays_nobody() {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let mut herd = Herd::new();
    let mut seated = herd.seat_all([1, 2]);
    let chat = herd.subscribe("chat", [1, 2]);
    // A liar is made by hand: an outbox that is mapped once more before it is sealed.
    let kept = herd.make(3, 1);
    let length = std::num::NonZeroUsize::new((0xe000 + RING) as usize).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping of a file of this size, at an address that the kernel chooses.
    let base = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &kept.outbox, 0) }.unwrap().cast::<u64>();
    let _liar =
        herdwire_ipc::join(&herd.place(3, 1, 0), kept.outbox(), kept.bell(), herd.directory_fd(), None).unwrap();
    memory::seal(kept.outbox.as_fd()).unwrap();
    introduce(&seated[0].0, &kept);
    herd.run(3, 1);
    seated[1].0.publisher.try_publish(chat, text("before")).unwrap();
    let head = (0x80 + 0x80 * 3) / 8;
    // SAFETY: the word lies within the mapping, which lives as long as the test.
    unsafe { base.add(head).write_volatile(base.add(head).read_volatile() + 8) };
    let got = drain_all(&mut seated[0].0);
    assert_eq!(payloads(&got), ["before"]);
    let accused = seated[0].0.control.accusations();
    assert_eq!((accused.len(), accused[0].slot, accused[0].rule), (1, 3, Rule::Head));
    seated[1].0.publisher.try_publish(chat, text("after")).unwrap();
    assert_eq!(payloads(&drain_all(&mut seated[0].0)), ["after"]);
}
