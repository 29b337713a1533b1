//! Real workers that do as the test says: `tests/workers/puppet.rs`, started by Herdwire, in the test's hands.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::herdwire::{Herdwire, SOON, poll, worker};

/// Where the workers of one home report for duty.
pub struct Stage {
    listener: UnixListener,
}

/// One process of one instance.
pub struct Puppet {
    pub app: String,
    pub index: u32,
    pub pid: u32,
    socket: UnixStream,
    answers: Receiver<String>,
    heard: Receiver<String>,
}

/// What a puppet knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    pub herd: String,
    pub app: String,
    pub index: u32,
    pub id: u32,
    pub slot: u16,
    pub incarnation: u32,
}

impl Stage {
    pub fn new(herdwire: &Herdwire) -> Stage {
        let listener = UnixListener::bind(herdwire.work().join("stage.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Stage { listener }
    }

    /// The section of a config that has puppets for an app. `more` is further lines of it.
    pub fn app(herdwire: &Herdwire, name: &str, instances: u32, more: &str) -> String {
        let socket = herdwire.work().join("stage.sock");
        format!(
            "[[app]]\nname = {name:?}\nscript = {:?}\ninstances = {instances}\n{more}\nenv = {{ PUPPET_SOCKET = {:?} }}\n",
            worker("puppet").display().to_string(),
            socket.display().to_string(),
        )
    }

    /// The next process that reports, whoever it is.
    #[track_caller]
    pub fn next(&self) -> Puppet {
        let accepted = poll(SOON, || self.listener.accept().ok());
        let (socket, _) = accepted.expect("no worker reported for duty");
        socket.set_nonblocking(false).unwrap();
        Puppet::greet(socket)
    }

    /// The next processes, in the order of their indices.
    #[track_caller]
    pub fn next_of(&self, count: usize) -> Vec<Puppet> {
        let mut puppets: Vec<Puppet> = (0..count).map(|_| self.next()).collect();
        puppets.sort_by(|a, b| (&a.app, a.index).cmp(&(&b.app, b.index)));
        puppets
    }
}

impl Puppet {
    pub fn greet(socket: UnixStream) -> Puppet {
        let (tell_answer, answers) = channel();
        let (tell_heard, heard) = channel();
        let (tell_name, name) = channel();
        let lines = BufReader::new(socket.try_clone().unwrap()).lines();
        // Ends with the process at the other end.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let to = match line.split(' ').next() {
                    Some("puppet") => &tell_name,
                    Some("ok" | "error") => &tell_answer,
                    _ => &tell_heard,
                };
                // The test has dropped this puppet: it does not want to know.
                let _ = to.send(line);
            }
        });
        let name = name.recv_timeout(SOON).expect("it says who it is");
        let words: Vec<&str> = name.split(' ').collect();
        let (index, pid) = (words[2].parse().unwrap(), words[3].parse().unwrap());
        Puppet { app: words[1].to_owned(), index, pid, socket, answers, heard }
    }

    /// Gives a command and does not wait for what comes of it.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.socket, "{command}").unwrap();
    }

    /// The answer to an earlier command.
    #[track_caller]
    pub fn answer(&mut self) -> Result<String, String> {
        let answer = self.answers.recv_timeout(SOON).expect("no answer, or it is gone");
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(answer.trim_start_matches("error ").to_owned()),
        }
    }

    /// Gives a command, which must be done.
    #[track_caller]
    pub fn does(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer().unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Takes its place in the herd.
    #[track_caller]
    pub fn connects(&mut self) -> Me {
        let answer = self.does("connect");
        let words: Vec<&str> = answer.split(' ').collect();
        let [herd, app, index, id, slot, incarnation] = words[..] else { panic!("{answer}") };
        Me {
            herd: herd.to_owned(),
            app: app.to_owned(),
            index: index.parse().unwrap(),
            id: id.parse().unwrap(),
            slot: slot.parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
        }
    }

    /// The next thing that it hears.
    #[track_caller]
    pub fn hears(&self) -> String {
        self.heard.recv_timeout(SOON).unwrap_or_else(|_| panic!("{}:{} hears nothing", self.app, self.index))
    }

    /// What it has heard and nobody has asked for yet; does not wait.
    pub fn heard_so_far(&self) -> Option<String> {
        self.heard.try_recv().ok()
    }

    /// The next thing that it hears must be this.
    #[track_caller]
    pub fn must_hear(&self, expected: &str) {
        assert_eq!(self.hears(), expected, "heard by {}:{}", self.app, self.index);
    }
}
