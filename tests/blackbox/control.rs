//! The control socket under clients that are slow, dead or many.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use herdwire::supervisor::control::{self, Request, Response};
use herdwire_ipc::{codec, frame};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::herdwire::{Herdwire, SOON, until};

/// More than the supervisor takes at once, by far.
const MANY: usize = 5_000;
/// Those that wait for an answer, at most.
const PATIENT: usize = 448;

fn connect(herdwire: &Herdwire) -> UnixStream {
    let socket = UnixStream::connect(herdwire.home().join("control.sock")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_write_timeout(Some(SOON)).unwrap();
    socket
}

fn ask(herdwire: &Herdwire, request: &Request) -> UnixStream {
    let mut socket = connect(herdwire);
    socket.write_all(&control::to_frame(request).unwrap()).unwrap();
    socket
}

/// Everything up to the end of a connection.
fn rest(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Closed with something unread it ends in an error, which is an end too.
    let _ = socket.read_to_end(&mut bytes);
    bytes
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn herd() -> Herdwire {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "bystander"]);
    herdwire
}

#[test]
fn five_thousand_idle_connections_give_way_to_whoever_asks() {
    let herdwire = herd();
    let supervisor = herdwire.supervisor_pid();
    let before = descriptors(supervisor);
    let mut idle: Vec<UnixStream> = Vec::new();
    while idle.len() < MANY {
        idle.extend((0..100).map(|_| connect(&herdwire)));
        assert_eq!(herdwire.supervisor_pid(), supervisor);
    }
    assert!(herdwire.instance("bystander").is_online());
    assert!(descriptors(supervisor) < before + 600, "{} idle ones are held", descriptors(supervisor) - before);
    // The first one was closed long ago, without a word.
    assert_eq!(rest(&mut idle[0]), b"");
    drop(idle);
    until("all are let go", || descriptors(supervisor) <= before + 2);
}

#[test]
fn who_sends_a_byte_now_and_then_or_does_not_take_its_answer_gives_way_too() {
    let herdwire = herd();
    let supervisor = herdwire.supervisor_pid();
    let ping = control::to_frame(&Request::Ping).unwrap();
    let mut slow: Vec<UnixStream> = (0..400).map(|_| connect(&herdwire)).collect();
    // One has closed its own half and waits, one never reads.
    for _ in 0..100 {
        let mut half = connect(&herdwire);
        half.write_all(&ping[..ping.len() - 1]).unwrap();
        half.shutdown(Shutdown::Write).unwrap();
        slow.push(half);
        slow.push(ask(&herdwire, &Request::Snapshot { env: true }));
    }
    for byte in &ping[..ping.len() - 1] {
        for socket in &mut slow {
            // Closed meanwhile, or by itself.
            let _ = socket.write_all(&[*byte]);
        }
        assert_eq!(herdwire.supervisor_pid(), supervisor);
    }
    assert!(herdwire.instance("bystander").is_online());
}

#[test]
fn those_that_wait_for_their_answers_are_limited_and_told_so() {
    let herdwire = herd();
    let mut watching: Vec<UnixStream> =
        (0..PATIENT).map(|_| ask(&herdwire, &Request::Events { after: Some(0) })).collect();
    // Each has been told something: it has its place.
    watching.iter_mut().for_each(|socket| socket.read_exact(&mut [0; 1]).unwrap());
    let answer = rest(&mut ask(&herdwire, &Request::Events { after: Some(0) }));
    let (_, body) = frame::split(&answer).expect("a whole frame");
    let Ok(Response::Failed(failure)) = codec::decode(body) else { panic!("it is not refused") };
    assert!(failure.what.contains("already wait") && failure.hint.is_some(), "{failure:?}");
    let said = herdwire.refused(&["restart", "bystander"]);
    assert!(said.contains("already wait"), "{said}");
    assert!(herdwire.instance("bystander").restarts == 0, "what only looks is answered");
    drop(watching);
    until("there is room again", || herdwire.run(&["restart", "bystander"]).status.success());
}
