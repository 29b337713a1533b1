//! A supervisor for the tests of the client: links, hello, peers, subscriptions, its own participant; no processes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use herdwire_ipc::frame::Hello;
use herdwire_ipc::link::{ToInstance, ToSupervisor, Welcome};
use herdwire_ipc::seqpacket::{self, Wait};
use herdwire_ipc::{ChannelId, Directory, Participant, SUPERVISOR, Slot, SlotState, layout, memory};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Got, Herd, Kept};

struct Member {
    link: Arc<OwnedFd>,
    slot: Slot,
    kept: Option<Kept>,
    dead: Option<Kept>,
    incarnation: u32,
    mapped: bool,
    joined: bool,
    seen: u64,
    ready: bool,
}

struct Waiting {
    slot: Slot,
    id: u64,
    channel: ChannelId,
    version: u64,
}

/// What the test sees of it.
#[derive(Default)]
pub struct Seen {
    /// What slot 0 was handed.
    pub messages: Vec<Got>,
    /// Slots that said they are ready, once per time.
    pub ready: Vec<Slot>,
    pub left: Vec<Slot>,
}

struct Core {
    herd: Herd,
    own: Participant,
    own_kept: Kept,
    members: Vec<Member>,
    waiting: Vec<Waiting>,
    seen: Arc<Mutex<Seen>>,
    refuse: Option<String>,
    /// Answers no request any more, as one that is about to die.
    mute: Arc<AtomicBool>,
}

/// A supervisor on a thread of its own.
pub struct Supervisor {
    pub seen: Arc<Mutex<Seen>>,
    pub mute: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    commands: std::sync::mpsc::Sender<Command>,
    thread: Option<JoinHandle<Core>>,
}

enum Command {
    Link(Slot, OwnedFd),
    Dead(Slot),
    Shutdown(Slot),
    Refuse(String),
}

impl Supervisor {
    pub fn start(herd: Herd) -> Supervisor {
        let mut herd = herd;
        let (own, own_kept) = herd.seat(SUPERVISOR, 1, 0, None);
        herd.run(SUPERVISOR, 1);
        Supervisor::over(herd, own, own_kept, Vec::new())
    }

    fn over(herd: Herd, own: Participant, own_kept: Kept, members: Vec<Member>) -> Supervisor {
        let (seen, stop, mute) =
            (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (commands, inbox) = std::sync::mpsc::channel();
        let core = Core {
            herd,
            own,
            own_kept,
            members,
            waiting: Vec::new(),
            seen: seen.clone(),
            refuse: None,
            mute: mute.clone(),
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut core = core;
            while !stopped.load(Ordering::SeqCst) {
                while let Ok(command) = inbox.try_recv() {
                    core.command(command);
                }
                core.step();
            }
            core
        });
        Supervisor { seen, mute, stop, commands, thread: Some(thread) }
    }

    /// A link for an instance at `slot`; a dead predecessor is succeeded.
    pub fn link(&self, slot: Slot) -> OwnedFd {
        let (ours, theirs) = seqpacket::pair().unwrap();
        self.commands.send(Command::Link(slot, ours)).unwrap();
        theirs
    }

    pub fn dead(&self, slot: Slot) {
        self.commands.send(Command::Dead(slot)).unwrap();
    }

    pub fn shut_down(&self, slot: Slot) {
        self.commands.send(Command::Shutdown(slot)).unwrap();
    }

    pub fn refuse(&self, reason: &str) {
        self.commands.send(Command::Refuse(reason.into())).unwrap();
    }

    fn end(&mut self) -> Core {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }

    /// This supervisor dies, the links stay; another one takes over what it left.
    pub fn replace(mut self) -> Supervisor {
        let Core { herd, own, own_kept, members, .. } = self.end();
        let highest = own.publisher.head();
        drop(own);
        let directory_fd = memory::create_directory("successor").unwrap();
        let directory = Directory::succeed(directory_fd.as_fd(), herd.directory_fd.as_fd()).unwrap();
        let mut herd = Herd { directory, directory_fd, ..herd };
        let (own, kept) = herd.seat(SUPERVISOR, own_kept.incarnation + 1, highest, Some(&own_kept));
        herd.run(SUPERVISOR, kept.incarnation);
        for member in members.iter().filter(|member| member.mapped) {
            let peer = member.kept.as_ref().unwrap();
            own.control.add_peer(peer.slot, peer.incarnation, peer.outbox(), peer.bell(), false).unwrap();
            send(&member.link, &ToInstance::Renewed, 0, &[herd.directory_fd.as_fd()]);
            send_peer(member, &kept, false);
        }
        Supervisor::over(herd, own, kept, members)
    }

