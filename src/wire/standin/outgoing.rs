//! What a client is told: drained from the rings, framed, written as fast as it reads.
//!
//! Owns the stand-in's drain. Takes no more out of the rings than a stash holds, so a client that does not read lags
//! as any reader does: its publishers wait for it, then go on, and it is told what it missed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use herdwire_ipc::layout::MAX_SLOTS;
use herdwire_ipc::tokio::{Watched, wait_for_news};
use herdwire_ipc::{ChannelId, Control, Drain, Loss, SUPERVISOR, Slot};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::frame::Kept;
use super::stash::{Entry, Stash};
use super::{Shared, Wish, frame};
use crate::wire::Command;

/// Messages that are taken from the rings between two writes.
const TURN: usize = 128;
/// Bytes that are framed at once, but for one longer frame.
const FRAMED: usize = 64 << 10;
/// A buffer beyond this is given back.
const KEPT: usize = 1 << 20;
/// How long a client that is closed may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Writes to a client until it is over. `again`: a predecessor has written to it before.
pub(super) async fn run(
    shared: Arc<Shared>,
    again: bool,
    commands: mpsc::Sender<Command>,
    drain: oneshot::Receiver<(Drain, Control)>,
) {
    if shared.stash().is_ended() {
        return;
    }
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        drain: Some(drain),
        place: None,
        names: Names::default(),
        // Ends what a predecessor may have left of a line; who reads skips what is no frame.
        framed: if again { b"\n".to_vec() } else { Vec::new() },
        ends: Vec::new(),
        written: 0,
        untold: 0,
        until: None,
    };
    let why = writer.serve(again).await;
    // It says that nothing more comes also where other holders have the socket.
    let _ = shutdown(shared.socket.get_ref().as_raw_fd(), Shutdown::Both);
    shared.close_with(&why);
    // The task that owns the herds ends only with everything else.
    let _ = commands.send(Command::StandIn(shared.key, Wish::Ended(why))).await;
}

struct Writer {
    shared: Arc<Shared>,
    /// Where its place comes from, until it has come or will not.
    drain: Option<oneshot::Receiver<(Drain, Control)>>,
    place: Option<Place>,
    names: Names,
    /// Frames on their way, and where each ends.
    framed: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes of them that are written.
    written: usize,
    /// Messages that were missed and could not be told yet.
    untold: u64,
    /// When a client that is closed has had its time.
    until: Option<Instant>,
}

struct Place {
    drain: Drain,
    control: Control,
    bell: Watched,
}

/// What woke us.
enum Woken {
    Written(io::Result<usize>),
    Seated(Option<Box<(Drain, Control)>>),
    News,
}

impl Writer {
    /// Says why it is over.
    async fn serve(&mut self, again: bool) -> String {
        if again {
            // What a predecessor has left cannot be framed without the names of the herd.
            let place = seat(&mut self.drain).await;
            if place.is_none() {
                return "it has no place in the herd any more".to_owned();
            }
            if let Err(why) = self.take(place) {
                return why;
            }
        }
        loop {
            let takes = self.collect();
            self.frame();
            let idle = self.written == self.framed.len();
            if idle && self.shared.closing.load(Relaxed) {
                return "it was closed".to_owned();
            }
            match self.wait(takes, idle).await {
                Woken::Written(Ok(bytes)) => self.account(bytes),
                Woken::Written(Err(_)) if self.shared.closing.load(Relaxed) => return "it was closed".to_owned(),
                Woken::Written(Err(_)) => {
                    self.shared.deaf.store(true, Relaxed);
                    // The reader may wait for this to be over.
                    self.shared.room.notify_one();
                }
                Woken::Seated(place) => {
                    if let Err(why) = self.take(place.map(|place| *place)) {
                        return why;
                    }
                }
                Woken::News => {}
            }
        }
    }

