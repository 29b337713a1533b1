//! The keeper's loop.
//!
//! Owns the supervisor's process and socket and says what happens next; what is to be told lies in `telling`, when to
//! replace or give up a supervisor in `rules`. Everything that can wake the loop is waited for in [`Keeper::wait`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use herdwire_ipc::seqpacket::{self, Wait};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::exits::{self, Exits};
use super::home::{Descriptors, Home};
use super::launch::Launcher;
use super::protocol::{ExitStatus, HEADER_BYTES, Hello, PROTOCOL_VERSION, RECORD_BYTES, Reason, ToKeeper};
use super::rules::{Restarts, Verdict, Watch};
use super::store::Store;
use super::sys::{self, Reaped};
use super::telling::{Telling, Told};
use super::{FORCED, KeeperOptions, SetupError, log, signals, sweep};

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

/// How often it looks again for something to kill.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// How soon it tries again to send what the kernel has no room for.
const RETRY: Duration = Duration::from_millis(20);

/// Records taken from the supervisor before anything else has its turn.
const RECORDS_PER_TURN: usize = 256;

/// The keeper.
pub(super) struct Keeper {
    home: Home,
    signals: SignalFd,
    launcher: Launcher,
    store: Store,
    exits: Exits,
    restarts: Restarts,
    hello: Hello,
    supervisor: Supervisor,
    phase: Phase,
    next_second: Instant,
}

enum Supervisor {
    /// None runs; the next one is started at this time.
    Due(Instant),
    Running(Box<Running>),
}

/// A supervisor's process.
struct Running {
    pid: u32,
    /// `None` when its other end is closed.
    socket: Option<OwnedFd>,
    telling: Telling,
    watch: Watch,
    ready: bool,
    /// The exit code that it said goodbye with.
    goodbye: Option<i32>,
    /// How telling went the last time.
    told: Told,
}

#[derive(Clone, Copy)]
enum Phase {
    Keeping,
    /// All is to end; the supervisor was told, and has until `by`.
    Ending {
        since: Instant,
        by: Option<Instant>,
        deaths: u32,
    },
    /// The supervisor is gone for good. What is left is killed from `kill_at` on and no longer waited for from `until` on.
    Leaving {
        code: i32,
        kill_at: Instant,
        until: Instant,
    },
}

impl Keeper {
    /// Takes signals and children over.
    pub fn new(home: Home, descriptors: Descriptors, options: KeeperOptions) -> Result<Keeper, SetupError> {
        let system = |source: io::Error| SetupError::System { source };
        let launcher = Launcher::new(options.supervisor, &home)?;
        let signals = signals::take().map_err(system)?;
        prctl::set_child_subreaper(true).map_err(|errno| system(errno.into()))?;
        // Only for people that read process lists.
        let _ = prctl::set_name(c"herdwire-keeper");
        let mut store = Store::new(descriptors.store_limit as usize);
        for (name, descriptor) in options.stored {
            store.put(name.to_bytes(), descriptor).map_err(|_| system(io::ErrorKind::QuotaExceeded.into()))?;
        }
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            reason: Reason::First,
            foreground: options.foreground,
            epoch: 0,
            keeper_pid: std::process::id(),
            store_limit: descriptors.store_limit,
            descriptor_limit: descriptors.users_limit,
        };
        let now = Instant::now();
        Ok(Keeper {
            home,
            signals,
            launcher,
            store,
            exits: Exits::new(),
            restarts: Restarts::default(),
            hello,
            supervisor: Supervisor::Due(now),
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
            self.tell();
            self.wait();
            self.listen(RECORDS_PER_TURN);
            self.take_signals();
            self.pass_time();
        }
    }

    /// Reaps what has ended; answers the exit code once nothing is left at the end.
    fn reap(&mut self) -> Option<i32> {
        self.reap_supervisor();
        for _ in 0..exits::LIMIT {
            if self.exits.is_full() && !matches!(self.phase, Phase::Leaving { .. }) {
                break;
            }
            match (sys::reap(), self.phase) {
                (Reaped::NoChildren, Phase::Leaving { code, .. }) => return Some(code),
                (Reaped::NoChildren | Reaped::Nothing, _) => break,
                // Nobody is left to be told.
                (Reaped::Ended(_), Phase::Leaving { .. }) => {}
                (Reaped::Ended(ended), _) if self.is_supervisor(ended.pid) => self.supervisor_died(ended.status),
                (Reaped::Ended(ended), _) => self.exits.record(ended),
            }
        }
        match self.phase {
            Phase::Leaving { code, until, .. } if Instant::now() >= until => {
                log::line(format_args!("some processes cannot be killed; leaving them"));
                Some(code)
            }
            _ => None,
        }
    }

    /// Looks after the supervisor by itself: it is missed also while the table of exits is full.
    fn reap_supervisor(&mut self) {
        if let Supervisor::Running(running) = &self.supervisor
            && let Some(status) = sys::reap_this(running.pid)
        {
            self.supervisor_died(status);
        }
    }

