//! The task that owns every herd and link, and the tasks that drain the supervisor's own rings.
//!
//! The owner waits for nobody: links are written without waiting, messages that leave go through the drains' tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use herdwire_ipc::frame::{HELLO_BYTES, Hello};
use herdwire_ipc::layout::{self, LAYOUT_VERSIONS};
use herdwire_ipc::link::{LINK_VERSIONS, ToInstance, ToSupervisor};
use herdwire_ipc::tokio::Watched;
use herdwire_ipc::{Control, Drain, Slot, TURN};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::herd::{Herd, HerdError, Links, Remains};
use super::link::{Frame, Key, Link, Native};
use super::standin::{StandIn, Wish};
use super::{Command, Member, Notice, Surroundings};
use crate::config::spec::Transport;
use crate::keeper::name::{Kind, Name};
use crate::relay::{Message, Origin, SessionId, Topic};

/// How often dead outboxes and unread rings are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often while something waits for participants or for room.
const PRESSING: Duration = Duration::from_millis(5);
/// How long what a dead client had said may take to be done.
const LAST_WILL: Duration = Duration::from_secs(2);

pub(super) struct Actor {
    around: Surroundings,
    commands: mpsc::Sender<Command>,
    herds: BTreeMap<Arc<str>, Herd>,
    links: Links,
    members: BTreeMap<Key, Known>,
    /// What the supervisor itself listens to.
    heard: BTreeSet<Topic>,
    next_herd: u32,
    /// What stand-ins of dead clients had in hand, until their members are attached.
    stashes: BTreeMap<Key, OwnedFd>,
    later: BTreeMap<Key, Later>,
}

/// A process with a link.
struct Known {
    member: Member,
    /// Whether it said hello; before that nothing is sent and nothing else is understood.
    greeted: bool,
    /// Whom it has accused: slot and incarnation.
    accused: BTreeSet<(Slot, u32)>,
    /// Its process is gone; until then its stand-in may do what it had said.
    over_by: Option<Instant>,
}

/// Says hello while its predecessor's last words are still being done.
enum Later {
    Native(Hello),
    StandIn,
}

