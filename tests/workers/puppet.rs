//! A worker for tests that does as it is told.
//!
//! Connects to the test over `PUPPET_SOCKET`, says who it is, then obeys one command a line and reports what it
//! hears. Ends when the test does.
//!
//! ```text
//! test -> puppet                       puppet -> test
//! connect                              ok HERD APP INDEX ID SLOT INCARNATION
//! ready / subscribe C / intern C       ok
//! publish C TEXT                       ok
//! send INSTANCE C TEXT                 ok
//! session SESSION C TEXT               ok
//! fill C BYTES                         ok, when so many bytes were published
//! peers                                ok ID:STATE ...
//! exit CODE                            (nothing)
//!                                      heard C FROM TEXT          FROM: an instance's id, or `outside`
//!                                      heard-alone C FROM TEXT    ... to this instance alone
//!                                      heard-session C SESSION TEXT
//!                                      shutdown                   (asked to finish, nothing left to read)
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use herdwire_ipc::{Channel, Herd, Inbox, SessionId};

type Said = Arc<Mutex<UnixStream>>;

fn main() -> Result<(), Box<dyn Error>> {
    let socket = UnixStream::connect(std::env::var("PUPPET_SOCKET")?)?;
    let said = Arc::new(Mutex::new(socket.try_clone()?));
    let index = std::env::var("HERDWIRE_INDEX")?;
    say(&said, &format!("puppet {} {index} {}", std::env::var("HERDWIRE_NAME")?, std::process::id()));
    let mut puppet = Puppet { said, herd: None, channels: HashMap::new() };
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { break };
        match puppet.obey(&line) {
            Ok(answer) => say(&puppet.said, format!("ok {answer}").trim_end()),
            Err(error) => say(&puppet.said, &format!("error {error}")),
        }
    }
    // The test is gone.
    std::process::exit(0);
}

/// One line to the test. Whether it still listens shows where commands are read.
fn say(said: &Said, line: &str) {
    let mut socket = said.lock().unwrap();
    let _ = socket.write_all(format!("{line}\n").as_bytes());
}

struct Puppet {
    said: Said,
    herd: Option<Herd>,
    channels: HashMap<String, Channel>,
}

impl Puppet {
    fn obey(&mut self, line: &str) -> Result<String, Box<dyn Error>> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "connect" => return self.connect(),
            "exit" => std::process::exit(rest.parse()?),
            "ready" => self.herd()?.ready()?,
            "subscribe" => {
                let channel = self.herd()?.subscribe(rest)?;
                self.channels.insert(rest.to_owned(), channel);
            }
            "intern" => drop(self.channel(rest)?),
            "publish" => {
                let [channel, text] = words(rest)?;
                let channel = self.channel(channel)?;
                self.herd()?.publish_text(&channel, text)?;
            }
            "send" => {
                let [instance, channel, text] = words(rest)?;
                let channel = self.channel(channel)?;
                self.herd()?.send_to(instance.parse()?, &channel, text)?;
            }
            "session" => {
                let [session, channel, text] = words(rest)?;
                let channel = self.channel(channel)?;
                self.herd()?.send_to_session(&channel, SessionId(u128::from_str_radix(session, 16)?), text)?;
            }
            "fill" => {
                let [channel, bytes] = words(rest)?;
                let channel = self.channel(channel)?;
                let (piece, mut left) = ([b'x'; 1024], bytes.parse::<usize>()?);
                while left > 0 {
                    self.herd()?.publish(&channel, &piece[..left.min(piece.len())])?;
                    left = left.saturating_sub(piece.len());
                }
            }
            "peers" => {
                let peers = self.herd()?.peers();
                let words: Vec<String> =
                    peers.iter().map(|peer| format!("{}:{:?}", peer.instance, peer.state)).collect();
                return Ok(words.join(" "));
            }
            _ => return Err(format!("what is `{line}`?").into()),
        }
        Ok(String::new())
    }

    fn connect(&mut self) -> Result<String, Box<dyn Error>> {
        let (herd, inbox) = herdwire_ipc::connect()?;
        let me = herd.me();
        let answer = format!("{} {} {} {} {} {}", me.herd, me.app, me.index, me.instance, me.slot, me.incarnation);
        self.herd = Some(herd);
        let said = Arc::clone(&self.said);
        thread::spawn(move || report(inbox, &said));
        Ok(answer)
    }

    fn herd(&self) -> Result<Herd, Box<dyn Error>> {
        self.herd.clone().ok_or_else(|| "not connected".into())
    }

    fn channel(&mut self, name: &str) -> Result<Channel, Box<dyn Error>> {
        if let Some(channel) = self.channels.get(name) {
            return Ok(channel.clone());
        }
        let channel = self.herd()?.channel(name)?;
        self.channels.insert(name.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Reports what arrives until the supervisor asks this worker to finish.
fn report(mut inbox: Inbox, said: &Said) {
    while let Ok(Some(message)) = inbox.next() {
        let (channel, text) = (message.channel(), String::from_utf8_lossy(message.payload()));
        let from = message.from().map_or("outside".to_owned(), |instance| instance.to_string());
        let line = match message.session() {
            Some(session) => format!("heard-session {channel} {session} {text}"),
            None if message.is_to_me_alone() => format!("heard-alone {channel} {from} {text}"),
            None => format!("heard {channel} {from} {text}"),
        };
        say(said, &line);
    }
    say(said, "shutdown");
}

/// So many words; the last one may have blanks in it.
fn words<const N: usize>(line: &str) -> Result<[&str; N], Box<dyn Error>> {
    let words: Vec<&str> = line.splitn(N, ' ').collect();
    words.try_into().map_err(|_| format!("{N} words are needed, not `{line}`").into())
}
