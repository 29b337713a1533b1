//! A worker for tests that does as it is told.
//!
//! Connects to the test over `PUPPET_SOCKET`, says who it is, then obeys one command a line and reports what it
//! hears. Ends when the test does.
//!
//! Started as `puppet background TEXT` it forks into the background instead, in a session of its own, and ends well
//! once it has notified TEXT; as `puppet in-front TEXT` it does the same and waits for the other one. `WHO` in TEXT
//! stands for the number of the one that reports to the test.
//!
//! ```text
//! test -> puppet                       puppet -> test
//! connect                              ok HERD APP INDEX ID SLOT INCARNATION
//! ready / subscribe C / intern C       ok
//! publish C TEXT                       ok
//! send INSTANCE C TEXT                 ok
//! session SESSION C TEXT               ok
//! fill C BYTES                         ok, when so many bytes were published
//! flood C COUNT TEXT                   ok, when TEXT-0, TEXT-1, ... were published, one call each
//! peers                                ok ID:STATE ...
//! env NAME                             ok VALUE                   (nothing when it is not set)
//! notify TEXT                          ok                         TEXT to NOTIFY_SOCKET, `|` for a new line
//! notify-from-child TEXT               ok PID                     ... by a process of its own
//! start COMMAND LINE                   ok PID                     a process of its own
//! notify-with N TEXT                   ok                         ... with so many descriptors
//! keep-alive MS                        ok                         WATCHDOG=1 so often, until `fall-silent`
//! fall-silent                          ok
//! write FD TEXT                        ok                         TEXT and a new line to a descriptor
//! eat MIB                              ok                         keeps so much memory
//! eat-in-child MIB                     ok                         a process of its own does
//! exit CODE                            (nothing)
//!                                      heard C FROM TEXT          FROM: an instance's id, or `outside`
//!                                      heard-alone C FROM TEXT    ... to this instance alone
//!                                      heard-session C SESSION TEXT
//!                                      shutdown                   (asked to finish, nothing left to read)
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use herdwire_ipc::{Channel, Herd, Inbox, SessionId};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

type Said = Arc<Mutex<UnixStream>>;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["notify", text] => return notify(text, 0).map_err(Into::into),
        [role @ ("background" | "in-front"), text] => return go_into_background(text, role == "in-front"),
        ["eat", mib] => {
            let eaten = eat(mib.parse()?);
            println!("{}", eaten.len());
            loop {
                thread::park();
            }
        }
        _ => {}
    }
    let socket = UnixStream::connect(std::env::var("PUPPET_SOCKET")?)?;
    let said = Arc::new(Mutex::new(socket.try_clone()?));
    let index = std::env::var("HERDWIRE_INDEX")?;
    say(&said, &format!("puppet {} {index} {}", std::env::var("HERDWIRE_NAME")?, std::process::id()));
    let mut puppet = Puppet { said, herd: None, channels: HashMap::new(), eaten: Vec::new(), alive: Arc::default() };
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
    eaten: Vec<Vec<u8>>,
    /// Whether signs of life are sent.
    alive: Arc<AtomicBool>,
}

/// One datagram to `NOTIFY_SOCKET`, with so many descriptors.
fn notify(text: &str, descriptors: usize) -> std::io::Result<()> {
    let name = std::env::var("NOTIFY_SOCKET").map_err(std::io::Error::other)?;
    let socket = UnixDatagram::unbound()?;
    let name = name.strip_prefix('@').ok_or_else(|| std::io::Error::other("not an abstract name"))?;
    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let text = text.replace('|', "\n");
    let numbers = vec![socket.as_raw_fd(); descriptors];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if descriptors == 0 { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// What a daemon does: another process goes on.
fn go_into_background(text: &str, waits: bool) -> Result<(), Box<dyn Error>> {
    let mut other = Command::new("setsid").arg(std::env::current_exe()?).spawn()?;
    notify(&text.replace("WHO", &other.id().to_string()), 0)?;
    if waits {
        other.wait()?;
    }
    Ok(())
}

/// So many MiB, really there.
fn eat(mib: usize) -> Vec<u8> {
    vec![1; mib << 20]
}

/// This program, as a process of its own.
fn child(verb: &str, argument: &str) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.args([verb, argument]).stdout(Stdio::piped()).spawn()?)
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
            "flood" => {
                let [channel, count, text] = words(rest)?;
                let channel = self.channel(channel)?;
                for number in 0..count.parse::<u64>()? {
                    self.herd()?.publish_text(&channel, &format!("{text}-{number}"))?;
                }
            }
            "peers" => {
                let peers = self.herd()?.peers();
                let words: Vec<String> =
                    peers.iter().map(|peer| format!("{}:{:?}", peer.instance, peer.state)).collect();
                return Ok(words.join(" "));
            }
            "env" => return Ok(std::env::var(rest).unwrap_or_default()),
            "notify" => notify(rest, 0)?,
            "notify-from-child" => {
                let mut child = child("notify", rest)?;
                // It has sent what it had to send; nobody knows any more who it was once it is reaped.
                let mut end = String::new();
                child.stdout.take().expect("piped").read_to_string(&mut end)?;
                return Ok(child.id().to_string());
            }
            "start" => return Ok(Command::new("sh").args(["-c", &format!("exec {rest}")]).spawn()?.id().to_string()),
            "notify-with" => {
                let [count, text] = words(rest)?;
                notify(text, count.parse()?)?;
            }
            "keep-alive" => {
                let (period, alive) = (Duration::from_millis(rest.parse()?), Arc::clone(&self.alive));
                alive.store(true, Relaxed);
                thread::spawn(move || {
                    while alive.load(Relaxed) && notify("WATCHDOG=1", 0).is_ok() {
                        thread::sleep(period);
                    }
                });
            }
            "fall-silent" => self.alive.store(false, Relaxed),
            "write" => {
                let [number, text] = words(rest)?;
                std::fs::write(format!("/proc/self/fd/{number}"), format!("{text}\n"))?;
            }
            "eat" => self.eaten.push(eat(rest.parse()?)),
            "eat-in-child" => {
                let mut child = child("eat", rest)?;
                let mut line = String::new();
                BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
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