    /// Supervisor and keeper die: the links end.
    pub fn vanish(mut self) {
        drop(self.end());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(link: &OwnedFd, message: &ToInstance, id: u64, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
    // A member may be gone at any time.
    let _ = seqpacket::send(link.as_fd(), &message.to_frame(id), descriptors, Wait::Block);
}

fn send_peer(to: &Member, peer: &Kept, retired: bool) {
    let message = ToInstance::Peer { slot: peer.slot, incarnation: peer.incarnation, retired };
    send(&to.link, &message, 0, &[peer.outbox.as_fd(), peer.bell.as_fd()]);
}

impl Core {
    fn command(&mut self, command: Command) {
        match command {
            Command::Link(slot, link) => {
                let link = Arc::new(link);
                match self.members.iter_mut().find(|member| member.slot == slot) {
                    Some(member) => {
                        let dead = member.kept.take().or(member.dead.take());
                        *member = Member { dead, incarnation: member.incarnation + 1, ..new_member(slot, link) };
                    }
                    None => self.members.push(new_member(slot, link)),
                }
            }
            Command::Dead(slot) => self.dead(slot),
            Command::Shutdown(slot) => {
                let member = self.members.iter().find(|member| member.slot == slot).unwrap();
                send(&member.link, &ToInstance::Shutdown, 0, &[]);
            }
            Command::Refuse(reason) => self.refuse = Some(reason),
        }
    }

    fn step(&mut self) {
        let links: Vec<_> = self.members.iter().map(|member| (member.slot, member.link.clone())).collect();
        let mut watched: Vec<_> = links.iter().map(|(_, link)| PollFd::new(link.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut watched, PollTimeout::from(2u16)).unwrap();
        let mut buffer = vec![0; seqpacket::MAX_RECORD];
        for (slot, link) in &links {
            while let Ok(received) = seqpacket::receive(link.as_fd(), &mut buffer, Wait::Never) {
                if received.length == 0 {
                    break;
                }
                self.frame(*slot, &buffer[..received.length]);
            }
        }
        self.settle();
        let seen = &self.seen;
        self.own.drain.turn(256, |delivery| seen.lock().unwrap().messages.push(Got::of(delivery)));
    }

    fn frame(&mut self, slot: Slot, frame: &[u8]) {
        if let Some(hello) = Hello::from_bytes(frame) {
            assert_eq!(hello.layout, layout::LAYOUT_VERSIONS);
            return self.welcome(slot);
        }
        let (id, message) = ToSupervisor::from_frame(frame).unwrap().unwrap();
        match message {
            ToSupervisor::Mapped => self.mapped(slot),
            ToSupervisor::Seen { version } => self.member(slot).seen = version,
            ToSupervisor::Ready => {
                self.member(slot).ready = true;
                self.seen.lock().unwrap().ready.push(slot);
            }
            ToSupervisor::Leave => {
                self.seen.lock().unwrap().left.push(slot);
                self.dead(slot);
            }
            ToSupervisor::Accuse { slot, reason, .. } => panic!("slot {slot} was accused: {reason}"),
            _ if self.mute.load(Ordering::SeqCst) => {}
            ToSupervisor::Intern { name } if name == "forbidden" => {
                let failed = ToInstance::Failed { reason: "this name is forbidden".into() };
                send(&self.member(slot).link.clone(), &failed, id, &[]);
            }
            ToSupervisor::Intern { name } => self.change(slot, id, &name, None),
            ToSupervisor::Subscribe { name } => self.change(slot, id, &name, Some(true)),
            ToSupervisor::Unsubscribe { name } => self.change(slot, id, &name, Some(false)),
        }
    }

    fn member(&mut self, slot: Slot) -> &mut Member {
        self.members.iter_mut().find(|member| member.slot == slot).unwrap()
    }

    fn welcome(&mut self, slot: Slot) {
        if let Some(reason) = self.refuse.clone() {
            let link = self.member(slot).link.clone();
            return send(&link, &ToInstance::Refused { reason }, 0, &[]);
        }
        let incarnation = self.member(slot).incarnation;
        let highest = self.own.control.peer_position(slot).map_or(0, |position| position.head);
        let (kept, place) = (self.herd.make(slot, incarnation), self.herd.place(slot, incarnation, highest));
        let directory = self.herd.directory_fd();
        let member = self.member(slot);
        let welcome = ToInstance::Welcome(Welcome {
            layout: layout::LAYOUT_VERSIONS.1,
            herd: place.herd,
            herd_name: "test".into(),
            app: "worker".into(),
            index: u32::from(slot) - 1,
            instance: u32::from(slot) + 100,
            slot,
            incarnation,
            ring_bytes: place.ring_bytes,
            base: place.base,
            successor: member.dead.is_some(),
            stall_timeout_ms: place.stall_timeout.as_millis() as u64,
            max_message: place.max_message,
        });
        let mut descriptors = vec![kept.outbox.as_fd(), kept.bell.as_fd(), directory.as_fd()];
        descriptors.extend(member.dead.as_ref().map(|dead| dead.outbox.as_fd()));
        send(&member.link, &welcome, 0, &descriptors);
        member.kept = Some(kept);
    }

    fn mapped(&mut self, slot: Slot) {
        let kept = self.member(slot).kept.take().unwrap();
        memory::seal(kept.outbox.as_fd()).unwrap();
        memory::verify(kept.outbox.as_fd(), self.herd.ring).unwrap();
        self.own.control.add_peer(slot, kept.incarnation, kept.outbox(), kept.bell(), false).unwrap();
        self.herd.directory.set_slot(slot, SlotState::Joining, kept.incarnation, Some(u32::from(slot) + 100));
        self.herd.directory.bump();
        let newcomer = self.members.iter().find(|member| member.slot == slot).unwrap();
        send_peer(newcomer, &self.own_kept, false);
        for other in self.members.iter().filter(|other| other.mapped && other.slot != slot) {
            send_peer(newcomer, other.kept.as_ref().unwrap(), false);
            send_peer(other, &kept, false);
        }
        let member = self.member(slot);
        member.kept = Some(kept);
        member.mapped = true;
        self.announce();
    }

    fn announce(&mut self) {
        let version = self.herd.directory.version();
        for member in self.members.iter().filter(|member| member.mapped) {
            send(&member.link, &ToInstance::LookAgain { version }, 0, &[]);
        }
    }

    fn change(&mut self, slot: Slot, id: u64, name: &str, subscribed: Option<bool>) {
        let channel = self.herd.directory.intern(name).unwrap();
        if let Some(subscribed) = subscribed {
            self.herd.directory.set_subscribed(channel, slot, subscribed);
        }
        let version = self.herd.directory.bump();
        self.waiting.push(Waiting { slot, id, channel, version });
        self.announce();
    }

    /// Everybody has seen what was waited for: answer.
    fn settle(&mut self) {
        let seen = self.members.iter().filter(|member| member.mapped).map(|member| member.seen).min();
        let seen = seen.unwrap_or(u64::MAX);
        for waiting in self.waiting.extract_if(.., |waiting| waiting.version <= seen) {
            let link = self.members.iter().find(|member| member.slot == waiting.slot).map(|member| member.link.clone());
            let answer = ToInstance::Channel { id: waiting.channel.0, unaware: Vec::new() };
            send(&link.unwrap(), &answer, waiting.id, &[]);
        }
        let joining = self.members.iter().position(|member| member.mapped && !member.joined);
        if let Some(index) = joining
            && seen >= self.herd.directory.version()
        {
            let (slot, incarnation) = (self.members[index].slot, self.members[index].incarnation);
            self.members[index].joined = true;
            self.herd.run(slot, incarnation);
            send(&self.members[index].link.clone(), &ToInstance::Joined, 0, &[]);
            self.announce();
        }
    }

    fn dead(&mut self, slot: Slot) {
        let Some(index) = self.members.iter().position(|member| member.slot == slot && member.mapped) else { return };
        let incarnation = self.members[index].incarnation;
        self.own.control.gone(slot, incarnation);
        self.herd.directory.set_slot(slot, SlotState::Down, incarnation, Some(u32::from(slot) + 100));
        self.herd.directory.bump();
        for other in self.members.iter().filter(|other| other.mapped && other.slot != slot) {
            send(&other.link, &ToInstance::Gone { slot, incarnation }, 0, &[]);
        }
        let member = &mut self.members[index];
        member.mapped = false;
        member.dead = member.kept.take();
    }
}

fn new_member(slot: Slot, link: Arc<OwnedFd>) -> Member {
    let (mapped, joined, ready) = (false, false, false);
    Member { link, slot, kept: None, dead: None, incarnation: 1, mapped, joined, seen: 0, ready }
}
