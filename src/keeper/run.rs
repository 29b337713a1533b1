//! The keeper's loop.
//!
//! Owns the processes of supervisors and says what happens next; what is to be told lies in `line`, when to replace or
//! give up a supervisor in `rules`, what an upgrade does in `upgrade`. Everything that can wake the loop is waited for in
//! [`Keeper::wait`].

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use herdwire_ipc::seqpacket;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::estate::Estate;
use super::home::Home;
use super::line::{Line, Told};
use super::name::Kind;
use super::protocol::{ExitStatus, FromKeeper, Hello, Reason, ToKeeper};
use super::rules::{Restarts, Verdict, Watch};
use super::service::Service;
use super::sys::{self, Reaped};
use super::tables::{self, Exits, Store};
use super::upgrade::{LAST_WORDS, Upgrade};
use super::{FORCED, Program, SetupError, log};

/// How often the home is looked for and the supervisor's silence counted.
const SECOND: Duration = Duration::from_secs(1);

/// How long an orderly end may take when the home is gone, and with it whoever could ask for a forced one.
const END_WITHOUT_HOME: Duration = Duration::from_secs(5);

/// Deaths of supervisors that were to end everything, after which the keeper does it itself.
const DEATHS_WHILE_ENDING: u32 = 3;

/// How long what is left after the supervisor's goodbye may take to end by itself.
const LEAVE_BY_ITSELF: Duration = Duration::from_secs(1);

/// How long the keeper kills what is left before it gives up.
const LEAVE: Duration = Duration::from_secs(10);

/// How often it looks again for something to kill, and tries again to send what the kernel has no room for.
const AGAIN: Duration = Duration::from_millis(20);

/// Records taken from a supervisor before anything else has its turn.
const RECORDS_PER_TURN: usize = 256;

/// The places of supervisors' processes: the one that serves; the standby, in an upgrade; after an upgrade, for a
/// moment, the one that served before.
pub(super) const SERVING: usize = 0;
pub(super) const STANDBY: usize = 1;
pub(super) const RELIEVED: usize = 2;

/// The keeper.
pub(super) struct Keeper {
    pub home: Home,
    signals: SignalFd,
    service: Service,
    pub store: Store,
    pub exits: Exits,
    restarts: Restarts,
    /// What the next supervisor is told first.
    pub hello: Hello,
    /// What supervisors are started with.
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// The program of supervisors; after it, the one before it that reached READY.
    pub programs: Vec<OwnedFd>,
    pub seats: [Option<Running>; 3],
    /// When the next supervisor is started, if none serves.
    pub due: Instant,
    pub upgrade: Option<Upgrade>,
    /// The program that this keeper is to become.
    pub renewal: Option<OwnedFd>,
    pub phase: Phase,
    next_second: Instant,
}

/// A supervisor's process.
pub(super) struct Running {
    pub pid: u32,
    pub line: Line,
    watch: Watch,
    pub ready: bool,
    /// It has said that it acts no more, and is held to it.
    pub frozen: bool,
    /// The exit code that it said goodbye with.
    goodbye: Option<i32>,
    /// When its time is over.
    pub kill_at: Option<Instant>,
}

#[derive(Clone, Copy)]
pub(super) enum Phase {
    Keeping,
    /// All is to end; the supervisor was told, and has until `by`.
    Ending {
        since: Instant,
        by: Option<Instant>,
        deaths: u32,
    },
    /// The supervisor is gone for good. What is left is killed from `kill_at` on, for as long as [`LEAVE`].
    Leaving {
        code: i32,
        kill_at: Instant,
    },
}

impl Keeper {
    /// Takes signals, children and the estate over.
    pub fn new(home: Home, estate: Estate, program: Program) -> Result<Keeper, SetupError> {
        let system = |source: io::Error| SetupError::System { source };
        let mut programs = estate.programs;
        if programs.is_empty() {
            let opened = File::options().read(true).custom_flags(libc::O_PATH).open(&program.path);
            let unusable = |source| SetupError::Program { program: program.path, source };
            programs.push(opened.and_then(sys::out_of_the_way).map_err(unusable)?);
        }
        let signals = sys::take_signals().map_err(system)?;
        prctl::set_child_subreaper(true).map_err(|errno| system(errno.into()))?;
        // Only for people that read process lists.
        let _ = prctl::set_name(c"herdwire-keeper");
        let mut store = Store::new(estate.hello.store_limit as usize);
        for (name, descriptor) in estate.stored {
            store.put(name, descriptor).map_err(|_| system(io::ErrorKind::QuotaExceeded.into()))?;
        }
        let serving =
            estate.supervisor.map(|(pid, socket, ready)| Running { ready, ..Running::new(pid, Line::resumed(socket)) });
        let now = Instant::now();
        // Before the environment is read for supervisors: it leaves there what is for them.
        let service = Service::from_environment();
        Ok(Keeper {
            home,
            signals,
            service,
            store,
            exits: Exits::new(estate.last_exit, estate.exits),
            restarts: Restarts::default(),
            hello: estate.hello,
            arguments: program.arguments,
            environment: sys::environment(),
            programs,
            seats: [serving, None, None],
            due: now,
            upgrade: None,
            renewal: None,
            phase: Phase::Keeping,
            next_second: now + SECOND,
        })
    }

