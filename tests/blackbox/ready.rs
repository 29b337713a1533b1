//! How instances say that they are ready, and what else they say of themselves.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Stdio};
use std::thread;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};
use crate::puppets::{Puppet, Stage};

/// An app of one puppet, started by a command that waits for it.
struct Launching {
    herdwire: Herdwire,
    puppet: Puppet,
    start: Child,
}

impl Launching {
    fn with(more: &str) -> Launching {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let more = format!("listen_timeout = \"10m\"\n{more}");
        herdwire.write("herdwire.toml", &Stage::app(&herdwire, "slow", 1, &more));
        let start = herdwire.command(&["start"]).stdout(Stdio::null()).spawn().unwrap();
        let puppet = stage.next();
        Launching { herdwire, puppet, start }
    }

    #[track_caller]
    fn is_still_launching(&mut self) {
        assert_eq!(self.herdwire.instance("slow").status, "launching");
        assert!(self.start.try_wait().unwrap().is_none(), "`start` did not wait for it");
    }

    #[track_caller]
    fn comes_online(&mut self) {
        self.herdwire.await_instance("slow", "came online", |now| now.is_online());
        assert!(self.start.wait().unwrap().success());
        assert_eq!(self.herdwire.instance("slow").restarts, 0);
    }

    /// What the snapshot says of its health.
    fn health(&self, key: &str) -> serde_json::Value {
        self.herdwire.snapshot()["instances"][0]["health"][key].clone()
    }

    fn ignored(&self) -> u64 {
        self.herdwire.snapshot()["supervisor"]["notifications_ignored"].as_u64().unwrap()
    }
}

fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn an_instance_is_online_when_it_notifies_and_may_do_so_twice() {
    let mut slow = Launching::with("wait_ready = true");
    slow.is_still_launching();
    slow.puppet.does("notify STATUS=warming up");
    until("its words are shown", || slow.health("status") == "warming up");
    slow.is_still_launching();
    slow.puppet.does("notify READY=1|STATUS=serving");
    slow.comes_online();
    slow.puppet.does("notify READY=1");
    until("its words are shown", || slow.health("status") == "serving");
    assert!(slow.herdwire.ok(&["describe", "slow"]).contains("serving"));
    assert!(slow.herdwire.instance("slow").is_online());
}

#[test]
fn a_process_of_the_instances_session_may_speak_for_it() {
    let mut slow = Launching::with("wait_ready = true");
    slow.puppet.does("notify-from-child READY=1");
    slow.comes_online();
}

#[test]
fn a_stranger_is_ignored_and_counted() {
    let mut slow = Launching::with("wait_ready = true");
    let name = slow.puppet.does("env NOTIFY_SOCKET");
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.connect_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).unwrap();
    stranger.send(b"READY=1\nSTATUS=not mine").unwrap();
    until("it is counted", || slow.ignored() == 1);
    slow.is_still_launching();
    assert!(slow.health("status").is_null());
    slow.puppet.does("notify READY=1");
    slow.comes_online();
}

#[test]
fn a_thousand_descriptors_that_come_along_are_closed() {
    let mut slow = Launching::with("wait_ready = true");
    let supervisor = slow.herdwire.supervisor_pid();
    let before = descriptors_of(supervisor);
    for _ in 0..4 {
        slow.puppet.does("notify-with 250 FDSTORE=1");
    }
    slow.puppet.does("notify-with 1 BARRIER=1|READY=1");
    slow.comes_online();
    until("they are closed", || descriptors_of(supervisor) <= before + 2);
    assert_eq!((slow.herdwire.supervisor_pid(), slow.ignored()), (supervisor, 0));
}

#[test]
fn a_new_line_on_the_descriptor_of_its_choice_says_ready() {
    let mut slow = Launching::with("notify_descriptor = 7");
    slow.is_still_launching();
    slow.puppet.does("write 7 up");
    slow.comes_online();
}

#[test]
fn readiness_that_nobody_has_acted_on_is_not_lost_with_the_supervisor() {
    for (more, say) in [("wait_ready = true", "notify READY=1"), ("notify_descriptor = 9", "write 9 up")] {
        let mut slow = Launching::with(more);
        slow.is_still_launching();
        let supervisor = slow.herdwire.supervisor_pid();
        signal(supervisor, Signal::SIGSTOP);
        slow.puppet.does(say);
        signal(supervisor, Signal::SIGKILL);
        let now = slow.herdwire.await_instance("slow", "came online", |now| now.is_online());
        assert_eq!((now.pid, now.restarts), (slow.puppet.pid, 0));
        // Its connection went with the supervisor that it had asked.
        slow.start.wait().unwrap();
    }
}

#[test]
fn an_instance_still_notifies_a_successor_of_the_supervisor() {
    let mut slow = Launching::with("wait_ready = true");
    slow.herdwire.kill_supervisor();
    slow.puppet.does("notify READY=1|STATUS=heard");
    slow.herdwire.await_instance("slow", "came online", |now| now.is_online());
    until("its words are shown", || slow.health("status") == "heard");
    slow.start.wait().unwrap();
}

#[test]
fn a_server_is_online_when_it_answers_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = ["HTTP/1.1 503 Busy\r\n\r\n", "garbage\r\n", "HTTP/1.1 200 OK\r\n\r\n"];
    let server = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
            // It may have enough of us before we are done.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let probe = format!("readiness = {{ target = \"http://{address}/health\", interval = \"20ms\" }}");
    let mut slow = Launching::with(&probe);
    slow.comes_online();
    server.join().unwrap();
}

#[test]
fn a_server_is_online_when_it_accepts_connections() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let probe = format!("readiness = {{ target = \"tcp://127.0.0.1:{port}\", interval = \"20ms\" }}");
    let mut slow = Launching::with(&probe);
    until("a look failed", || slow.health("probe").as_str().is_some_and(|why| why.contains("refused")));
    slow.is_still_launching();
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    slow.comes_online();
}

#[test]
fn a_command_that_succeeds_says_ready_and_runs_as_the_app_does() {
    let probe =
        "readiness = { target = \"exec:sh -c 'test -e up && test -n \\\"$PUPPET_SOCKET\\\"'\", interval = \"20ms\" }";
    let mut slow = Launching::with(probe);
    until("a look failed", || slow.health("probe").as_str().is_some_and(|why| why.contains("ended with 1")));
    slow.is_still_launching();
    slow.herdwire.write("up", "");
    slow.comes_online();
}

#[test]
fn a_probe_that_hangs_is_ended_with_all_its_processes() {
    let probe =
        "readiness = { target = \"exec:sh -c 'sleep 1234 & echo $! >> pids; sleep 1235'\", timeout = \"100ms\" }";
    let slow = Launching::with(probe);
    let why = || slow.health("probe").as_str().map(str::to_owned).unwrap_or_default();
    until("a look took too long", || why().contains("has not ended within 100ms"));
    let pids = fs::read_to_string(slow.herdwire.work().join("pids")).unwrap();
    let first: u32 = pids.lines().next().unwrap().parse().unwrap();
    until("what it left is gone", || !is_alive(first));
    slow.herdwire.ok(&["delete", "slow"]);
    let Launching { mut start, .. } = slow;
    start.wait().unwrap();
}
