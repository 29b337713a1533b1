//! What a client says: read, done, answered, in its order.
//!
//! Owns the stand-in's publisher. While a publish waits for room nothing is read, so that the client's socket fills and
//! the client waits, and nobody else.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use herdwire_ipc::directory::SlotState;
use herdwire_ipc::layout::MAX_SLOTS;
use herdwire_ipc::link::ToSupervisor;
use herdwire_ipc::tokio::Watched;
use herdwire_ipc::{ChannelId, Control, Drain, Outgoing, PublishError, Publisher, SUPERVISOR, Slot, To};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::frame::{self, Bad, Frame, Publish, Request};
use super::stash::Line;
use super::{Event, Seated, Shared, Wish};
use crate::wire::Command;

/// How long the task that owns the herds may take over a question; it needs a second at most.
const ANSWER: Duration = Duration::from_secs(10);
/// After so many frames in a row that are none, whoever is at the other end does not speak the protocol.
const PATIENCE: u32 = 64;
/// Lines between two chances for other tasks.
const TURN: usize = 64;

/// Where the drain goes once there is one.
pub(super) type Give = oneshot::Sender<(Drain, Control)>;

/// Why it is over.
enum End {
    /// Nothing more can come, as with everybody who leaves.
    Gone(&'static str),
    /// The client is told why.
    Closed(String),
}

/// Serves a client until it is over. `again`: a predecessor has served it before.
pub(super) async fn run(
    shared: Arc<Shared>,
    again: bool,
    commands: mpsc::Sender<Command>,
    told: mpsc::Receiver<Event>,
    give: Give,
) {
    let key = shared.key;
    if shared.stash().is_ended() {
        return;
    }
    let mut reader = Reader {
        shared: Arc::clone(&shared),
        commands: commands.clone(),
        told,
        give: Some(give),
        place: None,
        channels: HashMap::new(),
        finishing: false,
        bad: 0,
        asked: 0,
    };
    let Err(end) = reader.serve(again).await else { return };
    match end {
        End::Gone(why) => {
            shared.close_with(why);
            // The task that owns the herds ends only with everything else.
            let _ = commands.send(Command::StandIn(key, Wish::Ended(why.to_owned()))).await;
        }
        End::Closed(why) => {
            shared.close_with(&why);
            let mut stash = shared.stash();
            // Where there is no room left for it, the end alone has to say it.
            let _ = stash.add_control(&frame::error(None, "closed", &why));
            stash.set_ended();
            stash.commit();
            drop(stash);
            shared.closing.store(true, Relaxed);
            shared.news.notify_one();
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    told: mpsc::Receiver<Event>,
    give: Option<Give>,
    place: Option<Place>,
    /// Numbers of channels; there are no more than a herd has.
    channels: HashMap<String, ChannelId>,
    /// The client is gone: what is there is done, nothing is waited for.
    finishing: bool,
    /// Frames in a row that were none.
    bad: u32,
    asked: u64,
}

struct Place {
    publisher: Publisher,
    control: Control,
    room: Watched,
}

/// What a client is answered: fields beside `"op":"ok"`, or an error.
type Answer = Result<(&'static str, Vec<(&'static str, Value)>), (&'static str, String)>;

impl Reader {
    async fn serve(&mut self, again: bool) -> Result<(), End> {
        if again {
            self.await_place().await?;
        }
        let mut served = 0;
        loop {
            let line = self.shared.stash().line(self.shared.line);
            match line {
                Line::Whole(line) => self.line(line).await?,
                Line::TooLong => self.too_long().await?,
                Line::Partial => {
                    self.read().await?;
                    continue;
                }
            }
            served += 1;
            if served % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for more, straight into the memory that outlives us.
    async fn read(&mut self) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let receive = |socket: std::os::fd::BorrowedFd<'_>| {
            let mut stash = shared.stash();
            let received = retry(|| Ok(recv(socket.as_raw_fd(), stash.space(), MsgFlags::MSG_DONTWAIT)?))?;
            stash.received(received);
            Ok(received)
        };
        let received = if self.finishing {
            receive(shared.socket.get_ref().as_fd())
        } else {
            tokio::select! {
                received = shared.socket.read(receive) => received,
                event = self.told.recv() => return self.hear(event),
            }
        };
        match received {
            Ok(0) => self.at_the_end().await,
            Ok(_) => Ok(()),
            Err(_) => Err(End::Gone("its client is gone")),
        }
    }

    /// Nothing more is said. As long as the client listens it is still told.
    async fn at_the_end(&mut self) -> Result<(), End> {
        let descriptor = self.shared.socket.get_ref().as_fd();
        let mut watched = [PollFd::new(descriptor, PollFlags::empty())];
        let looked = poll(&mut watched, PollTimeout::ZERO).is_ok();
        let closed = watched[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        if !looked || closed {
            return Err(End::Gone("its client has closed the pipe"));
        }
        while !self.finishing && !self.shared.deaf.load(Relaxed) {
            tokio::select! {
                () = self.shared.room.notified() => {}
                event = self.told.recv() => self.hear(event)?,
            }
        }
        Err(End::Gone("its client is gone"))
    }

    fn hear(&mut self, event: Option<Event>) -> Result<(), End> {
        match event {
            Some(Event::Finish) => {
                self.finishing = true;
                Ok(())
            }
            // Late answers to what is not waited for any more.
            Some(_) => Ok(()),
            None => Err(End::Gone("the herd is gone")),
        }
    }

    /// The next thing that the task that owns the herds says.
    async fn hears(&mut self) -> Result<Event, End> {
        loop {
            match timeout(ANSWER, self.told.recv()).await {
                Ok(Some(Event::Finish)) => self.finishing = true,
                Ok(Some(event)) => return Ok(event),
                Ok(None) => return Err(End::Gone("the herd is gone")),
                Err(_) => return Err(End::Closed("the herd does not answer".to_owned())),
            }
        }
    }

    // --- lines ---

    async fn line(&mut self, at: Range<usize>) -> Result<(), End> {
        let line = self.shared.stash().bytes(&at).to_vec();
        if line.iter().all(u8::is_ascii_whitespace) {
            let mut stash = self.shared.stash();
            stash.done(&at);
            stash.commit();
            return Ok(());
        }
        if let Some(place) = &self.place {
            place.control.beat();
        }
        let (id, answer) = match frame::read(&line) {
            Ok(Frame { id, request }) => {
                self.bad = 0;
                (id, self.request(request).await?)
            }
            Err(Bad { id, code, message }) => {
                self.count_bad()?;
                (id, Err((code, message)))
            }
        };
        let inside = match answer {
            // Done, and nobody asked.
            Ok(("ok", _)) if id.is_none() => None,
            Ok((op, fields)) => Some(frame::inside(op, id, &fields)),
            Err((code, message)) => Some(frame::error(id, code, &message)),
        };
        self.settle(inside, Some(at)).await
    }

    async fn too_long(&mut self) -> Result<(), End> {
        self.count_bad()?;
        let message = format!("the line has more than {} bytes", self.shared.line);
        self.settle(Some(frame::error(None, "too_large", &message)), None).await
    }

    fn count_bad(&mut self) -> Result<(), End> {
        self.shared.figures.bad_frames.fetch_add(1, Relaxed);
        self.bad += 1;
        if self.bad >= PATIENCE {
            return Err(End::Closed(format!("{PATIENCE} frames in a row were not of the protocol")));
        }
        Ok(())
    }

    /// A line is done and answered, both at once.
    async fn settle(&mut self, inside: Option<Vec<u8>>, line: Option<Range<usize>>) -> Result<(), End> {
        loop {
            {
                let mut stash = self.shared.stash();
                let told = inside.as_ref().is_none_or(|inside| stash.takes_answers() && stash.add_control(inside));
                if told {
                    if let Some(line) = &line {
                        stash.done(line);
                        // Only a line that published could have been left with this.
                        stash.set_published(false);
                    }
                    if let Some(place) = &self.place {
                        stash.books().head = place.publisher.head();
                    }
                    stash.commit();
                    break;
                }
            }
            // A client that does not read its answers is not read either.
            tokio::select! {
                () = self.shared.room.notified() => {}
                event = self.told.recv() => self.hear(event)?,
            }
            if self.finishing {
                return Err(End::Gone("its client is gone"));
            }
        }
        if inside.is_some() {
            self.shared.news.notify_one();
        }
        Ok(())
    }

    // --- requests ---

    async fn request(&mut self, request: Request<'_>) -> Result<Answer, End> {
        let ok = |fields| Ok(Ok(("ok", fields)));
        match request {
            Request::Hello => self.hello().await,
            Request::Ready => {
                self.say(ToSupervisor::Ready).await;
                ok(Vec::new())
            }
            Request::Beat => ok(Vec::new()),
            Request::Pause | Request::Resume => {
                self.shared.stash().set_paused(request == Request::Pause);
                self.shared.news.notify_one();
                ok(Vec::new())
            }
            _ if self.place.is_none() => Ok(Err(("no_hello", "say hello first".to_owned()))),
            Request::Subscribe(name) => self.subscribe(&name, true).await,
            Request::Unsubscribe(name) => self.subscribe(&name, false).await,
            Request::Publish(publish) => self.publish(publish).await,
            Request::Peers => Ok(Ok(("peers", vec![("peers", self.peers())]))),
            Request::Leave => Err(End::Closed("the client leaves".to_owned())),
        }
    }

    async fn hello(&mut self) -> Result<Answer, End> {
        if self.place.is_none() {
            // The task that owns the herds ends only with everything else.
            let _ = self.commands.send(Command::StandIn(self.shared.key, Wish::Hello)).await;
            self.await_place().await?;
        }
        Ok(Ok(("welcome", self.welcome())))
    }

    async fn await_place(&mut self) -> Result<(), End> {
        loop {
            match self.hears().await? {
                Event::Seated(seated) => self.take(*seated)?,
                Event::Refused(reason) => return Err(End::Closed(reason)),
                Event::Joined if self.place.is_some() => return Ok(()),
                _ => {}
            }
        }
    }

    fn take(&mut self, seated: Seated) -> Result<(), End> {
        let Seated { publisher, drain, control } = seated;
        let room = control.bell().try_clone_to_owned().and_then(Watched::new);
        let room = room.map_err(|error| End::Closed(format!("no descriptor is left: {error}")))?;
        if let Some(give) = self.give.take() {
            // The task that writes is over when the client has closed its end.
            let _ = give.send((drain, control.clone()));
        }
        self.place = Some(Place { publisher, control, room });
        Ok(())
    }

    fn welcome(&self) -> Vec<(&'static str, Value)> {
        let (Some(place), member) = (&self.place, &self.shared.member) else { return Vec::new() };
        vec![
            ("protocol", frame::PROTOCOL.into()),
            ("herd", (*member.herd).into()),
            ("app", (*member.app).into()),
            ("instance", member.instance.into()),
            ("index", member.index.into()),
            ("slot", place.control.place().slot.into()),
            ("incarnation", member.incarnation.into()),
            ("max_message", place.publisher.limit().into()),
            ("max_line", self.shared.line.into()),
        ]
    }

    async fn subscribe(&mut self, name: &str, on: bool) -> Result<Answer, End> {
        let name = name.to_owned();
        let wish = if on { ToSupervisor::Subscribe { name } } else { ToSupervisor::Unsubscribe { name } };
        Ok(match self.ask(wish).await? {
            Ok((_, unaware)) if unaware.is_empty() => Ok(("ok", Vec::new())),
            Ok((_, unaware)) => Ok(("ok", vec![("unaware", unaware.into())])),
            Err(reason) => Err(("unknown_channel", reason)),
        })
    }

    async fn publish(&mut self, publish: Publish<'_>) -> Result<Answer, End> {
        if self.shared.stash().is_published() {
            return Ok(Ok(("ok", vec![("heard", true.into())])));
        }
        let channel = match self.channels.get(&*publish.channel) {
            Some(channel) => *channel,
            None => match self.ask(ToSupervisor::Intern { name: publish.channel.clone().into_owned() }).await? {
                Ok((number, _)) => *self.channels.entry(publish.channel.to_string()).or_insert(ChannelId(number)),
                Err(reason) => return Ok(Err(("unknown_channel", reason))),
            },
        };
        let Some(place) = &mut self.place else { return Ok(Err(("no_hello", "say hello first".to_owned()))) };
        let to = match (publish.to, publish.session) {
            (Some(instance), _) => match slot_of(&place.control, instance) {
                Some(slot) => To::Slot(slot),
                None => return Ok(Err(("unknown_instance", format!("there is no instance {instance} in this herd")))),
            },
            (None, Some(_)) => To::Slot(SUPERVISOR),
            (None, None) => To::Subscribers,
        };
        let outgoing = Outgoing { to, tag: publish.tag, session: publish.session, payload: &publish.payload };
        let published = herdwire_ipc::tokio::publish(&mut place.publisher, &place.room, channel, outgoing, || {}).await;
        Ok(match published {
            Ok(published) => Ok(("ok", vec![("heard", published.position.is_some().into())])),
            Err(error) => Err((code_of(&error), error.to_string())),
        })
    }

    fn peers(&self) -> Value {
        let Some(place) = &self.place else { return Value::Null };
        let peers = neighbours(&place.control).map(|(slot, instance, state)| {
            let state = match state {
                SlotState::Running => "running",
                SlotState::Joining => "joining",
                SlotState::Free | SlotState::Down => "down",
            };
            serde_json::json!({ "instance": instance, "slot": slot, "state": state })
        });
        peers.collect()
    }

    async fn say(&self, message: ToSupervisor) {
        // The task that owns the herds ends only with everything else.
        let _ = self.commands.send(Command::StandIn(self.shared.key, Wish::Say(0, message))).await;
    }

    async fn ask(&mut self, message: ToSupervisor) -> Result<Result<(u16, Vec<Slot>), String>, End> {
        self.asked += 1;
        let wish = Command::StandIn(self.shared.key, Wish::Say(self.asked, message));
        // The task that owns the herds ends only with everything else.
        let _ = self.commands.send(wish).await;
        loop {
            match self.hears().await? {
                Event::Answer(number, answer) if number == self.asked => return Ok(answer),
                _ => {}
            }
        }
    }
}

fn code_of(error: &PublishError) -> &'static str {
    match error {
        PublishError::Full => "full",
        PublishError::TooLarge { .. } => "too_large",
        PublishError::UnknownChannel(_) => "unknown_channel",
        PublishError::NobodyThere(_) => "unknown_instance",
        // Whatever a later version refuses for.
        _ => "refused",
    }
}

/// Who else is in the herd: slot, instance, state.
fn neighbours(control: &Control) -> impl Iterator<Item = (Slot, u32, SlotState)> {
    let (directory, me) = (control.directory(), control.place().slot);
    (0..MAX_SLOTS as Slot).filter(move |slot| *slot != me).filter_map(move |slot| {
        let entry = directory.slot(slot);
        let instance = entry.instance.filter(|_| entry.state != SlotState::Free)?;
        Some((slot, instance, entry.state))
    })
}

fn slot_of(control: &Control, instance: u32) -> Option<Slot> {
    neighbours(control).find(|(_, of, _)| *of == instance).map(|(slot, ..)| slot)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