    /// Keeps until the end; answers the exit code.
    pub fn keep(mut self) -> i32 {
        loop {
            if let Some(code) = self.reap() {
                return code;
            }
            self.start_if_due();
            self.renew_if_quiet();
            let next = self.pass_time();
            self.tell();
            self.wait(next);
            for seat in [SERVING, STANDBY, RELIEVED] {
                self.listen(seat, RECORDS_PER_TURN);
            }
            self.take_signals();
        }
    }

    /// Reaps what has ended; answers the exit code once nothing is left at the end.
    fn reap(&mut self) -> Option<i32> {
        // Supervisors by themselves: they are missed also while the table of exits is full.
        for seat in [SERVING, STANDBY, RELIEVED] {
            if let Some(pid) = self.seats[seat].as_ref().map(|running| running.pid)
                && let Some(status) = sys::reap_this(pid)
            {
                self.died(seat, pid, status);
            }
        }
        for _ in 0..tables::EXITS {
            if self.exits.is_full() && !self.is_leaving() {
                break;
            }
            match (sys::reap(), self.phase) {
                (Reaped::NoChildren, Phase::Leaving { code, .. }) => return Some(code),
                (Reaped::NoChildren | Reaped::Nothing, _) => break,
                // Nobody is left to be told.
                (Reaped::Ended(_), Phase::Leaving { .. }) => {}
                (Reaped::Ended(exit), _) => match self.seat_of(exit.pid) {
                    Some(seat) => self.died(seat, exit.pid, exit.status),
                    None => self.exits.record(exit),
                },
            }
        }
        match self.phase {
            Phase::Leaving { code, kill_at } if Instant::now() >= kill_at + LEAVE => {
                log::line(format_args!("some processes cannot be killed; leaving them"));
                Some(code)
            }
            _ => None,
        }
    }

    fn seat_of(&self, pid: u32) -> Option<usize> {
        self.seats.iter().position(|seat| seat.as_ref().is_some_and(|running| running.pid == pid))
    }

    fn died(&mut self, seat: usize, pid: u32, status: ExitStatus) {
        // What it said before it died still counts, and may have moved it. All of that lies in the socket by now, so
        // this ends.
        self.listen(seat, usize::MAX);
        let Some(seat) = self.seat_of(pid) else { return };
        match (seat, self.seats[seat].take()) {
            (SERVING, Some(running)) => self.serving_died(&running, status),
            (STANDBY, _) => self.standby_died(status),
            _ => {}
        }
    }

    fn serving_died(&mut self, running: &Running, status: ExitStatus) {
        let now = Instant::now();
        self.due = now;
        if let Some(code) = running.goodbye {
            return self.leave(code, now + LEAVE_BY_ITSELF);
        }
        if let Phase::Ending { deaths, .. } = &mut self.phase {
            *deaths += 1;
            if *deaths >= DEATHS_WHILE_ENDING {
                return self.force("supervisors die instead of ending the instances");
            }
        }
        self.abandon_upgrade();
        let pause = self.restarts.pause(running.ready, now);
        self.due = now + pause;
        self.hello.reason = if running.watch.gave_up() { Reason::Hang } else { Reason::Crash };
        let when = if running.ready { "" } else { " before it was ready" };
        log::line(format_args!(
            "supervisor {} {status}{when}; starting the next in {} s",
            running.pid,
            pause.as_secs()
        ));
        if !running.ready && self.restarts.gives_program_up(now) && self.programs.len() > 1 {
            log::line(format_args!("supervisors of this program do not get ready; trying the one before it"));
            self.programs.swap(0, 1);
        }
    }

