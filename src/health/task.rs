//! The task that watches: takes one event, notes it, and keeps what there is to tell until it is taken.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use herdwire_ipc::tokio::Watched as Descriptor;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::look::Surroundings;
use super::memory::{self, Processes};
use super::notify::{self, Said};
use super::probe::{self, Looked, Streak};
use super::socket::{Datagram, NotifySocket};
use super::watchdog::{Pulse, Vigil, was_away};
use super::{Around, Board, Claim, Command, Finding, News, Phase, Watched, pipe};
use crate::config::spec::{HealthSpec, Probe};
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::{Ailment, Incarnation, Time};
use crate::process::kinship::{Kin, Kinship, Traits};
use crate::process::{Group, Pidfd};
use crate::supervisor::clock;

/// How often the memory of groups that have a limit is looked at.
const MEMORY_PERIOD: Duration = Duration::from_secs(5);
/// Datagrams that are read before somebody is found to be silent: what they said while we were busy counts.
const BACKLOG: usize = 512;
/// How long a readiness is left in the socket for it to be acted on; beyond it whoever acts is stuck.
const HOLD: Duration = Duration::from_secs(2);
/// Commands that are taken before anything else has its turn.
const AT_ONCE: usize = 256;
/// Results of looks that may wait for the task; those who look wait then.
const RESULTS: usize = 256;

/// One process of an instance.
type Key = (u32, Incarnation);

impl Subject {
    fn take_main(&mut self, main: (u32, u64)) {
        self.main = (main.0 != self.pid).then_some(main);
        self.kinship.leaders.truncate(1);
        self.kinship.leaders.extend(self.main);
    }
}

/// What a look from outside was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Readiness,
    Liveness,
}

/// What a look from outside showed.
type Answer = Looked<(Key, Purpose)>;

/// What helpers bring.
enum Brought {
    Probed(Answer),
    Pipe(Key, std::io::Result<bool>),
    Beats(Vec<(u32, u32, u64)>),
    Measured(Vec<(Key, u64)>),
}

/// A process that is watched.
struct Subject {
    incarnation: Incarnation,
    pid: u32,
    inode: u64,
    main: Option<(u32, u64)>,
    kinship: Kinship,
    /// Whom it runs as, once it executes its program.
    user: Option<u32>,
    /// What it has last called its main process.
    claim: Option<Claim>,
    phase: Phase,
    health: HealthSpec,
    surroundings: Option<Arc<Surroundings>>,
    /// Asked for by the settings or by itself.
    watchdog: Option<Duration>,
    vigil: Option<Vigil>,
    pulse: Option<Pulse>,
    streak: Streak,
    has_pipe: bool,
    /// Ends what looks at it in its present phase.
    lookers: CancellationToken,
}

pub(super) struct Task {
    socket: Descriptor,
    board: Board,
    news: mpsc::Sender<News>,
    around: Around,
    subjects: BTreeMap<u32, Subject>,
    /// What there is to tell: the latest of each kind for each instance.
    pending: BTreeMap<(u32, u8), News>,
    /// Whether all that were inherited are known.
    serving: bool,
    /// Whose readiness lies in the socket until it has been acted on, and for how long at most.
    held: Option<(Key, Time)>,
    turns: Arc<Semaphore>,
    probed: mpsc::Sender<Answer>,
    results: mpsc::Sender<Brought>,
    arrived: Option<(mpsc::Receiver<Answer>, mpsc::Receiver<Brought>)>,
    /// When beats and memory are looked at next.
    beats_at: Option<Time>,
    memory_at: Option<Time>,
}

