//! Models of the protocols, explored by loom over the code that is shipped. Run them with
//! `RUSTFLAGS="--cfg loom" cargo test -p herdwire-ipc --lib loom --release`.
//!
//! Memory is sparse: the words that a model is about are loom's atomics, all others read 0 and take no stores. Every
//! model is bounded to three preemptions, the two largest to two. An honest peer that is accused of breaking a rule fails the model.

use std::collections::HashMap;
use std::sync::Arc;

use ::loom::sync::atomic::{AtomicU64, Ordering};
use ::loom::sync::{Condvar, Mutex};
use ::loom::thread;

use super::*;
use crate::directory::copies;
use crate::layout;
use crate::record::{Header, Kind, TO_ALL, size_of};
use crate::slots::Slot;
use crate::sync::{OwnWords, Words};

const READER: Slot = 9;
/// Payload of every record: one word.
const LENGTH: u32 = 8;
const RECORD: u64 = 64;

struct Memory(HashMap<usize, AtomicU64>);

impl Memory {
    fn new(words: impl IntoIterator<Item = (usize, u64)>) -> Arc<Memory> {
        Arc::new(Memory(words.into_iter().map(|(word, value)| (word, AtomicU64::new(value))).collect()))
    }

    /// The outbox of a publisher with a ring for `records`, as it is when its identity is written.
    fn publisher(slot: Slot, records: u64) -> Arc<Memory> {
        let ring = records * RECORD;
        let used = [layout::head(slot), layout::intent(slot)].map(|word| (word, ring));
        let zero = [layout::want(slot), layout::resume(READER)].map(|word| (word, 0));
        let words =
            (0..records).flat_map(|record| (0..5).map(move |word| (layout::ring(record * RECORD, ring) + word, 0)));
        Memory::new(used.into_iter().chain(zero).chain(words))
    }

    fn reader(publishers: &[Slot], cursor: u64) -> Arc<Memory> {
        let cursors = publishers.iter().map(|slot| (layout::cursor(*slot), cursor));
        Memory::new(cursors.chain([(layout::park(READER), 0)]))
    }
}

