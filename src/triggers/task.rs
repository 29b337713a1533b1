//! The task that knows what restarts which app, and when.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cron::{Course, Schedule, Verdict};
use super::watch::{Field, Seen, Watcher};
use super::{App, Board, Command, News};
use crate::lifecycle::Trigger;
use crate::supervisor::clock;

/// The clock may be set at any time, and nobody tells.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The wall clock against the boot clock: a larger step is no drift.
const STEP_MS: i64 = 1500;

/// What is kept of an app.
struct Known {
    app: App,
    course: Option<Course>,
    /// Held for its thread.
    watcher: Option<Watcher>,
}

pub(super) struct Task {
    home: PathBuf,
    board: Board,
    news: mpsc::Sender<News>,
    shutdown: CancellationToken,
    apps: BTreeMap<u32, Known>,
    /// What there is to tell: the latest of each kind for each app.
    pending: BTreeMap<(u32, u8), News>,
    /// Given to watching threads.
    seen: mpsc::Sender<Seen>,
    glimpses: Option<mpsc::Receiver<Seen>>,
    /// By how much the wall clock was ahead of the boot clock at the last look.
    offset_ms: i64,
}

impl Task {
    pub(super) fn new(home: PathBuf, board: Board, news: mpsc::Sender<News>, shutdown: CancellationToken) -> Task {
        // A watching thread that finds no room waits.
        let (seen, glimpses) = mpsc::channel(16);
        Task {
            home,
            board,
            news,
            shutdown,
            apps: BTreeMap::new(),
            pending: BTreeMap::new(),
            seen,
            glimpses: Some(glimpses),
            offset_ms: offset_ms(),
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut glimpses = self.glimpses.take().expect("a task runs once");
        let news = self.news.clone();
        let shutdown = self.shutdown.clone();
        loop {
            let wait = self.wait();
            tokio::select! {
                () = shutdown.cancelled() => return,
                command = commands.recv() => match command {
                    Some(Command::Watch(app)) => self.watch(*app),
                    Some(Command::Forget(app)) => drop(self.apps.remove(&app)),
                    None => return,
                },
                permit = news.reserve(), if !self.pending.is_empty() => {
                    let Ok(permit) = permit else { return };
                    let (_, news) = self.pending.pop_first().expect("it was not empty");
                    permit.send(news);
                }
                Some(seen) = glimpses.recv() => self.seen(seen),
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
            self.look_at_the_clock();
        }
    }

    fn watch(&mut self, app: App) {
        let id = app.id;
        let now = clock::wall_ms();
        let before = self.apps.remove(&id);
        let (old_triggers, old_logs) =
            before.as_ref().map(|known| (known.app.triggers.clone(), known.app.logs.clone())).unwrap_or_default();
        let (mut course, mut watcher) = before.map_or((None, None), |known| (known.course, known.watcher));
        if course.is_none() || old_triggers.cron != app.triggers.cron {
            let schedule = app.triggers.cron.as_ref().map(Schedule::new).transpose();
            course = match schedule {
                Ok(schedule) => schedule.map(|schedule| Course::new(schedule, app.started_ms, now)),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                    self.trouble(id, format!("app `{}` has no `cron_restart`: {error}{cause}", app.name));
                    None
                }
            };
        }
        if watcher.is_none() || old_triggers.watch != app.triggers.watch || old_logs != app.logs {
            watcher = self.watcher(&app);
        }
        self.apps.insert(id, Known { app, course, watcher });
        self.show(id);
    }

    fn watcher(&mut self, app: &App) -> Option<Watcher> {
        let watch = app.triggers.watch.clone()?;
        let field = Field { watch, home: self.home.clone(), logs: app.logs.clone() };
        match Watcher::start(app.id, field, self.seen.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                self.trouble(app.id, format!("app `{}`: {}", app.name, error.sentence()));
                None
            }
        }
    }

    fn seen(&mut self, seen: Seen) {
        match seen {
            Seen::Changed { app, path } => {
                let watched = self.apps.get(&app).and_then(|known| known.app.triggers.watch.as_ref());
                let Some(watched) = watched else { return };
                // Shorter to read, where it is below what the settings name.
                let below = watched.paths.iter().find_map(|root| path.strip_prefix(root).ok());
                let shown = below.filter(|below| !below.as_os_str().is_empty()).unwrap_or(&path);
                let cause = format!("`{}` changed", shown.display().to_string().escape_debug());
                self.due(app, Trigger::File, cause);
            }
            Seen::Trouble { app, what } => {
                if let Some(known) = self.apps.get(&app) {
                    let what = format!("app `{}`: {what}", known.app.name);
                    self.trouble(app, what);
                }
            }
        }
    }

    /// How long there is nothing to do without being told; `None` while no app follows the clock.
    fn wait(&self) -> Option<Duration> {
        let now = clock::wall_ms();
        let courses = self.apps.values().filter_map(|known| known.course.as_ref());
        let next = courses.map(|course| course.next_ms().unwrap_or(u64::MAX)).min()?;
        Some(Duration::from_millis(next.saturating_sub(now)).min(LOOK_AGAIN))
    }

    fn look_at_the_clock(&mut self) {
        let now = clock::wall_ms();
        let offset = offset_ms();
        let step = offset - self.offset_ms;
        // Small steps add up to the clock's own drift, which is none of ours.
        self.offset_ms = offset;
        let was_set = step.abs() > STEP_MS;
        let mut due = Vec::new();
        for (id, known) in &mut self.apps {
            let Some(course) = &mut known.course else { continue };
            match course.look(now) {
                Verdict::NotYet => {}
                Verdict::Due => due.push(*id),
                Verdict::Missed(by) => {
                    tracing::warn!("{}: a `cron_restart` was due {by:?} ago and is left out", known.app.name);
                }
            }
            if was_set {
                course.clock_was_set(now);
            }
        }
        if was_set && !self.apps.is_empty() {
            tracing::info!("the clock was set by {step} ms");
        }
        for id in due {
            let pattern = self.apps[&id].app.triggers.cron.as_ref().map_or("", |cron| &cron.pattern);
            let cause = format!("`cron_restart` {pattern} was due");
            self.due(id, Trigger::Cron, cause);
        }
        for id in self.apps.keys().copied().collect::<Vec<_>>() {
            self.show(id);
        }
    }

    fn due(&mut self, app: u32, trigger: Trigger, cause: String) {
        if let Some(notes) = self.board.notes().get_mut(&app) {
            notes.last = Some(cause.clone());
        }
        let kind = match trigger {
            Trigger::Cron => 0,
            Trigger::File => 1,
        };
        self.pending.insert((app, kind), News::Due { app, trigger, cause });
    }

    fn trouble(&mut self, app: u32, what: String) {
        self.pending.insert((app, 2), News::Trouble(what));
    }

    fn show(&self, id: u32) {
        let next = self.apps.get(&id).and_then(|known| known.course.as_ref()?.next_ms());
        if let Some(notes) = self.board.notes().get_mut(&id) {
            notes.next_ms = next;
        }
    }
}

fn offset_ms() -> i64 {
    // Both fit for a few hundred million years.
    clock::wall_ms() as i64 - clock::now().0 as i64
}
