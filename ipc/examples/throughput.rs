//! How fast the wire is beside a pipe, on this machine, in this run. For profiling; the claims stand on `scripts/bench`.
//!
//! `cargo run --release -p herdwire-ipc --example throughput [seconds per figure]`
//!
//! One figure a line. Publisher and reader are two processes: the reader is this program once more, its herd made by
//! hand and handed down over its standard input.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use herdwire_ipc::seqpacket::{self, Wait};
use herdwire_ipc::{ChannelId, Directory, Outgoing, Participant, Place, SlotState, TURN, join, layout, memory};

const HERD: u64 = 1;
const RING: u64 = layout::RING_DEFAULT;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("read-ring") => return read_ring(),
        Some("read-pipe") => return read_pipe(),
        Some("echo") => return echo(),
        Some("ring") => {
            let size = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(64);
            for _ in 0..3 {
                println!("throughput_{size}: {:.2} M/s", through_ring(Duration::from_millis(100), size)? / 1e6);
            }
            return Ok(());
        }
        Some("local") => {
            let size = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(64);
            return local(500, size);
        }
        _ => {}
    }
    let seconds = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let length = Duration::from_secs_f64(seconds);
    unheard()?;
    local(10_000, 64)?;
    for _ in 0..3 {
        let pipe = through_pipe(length)?;
        let ring = through_ring(length, 64)?;
        println!("pipe_64: {:.2} M/s", pipe / 1e6);
        println!("throughput_64: {:.2} M/s", ring / 1e6);
        println!("throughput_64_vs_pipe: {:.1} x", ring / pipe);
        println!("throughput_1024: {:.2} M/s", through_ring(length, 1024)? / 1e6);
        println!("rtt_parked_64: {:.2} us", round_trip(length)?);
    }
    Ok(())
}

/// A herd made by hand: what the supervisor does, for two participants.
struct Bench {
    directory: Directory,
    directory_fd: OwnedFd,
    channel: ChannelId,
}

struct Seat {
    outbox: OwnedFd,
    bell: OwnedFd,
}

impl Bench {
    fn new() -> Result<Bench, Box<dyn std::error::Error>> {
        let directory_fd = memory::create_directory("bench")?;
        let mut directory = Directory::create(directory_fd.as_fd(), HERD, "bench", layout::LAYOUT_VERSIONS.1)?;
        let channel = directory.intern("bench")?;
        for slot in [1, 2] {
            directory.set_slot(slot, SlotState::Running, 1, Some(u32::from(slot)));
        }
        directory.bump();
        Ok(Bench { directory, directory_fd, channel })
    }

    /// Seats the publisher here and the reader in a child; they know each other when this returns.
    fn with_reader(&mut self, role: &str) -> Result<(Participant, std::process::Child), Box<dyn std::error::Error>> {
        let seats = [seat()?, seat()?];
        let (ours, theirs) = seqpacket::pair()?;
        let child = Command::new(std::env::current_exe()?).arg(role).stdin(Stdio::from(theirs)).spawn()?;
        let [one, two] = &seats;
        let all = [&two.outbox, &two.bell, &self.directory_fd, &one.outbox, &one.bell].map(AsFd::as_fd);
        let participant =
            join(&place(1), one.outbox.try_clone()?, one.bell.try_clone()?, self.directory_fd.try_clone()?, None)?;
        memory::seal(one.outbox.as_fd())?;
        seqpacket::send(ours.as_fd(), b"join", &all, Wait::Block)?;
        seqpacket::receive(ours.as_fd(), &mut [0; 8], Wait::Block)?;
        memory::seal(two.outbox.as_fd())?;
        participant.control.add_peer(2, 1, two.outbox.try_clone()?, two.bell.try_clone()?, false)?;
        seqpacket::send(ours.as_fd(), b"meet", &[], Wait::Block)?;
        seqpacket::receive(ours.as_fd(), &mut [0; 8], Wait::Block)?;
        Ok((participant, child))
    }
}

fn seat() -> Result<Seat, Box<dyn std::error::Error>> {
    Ok(Seat { outbox: memory::create_outbox("bench", RING)?, bell: memory::create_bell()? })
}

fn place(slot: u16) -> Place {
    let base = layout::next_base(0, RING);
    let stall_timeout = Duration::from_secs(5);
    Place { herd: HERD, slot, incarnation: 1, ring_bytes: RING, base, stall_timeout, max_message: 1 << 24 }
}

fn join_from_stdin() -> Result<(Participant, ChannelId), Box<dyn std::error::Error>> {
    let link = std::io::stdin().as_fd().try_clone_to_owned()?;
    let received = seqpacket::receive(link.as_fd(), &mut [0; 8], Wait::Block)?;
    let [outbox, bell, directory, peer, peer_bell] =
        <[OwnedFd; 5]>::try_from(received.descriptors).map_err(|_| "five descriptors")?;
    let participant = join(&place(2), outbox, bell, directory, None)?;
    seqpacket::send(link.as_fd(), b"mapped", &[], Wait::Block)?;
    seqpacket::receive(link.as_fd(), &mut [0; 8], Wait::Block)?;
    participant.control.add_peer(1, 1, peer, peer_bell, false)?;
    seqpacket::send(link.as_fd(), b"here", &[], Wait::Block)?;
    let channel = participant.control.directory().channel("bench").ok_or("a channel")?;
    Ok((participant, channel))
}

/// A message of this length ends a run.
const LAST: usize = 3;

