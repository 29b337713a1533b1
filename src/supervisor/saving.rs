//! When what runs is written down, and what of it still waits to be brought back.
//!
//! Looks at the registry once a second and after each request, and writes when something that matters is different:
//! a second is the most that is lost. Does not write itself (`saved::writer`).
//!
//! Invariants
//! - What was written down and has not been brought back stays in the document until it is, or until somebody saves
//!   by hand.
//! - From the moment everything is to end, the list stays as it was: an end never empties it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::adopt::file_identity;
use super::clock;
use super::control::{Failure, Response};
use super::core::Core;
use super::registry::{App, Entry};
use super::saved::writer::Writer;
use super::saved::{Document, End, Here, SavedApp, SavedInstance};
use super::settings::Kept;
use crate::lifecycle::{Exit, State, Then};

/// How long the last document may take at the end.
const LAST_LIMIT: Duration = Duration::from_secs(3);
/// What a warning about a document that is not written begins with.
const TROUBLE: &str = "what runs cannot be saved";

/// What the core knows of the copy on disk.
pub struct Saving {
    writer: Writer,
    pub(super) here: Here,
    /// The home as a folder: one that was made anew under its name is another's.
    folder: Option<(u64, u64)>,
    /// `herdwire run`: its file says what runs, and nothing is written down.
    off: bool,
    /// Written down, not brought back yet.
    pub(super) waiting: Vec<SavedApp>,
    /// The sections that were in force then, as far as they are not again.
    pub(super) settings: Kept,
    /// Documents that could not be used, each with its reason.
    pub(super) refused: Vec<String>,
    /// What the last document said, in short.
    noted: Option<u64>,
    /// The document that stays as it is while everything ends.
    last: Option<Document>,
    /// Numbers to be given to the next new instances.
    pub(super) claims: Vec<u32>,
    /// Numbers that were reserved for them: never given to anybody as an id.
    pub(super) fresh: Range<u32>,
}

impl Saving {
    pub fn new(writer: Writer, here: Here, off: bool) -> Saving {
        Saving {
            folder: file_identity(Path::new(&here.home)),
            writer,
            here,
            off,
            waiting: Vec::new(),
            settings: Kept::default(),
            refused: Vec::new(),
            noted: None,
            last: None,
            claims: Vec::new(),
            fresh: 0..0,
        }
    }

    /// Whether nothing is written down.
    pub fn is_off(&self) -> bool {
        self.off
    }

    fn write(&self, document: Document) {
        if self.folder.is_some() && file_identity(Path::new(&self.here.home)) == self.folder {
            self.writer.write(document);
        }
    }

    /// Goes on with an end that a predecessor began: its list is the one that stays.
    pub fn go_on_ending(&mut self, document: Document) {
        self.last = Some(document);
    }
}

