//! The line to one supervisor: its socket, and what it still has to be told.
//!
//! Owns how far the supervisor has been told: descriptors and exits are sent from the tables that hold them, so that
//! nothing is queued twice and one that does not listen costs nothing. Never waits: what the socket does not take now is
//! told when it can be.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use herdwire_ipc::seqpacket::{self, MAX_DESCRIPTORS, Wait};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use super::protocol::{FromKeeper, Hello, RECORD_BYTES, RawName, ToKeeper};
use super::tables::{Exits, Store};

/// The most news that wait to be told. With more (refusals, of which a full store makes many), the supervisor is not
/// listened to until it has heard them.
const NEWS: usize = 1024;

/// What a supervisor says: the message, unless it is of a later release, and its descriptors.
pub(super) type Said = (Option<ToKeeper>, Vec<OwnedFd>);

/// The keeper's end of a socket pair.
#[derive(Debug)]
pub(super) struct Line {
    /// `None` when the other end is closed.
    socket: Option<OwnedFd>,
    stage: Stage,
    /// The last exit that it was told.
    exits_told: u64,
    news: VecDeque<FromKeeper<'static>>,
    told: Told,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The message before everything else: `HELLO` or `TAKE`.
    First(FromKeeper<'static>),
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

impl Line {
    /// To a supervisor that knows nothing yet.
    pub fn new(socket: OwnedFd, hello: Hello) -> Line {
        Line { stage: Stage::First(FromKeeper::Hello(hello)), ..Line::resumed(socket) }
    }

    /// To a supervisor that an earlier program of this process has told everything. Exits are told again.
    pub fn resumed(socket: OwnedFd) -> Line {
        let news = VecDeque::with_capacity(NEWS + 8);
        Line { socket: Some(socket), stage: Stage::News, exits_told: 0, news, told: Told::All }
    }

    /// Has it take over: everything is told anew.
    pub fn take(&mut self) {
        self.news.clear();
        (self.stage, self.exits_told) = (Stage::First(FromKeeper::Take), 0);
    }

    /// Has it told this, after everything else. A refusal beyond the limit, which only one that is dead by now can get
    /// to, nobody hears; of other news there are never more than a few.
    pub fn say(&mut self, news: FromKeeper<'static>) {
        if !(self.must_be_heard() && matches!(news, FromKeeper::Refused(_))) {
            self.news.push_back(news);
        }
    }

    /// Whether it has to hear of what was refused before it may store more.
    pub fn must_be_heard(&self) -> bool {
        self.news.len() >= NEWS
    }

    /// The socket, while the other end is open.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    pub fn hang_up(&mut self) {
        self.socket = None;
    }

    /// How telling went the last time.
    pub fn told(&self) -> Told {
        self.told
    }

    /// Whether nothing is on its way to a supervisor that listens.
    pub fn has_told_all(&self) -> bool {
        self.socket.is_some() && matches!(self.stage, Stage::News) && self.news.is_empty() && self.told == Told::All
    }

    /// What there is to wait for.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.must_be_heard());
        events.set(PollFlags::POLLOUT, self.told == Told::Later);
        Some(PollFd::new(self.socket()?, events))
    }

