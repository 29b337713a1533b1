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

use super::protocol::exit::SEQUENCE;
use super::protocol::{MAX_RECORD_BYTES, Message, NAME_BYTES, RawName, Words, verb};
use super::tables::{Exits, Store};

/// The most news that wait to be told. With more (refusals, of which a full store makes many), the supervisor is not
/// listened to until it has heard them.
const NEWS: usize = 1024;

/// The keeper's end of a socket pair.
#[derive(Debug)]
pub(super) struct Line {
    /// `None` when the other end is closed.
    socket: Option<OwnedFd>,
    stage: Stage,
    /// The last exit that it was told.
    exits_told: u64,
    news: VecDeque<Message>,
    /// Why not everything is told.
    pub blocked: Option<Errno>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello(Words),
    /// Descriptors after this name.
    Descriptors(RawName),
    /// Exits that were not acknowledged, then `END`.
    Exits,
    News,
}

impl Line {
    /// To a supervisor that knows nothing yet.
    pub fn new(socket: OwnedFd, hello: Words) -> Line {
        Line { stage: Stage::Hello(hello), ..Line::resumed(socket) }
    }

    /// To a supervisor that an earlier program of this process has told everything. Exits are told again.
    pub fn resumed(socket: OwnedFd) -> Line {
        let news = VecDeque::with_capacity(NEWS + 8);
        Line { socket: Some(socket), stage: Stage::News, exits_told: 0, news, blocked: None }
    }

    /// Has it told this, after everything else. A refusal beyond the limit, which only one that is dead by now can get
    /// to, nobody hears; of other news there are never more than a few.
    pub fn say(&mut self, news: Message) {
        if !(self.must_be_heard() && news.words[0] == verb::REFUSED) {
            self.news.push_back(news);
        }
    }

    /// Whether it has to hear of what was refused before it may store more.
    pub fn must_be_heard(&self) -> bool {
        self.news.len() >= NEWS
    }

    /// The socket of a supervisor that listens, when nothing is on its way to it.
    pub fn quiet(&self) -> Option<BorrowedFd<'_>> {
        let all_told = self.stage == Stage::News && self.news.is_empty() && self.blocked.is_none();
        self.socket.as_ref().filter(|_| all_told).map(AsFd::as_fd)
    }

    /// What there is to wait for.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.must_be_heard());
        // Whether the kernel has room again for descriptors on their way, only another try shows.
        events.set(PollFlags::POLLOUT, self.blocked == Some(Errno::EAGAIN));
        Some(PollFd::new(self.socket.as_ref()?.as_fd(), events))
    }

    /// What it said next, if it can be read, with the descriptors; `None` when there is nothing now.
    pub fn hear(&mut self) -> Option<(Option<Message>, Vec<OwnedFd>)> {
        let mut buffer = [0; MAX_RECORD_BYTES];
        let message = |record| Message::parse(record).map(|(message, _)| message);
        match seqpacket::receive(self.socket.as_ref()?.as_fd(), &mut buffer, Wait::Never) {
            Ok(received) if received.length > 0 => {
                return Some((message(&buffer[..received.length]), received.descriptors));
            }
            // Its descriptors were lost on the way; of what it was, only the name is left.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Some((message(&buffer), Vec::new())),
            // Nothing there, or an error that is none of the connection's: what waits in it is not lost over that. Should it
            // stay, the supervisor's silence ends it.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {}
            Ok(_) | Err(_) => self.socket = None,
        }
        None
    }

    /// Tells as much as the socket takes.
    pub fn tell(&mut self, store: &Store, exits: &Exits) {
        self.blocked = loop {
            match self.tell_one(store, exits) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break error.raw_os_error().map(Errno::from_raw),
            }
        };
        if let Some(Errno::EPIPE | Errno::ECONNRESET) = self.blocked {
            // Nobody listens any more. What it said before still counts, and must not wait for this to be heard.
            self.news.clear();
        }
    }

    /// Tells the next thing; false when there is none.
    fn tell_one(&mut self, store: &Store, exits: &Exits) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let say = |message: Message, names: &[RawName], descriptors: &[BorrowedFd<'_>]| {
            seqpacket::send(socket.as_fd(), &message.to_record(names), descriptors, Wait::Never)
        };
        match self.stage {
            Stage::Hello(hello) => {
                say(Message::new(hello), &[], &[])?;
                self.stage = Stage::Descriptors([0; NAME_BYTES]);
            }
            Stage::Descriptors(after) => {
                let batch = store.after(&after).take(MAX_DESCRIPTORS);
                let (names, descriptors): (Vec<RawName>, Vec<BorrowedFd<'_>>) = batch.unzip();
                self.stage = match names.last() {
                    None => Stage::Exits,
                    Some(last) => {
                        say(Message::new([verb::DESCRIPTORS]), &names, &descriptors)?;
                        Stage::Descriptors(*last)
                    }
                };
            }
            Stage::Exits | Stage::News => {
                if let Some(exit) = exits.after(self.exits_told) {
                    say(Message::new(*exit), &[], &[])?;
                    self.exits_told = exit[SEQUENCE];
                } else if self.stage == Stage::Exits {
                    say(Message::new([verb::END]), &[], &[])?;
                    self.stage = Stage::News;
                } else if let Some(news) = self.news.front() {
                    say(*news, &[], &[])?;
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
    use crate::keeper::protocol::PROTOCOL_VERSION;

    const LIMIT: Duration = Duration::from_secs(10);

    fn hello() -> Words {
        [verb::HELLO, PROTOCOL_VERSION, 0, 0, 2, 1, 4, 3, 0, 0]
    }

    fn new(socket: OwnedFd) -> Line {
        Line::new(socket, hello())
    }

    fn exits(count: u64) -> Exits {
        let mut exits = Exits::new(0);
        (1..=count).for_each(|pid| exits.record(Message::new([verb::EXIT, 0, pid]).words));
        exits
    }

    fn store(count: u32) -> Store {
        let mut store = Store::new(1000);
        for owner in 0..count {
            assert!(store.put(Name::new(Kind::Pidfd, owner, 1).to_bytes(), File::open("/dev/null").unwrap().into()));
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
        assert!(store.put(later, File::open("/dev/zero").unwrap().into()));
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
        line.tell(&store, &exits);
        assert_eq!(line.blocked, Some(Errno::EAGAIN));
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
            line.say(Message::new([verb::STOP]));
            line.say(Message { name: Name::new(Kind::Out, 7, 8).to_bytes(), ..Message::new([verb::REFUSED]) });
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
    fn a_listener_that_went_away_is_noticed() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        drop(theirs);
        let mut line = new(ours);
        line.tell(&store(1), &exits(1));
        assert_eq!(line.blocked, Some(Errno::EPIPE));
        assert!(line.hear().is_none() && line.interest().is_none());
    }
}