impl Actor {
    pub(super) fn new(
        around: Surroundings,
        commands: mpsc::Sender<Command>,
        mut inherited: BTreeMap<Name, OwnedFd>,
    ) -> Actor {
        let stashes = inherited.extract_if(.., |name, _| name.kind == Kind::Stash);
        let stashes = stashes.map(|(name, stash)| (Key { instance: name.owner, incarnation: name.generation }, stash));
        let stashes = stashes.collect();
        let mut actor = Actor {
            heard: BTreeSet::new(),
            next_herd: 1,
            around,
            commands,
            herds: BTreeMap::new(),
            links: BTreeMap::new(),
            members: BTreeMap::new(),
            stashes,
            later: BTreeMap::new(),
        };
        for remains in gather(inherited, &actor.around) {
            let id = remains.id;
            actor.next_herd = actor.next_herd.max(id + 1);
            match Herd::adopt(remains, &actor.around) {
                Ok(herd) => {
                    actor.herds.insert(Arc::clone(&herd.name), herd);
                }
                Err(error) => tracing::error!("herd {id} cannot be taken over, its wire ends here: {error}"),
            }
        }
        actor
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.around.shutdown.clone();
        loop {
            let pressing = self.herds.values().any(Herd::is_pressing);
            tokio::select! {
                () = shutdown.cancelled() => return,
                command = queue.recv() => match command {
                    Some(command) => self.handle(command),
                    None => return,
                },
                // Links without a herd have nothing to be flushed.
                _ = tick.tick(), if !self.herds.is_empty() => self.tick(),
                () = tokio::time::sleep(PRESSING), if pressing => self.press(),
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Attach { member, link } => self.attach(member, link),
            Command::Down { instance, incarnation } => self.down(Key { instance, incarnation }),
            Command::Attached => {
                for key in std::mem::take(&mut self.stashes).into_keys() {
                    self.around.store.forget(stash_name(key));
                }
                let members = &self.members;
                for herd in self.herds.values_mut() {
                    herd.part_with_the_dead(|key| members.contains_key(&key), &mut self.links, &self.around);
                }
            }
            Command::Forget { instance } => {
                let over = |(key, known): &(&Key, &Known)| key.instance == instance && known.over_by.is_some();
                let over: Vec<Key> = self.members.iter().filter(over).map(|(key, _)| *key).collect();
                over.into_iter().for_each(|key| self.over(key));
                for herd in self.herds.values_mut() {
                    herd.forget(instance, &mut self.links);
                }
            }
            Command::Hear(topics) => self.hear(topics),
            Command::Publish(to, message) => {
                if let Some(herd) = self.herds.get_mut(&message.topic.herd) {
                    herd.publish(to, message);
                }
            }
            Command::Shutdown { instance, incarnation, told } => {
                let key = Key { instance, incarnation };
                let greeted = self.members.get(&key).is_some_and(|known| known.greeted);
                let listens = |link: &&mut Link| greeted && !link.stand_in().is_some_and(StandIn::is_over);
                let link = self.links.get_mut(&key).filter(listens);
                let is_told = link.is_some();
                if let Some(link) = link {
                    link.tell(0, &ToInstance::Shutdown, &[]);
                    let herd = self.members.get(&key).and_then(|known| self.herds.get_mut(&known.member.herd));
                    herd.into_iter().for_each(|herd| herd.leaves(key));
                }
                // Whoever asked may have gone meanwhile.
                let _ = told.map(|told| told.send(is_told));
            }
            // Whoever asked may have gone meanwhile.
            Command::Look(reply) => drop(reply.send(self.herds.values_mut().map(Herd::view).collect())),
            Command::Beats(reply) => drop(reply.send(self.herds.values().flat_map(Herd::beats).collect())),
            Command::StandIns(reply) => {
                let views = self.links.iter().filter_map(|(key, link)| Some((key.instance, link.stand_in()?.view())));
                // Whoever asked may have gone meanwhile.
                drop(reply.send(views.collect()));
            }
            Command::Frame(frame) => self.frame(frame),
            Command::StandIn(key, wish) => self.wish(key, wish),
        }
    }

    fn attach(&mut self, member: Member, link: OwnedFd) {
        let key = Key { instance: member.instance, incarnation: member.incarnation };
        if member.transport == Transport::Pipe {
            return self.attach_pipe(key, member, link);
        }
        match Native::open(key, link, self.commands.clone()) {
            Ok(link) => drop(self.links.insert(key, Link::Native(link))),
            Err(error) => {
                tracing::error!(app = %member.app, index = member.index, "its link cannot be watched: {error}");
                return;
            }
        }
        // One that already sits in the herd was served by a predecessor of ours.
        let herd = self.herds.get_mut(&member.herd);
        let seated = herd.filter(|herd| herd.is_seated(key));
        let greeted = seated.is_some();
        if let Some(herd) = seated {
            herd.renew(key, &mut self.links);
        }
        self.members.insert(key, Known { member, greeted, accused: BTreeSet::new(), over_by: None });
    }

    /// A client that is stood in for. The stash is in the store before anything is read.
    fn attach_pipe(&mut self, key: Key, member: Member, socket: OwnedFd) {
        let stash = self.stashes.remove(&key);
        let opened = StandIn::open(key, member.clone(), socket, stash, self.commands.clone())
            .and_then(|stand_in| Ok((stand_in.stash()?, stand_in)));
        let (stash, stand_in) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(app = %member.app, index = member.index, "its pipe cannot be served: {error}");
                // Nobody else holds it, so that its client learns of its end.
                return self.around.store.forget(Name::new(Kind::Link, key.instance, key.incarnation));
            }
        };
        self.around.store.keep(stash_name(key), stash.as_fd());
        let again = stand_in.is_inherited();
        self.links.insert(key, Link::StandIn(stand_in));
        self.members.insert(key, Known { member, greeted: again, accused: BTreeSet::new(), over_by: None });
        if again {
            self.stand_in(key);
        }
    }

    /// Gives a client's stand-in a place in the herd.
    fn stand_in(&mut self, key: Key) {
        if self.has_predecessor(key) {
            self.later.insert(key, Later::StandIn);
            return;
        }
        let Some(known) = self.members.get_mut(&key) else { return };
        known.greeted = true;
        let member = known.member.clone();
        let seated = self.ensure(&member.herd).and_then(|()| {
            let herd = self.herds.get_mut(&member.herd).expect("it was just ensured");
            herd.stand_in(&member, &mut self.links, &self.around)
        });
        if let Err(error) = seated {
            tracing::warn!(instance = key.instance, incarnation = key.incarnation, "runs without wire: {error}");
            if let Some(link) = self.links.get_mut(&key) {
                link.tell(0, &ToInstance::Refused { reason: error.to_string() }, &[]);
            }
        }
    }

    /// Whether an earlier process of the instance still has something done for it.
    fn has_predecessor(&self, key: Key) -> bool {
        let earlier = |other: &Key| other.instance == key.instance && other.incarnation < key.incarnation;
        self.members.iter().any(|(other, known)| earlier(other) && known.over_by.is_some())
    }

    fn wish(&mut self, key: Key, wish: Wish) {
        match wish {
            Wish::Hello => self.stand_in(key),
            Wish::Say(_, ToSupervisor::Ready) => self.ready(key),
            Wish::Say(id, message) => self.message(key, id, message),
            Wish::Ended(why) => {
                let Some(known) = self.members.get(&key) else { return };
                if known.over_by.is_some() {
                    return self.over(key);
                }
                let (app, index) = (&known.member.app, known.member.index);
                tracing::info!(%app, index, "nothing more is said to it or heard from it: {why}");
                if let Some(herd) = self.herds.get_mut(&known.member.herd) {
                    herd.down(key, &mut self.links, &self.around);
                }
                self.links.get(&key).and_then(Link::stand_in).into_iter().for_each(StandIn::stop);
            }
        }
    }

    /// A process is gone. What it had said over a pipe is still done, for a while.
    fn down(&mut self, key: Key) {
        match (self.links.get(&key).and_then(Link::stand_in), self.members.get_mut(&key)) {
            (Some(stand_in), Some(known)) if !stand_in.is_over() => {
                stand_in.finish();
                known.over_by = Some(Instant::now() + LAST_WILL);
            }
            _ => self.over(key),
        }
    }

    /// Nothing more comes of a process.
    fn over(&mut self, key: Key) {
        if self.links.get(&key).is_some_and(|link| link.stand_in().is_some()) {
            self.around.store.forget(stash_name(key));
        }
        self.part(key);
        let waiting = self.later.keys().filter(|later| later.instance == key.instance).copied();
        for later in waiting.collect::<Vec<_>>() {
            match self.later.remove(&later) {
                Some(Later::StandIn) => self.stand_in(later),
                Some(Later::Native(hello)) => self.greet(later, hello),
                None => {}
            }
        }
    }

    fn part(&mut self, key: Key) {
        if let Some(known) = self.members.remove(&key)
            && let Some(herd) = self.herds.get_mut(&known.member.herd)
        {
            herd.down(key, &mut self.links, &self.around);
        }
        self.links.remove(&key);
    }

    fn hear(&mut self, topics: Vec<Topic>) {
        let wanted: BTreeSet<Topic> = topics.into_iter().collect();
        for topic in self.heard.difference(&wanted) {
            if let Some(herd) = self.herds.get_mut(&topic.herd) {
                herd.hear(&topic.channel, false, &mut self.links);
            }
        }
        let new: Vec<Topic> = wanted.difference(&self.heard).cloned().collect();
        self.heard = wanted;
        for topic in new {
            if let Err(error) = self.ensure(&topic.herd) {
                tracing::error!(herd = %topic.herd, "its wire cannot be set up: {error}");
                continue;
            }
            let herd = self.herds.get_mut(&topic.herd).expect("it was just ensured");
            herd.hear(&topic.channel, true, &mut self.links);
        }
    }

    fn ensure(&mut self, name: &Arc<str>) -> Result<(), HerdError> {
        if !self.herds.contains_key(name) {
            let herd = Herd::create(self.next_herd, Arc::clone(name), &self.around)?;
            self.next_herd += 1;
            self.herds.insert(Arc::clone(name), herd);
        }
        Ok(())
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let late = self.members.iter().filter(|(_, known)| known.over_by.is_some_and(|by| now >= by));
        let late: Vec<Key> = late.map(|(key, _)| *key).collect();
        for key in late {
            tracing::warn!(
                instance = key.instance,
                "what it had said before its end takes too long and is left undone"
            );
            self.over(key);
        }
        self.links.values_mut().for_each(Link::flush);
        let heard: BTreeSet<&Arc<str>> = self.heard.iter().map(|topic| &topic.herd).collect();
        let around = &self.around;
        self.herds.retain(|name, herd| {
            let needed = !herd.is_empty() || heard.contains(name);
            if !needed {
                herd.leave_nothing(around);
            }
            needed
        });
        for herd in self.herds.values_mut() {
            herd.tick(&mut self.links, &self.around);
        }
    }

    fn press(&mut self) {
        for herd in self.herds.values_mut() {
            herd.settle(&mut self.links);
            herd.flush();
        }
    }

    // --- what instances say ---

    fn frame(&mut self, Frame { from, bytes }: Frame) {
        let Some(bytes) = bytes else {
            // Its end says nothing of the process, which may live on; its exit is told by the keeper.
            return self.close(from);
        };
        // What was on its way when its link was refused is not heard any more.
        if !self.links.contains_key(&from) {
            return;
        }
        let Some(known) = self.members.get_mut(&from) else { return };
        if bytes.len() == HELLO_BYTES
            && let Some(hello) = Hello::from_bytes(&bytes)
        {
            return self.greet(from, hello);
        }
        if !known.greeted {
            return self.refuse(from, "the first frame of a link must be a hello");
        }
        match ToSupervisor::from_frame(&bytes) {
            Ok(Some((id, message))) => self.message(from, id, message),
            // A kind of a later version.
            Ok(None) => {}
            Err(error) => self.refuse(from, &format!("this link is broken: {error}")),
        }
    }

    fn greet(&mut self, key: Key, hello: Hello) {
        if self.has_predecessor(key) {
            self.later.insert(key, Later::Native(hello));
            return;
        }
        let Some(known) = self.members.get_mut(&key) else { return };
        known.greeted = true;
        let member = known.member.clone();
        self.hello(key, &member, hello);
    }

    fn hello(&mut self, key: Key, member: &Member, hello: Hello) {
        if hello.link.0 > LINK_VERSIONS.1 || hello.link.1 < LINK_VERSIONS.0 {
            let (low, high) = hello.link;
            return self.refuse(key, &format!("the client speaks link versions {low} to {high}, this supervisor {} to {}: update the older of the two", LINK_VERSIONS.0, LINK_VERSIONS.1));
        }
        if hello.layout.0 > LAYOUT_VERSIONS.1 || hello.layout.1 < LAYOUT_VERSIONS.1 {
            let (low, high) = hello.layout;
            return self.refuse(
                key,
                &format!(
                    "the client knows memory layouts {low} to {high}, this herd uses {}: update the older of the two",
                    LAYOUT_VERSIONS.1
                ),
            );
        }
        let welcomed = self.ensure(&member.herd).and_then(|()| {
            let herd = self.herds.get_mut(&member.herd).expect("it was just ensured");
            herd.welcome(member, 0, &mut self.links, &self.around)
        });
        if let Err(error) = welcomed {
            self.refuse(key, &error.to_string());
        }
    }

    fn message(&mut self, key: Key, id: u64, message: ToSupervisor) {
        let Some(known) = self.members.get_mut(&key) else { return };
        let Some(herd) = self.herds.get_mut(&known.member.herd) else { return };
        let links = &mut self.links;
        match message {
            ToSupervisor::Mapped => {
                if let Err(error) = herd.mapped(key, links) {
                    self.refuse(key, &format!("the outbox cannot be sealed: {error}"));
                }
            }
            ToSupervisor::Seen { version } => herd.seen(key, version, links),
            ToSupervisor::Intern { name } => herd.intern(key, id, &name, links),
            ToSupervisor::Subscribe { name } => herd.subscribe(key, id, &name, true, links),
            ToSupervisor::Unsubscribe { name } => herd.subscribe(key, id, &name, false, links),
            ToSupervisor::Ready => self.ready(key),
            ToSupervisor::Leave => herd.down(key, links, &self.around),
            ToSupervisor::Accuse { slot, incarnation, reason } => {
                // Once for each: a worker must not fill our log.
                if known.accused.len() < layout::MAX_SLOTS && known.accused.insert((slot, incarnation)) {
                    let reason: String = reason.chars().take(200).collect();
                    tracing::warn!(herd = %herd.name, by = key.instance, slot, incarnation, "a participant is accused: {reason}");
                }
            }
        }
    }

    fn ready(&self, key: Key) {
        let notice = Notice::Ready { instance: key.instance, incarnation: key.incarnation };
        // Full only when the supervisor does not read; a lost ready then shows as a missed listen_timeout.
        if self.around.notices.try_send(notice).is_err() {
            tracing::error!(instance = key.instance, "its readiness could not be passed on");
        }
    }

    /// Says why, once, and hears no more of this link.
    fn refuse(&mut self, key: Key, reason: &str) {
        tracing::warn!(instance = key.instance, incarnation = key.incarnation, "runs without wire: {reason}");
        if let Some(link) = self.links.get_mut(&key) {
            link.tell(0, &ToInstance::Refused { reason: reason.to_owned() }, &[]);
        }
        self.close(key);
    }

    /// A link that brings nothing more and takes nothing more.
    fn close(&mut self, key: Key) {
        self.links.remove(&key);
        let known = self.members.get_mut(&key);
        if let Some(herd) = known.and_then(|known| self.herds.get_mut(&known.member.herd)) {
            herd.unreachable(key, &mut self.links);
        }
    }
}