    fn start_if_due(&mut self) {
        if !self.may_start() || Instant::now() < self.due {
            return;
        }
        match self.start(&self.programs[0], None, self.hello.reason) {
            Ok(mut running) => {
                if matches!(self.phase, Phase::Ending { .. }) {
                    running.line.say(FromKeeper::Stop);
                }
                self.hello.epoch += 1;
                self.seats[SERVING] = Some(running);
            }
            Err(error) => {
                log::line(format_args!("cannot start a supervisor: {error}; trying again in 1 s"));
                self.due = Instant::now() + SECOND;
            }
        }
    }

    /// Starts a process of a supervisor, of the epoch after this one.
    pub fn start(&self, program: &OwnedFd, stderr: Option<&OwnedFd>, reason: Reason) -> io::Result<Running> {
        let (ours, theirs) = seqpacket::pair()?;
        let theirs = sys::out_of_the_way(theirs)?;
        let with = (&self.arguments[..], &self.environment[..]);
        let pid = sys::start(program.as_fd(), with, theirs.as_fd(), stderr.map(AsFd::as_fd))?;
        Ok(Running::new(pid, Line::new(ours, Hello { reason, epoch: self.hello.epoch + 1, ..self.hello })))
    }

    /// Tells supervisors what they do not know yet.
    fn tell(&mut self) {
        for seat in [SERVING, STANDBY, RELIEVED] {
            let Some(running) = &mut self.seats[seat] else { continue };
            if running.line.tell(&self.store, &self.exits) == Told::Gone {
                // What it sent before it closed its end still counts. If it lives on, its silence will end it.
                self.listen(seat, usize::MAX);
                self.seats[seat].iter_mut().for_each(|running| running.line.hang_up());
            }
        }
    }

    /// Waits for a signal, a supervisor, or the time.
    fn wait(&self, until: Instant) {
        let lines = self.seats.iter().flatten().map(|running| &running.line);
        // Only another try shows whether the kernel has room again.
        let again = lines.clone().any(|line| line.told() == Told::Retry);
        let mut interest = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        interest.extend(lines.filter_map(Line::interest));
        let now = Instant::now();
        let left = if again { until.min(now + AGAIN) } else { until }.saturating_duration_since(now);
        // Rounded up: a wait that ends too early would be taken up again at once, and again.
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        // Signals are blocked, so it is not interrupted; were it, the loop would just come round earlier.
        let _ = poll(&mut interest, timeout);
    }

    /// Takes what a supervisor said, up to so many records.
    fn listen(&mut self, seat: usize, records: usize) {
        for _ in 0..records {
            let Some(running) = &mut self.seats[seat] else { return };
            // Also where all are read: then it is dead, and its refusals concern nobody.
            if records != usize::MAX && running.line.must_be_heard() {
                return;
            }
            let Some((message, descriptors)) = running.line.hear() else { return };
            if running.goodbye.is_none() {
                running.watch.heard();
            }
            // What a later release says is skipped.
            if let Some(message) = message
                && !self.heard_for_upgrade(seat, message)
                && self.acts(seat)
            {
                self.obey(seat, message, descriptors);
            }
        }
    }

    /// Whether what this one says has effect: a standby only looks, and one that has frozen has let go.
    fn acts(&self, seat: usize) -> bool {
        match seat {
            STANDBY => self.upgrade.as_ref().is_some_and(Upgrade::is_taking_over),
            _ => self.seats[seat].as_ref().is_some_and(|running| !running.frozen),
        }
    }

    fn obey(&mut self, seat: usize, message: ToKeeper, descriptors: Vec<OwnedFd>) {
        let Some(running) = &mut self.seats[seat] else { return };
        let mut descriptors = descriptors.into_iter();
        match message {
            ToKeeper::Store(name) => {
                let stored = descriptors.next().is_some_and(|descriptor| self.store.put(name, descriptor).is_ok());
                if !stored {
                    running.line.say(FromKeeper::Refused(name));
                }
            }
            ToKeeper::Drop(name) => self.store.remove(&name),
            ToKeeper::Acknowledge(sequence) => self.exits.acknowledge(sequence),
            ToKeeper::Ready => {
                running.ready = true;
                self.service.ready();
            }
            ToKeeper::Goodbye(code) => running.goodbye = Some(code),
            ToKeeper::Upgrade => self.begin_upgrade(descriptors.next(), descriptors.next()),
            // No standby waits for that any more.
            ToKeeper::Quiesced => (running.frozen, running.kill_at) = (true, Some(Instant::now() + LAST_WORDS)),
            ToKeeper::Renew => self.renewal = descriptors.next(),
            ToKeeper::Alive | ToKeeper::Valid => {}
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match self.phase {
                // It only wakes: the loop reaps in any case.
                _ if signal.ssi_signo == Signal::SIGCHLD as u32 => {}
                Phase::Keeping => self.end(None),
                Phase::Ending { since, .. } if since.elapsed() >= SECOND => self.force("it was asked for twice"),
                Phase::Ending { .. } | Phase::Leaving { .. } => {}
            }
        }
    }