    async fn wait(&mut self, takes: bool, idle: bool) -> Woken {
        let Writer { shared, drain, place, framed, written, .. } = self;
        let write = write(shared, &framed[*written..]);
        if shared.closing.load(Relaxed) {
            let until = *self.until.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            return Woken::Written(timeout_at(until, write).await.unwrap_or_else(|_| Err(late())));
        }
        let news = async {
            match place {
                Some(place) => wait_for_news(&mut place.drain, &place.bell).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            bytes = write, if !idle => Woken::Written(bytes),
            () = news, if takes => Woken::News,
            place = seat(drain) => Woken::Seated(place.map(Box::new)),
            () = shared.news.notified() => Woken::News,
        }
    }

    fn take(&mut self, place: Option<(Drain, Control)>) -> Result<(), String> {
        let Some((drain, control)) = place else { return Ok(()) };
        let bell = control.bell().try_clone_to_owned().and_then(Watched::new);
        let bell = bell.map_err(|error| format!("no descriptor is left: {error}"))?;
        self.place = Some(Place { drain, control, bell });
        Ok(())
    }

    /// Takes messages out of the rings as long as there is room; whether there may be more to take.
    fn collect(&mut self) -> bool {
        let Some(place) = &mut self.place else { return false };
        if self.untold > 0 {
            let fields = [("lagged", self.untold.into())];
            let mut stash = self.shared.stash();
            if stash.takes_answers() && stash.add_control(&frame::inside("lagged", None, &fields)) {
                self.untold = 0;
            }
        }
        for _ in 0..TURN {
            let mut stash = self.shared.stash();
            if stash.is_paused() || !stash.takes_messages() || self.shared.closing.load(Relaxed) {
                return false;
            }
            // One at a time: what was shown as read and is not in the stash is lost if we die in between.
            let turn = one(place, &mut stash);
            for loss in place.drain.lost() {
                self.shared.figures.missed.fetch_add(loss.records, Relaxed);
                let told = stash.takes_answers() && stash.add_control(&lagged(&loss, &mut self.names, &place.control));
                self.untold += if told { 0 } else { loss.records };
            }
            if !turn {
                break;
            }
            stash.commit();
        }
        // Also of rings that had nothing for us: what is behind these cursors is no business of a successor.
        let mut stash = self.shared.stash();
        let me = place.control.place().slot;
        for slot in (0..MAX_SLOTS as Slot).filter(|slot| *slot != me) {
            stash.set_cursor(slot, place.control.cursor(me, slot).unwrap_or(0));
        }
        stash.commit();
        true
    }

    /// Frames what is to go, once everything framed before has gone.
    fn frame(&mut self) {
        if self.shared.deaf.load(Relaxed) {
            return self.throw_away();
        }
        if !self.framed.is_empty() {
            return;
        }
        let stash = self.shared.stash();
        for (number, entry) in stash.entries(0) {
            match entry {
                Entry::Control(inside) => frame::number(number, inside, &mut self.framed),
                Entry::Message(kept) => {
                    let Some(place) = &self.place else { break };
                    let (channel, from) = self.names.of(&place.control, &kept);
                    frame::message(number, channel, from, &kept, &mut self.framed);
                }
            }
            self.ends.push(self.framed.len());
            if self.framed.len() >= FRAMED {
                break;
            }
        }
    }

    /// For a client that takes nothing any more, but still says something, nothing waits and nobody is held up.
    fn throw_away(&mut self) {
        (self.framed, self.ends, self.written) = (Vec::new(), Vec::new(), 0);
        let mut stash = self.shared.stash();
        if stash.waiting() > 0 {
            stash.sent(usize::MAX);
            self.shared.room.notify_one();
        }
    }

    /// So many bytes more are written.
    fn account(&mut self, bytes: usize) {
        self.written += bytes;
        let done = self.ends.iter().take_while(|end| **end <= self.written).count();
        if done > 0 {
            self.shared.stash().sent(done);
            self.ends.drain(..done);
            self.shared.room.notify_one();
        }
        if self.written == self.framed.len() {
            self.framed.clear();
            self.framed.shrink_to(KEPT);
            self.written = 0;
        }
    }
}

/// One message from the rings into the stash; whether there was one.
fn one(place: &mut Place, stash: &mut Stash) -> bool {
    let mut from = None;
    place.drain.turn(1, |delivery| {
        // There is room for the largest message, or no turn was taken.
        let added = stash.add_message(&delivery);
        debug_assert!(added, "room was made sure of");
        from = Some(delivery.from);
    });
    let me = place.control.place().slot;
    if let Some((slot, cursor)) = from.and_then(|slot| Some((slot, place.control.cursor(me, slot)?))) {
        stash.set_cursor(slot, cursor);
    }
    from.is_some()
}

/// The place in the herd, `None` if there will be none; never again after that.
async fn seat(drain: &mut Option<oneshot::Receiver<(Drain, Control)>>) -> Option<(Drain, Control)> {
    let Some(coming) = drain else { return std::future::pending().await };
    let place = coming.await.ok();
    *drain = None;
    place
}

async fn write(shared: &Shared, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        let mut ready = shared.socket.writable().await?;
        if let Ok(result) = ready.try_io(|socket| Ok(send(socket.get_ref().as_fd().as_raw_fd(), bytes, flags)?)) {
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// The inside of the frame that tells of messages that were missed.
fn lagged(loss: &Loss, names: &mut Names, control: &Control) -> Vec<u8> {
    let mut fields = vec![("lagged", loss.records.into())];
    if let Some(channel) = loss.channel {
        fields.push(("channel", names.channel(control, channel).into()));
    }
    if let Some(from) = (loss.from != SUPERVISOR).then(|| control.directory().slot(loss.from).instance).flatten() {
        fields.push(("from", from.into()));
    }
    frame::inside("lagged", None, &fields)
}

/// Names that frames carry, looked up once.
#[derive(Debug, Default)]
struct Names {
    channels: BTreeMap<ChannelId, Box<str>>,
    /// Per slot: the incarnation that was looked up, and its instance.
    senders: BTreeMap<Slot, (u32, Option<u32>)>,
}

impl Names {
    fn of(&mut self, control: &Control, kept: &Kept<'_>) -> (&str, Option<u32>) {
        let from = self.sender(control, kept.from, kept.from_incarnation);
        (self.channel(control, ChannelId(kept.channel)), from)
    }

    /// A channel's number and name belong together for as long as the herd lives.
    fn channel(&mut self, control: &Control, channel: ChannelId) -> &str {
        self.channels.entry(channel).or_insert_with(|| control.directory().name(channel).unwrap_or_default().into())
    }

    fn sender(&mut self, control: &Control, slot: Slot, incarnation: u32) -> Option<u32> {
        match self.senders.get(&slot) {
            Some((known, instance)) if *known == incarnation => *instance,
            _ => {
                let entry = control.directory().slot(slot);
                // The slot may have gone on to another incarnation; the instance is the same unless it was given away.
                if entry.incarnation == incarnation {
                    self.senders.insert(slot, (incarnation, entry.instance));
                }
                entry.instance
            }
        }
    }
}
