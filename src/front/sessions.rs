//! Who is connected: the table of sessions, by path and by id, and the way in for whoever has something to send.
//!
//! Owns the sessions and the counters. Does not own sockets: a connection's task holds a [`Membership`] and reads its
//! session's outbox; the session leaves the table when the membership drops, however the task ends.
//!
//! Invariants
//! - Nothing here awaits or blocks on a peer: a broadcast costs one lock and one queue entry per session.
//! - A broadcast is framed once; all its receivers share the bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdwire_ipc::Tag;
use tokio::sync::Notify;

use crate::config::spec::PathSettings;
use crate::relay::{SessionId, Topic};

use super::frame::Frame;
use super::plain;
use super::queue::{Offer, Outbox, SharedOutbox};

/// What the front has done. Counters only; read for the snapshot.
#[derive(Debug, Default)]
pub struct Counters {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub slow_closed: AtomicU64,
    pub refused: AtomicU64,
}

/// One browser's place.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub outbox: SharedOutbox,
    /// Tells the connection's task that the outbox has something, or that the session was given up.
    pub wake: Notify,
}

impl Session {
    /// Asks the connection's task to end it.
    fn close(&self) {
        self.outbox.lock().close();
        self.wake.notify_one();
    }
}

/// A configured WebSocket path and its sessions.
#[derive(Debug)]
pub struct Path {
    pub settings: PathSettings,
    /// Where plain messages of its browsers go.
    pub speaks_on: Topic,
    hears: Vec<Topic>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Path {
    fn new(settings: &PathSettings) -> Option<Path> {
        let hears: Vec<Topic> = settings.channels.iter().map(|channel| Topic::new(&settings.herd, channel)).collect();
        let speaks_on = hears.first()?.clone();
        Some(Path { settings: settings.clone(), speaks_on, hears, sessions: Mutex::default() })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        // A map that a panic left behind is whole: its operations do not run foreign code.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All paths with all their sessions.
#[derive(Debug)]
pub struct Sessions {
    paths: Vec<Arc<Path>>,
    pub counters: Counters,
    /// Set before the tables are walked to close them, so that whoever joins later sees it.
    closed: AtomicBool,
}

impl Sessions {
    /// No sessions yet. Paths without a channel are left out; the caller has refused them.
    pub fn new(paths: &[PathSettings]) -> Sessions {
        let paths = paths.iter().filter_map(Path::new).map(Arc::new).collect();
        Sessions { paths, counters: Counters::default(), closed: AtomicBool::new(false) }
    }

    /// The paths, in the order of the settings.
    pub fn paths(&self) -> &[Arc<Path>] {
        &self.paths
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.paths.iter().map(|path| path.sessions().len()).sum()
    }

    /// Makes a place on `path`. From now on it hears the path's channels.
    pub fn join(self: &Arc<Sessions>, path: &Arc<Path>, id: SessionId) -> Membership {
        let limit = usize::try_from(path.settings.queue_bytes).unwrap_or(usize::MAX);
        let session = Arc::new(Session { id, outbox: SharedOutbox::new(Outbox::new(limit)), wake: Notify::new() });
        path.sessions().insert(id, session.clone());
        // After the insertion: whichever of the two locks the table last, the session is closed.
        if self.closed.load(Relaxed) {
            session.close();
        }
        Membership { sessions: self.clone(), path: path.clone(), session }
    }

    /// Queues a message for every session whose path hears `topic`.
    pub fn broadcast(&self, topic: &Topic, tag: Tag, payload: &[u8]) {
        let mut frame = None;
        for path in self.paths.iter().filter(|path| path.hears.contains(topic)) {
            for session in path.sessions().values() {
                self.offer(session, frame.get_or_insert_with(|| plain::show(tag, payload)));
            }
        }
    }

    /// Queues a message for one session; whether it is here and takes it.
    pub fn send_to(&self, id: SessionId, tag: Tag, payload: &[u8]) -> bool {
        let session = self.paths.iter().find_map(|path| path.sessions().get(&id).cloned());
        session.is_some_and(|session| self.offer(&session, &plain::show(tag, payload)))
    }

    /// Asks every session to end, those that are about to begin as well.
    pub fn close_all(&self) {
        self.closed.store(true, Relaxed);
        for path in &self.paths {
            path.sessions().values().for_each(|session| session.close());
        }
    }

    /// Queues a frame and counts a session that does not keep up.
    pub fn offer(&self, session: &Session, frame: &Frame) -> bool {
        let offer = session.outbox.lock().offer(frame);
        match offer {
            Offer::Queued => true,
            Offer::First => {
                session.wake.notify_one();
                true
            }
            Offer::Overflowed => {
                self.counters.slow_closed.fetch_add(1, Relaxed);
                session.wake.notify_one();
                false
            }
            Offer::Closed => false,
        }
    }
}

/// A connection's hold on its session. Dropping it takes the session out of the table.
#[derive(Debug)]
pub struct Membership {
    pub sessions: Arc<Sessions>,
    pub path: Arc<Path>,
    pub session: Arc<Session>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.session.outbox.lock().close();
        self.path.sessions().remove(&self.session.id);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::spec::Handshake;
    use crate::relay::NodeId;

    use super::super::queue::State;
    use super::*;

    fn path(name: &str, channels: &[&str]) -> PathSettings {
        PathSettings {
            path: name.into(),
            herd: "shop".into(),
            channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
            handshake: Handshake::Open,
            max_message: 1024,
            queue_bytes: 64,
        }
    }

    fn waiting(member: &Membership) -> Vec<Frame> {
        let mut batch = std::collections::VecDeque::new();
        member.session.outbox.lock().take(&mut batch);
        batch.into()
    }

    #[test]
    fn a_broadcast_is_framed_once_and_reaches_those_who_hear_the_channel() {
        let sessions = Arc::new(Sessions::new(&[path("/a", &["chat", "news"]), path("/b", &["news"])]));
        let join = |path: usize, id| sessions.join(&sessions.paths()[path], SessionId::new(NodeId(1), id));
        let (one, two, other) = (join(0, 1), join(0, 2), join(1, 3));

        sessions.broadcast(&Topic::new("shop", "chat"), Tag::Json, b"1");
        let (first, second) = (waiting(&one), waiting(&two));
        assert_eq!(first, [Frame::text(b"1")]);
        assert_eq!(first[0].bytes().as_ptr(), second[0].bytes().as_ptr());
        assert!(waiting(&other).is_empty());

        sessions.broadcast(&Topic::new("shop", "news"), Tag::Bytes, b"2");
        assert_eq!(waiting(&other), [Frame::binary(b"2")]);
        sessions.broadcast(&Topic::new("elsewhere", "news"), Tag::Bytes, b"3");
        assert!(waiting(&other).is_empty());
    }

    #[test]
    fn a_session_that_left_is_sent_nothing() {
        let sessions = Arc::new(Sessions::new(&[path("/a", &["chat"])]));
        let id = SessionId::new(NodeId(1), 7);
        let member = sessions.join(&sessions.paths()[0], id);
        assert!(sessions.send_to(id, Tag::Json, b"1"));
        assert!(!sessions.send_to(SessionId::new(NodeId(1), 8), Tag::Json, b"1"));
        drop(member);
        assert!(!sessions.send_to(id, Tag::Json, b"1"));
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn whoever_joins_while_all_are_closed_is_closed_too() {
        let sessions = Arc::new(Sessions::new(&[path("/a", &["chat"])]));
        let before = sessions.join(&sessions.paths()[0], SessionId::new(NodeId(1), 1));
        sessions.close_all();
        let after = sessions.join(&sessions.paths()[0], SessionId::new(NodeId(1), 2));
        for member in [before, after] {
            assert_eq!(member.session.outbox.lock().state(), State::Closed);
        }
    }

    #[test]
    fn a_session_that_does_not_keep_up_is_counted_once() {
        let sessions = Arc::new(Sessions::new(&[path("/a", &["chat"])]));
        let member = sessions.join(&sessions.paths()[0], SessionId::new(NodeId(1), 7));
        for _ in 0..10 {
            sessions.broadcast(&Topic::new("shop", "chat"), Tag::Bytes, &[0; 30]);
        }
        assert_eq!(member.session.outbox.lock().state(), State::Overflowed);
        assert_eq!(sessions.counters.slow_closed.load(Relaxed), 1);
    }
}
