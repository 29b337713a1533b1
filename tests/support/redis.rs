//! A real redis-server for one test.
//!
//! Owns the process: it is ended by its pid when the value drops, and by the kernel when the test itself is killed.
//! It keeps nothing on disk, so nothing is left behind. Start it from the test's own thread: the kernel ties it to the
//! thread that started it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take until it answers.
const READY: Duration = Duration::from_secs(30);

/// A redis-server on a port of its own on loopback, dead or alive.
pub struct Redis {
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// Starts one, without password; `None`, said on stderr, if redis-server is not installed.
    pub fn start() -> Option<Redis> {
        Redis::start_with(&[])
    }

    /// Starts one that asks for a password.
    pub fn start_with_password(password: &str) -> Option<Redis> {
        Redis::start_with(&["--requirepass", password])
    }

    /// Starts one with more arguments.
    pub fn start_with(args: &[&str]) -> Option<Redis> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: redis-server is not installed (apt-get install redis-server)");
            return None;
        }
        for _ in 0..20 {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let mut redis = Redis { port: free_port(), args, child: None };
            if redis.try_start().is_ok() {
                return Some(redis);
            }
        }
        panic!("redis-server could not be started on any of twenty ports");
    }

    /// What goes into `[redis] url`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The same with a password.
    pub fn url_with_password(&self, password: &str) -> String {
        format!("redis://:{password}@127.0.0.1:{}/", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it with SIGKILL. What it held is gone; the port stays its own.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Starts it again on the same port after [`Redis::kill`].
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "kill it first");
        self.try_start().expect("the port is outside the range of ephemeral ones, nobody takes it");
    }

    /// Stops it as a whole (SIGSTOP): connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`Redis::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Says one command to it, without a password, and returns the first line of the answer.
    pub fn command(&self, words: &[&[u8]]) -> io::Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        socket.write_all(&request)?;
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") && socket.read(&mut byte)? == 1 {
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn try_start(&mut self) -> io::Result<()> {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir", "/"]);
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
        self.child = Some(command.spawn()?);
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            let child = self.child.as_mut().expect("started above");
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Err(io::Error::other(format!("redis-server ended: {status}")));
            }
            match self.command(&[b"PING"]) {
                Ok(answer) if answer == "+PONG" || answer.starts_with("-NOAUTH") => return Ok(()),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Err(io::Error::other("redis-server does not answer"))
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, signal).expect("our own child");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free now, below the range from which the kernel picks ports for clients.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let random = || 20_000 + u16::try_from(getrandom::u32().expect("random") % 12_000).expect("below 12,000");
    std::iter::repeat_with(random).find(free).expect("endless")
}
