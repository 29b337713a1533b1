//! What one supervisor still has to be told.
//!
//! Owns only how far it has been told: descriptors and exits are sent from the tables that hold them, so that nothing
//! is queued twice and a supervisor that does not listen costs nothing. Never waits: what the socket does not take now is
//! told when it can be.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use herdwire_ipc::seqpacket::{self, MAX_DESCRIPTORS, Wait};
use nix::errno::Errno;

use super::exits::Exits;
use super::protocol::{FromKeeper, Hello, RawName};
use super::store::Store;

/// The most refusals that wait to be told. With more, the supervisor is not listened to until it has heard them.
const REFUSALS: usize = 1024;

/// How far a supervisor has been told.
#[derive(Debug)]
pub(super) struct Telling {
    stage: Stage,
    /// The last exit that it was told.
    exits_told: u64,
    stop: bool,
    refused: VecDeque<RawName>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Hello,
    /// Descriptors after this name.
    Descriptors(Option<RawName>),
    /// Exits that were not acknowledged, then `END`.
    Exits,
    News,
}

/// How telling went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// There is nothing more to say.
    All,
    /// The socket is full; it will say when it is not.
    Later,
    /// The kernel has no room for what is on its way; only trying again shows when it has.
    Retry,
    /// Nobody listens any more.
    Gone,
}

impl Telling {
    pub fn new() -> Telling {
        Telling { stage: Stage::Hello, exits_told: 0, stop: false, refused: VecDeque::with_capacity(REFUSALS) }
    }

    /// It is to end everything.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// A descriptor of its was refused. Beyond the limit, which only one that is dead by now can get to, nobody hears.
    pub fn refuse(&mut self, name: RawName) {
        if !self.must_be_heard() {
            self.refused.push_back(name);
        }
    }

    /// Whether it has to hear of what was refused before it may store more.
    pub fn must_be_heard(&self) -> bool {
        self.refused.len() >= REFUSALS
    }

    /// Tells as much as the socket takes.
    pub fn tell(&mut self, socket: BorrowedFd<'_>, hello: Hello, store: &Store, exits: &Exits) -> Told {
        loop {
            match self.tell_one(socket, hello, store, exits) {
                Ok(true) => {}
                Ok(false) => return Told::All,
                Err(error) => return Told::from(error),
            }
        }
    }