    /// What it said next; `None` when there is nothing now.
    pub fn hear(&mut self) -> Option<Said> {
        let mut buffer = [0; RECORD_BYTES];
        match seqpacket::receive(self.socket()?, &mut buffer, Wait::Never) {
            Ok(received) if received.length > 0 => {
                return Some((ToKeeper::parse(&buffer[..received.length]), received.descriptors));
            }
            // Its descriptors were lost on the way; of what it was, only the name is left.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Some((ToKeeper::parse(&buffer), Vec::new()));
            }
            // Nothing there, or an error that is none of the connection's: what waits in it is not lost over that. Should it
            // stay, the supervisor's silence ends it.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {}
            Ok(_) | Err(_) => self.hang_up(),
        }
        None
    }

    /// Tells as much as the socket takes.
    pub fn tell(&mut self, store: &Store, exits: &Exits) -> Told {
        self.told = loop {
            match self.tell_one(store, exits) {
                Ok(true) => {}
                Ok(false) => break Told::All,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => break Told::Later,
                    Some(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => break Told::Retry,
                    _ => break Told::Gone,
                },
            }
        };
        self.told
    }

    /// Tells the next thing; false when there is none.
    fn tell_one(&mut self, store: &Store, exits: &Exits) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let say = |message: FromKeeper<'_>, descriptors: &[BorrowedFd<'_>]| {
            seqpacket::send(socket.as_fd(), message.to_record().as_bytes(), descriptors, Wait::Never)
        };
        match self.stage {
            Stage::First(message) => {
                say(message, &[])?;
                self.stage = Stage::Descriptors(None);
            }
            Stage::Descriptors(after) => {
                let batch = store.after(after.as_ref()).take(MAX_DESCRIPTORS);
                let (names, descriptors): (Vec<RawName>, Vec<BorrowedFd<'_>>) = batch.unzip();
                self.stage = match names.last() {
                    None => Stage::Exits,
                    Some(last) => {
                        say(FromKeeper::Descriptors(&names), &descriptors)?;
                        Stage::Descriptors(Some(*last))
                    }
                };
            }
            Stage::Exits | Stage::News => {
                if let Some(exit) = exits.after(self.exits_told) {
                    say(FromKeeper::Exit(*exit), &[])?;
                    self.exits_told = exit.sequence;
                } else if matches!(self.stage, Stage::Exits) {
                    say(FromKeeper::End, &[])?;
                    self.stage = Stage::News;
                } else if let Some(news) = self.news.front() {
                    say(*news, &[])?;
                    self.news.pop_front();
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::keeper::client::{FromKeeper as News, KeeperLink};
    use crate::keeper::name::{Kind, Name};
    use crate::keeper::protocol::{Exit, ExitStatus, PROTOCOL_VERSION, Reason};

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

    fn new(socket: OwnedFd) -> Line {
        Line::new(socket, hello())
    }

    fn exits(count: u32) -> Exits {
        let mut exits = Exits::new(0, Vec::new());
        for pid in 1..=count {
            exits.record(Exit {
                sequence: 0,
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
        line: impl FnOnce(OwnedFd) -> Line,
        store: &Store,
        exits: &Exits,
        listen: impl FnOnce(KeeperLink) -> T + Send,
    ) -> T {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let mut line = line(ours);
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| listen(KeeperLink::from_socket(theirs).unwrap()));
            while !listener.is_finished() {
                line.tell(store, exits);
                std::thread::yield_now();
            }
            listener.join().unwrap()
        })
    }

    #[test]
    fn a_new_supervisor_is_given_all_descriptors_and_exits() {
        let inheritance = told_to(new, &store(450), &exits(2000), |mut link| link.inheritance(LIMIT));
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
        let inheritance = told_to(new, &store, &exits(0), |mut link| link.inheritance(LIMIT)).unwrap();
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
        let mut line = new(ours);
        assert_eq!(line.tell(&store, &exits), Told::Later);
        let mut link = KeeperLink::from_socket(theirs).unwrap();
        let listener = std::thread::spawn(move || link.inheritance(LIMIT).unwrap().exits.len());
        while !listener.is_finished() {
            line.tell(&store, &exits);
        }
        assert_eq!(listener.join().unwrap(), 4096);
    }

    #[test]
    fn stop_and_refusals_come_after_the_inheritance() {
        let with_news = |socket| {
            let mut line = new(socket);
            line.say(FromKeeper::Stop);
            line.say(FromKeeper::Refused(Name::new(Kind::Out, 7, 8).to_bytes()));
            line
        };
        let news = told_to(with_news, &store(0), &exits(1), |mut link| {
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
    fn a_standby_that_takes_over_is_given_everything_anew() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let (mut line, mut link) = (new(ours), KeeperLink::from_socket(theirs).unwrap());
        line.tell(&store(2), &exits(1));
        assert_eq!(link.inheritance(LIMIT).unwrap().descriptors.len(), 2);
        line.say(FromKeeper::Refused(Name::new(Kind::Out, 7, 8).to_bytes()));
        line.take();
        line.say(FromKeeper::Stop);
        line.tell(&store(3), &exits(2));
        let taken = link.take(LIMIT).unwrap();
        assert_eq!((taken.epoch, taken.descriptors.len(), taken.exits.len()), (1, 3, 2));
        assert_eq!(link.try_receive().unwrap(), Some(News::Stop));
    }

    #[test]
    fn a_listener_that_went_away_is_noticed() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        drop(theirs);
        assert_eq!(new(ours).tell(&store(1), &exits(1)), Told::Gone);
    }
}