impl Words for Memory {
    fn load(&self, word: usize) -> u64 {
        self.0.get(&word).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

impl OwnWords for Memory {
    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.0.get(&word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn publish(&self, word: usize, value: u64) {
        if let Some(word) = self.0.get(&word) {
            word.store(value, Ordering::Release);
        }
    }
}

/// An eventfd.
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn new() -> Arc<Bell> {
        Arc::new(Bell(Mutex::new(false), Condvar::new()))
    }

    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_within(3, model);
}

fn explore_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(model);
}

fn write(writer: &mut RingWriter, memory: &Memory, number: u64) {
    let need = writer.need(u64::from(LENGTH));
    let header = Header {
        length: LENGTH,
        kind: Header::KIND_MESSAGE,
        to: TO_ALL,
        sequence: number as u32,
        reference: number * 10,
        ..Header::default()
    };
    writer.write(memory, need, header, None, &(number * 100).to_le_bytes());
    writer.commit(memory);
}

enum Got {
    Nothing,
    Number(u64),
    Lapped(Lap),
}

/// One record, as the drain reads it: copied with what follows, confirmed, checked. Torn ones and accusations fail the
/// model.
fn read(reader: &mut RingReader, memory: &Memory) -> Got {
    if !reader.look_ahead(memory).expect("honest publisher condemned") {
        return Got::Nothing;
    }
    let at = reader.cursor();
    let mut piece = [0; 2 * RECORD as usize / 8];
    match reader.take(memory, &mut piece).expect("honest publisher condemned") {
        Taken::Bytes(_) => {}
        Taken::Overtaken => return Got::Lapped(reader.lap(memory).expect("honest publisher condemned")),
        Taken::Empty => unreachable!("the head is ahead of the cursor"),
    }
    let [a, b, c, d, payload, ..] = piece;
    let header = Header::from_words([a, b, c, d]);
    let (kind, size) = reader.check(&header, at).expect("honest publisher condemned");
    let number = u64::from(header.sequence);
    assert_eq!((kind, size, header.reference), (Kind::Message, RECORD, number * 10), "torn record accepted");
    assert_eq!(payload, number * 100, "torn record accepted");
    reader.advance(at + size);
    Got::Number(number)
}

fn reader_of(slot: Slot, records: u64) -> RingReader {
    let ring = records * RECORD;
    RingReader::new(slot, READER, ring, u64::from(LENGTH), ring)
}

/// `publishers` each write `messages` into a ring that holds them all; the reader must get every one and must not
/// sleep for ever.
fn park_and_wake(publishers: u16, messages: u64) {
    explore(move || {
        let slots: Vec<Slot> = (1..=publishers).collect();
        let rings: Vec<_> = slots.iter().map(|slot| Memory::publisher(*slot, 2)).collect();
        let (own, bell) = (Memory::reader(&[], 0), Bell::new());
        let threads: Vec<_> = slots
            .iter()
            .zip(&rings)
            .map(|(slot, ring)| {
                let (slot, ring, own, bell) = (*slot, ring.clone(), own.clone(), bell.clone());
                thread::spawn(move || {
                    let mut writer = RingWriter::new(slot, 1, 2 * RECORD, 2 * RECORD);
                    let mut waker = Waker::default();
                    for number in 0..messages {
                        write(&mut writer, &ring, number);
                        Waker::fence();
                        if waker.must_ring(own.load(layout::park(READER))) {
                            bell.ring();
                        }
                    }
                })
            })
            .collect();
        let mut readers: Vec<_> = slots.iter().map(|slot| reader_of(*slot, 2)).collect();
        let mut sleeper = Sleeper::new(READER);
        let mut got = 0;
        loop {
            for (reader, ring) in readers.iter_mut().zip(&rings) {
                while let Got::Number(_) = read(reader, ring) {
                    got += 1;
                }
            }
            if got == messages * u64::from(publishers) {
                break;
            }
            sleeper.announce(&*own);
            if !readers.iter().zip(&rings).any(|(reader, ring)| reader.has_news(&**ring)) {
                bell.sleep();
            }
            sleeper.awake(&*own);
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn loom_a_reader_never_sleeps_on_a_message() {
    park_and_wake(1, 1);
}

#[test]
fn loom_a_reader_never_sleeps_on_the_second_message() {
    park_and_wake(1, 2);
}

#[test]
fn loom_a_reader_never_sleeps_on_either_of_two_publishers() {
    park_and_wake(2, 1);
}

/// The writer never waits; what the reader accepts is whole, and nothing vanishes uncounted.
fn overtake(records: u64, messages: u64, preemptions: usize) {
    explore_within(preemptions, move || {
        let ring = Memory::publisher(1, records);
        let theirs = ring.clone();
        let thread = thread::spawn(move || {
            let mut writer = RingWriter::new(1, 1, records * RECORD, records * RECORD);
            for number in 0..messages {
                write(&mut writer, &theirs, number);
            }
        });
        let mut reader = reader_of(1, records);
        let (mut got, mut skipped) = (0, 0);
        for _ in 0..2 {
            match read(&mut reader, &ring) {
                Got::Nothing => break,
                Got::Number(number) => {
                    assert_eq!(number, got + skipped);
                    got += 1;
                }
                Got::Lapped(lap) => skipped += lap.bytes / RECORD,
            }
        }
        assert_eq!((got + skipped) * RECORD, reader.cursor() - records * RECORD);
        thread.join().unwrap();
    });
}

#[test]
fn loom_no_torn_record_is_accepted_from_a_ring_of_one() {
    overtake(1, 2, 3);
}

#[test]
fn loom_no_torn_record_is_accepted_from_a_ring_of_one_that_turns_twice() {
    overtake(1, 3, 2);
}

#[test]
fn loom_no_torn_record_is_accepted_from_a_ring_of_two() {
    overtake(2, 3, 3);
}

/// A publisher that is full asks for room and sleeps; the reader shows its cursor and rings. Nothing is lost, nobody
/// sleeps for ever.
#[test]
fn loom_a_full_publisher_always_gets_its_room() {
    explore(|| {
        const MESSAGES: u64 = 2;
        let (ring, own) = (Memory::publisher(1, 1), Memory::reader(&[1], RECORD));
        let (room, news) = (Bell::new(), Bell::new());
        let publisher = {
            let (ring, own, room, news) = (ring.clone(), own.clone(), room.clone(), news.clone());
            thread::spawn(move || {
                let mut writer = RingWriter::new(1, 1, RECORD, RECORD);
                let (mut held, mut waker) = (Held::default(), Waker::default());
                for number in 0..MESSAGES {
                    let need = writer.need(u64::from(LENGTH));
                    let look = |writer: &mut RingWriter, held: &mut Held| {
                        let cursor = own.load(layout::cursor(1));
                        crate::sync::fence(crate::sync::Ordering::Acquire);
                        let gate = held.gate(cursor, writer.head(), RECORD).unwrap_or(writer.head());
                        writer.set_gate(gate);
                        writer.fits(need)
                    };
                    while !writer.fits(need) && !look(&mut writer, &mut held) {
                        ask_for_room(&*ring, 1, writer.wanted());
                        if look(&mut writer, &mut held) {
                            break;
                        }
                        room.sleep();
                    }
                    ring.store(layout::want(1), 0);
                    let head = writer.head();
                    if let Some(resume) = held.keep(head, head, head + RECORD, || own.load(layout::cursor(1))) {
                        ring.store(layout::resume(READER), resume);
                    }
                    write(&mut writer, &ring, number);
                    Waker::fence();
                    if waker.must_ring(own.load(layout::park(READER))) {
                        news.ring();
                    }
                }
            })
        };
        let (mut reader, mut sleeper) = (reader_of(1, 1), Sleeper::new(READER));
        let (mut got, mut rung_for) = (0, 0);
        while got < MESSAGES {
            match read(&mut reader, &ring) {
                Got::Number(number) => {
                    assert_eq!(number, got);
                    got += 1;
                    if let Some(want) = show_cursor(&*own, &*ring, 1, reader.cursor())
                        && want != rung_for
                    {
                        rung_for = want;
                        room.ring();
                    }
                }
                Got::Nothing => {
                    sleeper.announce(&*own);
                    if !reader.has_news(&*ring) {
                        news.sleep();
                    }
                    sleeper.awake(&*own);
                }
                Got::Lapped(_) => panic!("a record was overwritten that its reader held"),
            }
        }
        publisher.join().unwrap();
    });
}

/// Records for others go by a reader that does not look; the one for it must survive, wherever the reader is.
#[test]
fn loom_a_kept_record_survives_a_lap_of_others() {
    explore_within(2, || {
        const KEPT: u64 = 2;
        let (ring, own) = (Memory::publisher(1, 2), Memory::reader(&[1], 2 * RECORD));
        let publisher = {
            let (ring, own) = (ring.clone(), own.clone());
            thread::spawn(move || {
                let mut writer = RingWriter::new(1, 1, 2 * RECORD, 2 * RECORD);
                let mut held = Held::default();
                for number in 0..5 {
                    let (need, head) = (writer.need(u64::from(LENGTH)), writer.head());
                    let gate = held.gate(own.load(layout::cursor(1)), head, 2 * RECORD).unwrap_or(head);
                    crate::sync::fence(crate::sync::Ordering::Acquire);
                    writer.set_gate(gate);
                    if !writer.fits(need) {
                        continue;
                    }
                    if number == KEPT
                        && let Some(resume) = held.keep(head, head, head + RECORD, || own.load(layout::cursor(1)))
                    {
                        ring.store(layout::resume(READER), resume);
                    }
                    write(&mut writer, &ring, number);
                }
            })
        };
        let mut reader = reader_of(1, 2);
        let mut seen = false;
        let mut turn = || {
            let got = read(&mut reader, &ring);
            seen |= matches!(got, Got::Number(KEPT));
            let moved = !matches!(got, Got::Nothing);
            own.publish(layout::cursor(1), reader.cursor());
            moved
        };
        for _ in 0..2 {
            turn();
        }
        publisher.join().unwrap();
        while turn() {}
        assert!(seen, "a kept record was lost in a lap");
    });
}

/// An entry that is changed three times is read whole, whichever version.
#[test]
fn loom_an_entry_in_two_copies_is_never_torn() {
    explore(|| {
        let copy = |counter: u64| 1 + 2 * (counter & 1) as usize;
        let entry = Memory::new((0..5).map(|word| (word, 0)));
        copies::commit(&*entry, 0, &[1, 1], copy);
        let theirs = entry.clone();
        let writer = thread::spawn(move || {
            for value in 2..=4 {
                copies::commit(&*theirs, 0, &[value, value], copy);
            }
        });
        let taken = copies::read::<2>(&*entry, 0, copy).expect("the writer comes to an end");
        assert_eq!(taken[0], taken[1], "a torn entry was accepted");
        writer.join().unwrap();
    });
}

#[test]
fn loom_records_are_as_large_as_the_models_assume() {
    assert_eq!(size_of(u64::from(LENGTH)), RECORD);
}