fn read_ring() -> Result<(), Box<dyn std::error::Error>> {
    let (mut participant, _) = join_from_stdin()?;
    let (mut records, mut last) = (0u64, false);
    while !last {
        let turn = participant.drain.turn(TURN, |delivery| {
            records += 1;
            last = delivery.payload.len() == LAST;
        });
        if !turn.more && !last {
            participant.drain.wait(Duration::from_secs(1));
        }
    }
    Ok(())
}

fn echo() -> Result<(), Box<dyn std::error::Error>> {
    let (Participant { mut publisher, mut drain, .. }, channel) = join_from_stdin()?;
    let mut last = false;
    while !last {
        let turn = drain.turn(TURN, |delivery| {
            last = delivery.payload.len() == LAST;
            publisher.publish(channel, Outgoing::bytes(delivery.payload)).expect("room for an answer");
        });
        if turn.records == 0 && !turn.more {
            drain.wait(Duration::from_secs(1));
        }
    }
    Ok(())
}

fn read_pipe() -> Result<(), Box<dyn std::error::Error>> {
    let mut buffer = [0; 64 * 1024];
    let mut stdin = std::io::stdin().lock();
    while stdin.read(&mut buffer)? > 0 {}
    Ok(())
}

fn unheard() -> Result<(), Box<dyn std::error::Error>> {
    let bench = Bench::new()?;
    let seat = seat()?;
    let mut participant = join(&place(1), seat.outbox, seat.bell, bench.directory_fd.try_clone()?, None)?;
    const COUNT: u32 = 10_000_000;
    let payload = [7; 64];
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..COUNT {
            participant.publisher.publish(bench.channel, Outgoing::bytes(std::hint::black_box(&payload)))?;
        }
        println!("publish_unheard: {:.1} ns", start.elapsed().as_nanos() as f64 / f64::from(COUNT));
    }
    Ok(())
}

/// Publisher and reader on one thread: what the code costs, without caches that travel.
fn local(rounds: u32, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut bench = Bench::new()?;
    bench.directory.set_subscribed(bench.channel, 2, true);
    bench.directory.bump();
    let seats = [seat()?, seat()?];
    let mut both = Vec::new();
    for (slot, seat) in [(1, &seats[0]), (2, &seats[1])] {
        let directory = bench.directory_fd.try_clone()?;
        both.push(join(&place(slot), seat.outbox.try_clone()?, seat.bell.try_clone()?, directory, None)?);
        memory::seal(seat.outbox.as_fd())?;
    }
    both[0].control.add_peer(2, 1, seats[1].outbox.try_clone()?, seats[1].bell.try_clone()?, false)?;
    both[1].control.add_peer(1, 1, seats[0].outbox.try_clone()?, seats[0].bell.try_clone()?, false)?;
    let (mut publishing, mut receiving) = (Vec::new(), Vec::new());
    let payload = vec![7; size];
    // As many as fit into a turn.
    let messages = TURN.min(128 * 1024 / size.max(1));
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..messages {
            both[0].publisher.publish(bench.channel, Outgoing::bytes(std::hint::black_box(&payload)))?;
        }
        let middle = Instant::now();
        let turn = both[1].drain.turn(TURN, |delivery| {
            std::hint::black_box(delivery.payload);
        });
        assert_eq!(turn.records, messages);
        publishing.push(middle - start);
        receiving.push(middle.elapsed());
    }
    for (what, times) in [("publish_heard", &mut publishing), ("receive", &mut receiving)] {
        times.sort_unstable();
        println!("{what}: {:.1} ns", times[times.len() / 2].as_nanos() as f64 / messages as f64);
    }
    Ok(())
}

fn through_ring(length: Duration, size: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let mut bench = Bench::new()?;
    bench.directory.set_subscribed(bench.channel, 2, true);
    bench.directory.bump();
    let (mut participant, mut child) = bench.with_reader("read-ring")?;
    let payload = vec![7; size];
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < length {
        for _ in 0..1000 {
            participant.publisher.publish(bench.channel, Outgoing::bytes(std::hint::black_box(&payload)))?;
        }
        count += 1000;
    }
    participant.publisher.publish(bench.channel, Outgoing::bytes(&payload[..LAST]))?;
    child.wait()?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn round_trip(length: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let mut bench = Bench::new()?;
    for slot in [1, 2] {
        bench.directory.set_subscribed(bench.channel, slot, true);
    }
    bench.directory.bump();
    let (Participant { mut publisher, mut drain, .. }, mut child) = bench.with_reader("echo")?;
    let payload = [7; 64];
    let mut times = Vec::new();
    let start = Instant::now();
    let mut trip = |bytes: &[u8]| -> Result<Duration, Box<dyn std::error::Error>> {
        let sent = Instant::now();
        publisher.publish(bench.channel, Outgoing::bytes(bytes))?;
        while drain.turn(TURN, |_| {}).records == 0 {
            drain.wait(Duration::from_secs(1));
        }
        Ok(sent.elapsed())
    };
    while start.elapsed() < length {
        times.push(trip(&payload)?);
    }
    trip(&payload[..LAST])?;
    child.wait()?;
    times.sort_unstable();
    Ok(times[times.len() / 2].as_nanos() as f64 / 1e3)
}

fn through_pipe(length: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let mut child = Command::new(std::env::current_exe()?).arg("read-pipe").stdin(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take().ok_or("a pipe")?;
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < length {
        for _ in 0..1000 {
            pipe.write_all(&[7; 64])?;
        }
        count += 1000;
    }
    drop(pipe);
    child.wait()?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