fn stash_name(key: Key) -> Name {
    Name::new(Kind::Stash, key.instance, key.incarnation)
}

/// Sorts what the store held by herd. A directory of an older generation is superseded and dropped.
fn gather(inherited: BTreeMap<Name, OwnedFd>, around: &Surroundings) -> Vec<Remains> {
    let mut herds: BTreeMap<u32, Remains> = BTreeMap::new();
    let mut memories: BTreeMap<(u32, Slot, u32), OwnedFd> = BTreeMap::new();
    let mut bells: BTreeMap<(u32, Slot, u32), OwnedFd> = BTreeMap::new();
    for (name, descriptor) in inherited {
        let key = (name.owner, name.part, name.generation);
        match name.kind {
            Kind::Directory => {
                // Rising generations, so the last one stays.
                let remains = Remains {
                    id: name.owner,
                    generation: name.generation,
                    directory: descriptor,
                    outboxes: BTreeMap::new(),
                };
                if let Some(older) = herds.insert(name.owner, remains) {
                    around.store.forget(Name::new(Kind::Directory, older.id, older.generation));
                }
            }
            Kind::Outbox => drop(memories.insert(key, descriptor)),
            Kind::Bell => drop(bells.insert(key, descriptor)),
            _ => {}
        }
    }
    for ((herd, slot, incarnation), memory) in memories {
        let bell = bells.remove(&(herd, slot, incarnation));
        match (herds.get_mut(&herd), bell) {
            (Some(remains), Some(bell)) => drop(remains.outboxes.insert((slot, incarnation), (memory, bell))),
            // Half a pair: its supervisor died between two stores, and its owner has not been welcomed.
            _ => around.store.forget(Name::part(Kind::Outbox, herd, slot, incarnation)),
        }
    }
    for (herd, slot, incarnation) in bells.into_keys() {
        around.store.forget(Name::part(Kind::Bell, herd, slot, incarnation));
    }
    herds.into_values().collect()
}

