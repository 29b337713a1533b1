//! The supervisor's side of the wire: herds, slots, directories, links, and the supervisor's own place (slot 0).
//!
//! One task owns every herd ([`actor`]); others ask it through a [`Wire`] handle. Messages between instances never
//! pass here: they go from ring to ring. What passes is who is there, who listens, and the messages that leave the
//! host or come from outside.
//!
//! Leaves to others: which process is which (`supervisor` tells of births and deaths), where a message goes on
//! (`relay`), layout and protocols of the memory (`herdwire-ipc`).

mod actor;
mod barrier;
mod herd;
mod link;
mod member;
pub mod standin;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::spec::{Transport, WireSpec};
use crate::keeper::handle::Store;
use crate::keeper::name::Name;
use crate::relay::{Message, Origin, ToWire, Topic};
use crate::snapshot::{HerdView, StandInView};
pub use standin::pair as pipe;

/// Commands that may wait for the wire's task. Whoever finds it full waits; the task itself waits for nobody.
const COMMANDS: usize = 1024;

/// One process of an instance, as the wire knows it.
#[derive(Debug, Clone)]
pub struct Member {
    pub instance: u32,
    pub incarnation: u32,
    pub app: Arc<str>,
    pub herd: Arc<str>,
    pub index: u32,
    pub spec: WireSpec,
    pub transport: Transport,
}

/// What the wire tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The application says that it is ready.
    Ready { instance: u32, incarnation: u32 },
}

/// A handle to the wire. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wire {
    commands: mpsc::Sender<Command>,
}

/// Everything that can wake the wire's task, in one place.
#[derive(Debug)]
enum Command {
    Attach {
        member: Member,
        link: OwnedFd,
    },
    /// All links that were inherited are attached.
    Attached,
    Down {
        instance: u32,
        incarnation: u32,
    },
    Forget {
        instance: u32,
    },
    Hear(Vec<Topic>),
    Publish(ToWire, Message),
    Shutdown {
        instance: u32,
        incarnation: u32,
        /// Where to say whether it could be told.
        told: Option<oneshot::Sender<bool>>,
    },
    Look(oneshot::Sender<Vec<HerdView>>),
    Beats(oneshot::Sender<Vec<(u32, u32, u64)>>),
    StandIns(oneshot::Sender<BTreeMap<u32, StandInView>>),
    /// A frame that came over a link, or its end.
    Frame(link::Frame),
    /// What a stand-in wants.
    StandIn(link::Key, standin::Wish),
}

/// What the wire's task needs from the others.
pub struct Surroundings {
    /// Where descriptors are kept for the next supervisor.
    pub store: Store,
    /// Where messages that leave the wire go.
    pub arrivals: mpsc::Sender<(Origin, Message)>,
    /// Where the supervisor hears of instances.
    pub notices: mpsc::Sender<Notice>,
    /// Ends the task.
    pub shutdown: CancellationToken,
}

impl Wire {
    /// Starts the wire's task on what a predecessor left in the store: nothing, or herds with their members.
    ///
    /// `inherited` holds outboxes, bells, directories and stashes; links come with [`Wire::attach`].
    pub fn start(surroundings: Surroundings, inherited: BTreeMap<Name, OwnedFd>, tasks: &TaskTracker) -> Wire {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let actor = actor::Actor::new(surroundings, commands.clone(), inherited);
        tasks.spawn(actor.run(queue));
        Wire { commands }
    }

    /// A process of an instance may say hello on this link.
    pub async fn attach(&self, member: Member, link: OwnedFd) {
        self.tell(Command::Attach { member, link }).await;
    }

    /// Every process that lives has been attached. Whoever else sits in a herd is dead.
    pub async fn attached(&self) {
        self.tell(Command::Attached).await;
    }

    /// A process of an instance is gone; its successor will take its slot.
    pub async fn down(&self, instance: u32, incarnation: u32) {
        self.tell(Command::Down { instance, incarnation }).await;
    }

    /// An instance is deleted: its slot is free.
    pub async fn forget(&self, instance: u32) {
        self.tell(Command::Forget { instance }).await;
    }

    /// Says to a process that its signal will follow.
    pub async fn announce_shutdown(&self, instance: u32, incarnation: u32) {
        self.tell(Command::Shutdown { instance, incarnation, told: None }).await;
    }

    /// Tells a process to finish what it has begun. Whether it could be told: it has said hello and its link stands.
    pub async fn announce_drain(&self, instance: u32, incarnation: u32) -> bool {
        let (told, answer) = oneshot::channel();
        self.tell(Command::Shutdown { instance, incarnation, told: Some(told) }).await;
        answer.await.unwrap_or(false)
    }

    /// Which channels the supervisor hears for bridge and front.
    pub async fn hear(&self, topics: Vec<Topic>) {
        self.tell(Command::Hear(topics)).await;
    }

    /// Publishes what came from outside. What finds no room is kept in bounded memory, then dropped and counted.
    pub async fn publish(&self, to: ToWire, message: Message) {
        self.tell(Command::Publish(to, message)).await;
    }

    /// The herds as they are now; empty when the wire has ended.
    pub async fn look(&self) -> Vec<HerdView> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Look(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// What running participants show of their life: instance, incarnation, and a number that moves while its process does
    /// (about once a second). It stands in memory that the participant alone writes, so only that it moves means something.
    pub async fn beats(&self) -> Vec<(u32, u32, u64)> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Beats(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// The supervisor's stand-ins, by instance.
    pub async fn stand_ins(&self) -> BTreeMap<u32, StandInView> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::StandIns(reply)).await;
        answer.await.unwrap_or_default()
    }

    async fn tell(&self, command: Command) {
        // The task ends only at shutdown, and then nobody is interested any more.
        let _ = self.commands.send(command).await;
    }
}