/// The machine's start, as the kernel tells it apart from others.
pub fn boot_id() -> String {
    // Without /proc nothing is known to be of this start: nothing is then brought back but by hand.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Core {
    /// Writes down what runs, if that is not what was written last.
    pub(super) fn note_changes(&mut self) {
        if self.saving.off || self.globals.ending {
            return;
        }
        let now = self.gist();
        if self.saving.noted != Some(now) {
            self.saving.noted = Some(now);
            self.saving.write(self.document(End::None));
        }
    }

    /// Says what keeps the document from the disk, and stops saying it when nothing does.
    pub(super) fn look_after_saving(&mut self) {
        self.note_changes();
        let trouble = self.saving.writer.trouble().map(|why| format!("{TROUBLE}: {why}"));
        match trouble {
            Some(trouble) if self.warnings.contains(&trouble) => {}
            Some(trouble) => self.warn(trouble),
            None => self.warnings.retain(|warning| !warning.starts_with(TROUBLE)),
        }
    }

    /// What was written down and does not run, as a sentence for `list`.
    pub(super) fn what_waits(&self) -> Option<String> {
        let names: Vec<&str> = self.saving.waiting.iter().map(|app| app.spec.name.as_str()).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!("saved and not started: {names}; `herdwire resurrect` starts them, `herdwire save` forgets them")
        })
    }

    /// Everything is about to end: what runs now is what `resurrect` brings back.
    pub(super) fn note_the_end(&mut self) {
        if self.saving.off || self.saving.last.is_some() {
            return;
        }
        let document = self.document(End::Begun);
        self.saving.write(document.clone());
        self.saving.last = Some(document);
    }

    /// Everything has ended.
    pub(super) async fn note_ended(&mut self) {
        let Some(document) = self.saving.last.take() else { return };
        self.saving.write(Document { end: End::Done, ..document });
        match tokio::time::timeout(LAST_LIMIT, self.saving.writer.when_written()).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!("the end is not saved: {error}"),
            Ok(Err(_)) | Err(_) => tracing::error!("the end is not saved: the disk takes too long"),
        }
    }

    /// `herdwire save`: writes down what runs and forgets what waited; answers once it is on the disk.
    pub(super) async fn save(&mut self, reply: oneshot::Sender<Response>) {
        if self.saving.off {
            let failure = Failure::new("`herdwire run` saves nothing: its file says what runs");
            // Whoever asked may have gone meanwhile.
            return drop(reply.send(Response::Failed(failure)));
        }
        self.saving.waiting.clear();
        self.saving.settings = Kept::default();
        self.saving.noted = Some(self.gist());
        self.saving.write(self.document(End::None));
        let written = self.saving.writer.when_written();
        let done = Response::Done(Box::new(self.snapshot(false).await));
        let path = self.home.saved();
        // Not waited for here: a slow disk holds nobody else up.
        self.tasks.spawn(async move {
            let failure =
                |cause| Response::Failed(Failure::new(format!("`{}` cannot be written", path.display())).cause(cause));
            let answer = match written.await {
                Ok(Ok(())) => done,
                Ok(Err(cause)) => failure(cause),
                Err(_) => failure("the supervisor is ending".to_owned()),
            };
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(answer);
        });
    }

    /// What matters of all that the document says, in one number.
    fn gist(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for app in self.registry.apps.values() {
            // The spec's place, too: one may be replaced without a new revision.
            (app.id, app.revision, Arc::as_ptr(app.proven_spec()).addr()).hash(&mut hasher);
        }
        for entry in self.registry.instances.values() {
            (entry.id, entry.number, entry.app, entry.index, entry.doomed, is_wanted(entry), ended_with(entry))
                .hash(&mut hasher);
        }
        self.globals.settings_revision.hash(&mut hasher);
        self.saving.waiting.iter().for_each(|app| app.spec.name.hash(&mut hasher));
        hasher.finish()
    }

    fn document(&self, end: End) -> Document {
        let Here { boot, home, node } = self.saving.here.clone();
        let running = self.registry.apps.values().map(|app| self.saved_app(app));
        let is_new = |saved: &&SavedApp| self.registry.app_named(&saved.spec.name).is_none();
        let waiting = self.saving.waiting.iter().filter(is_new).cloned();
        let settings = self.sections.kept().or(&self.saving.settings);
        Document {
            herdwire: env!("CARGO_PKG_VERSION").to_owned(),
            written_at_ms: clock::wall_ms(),
            boot,
            home,
            node,
            end,
            settings,
            apps: running.chain(waiting).collect(),
        }
    }

    fn saved_app(&self, app: &App) -> SavedApp {
        let mut instances: Vec<SavedInstance> = Vec::new();
        for entry in self.registry.staying(app.id) {
            // In a reload two stand in one place: it is one instance.
            match instances.iter_mut().find(|known| known.index == entry.index) {
                Some(known) => {
                    known.running |= is_wanted(entry);
                    known.ended = known.ended.or(ended_with(entry)).filter(|_| !known.running);
                }
                None => instances.push(SavedInstance {
                    number: entry.number,
                    index: entry.index,
                    running: is_wanted(entry),
                    ended: ended_with(entry),
                }),
            }
        }
        instances.sort_by_key(|instance| instance.index);
        SavedApp { spec: (**app.proven_spec()).clone(), instances, waiting: false }
    }
}

/// The exit code of one that ended by itself and is not started again: a job that is done stays done.
fn ended_with(entry: &Entry) -> Option<i32> {
    match (entry.life.state(), entry.life.last_exit()) {
        (State::Stopped, Some(Exit::Code(code))) if entry.life.ended_by_itself() => Some(code),
        _ => None,
    }
}

/// Whether an instance is to run. One that was given up on is: a new start is a new chance.
fn is_wanted(entry: &Entry) -> bool {
    match entry.life.state() {
        State::Stopped | State::Draining { .. } | State::Stopping { then: Then::Stay, .. } => false,
        State::Launching { .. }
        | State::Online { .. }
        | State::WaitingRestart { .. }
        | State::Errored
        | State::Stopping { .. } => true,
    }
}
