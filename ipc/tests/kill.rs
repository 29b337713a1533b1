//! Workers in processes of their own, killed while they publish: nobody sees anything but whole records, in order.
//!
//! The worker is this test binary once more, told by its environment to be one; its link is its standard input.

mod common;

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::supervisor::Supervisor;
use common::{Herd, RING};
use herdwire_ipc::{Inbox, Message, connect_over};

const LONG: Duration = Duration::from_secs(60);
const ROLE: &str = "HERDWIRE_TEST_ROLE";

/// A child that does not outlive the test.
struct Worker(Child);

impl Worker {
    fn start(link: OwnedFd, role: &str) -> Worker {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_worker_of_the_other_tests", "--include-ignored", "--nocapture"]);
        command.env(ROLE, role).env("HERDWIRE_LINK", "0");
        Worker(command.stdin(Stdio::from(link)).stdout(Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already dead when the test has killed it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A payload of changing length that proves itself: number, incarnation, then bytes that follow from them.
fn payload(number: u64, incarnation: u32) -> Vec<u8> {
    let filling = (number ^ u64::from(incarnation) << 7) as u8;
    let mut bytes = [&number.to_le_bytes()[..], &incarnation.to_le_bytes()].concat();
    bytes.resize(12 + (number % 500) as usize, filling);
    bytes
}

fn check(message: &Message) -> (u64, u32) {
    let number = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
    let incarnation = u32::from_le_bytes(message.payload()[8..12].try_into().unwrap());
    assert_eq!(message.payload(), payload(number, incarnation), "torn");
    assert_eq!(message.from_slot().1, incarnation);
    (number, incarnation)
}

fn receive(inbox: &mut Inbox) -> (u64, u32) {
    check(&inbox.next_timeout(LONG).unwrap().unwrap())
}

#[test]
#[ignore = "a worker, started by the other tests"]
fn the_worker_of_the_other_tests() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (herd, mut inbox) = herdwire_ipc::connect().unwrap();
    let flood = herd.channel("flood").unwrap();
    match role.as_str() {
        "publisher" => {
            for number in 0.. {
                herd.publish(&flood, payload(number, herd.me().incarnation)).unwrap();
            }
        }
        "echo" => {
            let answers = herd.channel("answers").unwrap();
            herd.subscribe("flood").unwrap();
            herd.ready().unwrap();
            while let Some(message) = inbox.next().unwrap() {
                herd.publish(&answers, message.payload()).unwrap();
            }
        }
        other => panic!("no role `{other}`"),
    }
}

#[test]
fn a_publisher_killed_at_any_moment_leaves_whole_records_and_its_successor_goes_on() {
    let supervisor = Supervisor::start(Herd::new());
    let (herd, mut inbox) = connect_over(supervisor.link(1)).unwrap();
    herd.subscribe("flood").unwrap();
    for round in 1..=8u32 {
        let worker = Worker::start(supervisor.link(2), "publisher");
        // What the dead one had committed may come first.
        let mut next = 0;
        let mut current = round - 1;
        for _ in 0..2000 + 777 * round {
            let (number, incarnation) = receive(&mut inbox);
            if incarnation != current {
                assert_eq!((incarnation, number), (round, 0), "from its first message on");
                (current, next) = (incarnation, 0);
            } else if current == round {
                assert_eq!(number, next, "in order, none missing");
            }
            next += 1;
        }
        assert_eq!(current, round);
        worker.kill();
        supervisor.dead(2);
    }
    assert_eq!(inbox.lost(), []);
}

#[test]
fn a_reader_that_is_killed_holds_nobody_and_its_successor_reads_what_was_left_for_it() {
    // A ring that holds everything, since nobody waits for a slot that is down.
    let supervisor = Supervisor::start(Herd { ring: 4 * RING, ..Herd::new() });
    let (herd, mut inbox) = connect_over(supervisor.link(1)).unwrap();
    herd.subscribe("answers").unwrap();
    let flood = herd.channel("flood").unwrap();
    let worker = Worker::start(supervisor.link(2), "echo");
    common::eventually("it listens", || !supervisor.seen.lock().unwrap().ready.is_empty());
    for number in 0..1000u64 {
        herd.publish(&flood, number.to_le_bytes()).unwrap();
    }
    assert_eq!(inbox.next_timeout(LONG).unwrap().unwrap().payload(), 0u64.to_le_bytes());
    worker.kill();
    supervisor.dead(2);
    for number in 1000..1200u64 {
        herd.publish(&flood, number.to_le_bytes()).unwrap();
    }
    let _worker = Worker::start(supervisor.link(2), "echo");
    let mut last = 0;
    while last < 1199 {
        let message = inbox.next_timeout(LONG).unwrap().unwrap();
        let number = u64::from_le_bytes(message.payload().try_into().unwrap());
        assert!(number > last, "doubled or out of order: {number} after {last}");
        // What the dead one had in hand is lost, a turn at most; the rest is answered.
        assert!(number - last <= 256 + 1, "{number} after {last}");
        last = number;
    }
}