    fn is_supervisor(&self, pid: u32) -> bool {
        matches!(&self.supervisor, Supervisor::Running(running) if running.pid == pid)
    }

    fn supervisor_died(&mut self, status: ExitStatus) {
        // What it said before it died still counts. All of that lies in the socket by now, so this ends.
        self.listen(usize::MAX);
        let now = Instant::now();
        let Supervisor::Running(running) = std::mem::replace(&mut self.supervisor, Supervisor::Due(now)) else {
            return;
        };
        if let Some(code) = running.goodbye {
            return self.leave(code, now + LEAVE_BY_ITSELF);
        }
        if let Phase::Ending { deaths, .. } = &mut self.phase {
            *deaths += 1;
            if *deaths >= DEATHS_WHILE_ENDING {
                return self.force("supervisors die instead of ending the instances");
            }
        }
        let pause = self.restarts.pause(running.ready, now);
        let when = if running.ready { "" } else { " before it was ready" };
        let how = How(status);
        log::line(format_args!("supervisor {} {how}{when}; starting the next in {} s", running.pid, pause.as_secs()));
        self.hello.reason = if running.watch.gave_up() { Reason::Hang } else { Reason::Crash };
        self.supervisor = Supervisor::Due(now + pause);
    }

    fn start_if_due(&mut self) {
        let now = Instant::now();
        match self.supervisor {
            Supervisor::Due(at) if at <= now && !matches!(self.phase, Phase::Leaving { .. }) => {}
            _ => return,
        }
        self.supervisor = match self.launcher.start() {
            Ok((pid, socket)) => {
                self.hello.epoch += 1;
                let mut running = Running::new(pid, socket);
                if matches!(self.phase, Phase::Ending { .. }) {
                    running.telling.stop();
                }
                Supervisor::Running(Box::new(running))
            }
            Err(error) => {
                log::line(format_args!("cannot start a supervisor: {error}; trying again in 1 s"));
                Supervisor::Due(now + SECOND)
            }
        };
    }

    /// Tells the supervisor what it does not know yet.
    fn tell(&mut self) {
        let Supervisor::Running(running) = &mut self.supervisor else { return };
        let Some(socket) = &running.socket else { return };
        running.told = running.telling.tell(socket.as_fd(), self.hello, &self.store, &self.exits);
        if running.told == Told::Gone {
            // What it sent before it closed its end still counts. If it lives on, its silence will end it.
            self.listen(usize::MAX);
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if let Supervisor::Running(running) = &mut self.supervisor {
            running.socket = None;
        }
    }

    /// Waits for a signal, the supervisor, or the time.
    fn wait(&self) {
        let mut interest = Vec::with_capacity(2);
        interest.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        if let Supervisor::Running(running) = &self.supervisor
            && let Some(socket) = &running.socket
        {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !running.telling.must_be_heard());
            events.set(PollFlags::POLLOUT, running.told == Told::Later);
            interest.push(PollFd::new(socket.as_fd(), events));
        }
        let left = self.wake_at().saturating_duration_since(Instant::now());
        // Rounded up: a wait that ends too early would be taken up again at once, and again.
        let milliseconds = left.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        // Signals are blocked, so it is not interrupted; were it, the loop would just come round earlier.
        let _ = poll(&mut interest, timeout);
    }

    /// When something is to be done although nothing happens.
    fn wake_at(&self) -> Instant {
        let supervisor = match (&self.supervisor, self.phase) {
            (Supervisor::Due(at), Phase::Keeping | Phase::Ending { .. }) => Some(*at),
            // Only another try shows whether the kernel has room again.
            (Supervisor::Running(running), _) if running.told == Told::Retry => Some(Instant::now() + RETRY),
            _ => None,
        };
        let phase = match self.phase {
            Phase::Keeping => None,
            Phase::Ending { by, .. } => by,
            Phase::Leaving { kill_at, until, .. } => Some(until.min(kill_at.max(Instant::now() + SWEEP_EVERY))),
        };
        [supervisor, phase].into_iter().flatten().fold(self.next_second, Instant::min)
    }

    /// Takes what the supervisor said, up to so many records.
    fn listen(&mut self, records: usize) {
        let mut buffer = [0; RECORD_BYTES];
        for _ in 0..records {
            let Supervisor::Running(running) = &mut self.supervisor else { return };
            let Some(socket) = &running.socket else { return };
            // Also where all are read: then it is dead, and its refusals concern nobody.
            if records != usize::MAX && running.telling.must_be_heard() {
                return;
            }
            match seqpacket::receive(socket.as_fd(), &mut buffer, Wait::Never) {
                Ok(received) if received.length == 0 => return self.hang_up(),
                Ok(received) => {
                    let message = ToKeeper::parse(&buffer[..received.length]);
                    self.hear(message, received.descriptors);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // Its descriptors were lost on the way; of what it was, only the name is left.
                    io::ErrorKind::InvalidData => self.hear(ToKeeper::parse(&buffer), Vec::new()),
                    _ => return self.hang_up(),
                },
            }
            buffer[..HEADER_BYTES].fill(0);
        }
    }