    /// Begins the orderly end. An upgrade goes its way, and whoever serves after it is told as well.
    fn end(&mut self, by: Option<Instant>) {
        log::line(format_args!("ending all instances"));
        self.service.stopping();
        self.phase = Phase::Ending { since: Instant::now(), by, deaths: 0 };
        for running in self.seats.iter_mut().flatten() {
            running.line.say(FromKeeper::Stop);
        }
    }

    /// Ends everything without the supervisor.
    fn force(&mut self, why: &str) {
        log::line(format_args!("killing everything: {why}"));
        self.seats.iter().flatten().for_each(|running| sys::signal(running.pid, Signal::SIGKILL));
        self.kill_stored();
        self.leave(FORCED, Instant::now());
    }

    /// Kills every process whose pidfd is in the store, each with its process group.
    fn kill_stored(&self) {
        let pidfd = (Kind::Pidfd as u16).to_le_bytes();
        let pidfds = self.store.after(None).filter(|(name, _)| name[..2] == pidfd);
        pidfds.for_each(|(_, pidfd)| sys::kill_group(pidfd));
    }

    /// Waits for the last children. Supervisors are such, from now on.
    fn leave(&mut self, code: i32, kill_at: Instant) {
        self.service.stopping();
        (self.seats, self.upgrade) = ([None, None, None], None);
        self.phase = Phase::Leaving { code, kill_at };
    }

    fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    /// Does what is due; answers when something is due again.
    fn pass_time(&mut self) -> Instant {
        let now = Instant::now();
        if now >= self.next_second {
            // From now on and not from when it was due: a keeper that was frozen makes up for nothing.
            self.next_second = now + SECOND;
            self.look_after_home(now);
            self.look_after_supervisor();
        }
        let well = self.seats[SERVING].as_ref().is_none_or(|running| !running.watch.gave_up());
        let mut next = vec![self.next_second];
        next.extend(self.service.pass_time(now, well));
        next.extend(self.pass_upgrade(now));
        for running in self.seats.iter_mut().flatten() {
            if running.kill_at.take_if(|at| *at <= now).is_some() {
                sys::signal(running.pid, Signal::SIGKILL);
            }
            next.extend(running.kill_at);
        }
        match self.phase {
            Phase::Ending { by: Some(by), .. } if now >= by => self.force("the orderly end takes too long"),
            Phase::Leaving { kill_at, .. } if now >= kill_at => {
                self.kill_stored();
                sys::kill_children();
                next.push(now + AGAIN);
            }
            Phase::Leaving { kill_at, .. } => next.push(kill_at),
            Phase::Ending { by, .. } => next.extend(by),
            Phase::Keeping => {}
        }
        if self.may_start() {
            next.push(self.due);
        }
        next.into_iter().fold(self.next_second, Instant::min)
    }

    /// Whether there is a place for a supervisor.
    fn may_start(&self) -> bool {
        let taking_over = self.upgrade.as_ref().is_some_and(Upgrade::is_taking_over);
        self.seats[SERVING].is_none() && !taking_over && !self.is_leaving()
    }

    fn look_after_home(&mut self, now: Instant) {
        let bounded = matches!(self.phase, Phase::Ending { by: Some(_), .. } | Phase::Leaving { .. });
        if !bounded && self.home.is_gone() {
            log::line(format_args!("the home folder {} is gone", self.home.path().display()));
            self.end(Some(now + END_WITHOUT_HOME));
        }
    }

    fn look_after_supervisor(&mut self) {
        let Some(running) = &mut self.seats[SERVING] else { return };
        match running.watch.second(!running.ready || running.line.must_be_heard()) {
            Verdict::Alive => {}
            Verdict::Abort => {
                log::line(format_args!("supervisor {} hangs; ending it", running.pid));
                sys::signal(running.pid, Signal::SIGABRT);
            }
            Verdict::Kill => sys::signal(running.pid, Signal::SIGKILL),
        }
    }
}

impl Running {
    fn new(pid: u32, line: Line) -> Running {
        Running { pid, line, watch: Watch::default(), ready: false, frozen: false, goodbye: None, kill_at: None }
    }
}
