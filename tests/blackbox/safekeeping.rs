//! Listeners in the keeping of a service manager, which a test plays: they outlive keeper and supervisor both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};

use nix::cmsg_space;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::herdwire::{Herdwire, SOON, poll, signal, until, worker};

/// A service manager that starts keepers, and keeps what it is told to keep.
struct Manager {
    herdwire: Herdwire,
    socket: UnixDatagram,
    kept: BTreeMap<String, OwnedFd>,
    heard: Vec<String>,
    unit: Option<Child>,
}

impl Manager {
    fn new() -> Manager {
        let herdwire = Herdwire::new();
        let socket = UnixDatagram::bind(herdwire.work().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { herdwire, socket, kept: BTreeMap::new(), heard: Vec::new(), unit: None }
    }

    /// Starts the unit with what is kept, and waits until it is ready.
    #[track_caller]
    fn starts(&mut self) {
        let mut command = Command::new("sh");
        self.herdwire.place(&mut command);
        let mut kept = self.kept.values().map(|descriptor| Stdio::from(descriptor.try_clone().unwrap()));
        command.stdin(kept.next().unwrap_or_else(Stdio::null)).stdout(kept.next().unwrap_or_else(Stdio::null));
        // The two that a child can be given safely are moved to where a service manager puts them.
        let moved = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" resurrect --no-daemon";
        command.args(["-c", moved]).arg(self.herdwire.command(&[]).get_program());
        command.env("NOTIFY_SOCKET", self.herdwire.work().join("notify"));
        let names: Vec<&str> = self.kept.keys().map(String::as_str).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        self.unit = Some(command.spawn().unwrap());
        self.heard.clear();
        self.hears("is ready", |manager| manager.has_heard("READY=1"));
    }

    /// Takes what it is told until something is as expected.
    #[track_caller]
    fn hears(&mut self, what: &str, expected: impl Fn(&Manager) -> bool) {
        let heard = poll(SOON, || {
            let said = self.hear();
            self.heard.extend(said);
            expected(self).then_some(())
        });
        heard.unwrap_or_else(|| panic!("it never said that it {what}: {:#?}\n{}", self.heard, self.herdwire.own_log()));
    }

    fn has_heard(&self, text: &str) -> bool {
        self.heard.iter().any(|heard| heard.starts_with(text))
    }

    /// One datagram, obeyed.
    fn hear(&mut self) -> Option<String> {
        let mut bytes = [0; 4096];
        let mut room = cmsg_space!([i32; 4]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let seen =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
        let rights = seen.cmsgs().unwrap().filter_map(|message| match message {
            ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // SAFETY: the kernel has just opened these for us.
        let descriptors: Vec<OwnedFd> = rights.flatten().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }).collect();
        let length = seen.bytes;
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
        match name {
            Some(name) if text.starts_with("FDSTORE=1") => {
                self.kept.insert(name, descriptors.into_iter().next().expect("one comes along"));
            }
            Some(name) if text.starts_with("FDSTOREREMOVE=1") => drop(self.kept.remove(&name)),
            _ => {}
        }
        Some(text)
    }

    /// Both die at once.
    fn kills_both(&mut self) {
        self.herdwire.kill_both();
        self.unit.take().unwrap().wait().unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // What it says does not matter: the home sees to it that nothing is left.
        let _ = self.herdwire.run(&["kill"]);
        if let Some(mut unit) = self.unit.take() {
            let _ = unit.wait();
        }
    }
}

/// A port that nobody has at the moment.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn answer(mut connection: impl Read) -> u32 {
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.parse().unwrap_or_else(|_| panic!("no answer: `{answer}`"))
}

#[test]
fn what_waits_at_a_listener_is_served_after_keeper_and_supervisor_died_together() {
    let mut manager = Manager::new();
    manager.starts();
    let (address, path) = (free_port(), manager.herdwire.work().join("app.sock"));
    let app = |name: &str, listen: &str| {
        format!(
            "[[app]]\nname = {name:?}\nscript = {:?}\nlisten = [{listen:?}]\n",
            worker("server").display().to_string()
        )
    };
    let tcp = app("tcp", &format!("tcp://{address}"));
    let unix = format!("[[app]]\nname = \"unix\"\nscript = \"sleep 1000\"\nlisten = [\"unix://{}\"]\n", path.display());
    // A port that the system chooses would be another one the next time: it is not kept.
    let chosen = app("chosen", "tcp://127.0.0.1:0");
    manager.herdwire.write("herdwire.toml", &(tcp + &unix + &chosen));
    manager.herdwire.ok(&["start"]);
    manager.hears("has two listeners to keep", |manager| manager.kept.len() == 2);

    signal(manager.herdwire.instance("tcp").pid, Signal::SIGSTOP);
    let mut waiting = TcpStream::connect(address).unwrap();
    waiting.write_all(b"GET ").unwrap();
    let mut other = UnixStream::connect(&path).unwrap();
    manager.kills_both();
    manager.starts();
    let now = manager.herdwire.await_instance("tcp", "came back", |now| now.is_online());
    assert_eq!(answer(waiting), now.pid, "{}", manager.herdwire.own_log());
    // Nobody accepts it, and nobody has closed it.
    other.write_all(b"GET ").unwrap();
    assert_eq!(manager.kept.len(), 2);

    manager.herdwire.ok(&["delete", "tcp"]);
    manager.hears("has one listener less", |manager| manager.kept.len() == 1);
    TcpListener::bind(address).unwrap();
}

#[test]
fn a_listener_that_nobody_wants_any_more_is_closed_and_given_back() {
    let mut manager = Manager::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    manager.kept.insert("herdwire-listener-0".to_owned(), listener.into());
    // One of another's is none of ours, whatever it is.
    manager.kept.insert("other.socket".to_owned(), File::open("/dev/null").unwrap().into());
    manager.starts();
    manager.hears("has given it back", |manager| manager.has_heard("FDSTOREREMOVE=1\nFDNAME=herdwire-listener-"));
    manager.kept.clear();
    until("the port is free", || TcpListener::bind(address).is_ok());
}

#[test]
fn a_browser_that_comes_while_nobody_lives_waits_for_the_next_front() {
    let mut manager = Manager::new();
    manager.starts();
    let address = free_port();
    let front = format!("[front]\nlisten = \"tcp://{address}\"\n[[app]]\nname = \"app\"\nscript = \"sleep 1000\"\n");
    manager.herdwire.write("herdwire.toml", &front);
    manager.herdwire.ok(&["start"]);
    manager.hears("has a listener to keep", |manager| manager.kept.len() == 1);
    manager.kills_both();
    let mut browser = TcpStream::connect(address).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    manager.starts();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}