    fn hear(&mut self, message: Option<ToKeeper>, mut descriptors: Vec<OwnedFd>) {
        let Supervisor::Running(running) = &mut self.supervisor else { return };
        if running.goodbye.is_none() {
            running.watch.heard();
        }
        match message {
            Some(ToKeeper::Store(name)) => {
                let stored = descriptors.pop().is_some_and(|descriptor| self.store.put(name, descriptor).is_ok());
                if !stored {
                    running.telling.refuse(name);
                }
            }
            Some(ToKeeper::Drop(name)) => self.store.remove(&name),
            Some(ToKeeper::Acknowledge(sequence)) => self.exits.acknowledge(sequence),
            Some(ToKeeper::Ready) => running.ready = true,
            Some(ToKeeper::Goodbye(code)) => running.goodbye = Some(code),
            // What a later release says is skipped.
            Some(ToKeeper::Upgrade | ToKeeper::Quiesced | ToKeeper::Valid | ToKeeper::Renew) => {}
            Some(ToKeeper::Alive) | None => {}
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGCHLD only wakes: the loop reaps in any case.
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.asked_to_end();
            }
        }
    }

    fn asked_to_end(&mut self) {
        match self.phase {
            Phase::Keeping => self.end(None),
            Phase::Ending { since, .. } if since.elapsed() >= SECOND => self.force("it was asked for twice"),
            Phase::Ending { .. } | Phase::Leaving { .. } => {}
        }
    }

    /// Begins the orderly end.
    fn end(&mut self, by: Option<Instant>) {
        log::line(format_args!("ending all instances"));
        self.phase = Phase::Ending { since: Instant::now(), by, deaths: 0 };
        if let Supervisor::Running(running) = &mut self.supervisor {
            running.telling.stop();
        }
    }

    /// Ends everything without the supervisor.
    fn force(&mut self, why: &str) {
        log::line(format_args!("killing everything: {why}"));
        if let Supervisor::Running(running) = &self.supervisor {
            signal(running.pid, Signal::SIGKILL);
        }
        sweep::kill_stored(&self.store);
        self.leave(FORCED, Instant::now());
    }

    /// Waits for the last children.
    fn leave(&mut self, code: i32, kill_at: Instant) {
        self.supervisor = Supervisor::Due(kill_at);
        self.phase = Phase::Leaving { code, kill_at, until: kill_at + LEAVE };
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Ending { by: Some(by), .. } if now >= by => self.force("the orderly end takes too long"),
            Phase::Leaving { kill_at, .. } if now >= kill_at => {
                sweep::kill_stored(&self.store);
                sweep::kill_children();
            }
            _ => {}
        }
        if now >= self.next_second {
            // From now on and not from when it was due: a keeper that was frozen makes up for nothing.
            self.next_second = now + SECOND;
            self.look_after_home(now);
            self.look_after_supervisor();
        }
    }

    fn look_after_home(&mut self, now: Instant) {
        let bounded = matches!(self.phase, Phase::Ending { by: Some(_), .. } | Phase::Leaving { .. });
        if !bounded && self.home.is_gone() {
            log::line(format_args!("the home folder {} is gone", self.home.path().display()));
            self.end(Some(now + END_WITHOUT_HOME));
        }
    }

    fn look_after_supervisor(&mut self) {
        let Supervisor::Running(running) = &mut self.supervisor else { return };
        match running.watch.second(!running.ready || running.telling.must_be_heard()) {
            Verdict::Alive => {}
            Verdict::Abort => {
                log::line(format_args!("supervisor {} hangs; ending it", running.pid));
                signal(running.pid, Signal::SIGABRT);
            }
            Verdict::Kill => signal(running.pid, Signal::SIGKILL),
        }
    }
}

impl Running {
    fn new(pid: u32, socket: OwnedFd) -> Running {
        Running {
            pid,
            socket: Some(socket),
            telling: Telling::new(),
            watch: Watch::default(),
            ready: false,
            goodbye: None,
            told: Told::All,
        }
    }
}

/// Signals a child that was not reaped yet, so that the pid is its own.
fn signal(pid: u32, signal: Signal) {
    // It fails only when the child has ended, which the next turn of the loop sees.
    let _ = kill(Pid::from_raw(pid as libc::pid_t), signal);
}

/// How a process ended, in words.
struct How(ExitStatus);

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ExitStatus::Code(code) => write!(f, "exited with code {code}"),
            ExitStatus::Signal(number) => write!(f, "was ended by signal {number}"),
        }
    }
}