/// Drains the supervisor's rings of one herd into the relay's queue. A full queue holds this task up and nobody else:
/// the supervisor is a reader that may lose, and says so.
pub(super) fn spawn_drain(
    herd: Arc<str>,
    mut drain: Drain,
    control: Control,
    around: &Surroundings,
) -> io::Result<JoinHandle<()>> {
    let bell = Watched::new(control.bell().try_clone_to_owned()?)?;
    let arrivals = around.arrivals.clone();
    Ok(tokio::spawn(async move {
        let mut names: BTreeMap<u16, Arc<str>> = BTreeMap::new();
        let mut batch: Vec<Message> = Vec::new();
        loop {
            let turn = drain.turn(TURN, |delivery| {
                let known = names.get(&delivery.channel.0).cloned();
                let named = || control.directory().name(delivery.channel).map(Arc::from);
                let Some(channel) = known.or_else(named) else { return };
                names.insert(delivery.channel.0, Arc::clone(&channel));
                batch.push(Message {
                    topic: Topic { herd: Arc::clone(&herd), channel },
                    session: delivery.session.map(SessionId),
                    tag: delivery.tag,
                    payload: Bytes::copy_from_slice(delivery.payload),
                });
            });
            for message in batch.drain(..) {
                if arrivals.send((Origin::Wire, message)).await.is_err() {
                    return;
                }
            }
            let missed: u64 = drain.lost().iter().map(|loss| loss.records).sum();
            if missed > 0 {
                tracing::warn!(%herd, "the supervisor missed {missed} messages for bridge and front: they came faster than they leave");
            }
            if turn.more {
                // A ring that always has news must not starve the other tasks.
                tokio::task::yield_now().await;
                continue;
            }
            herdwire_ipc::tokio::wait_for_news(&mut drain, &bell).await;
        }
    }))
}