    /// Tells the next thing; false when there is none.
    fn tell_one(&mut self, socket: BorrowedFd<'_>, hello: Hello, store: &Store, exits: &Exits) -> io::Result<bool> {
        let say = |message: FromKeeper<'_>| send(socket, &message, &[]);
        match self.stage {
            Stage::Hello => {
                say(FromKeeper::Hello(hello))?;
                self.stage = Stage::Descriptors(None);
            }
            Stage::Descriptors(after) => self.stage = hand_over(socket, store, after)?,
            Stage::Exits | Stage::News => {
                if let Some(exit) = exits.after(self.exits_told) {
                    say(FromKeeper::Exit(*exit))?;
                    self.exits_told = exit.sequence;
                } else if matches!(self.stage, Stage::Exits) {
                    say(FromKeeper::End)?;
                    self.stage = Stage::News;
                } else if self.stop {
                    say(FromKeeper::Stop)?;
                    self.stop = false;
                } else if let Some(name) = self.refused.front() {
                    say(FromKeeper::Refused(*name))?;
                    self.refused.pop_front();
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Hands over one batch of descriptors; answers what comes next.
fn hand_over(socket: BorrowedFd<'_>, store: &Store, after: Option<RawName>) -> io::Result<Stage> {
    let mut names = [RawName::default(); MAX_DESCRIPTORS];
    let mut descriptors = Vec::with_capacity(MAX_DESCRIPTORS);
    for (place, (name, descriptor)) in names.iter_mut().zip(store.after(after.as_ref())) {
        *place = name;
        descriptors.push(descriptor);
    }
    let names = &names[..descriptors.len()];
    let Some(last) = names.last() else { return Ok(Stage::Exits) };
    send(socket, &FromKeeper::Descriptors(names), &descriptors)?;
    Ok(Stage::Descriptors(Some(*last)))
}

fn send(socket: BorrowedFd<'_>, message: &FromKeeper<'_>, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    seqpacket::send(socket, message.to_record().as_bytes(), descriptors, Wait::Never)
}

impl From<io::Error> for Told {
    fn from(error: io::Error) -> Told {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => Told::Later,
            Some(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => Told::Retry,
            _ => Told::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use super::*;
    use crate::keeper::client::{FromKeeper as News, KeeperLink};
    use crate::keeper::name::{Kind, Name};
    use crate::keeper::protocol::{ExitStatus, PROTOCOL_VERSION, Reason};
    use crate::keeper::sys::Ended;

    const LIMIT: Duration = Duration::from_secs(10);

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::First,
            foreground: false,
            epoch: 1,
            keeper_pid: 2,
            store_limit: 3,
            descriptor_limit: 4,
        }
    }

    fn exits(count: u32) -> Exits {
        let mut exits = Exits::new();
        for pid in 1..=count {
            exits.record(Ended {
                pid,
                pidfd_inode: 0,
                status: ExitStatus::Code(pid as i32),
                user_time: Duration::ZERO,
                system_time: Duration::ZERO,
            });
        }
        exits
    }

    fn store(count: u32) -> Store {
        let mut store = Store::new(1000);
        for owner in 0..count {
            store.put(Name::new(Kind::Pidfd, owner, 1).to_bytes(), File::open("/dev/null").unwrap().into()).unwrap();
        }
        store
    }

    /// Tells from one end while `listen` takes from the other, in another thread.
    fn told_to<T: Send>(
        telling: &mut Telling,
        store: &Store,
        exits: &Exits,
        listen: impl FnOnce(KeeperLink) -> T + Send,
    ) -> T {
        let (ours, theirs): (OwnedFd, OwnedFd) = seqpacket::pair().unwrap();
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| listen(KeeperLink::from_socket(theirs).unwrap()));
            while !listener.is_finished() {
                telling.tell(ours.as_fd(), hello(), store, exits);
                std::thread::yield_now();
            }
            listener.join().unwrap()
        })
    }

    #[test]
    fn a_new_supervisor_is_given_all_descriptors_and_exits() {
        let inheritance = told_to(&mut Telling::new(), &store(450), &exits(2000), |mut link| link.inheritance(LIMIT));
        let inheritance = inheritance.unwrap();
        assert_eq!(inheritance.descriptors.len(), 450);
        assert_eq!(inheritance.descriptors.keys().next(), Some(&Name::new(Kind::Pidfd, 0, 1)));
        let sequences: Vec<u64> = inheritance.exits.iter().map(|exit| exit.sequence).collect();
        assert_eq!(sequences, (1..=2000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_name_of_a_later_release_is_passed_over_and_its_neighbours_are_not_mixed_up() {
        let mut store = store(3);
        let mut later = Name::new(Kind::Pidfd, 1, 0).to_bytes();
        later[0] = 200;
        store.put(later, File::open("/dev/zero").unwrap().into()).unwrap();
        let inheritance = told_to(&mut Telling::new(), &store, &exits(0), |mut link| link.inheritance(LIMIT)).unwrap();
        assert_eq!(inheritance.descriptors.len(), 3);
        for descriptor in inheritance.descriptors.into_values() {
            let file = File::from(descriptor);
            assert_eq!(std::io::Read::read(&mut &file, &mut [0; 8]).unwrap(), 0, "/dev/null, not /dev/zero");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_listen_is_told_later_and_never_waited_for() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let (store, exits) = (store(1), exits(4096));
        let mut telling = Telling::new();
        assert_eq!(telling.tell(ours.as_fd(), hello(), &store, &exits), Told::Later);
        let mut link = KeeperLink::from_socket(theirs).unwrap();
        let listener = std::thread::spawn(move || link.inheritance(LIMIT).unwrap().exits.len());
        while !listener.is_finished() {
            telling.tell(ours.as_fd(), hello(), &store, &exits);
        }
        assert_eq!(listener.join().unwrap(), 4096);
    }

    #[test]
    fn stop_and_refusals_come_after_the_inheritance() {
        let mut telling = Telling::new();
        telling.stop();
        telling.refuse(Name::new(Kind::Out, 7, 8).to_bytes());
        let news = told_to(&mut telling, &store(0), &exits(1), |mut link| {
            assert_eq!(link.inheritance(LIMIT).unwrap().exits.len(), 1);
            let mut news = Vec::new();
            while news.len() < 2 {
                news.extend(link.try_receive().unwrap());
            }
            news
        });
        assert_eq!(news, [News::Stop, News::StoreRefused(Name::new(Kind::Out, 7, 8))]);
    }

    #[test]
    fn a_listener_that_went_away_is_noticed() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        drop(theirs);
        assert_eq!(Telling::new().tell(ours.as_fd(), hello(), &store(1), &exits(1)), Told::Gone);
    }
}