impl Task {
    pub(super) fn new(
        socket: NotifySocket,
        board: Board,
        news: mpsc::Sender<News>,
        around: Around,
    ) -> std::io::Result<Task> {
        let (probed, looks) = mpsc::channel(RESULTS);
        let (results, arrived) = mpsc::channel(RESULTS);
        Ok(Task {
            socket: Descriptor::new(socket.into_fd())?,
            board,
            news,
            around,
            subjects: BTreeMap::new(),
            pending: BTreeMap::new(),
            serving: false,
            held: None,
            turns: Arc::new(Semaphore::new(probe::AT_ONCE)),
            probed,
            results,
            arrived: Some((looks, arrived)),
            beats_at: None,
            memory_at: None,
        })
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (mut looks, mut results) = self.arrived.take().expect("a task runs once");
        let news = self.news.clone();
        let shutdown = self.around.shutdown.clone();
        loop {
            let wake = self.wake();
            let wait = wake.map(|at| at.since(clock::now()));
            let listens = self.serving && self.held.is_none();
            tokio::select! {
                // Whoever is announced before it says something must be known when it is heard, and time must come to
                // pass while datagrams flood in.
                biased;
                () = shutdown.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => {
                        self.command(command);
                        // Together: all instances are looked through before each wait, and a successor is told of all.
                        for _ in 0..AT_ONCE {
                            let Ok(command) = commands.try_recv() else { break };
                            self.command(command);
                        }
                    }
                    None => break,
                },
                permit = news.reserve(), if !self.pending.is_empty() => {
                    let Ok(permit) = permit else { break };
                    let (_, news) = self.pending.pop_first().expect("it was not empty");
                    permit.send(news);
                }
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {
                    self.timer(wake.expect("it was waited for"));
                }
                Some(look) = looks.recv() => self.brought(Brought::Probed(look)),
                Some(brought) = results.recv() => self.brought(brought),
                datagram = self.socket.read(NotifySocket::peek), if listens => {
                    while let Ok(command) = commands.try_recv() {
                        self.command(command);
                    }
                    match datagram {
                        Ok(datagram) => self.take(&datagram),
                        // Not a word about it comes twice: the socket itself is broken.
                        Err(error) => {
                            tracing::error!("instances cannot notify any more: {error}");
                            self.serving = false;
                        }
                    }
                }
            }
        }
        for subject in self.subjects.values() {
            subject.lookers.cancel();
        }
    }

    // --- who is watched ---

    fn command(&mut self, command: Command) {
        match command {
            Command::Watch(watched, phase) => self.watch(*watched, phase),
            Command::Moved(instance, incarnation, phase) => self.moved((instance, incarnation), phase),
            Command::Heard(instance, incarnation) => self.heard((instance, incarnation)),
            Command::Gone(instance, incarnation) => self.gone((instance, incarnation)),
            Command::RunsAs(instance, incarnation, user) => {
                if let Some(subject) = self.subject((instance, incarnation)) {
                    subject.user = Some(user);
                }
            }
            Command::Main(instance, incarnation, main) => {
                if let Some(subject) = self.subject((instance, incarnation)) {
                    subject.take_main(main);
                }
            }
            Command::LastWords(instance, incarnation, reply) => {
                // Whoever asked waits for the answer, unless everything ends.
                let _ = reply.send(self.last_words((instance, incarnation)));
            }
            Command::Serve => self.serving = true,
        }
    }

    fn watch(&mut self, watched: Watched, phase: Phase) {
        let Watched { instance, incarnation, pid, inode, group, main, user, marks, health, surroundings, ready } =
            watched;
        let mut subject = Subject {
            incarnation,
            pid,
            inode,
            main: None,
            kinship: Kinship { group, leaders: vec![(pid, inode)], marks },
            user,
            claim: None,
            phase,
            watchdog: health.watchdog,
            vigil: None,
            pulse: None,
            streak: Streak::new(health.liveness.as_ref().map_or(1, |probe| probe.failures)),
            surroundings: surroundings.map(Arc::new),
            health,
            has_pipe: ready.is_some(),
            lookers: CancellationToken::new(),
        };
        main.into_iter().for_each(|main| subject.take_main(main));
        if let Some(before) = self.subjects.insert(instance, subject) {
            before.lookers.cancel();
        }
        // What its predecessor said of itself is not true any more.
        self.board.forget(instance);
        self.pending.retain(|(of, _), _| *of != instance);
        self.enter(instance, phase);
        if let (Some(pipe), Phase::Launching) = (ready, phase) {
            self.read_pipe((instance, incarnation), pipe);
        }
    }

    fn moved(&mut self, key: Key, phase: Phase) {
        self.release(key);
        let Some(subject) = self.subject(key) else { return };
        if subject.phase != phase {
            subject.phase = phase;
            self.enter(key.0, phase);
        }
    }

    /// Begins what belongs to a phase, and ends what belonged to the one before.
    fn enter(&mut self, instance: u32, phase: Phase) {
        let now = clock::now();
        let Some(subject) = self.subjects.get_mut(&instance) else { return };
        let key = (instance, subject.incarnation);
        subject.lookers.cancel();
        subject.lookers = CancellationToken::new();
        subject.vigil = None;
        subject.pulse = None;
        match phase {
            Phase::Launching => {
                if let Some(probe) = subject.health.readiness.clone() {
                    self.look_at(key, Purpose::Readiness, probe);
                }
            }
            Phase::Online => {
                subject.vigil = subject.watchdog.map(|interval| Vigil::new(interval, now));
                subject.pulse = subject.health.heartbeat.map(Pulse::new);
                let (pulse, memory) = (subject.pulse, subject.health.max_memory);
                if let Some(probe) = subject.health.liveness.clone() {
                    self.look_at(key, Purpose::Liveness, probe);
                }
                if let Some(pulse) = pulse {
                    let at = now + pulse.period();
                    self.beats_at = Some(self.beats_at.map_or(at, |before| before.min(at)));
                }
                if memory.is_some() {
                    self.memory_at.get_or_insert(now + MEMORY_PERIOD);
                }
                self.drop_pipe(key);
            }
            Phase::Leaving => self.drop_pipe(key),
        }
    }

    fn heard(&mut self, key: Key) {
        self.release(key);
    }

    fn gone(&mut self, key: Key) {
        self.release(key);
        if self.subject(key).is_none() {
            return;
        }
        self.drop_pipe(key);
        if let Some(subject) = self.subjects.remove(&key.0) {
            subject.lookers.cancel();
        }
        self.board.forget(key.0);
        self.pending.retain(|(of, _), _| *of != key.0);
    }

    /// What a process said in the socket has been acted on: the next one is heard.
    fn release(&mut self, key: Key) {
        if self.held.is_some_and(|(held, _)| held == key) {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.held = None;
        NotifySocket::consume(self.socket.get_ref().as_fd());
    }

    fn subject(&mut self, (instance, incarnation): Key) -> Option<&mut Subject> {
        self.subjects.get_mut(&instance).filter(|subject| subject.incarnation == incarnation)
    }

    // --- what helpers do ---

    fn read_pipe(&self, key: Key, end: std::os::fd::OwnedFd) {
        let (results, shutdown) = (self.results.clone(), self.around.shutdown.clone());
        let Some(stop) = self.subjects.get(&key.0).map(|subject| subject.lookers.clone()) else { return };
        self.around.tasks.spawn(async move {
            tokio::select! {
                said = pipe::says_ready(end) => {
                    // The task ends only with everything else.
                    let _ = results.send(Brought::Pipe(key, said)).await;
                }
                () = stop.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// The readiness that it carried is committed, or does not matter any more.
    fn drop_pipe(&mut self, key: Key) {
        if let Some(subject) = self.subject(key)
            && std::mem::take(&mut subject.has_pipe)
        {
            self.around.store.forget(Name::new(Kind::Ready, key.0, key.1.0));
        }
    }

    fn look_at(&self, key: Key, purpose: Purpose, probe: Probe) {
        let Some(subject) = self.subjects.get(&key.0) else { return };
        let around = subject.surroundings.clone().unwrap_or_default();
        let stop = subject.lookers.clone();
        self.around.tasks.spawn(probe::watch(
            (key, purpose),
            probe,
            around,
            Arc::clone(&self.turns),
            self.probed.clone(),
            stop,
        ));
    }

    fn brought(&mut self, brought: Brought) {
        match brought {
            Brought::Probed(Looked { of: (key, purpose), result }) => self.probed(key, purpose, result),
            Brought::Pipe(key, Ok(true)) => self.ready(key),
            Brought::Pipe(key, Ok(false)) => {
                tracing::debug!("instance {} has closed its readiness pipe without a word", key.0);
            }
            Brought::Pipe(key, Err(error)) => {
                tracing::warn!("the readiness pipe of instance {} cannot be read: {error}", key.0);
            }
            Brought::Beats(beats) => self.beats(&beats),
            Brought::Measured(figures) => self.measured(figures),
        }
    }

    fn probed(&mut self, key: Key, purpose: Purpose, result: Result<(), String>) {
        let Some(subject) = self.subject(key) else { return };
        match (purpose, subject.phase, result) {
            (Purpose::Readiness, Phase::Launching, Ok(())) => self.ready(key),
            (Purpose::Readiness, Phase::Launching, Err(why)) => {
                self.board.note(key.0, |view| view.probe = Some(why));
            }
            (Purpose::Liveness, Phase::Online, result) => {
                let full = subject.streak.note(result.is_ok());
                let why = result.err();
                self.board.note(key.0, |view| view.probe.clone_from(&why));
                if full {
                    let why = why.unwrap_or_default();
                    self.tell(key, Finding::Unwell(Ailment::Probe, format!("its liveness probe failed: {why}")));
                }
            }
            // A look that began in an earlier phase.
            _ => {}
        }
    }

    // --- what instances say ---

    fn take(&mut self, datagram: &Datagram) {
        if !self.hear(datagram) {
            NotifySocket::consume(self.socket.get_ref().as_fd());
        }
    }

    /// Notes what a datagram says; true when it has to stay where it is until that has been acted on.
    fn hear(&mut self, datagram: &Datagram) -> bool {
        let (Some(instance), Some(bytes)) = (self.sender(datagram), &datagram.bytes) else {
            if self.board.ignore() {
                let ignored = self.board.ignored();
                tracing::warn!(
                    "{ignored} notifications so far came from no instance or were too long, and were ignored"
                );
            }
            return false;
        };
        let mut stays = false;
        for said in notify::parse(bytes) {
            stays |= self.said(instance, datagram.user, said);
        }
        stays
    }

    /// The instance that one of these processes is of. A number is as good as the kernel's word for it only while it
    /// belongs to the same process, which the inode tells where there is one.
    fn sender(&self, datagram: &Datagram) -> Option<u32> {
        let pid = datagram.pid?;
        if let Some((instance, subject)) = self.subjects.iter().find(|(_, subject)| subject.pid == pid) {
            let is_same = datagram.inode.is_none_or(|inode| subject.inode == 0 || subject.inode == inode);
            return is_same.then_some(*instance);
        }
        let traits = Traits::of(pid)?;
        let its_own = |subject: &Subject| match subject.kinship.with(&traits)? {
            Kin::Proven => Some(()),
            // Anybody may put on its variables who could be it anyway.
            Kin::Claimed => (datagram.user.is_some() && datagram.user == subject.user).then_some(()),
        };
        let (instance, _) = self.subjects.iter().find(|(_, subject)| its_own(subject).is_some())?;
        // The number was the sender's while it was looked at, if it still is.
        let now = || Pidfd::open(pid).and_then(|pidfd| pidfd.inode()).ok();
        datagram.inode.is_none_or(|inode| now() == Some(inode)).then_some(*instance)
    }

    /// What a process has last called its main one, also in what lies in the socket: it may have ended since.
    fn last_words(&mut self, key: Key) -> Option<Claim> {
        let waiting = NotifySocket::look_through(self.socket.get_ref().as_fd(), BACKLOG).unwrap_or_default();
        let said = waiting.iter().filter(|datagram| self.sender(datagram) == Some(key.0)).flat_map(|datagram| {
            let assignments = notify::parse(datagram.bytes.as_deref().unwrap_or_default());
            assignments.into_iter().filter_map(|said| match said {
                Said::MainPid(pid) => Some(Claim { pid, user: datagram.user }),
                _ => None,
            })
        });
        let last = said.last();
        last.or(self.subject(key)?.claim)
    }

    fn said(&mut self, instance: u32, user: Option<u32>, said: Said) -> bool {
        let now = clock::now();
        let Some(subject) = self.subjects.get_mut(&instance) else { return false };
        let key = (instance, subject.incarnation);
        match said {
            Said::Ready if subject.phase == Phase::Launching => {
                self.ready(key);
                self.held = Some((key, now + HOLD));
                return true;
            }
            Said::Ready => {}
            Said::Stopping => self.tell(key, Finding::Quitting),
            Said::Status(text) => {
                self.board.note(instance, |view| view.status = (!text.is_empty()).then_some(text));
            }
            Said::Alive => {
                if let Some(vigil) = &mut subject.vigil {
                    vigil.alive(now);
                }
            }
            Said::Broken if subject.phase == Phase::Online => {
                self.tell(key, Finding::Unwell(Ailment::Watchdog, "it said that it is broken".to_owned()));
            }
            Said::Broken => {}
            Said::Interval(interval) => {
                subject.watchdog = interval;
                subject.vigil =
                    interval.filter(|_| subject.phase == Phase::Online).map(|interval| Vigil::new(interval, now));
            }
            Said::Extend(by) => self.tell(key, Finding::Extended(by)),
            Said::MainPid(pid) if subject.phase != Phase::Leaving => {
                let claim = Claim { pid, user };
                subject.claim = Some(claim);
                self.tell(key, Finding::Main(claim));
            }
            Said::MainPid(_) => {}
        }
        false
    }

    fn ready(&mut self, key: Key) {
        if self.subject(key).is_some_and(|subject| subject.phase == Phase::Launching) {
            self.tell(key, Finding::Ready);
        }
    }

    fn tell(&mut self, (instance, incarnation): Key, what: Finding) {
        let kind = match what {
            // First: whoever is ready, or not well, is so in that process.
            Finding::Main(_) => 0,
            Finding::Ready => 1,
            Finding::Unwell(..) => 2,
            Finding::Quitting => 3,
            // Last: more time may be meant for what was said with it.
            Finding::Extended(_) => 4,
        };
        self.pending.insert((instance, kind), News { instance, incarnation, what });
    }

    // --- time ---

    /// When there is something to look at without being told.
    fn wake(&self) -> Option<Time> {
        let vigils = self.subjects.values().filter_map(|subject| subject.vigil.map(|vigil| vigil.due())).min();
        let held = self.held.map(|(_, until)| until);
        [vigils, held, self.beats_at, self.memory_at].into_iter().flatten().min()
    }

    fn timer(&mut self, planned: Time) {
        let now = clock::now();
        if let Some((_, until)) = self.held
            && until <= now
        {
            self.let_go();
        }
        if was_away(planned, now) {
            tracing::info!("the supervisor was away for a while: every instance gets a full interval");
            for subject in self.subjects.values_mut() {
                subject.vigil.iter_mut().for_each(|vigil| vigil.alive(now));
                subject.pulse.iter_mut().for_each(|pulse| pulse.forgive(now));
            }
        }
        self.judge_silence(now);
        if self.beats_at.is_some_and(|at| at <= now) {
            self.look_at_beats(now);
        }
        if self.memory_at.is_some_and(|at| at <= now) {
            self.look_at_memory(now);
        }
    }

    fn judge_silence(&mut self, now: Time) {
        let is_overdue = |subject: &Subject| subject.vigil.is_some_and(|vigil| vigil.is_overdue(now));
        if !self.subjects.values().any(is_overdue) {
            return;
        }
        // What they said while we were busy counts.
        for _ in 0..BACKLOG {
            if self.held.is_some() || !self.serving {
                break;
            }
            match NotifySocket::peek(self.socket.get_ref().as_fd()) {
                Ok(datagram) => self.take(&datagram),
                Err(_) => break,
            }
        }
        let mut silent = Vec::new();
        for (instance, subject) in &mut self.subjects {
            if let Some(vigil) = &mut subject.vigil
                && vigil.is_overdue(now)
            {
                silent.push(((*instance, subject.incarnation), vigil.interval()));
                // Until it is acted on, or if it is not.
                vigil.alive(now);
            }
        }
        for (key, interval) in silent {
            self.tell(key, Finding::Unwell(Ailment::Watchdog, format!("no `WATCHDOG=1` came within {interval:?}")));
        }
    }

    fn look_at_beats(&mut self, now: Time) {
        let periods = self.subjects.values().filter_map(|subject| Some(subject.pulse?.period()));
        self.beats_at = periods.min().map(|period| now + period);
        if self.beats_at.is_none() {
            return;
        }
        let (wire, results) = (self.around.wire.clone(), self.results.clone());
        self.around.tasks.spawn(async move {
            // The task ends only with everything else.
            let _ = results.send(Brought::Beats(wire.beats().await)).await;
        });
    }

    fn beats(&mut self, beats: &[(u32, u32, u64)]) {
        let now = clock::now();
        let mut silent = Vec::new();
        for (instance, subject) in &mut self.subjects {
            let Some(pulse) = &mut subject.pulse else { continue };
            let is_it =
                |(of, incarnation, _): &&(u32, u32, u64)| of == instance && *incarnation == subject.incarnation.0;
            pulse.look(beats.iter().find(is_it).map(|(_, _, beat)| *beat), now);
            if pulse.is_overdue(now) {
                silent.push((*instance, subject.incarnation));
                pulse.forgive(now);
            }
        }
        for key in silent {
            let interval = self.subject(key).and_then(|subject| subject.health.heartbeat).unwrap_or_default();
            let why = format!("its link gave no sign of life within {interval:?}");
            self.tell(key, Finding::Unwell(Ailment::Heartbeat, why));
        }
    }

    fn look_at_memory(&mut self, now: Time) {
        let limited = |(instance, subject): (&u32, &Subject)| {
            let limit = subject.health.max_memory.filter(|_| subject.phase == Phase::Online)?;
            let main = subject.main.map(|(pid, _)| pid);
            Some(((*instance, subject.incarnation), (subject.pid, main), subject.kinship.group.clone(), limit))
        };
        let limited: Vec<_> = self.subjects.iter().filter_map(limited).collect();
        if limited.is_empty() {
            self.memory_at = None;
            return;
        }
        // Again only when this look is done: it must not pile up on a machine that is short of everything.
        self.memory_at = Some(now + MEMORY_PERIOD * 12);
        let results = self.results.clone();
        self.around.tasks.spawn_blocking(move || {
            let processes = Processes::now();
            let figure = |(key, (pid, main), group, limit): (Key, (u32, Option<u32>), Option<Group>, u64)| {
                let mut inside = group.map(|group| group.processes()).unwrap_or_default();
                inside.extend(main);
                (key, memory::used_by(&processes.group_of(pid, &inside), limit))
            };
            let figures = limited.into_iter().map(figure).collect();
            // The task ends only with everything else.
            let _ = results.blocking_send(Brought::Measured(figures));
        });
    }

    fn measured(&mut self, figures: Vec<(Key, u64)>) {
        self.memory_at = Some(clock::now() + MEMORY_PERIOD);
        for (key, used) in figures {
            let Some(subject) = self.subject(key) else { continue };
            let limit = subject.health.max_memory.filter(|limit| used > *limit && subject.phase == Phase::Online);
            self.board.note(key.0, |view| view.group_memory_bytes = Some(used));
            if let Some(limit) = limit {
                let why = format!("it uses {} MiB, more than {} MiB", used >> 20, limit >> 20);
                self.tell(key, Finding::Unwell(Ailment::Memory, why));
            }
        }
    }
}
