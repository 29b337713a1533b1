//! The keeper's loop.
//!
//! Owns the processes of supervisors and says what happens next; what is to be told lies in `line`, when to replace or
//! give up a supervisor in `rules`. Everything that can wake the loop is waited for in [`Keeper::wait`].
//!
//! There are two seats. In the first is the supervisor that serves, if one does; in the second, for a moment, its
//! successor that has yet to get ready, or its predecessor that has yet to go. Whoever is in the second has little time.
//!
//! Invariants
//! - At no moment do two supervisors act: one that names a successor is not listened to any more, and a successor that
//!   failed is dead before another is started.
//! - Whatever happens to either, some supervisor serves in the end.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use std::{fmt, io};

use herdwire_ipc::seqpacket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{MsgFlags, send};

use super::estate::{self, Estate};
use super::line::Line;
use super::protocol::hello::{EPOCH, KEEPER_PID, LAST_EXIT, PROTOCOL, REASON, STORE_LIMIT, WATCHDOG_US};
use super::protocol::{
    Message, NAME_BYTES, PIDFD, PROGRAM, PROGRAM_BEFORE, PROTOCOL_VERSION, Reason, SERVICE, Words, exit, verb,
};
use super::rules::{Restarts, Watch};
use super::tables::{Exits, Store};
use super::{FORCED, log, sys};
use crate::process::{self, Parent, program};

/// How often the supervisor's silence is counted.
const SECOND: Duration = Duration::from_secs(1);

/// How long a successor may take to get ready: nobody serves meanwhile.
const TAKEOVER: Duration = Duration::from_secs(2);

/// How long one that was relieved, or has frozen in vain, may take to answer whoever asked for the upgrade and exit.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the keeper, in the end, kills what is left before it gives up.
const LEAVE: Duration = Duration::from_secs(10);

/// How often it looks whether something is due, while not all is as it should be.
const AGAIN: Duration = Duration::from_millis(20);

/// Records taken from a supervisor before anything else has its turn.
const RECORDS_PER_TURN: usize = 256;

/// The command line of supervisors.
pub(super) const SUPERVISOR: &[&CStr] = &[c"herdwire", c"__supervisor"];

const SERVING: usize = 0;
const OTHER: usize = 1;

/// The role `__keeper`: keeps until the end; answers the code with which this process is to exit.
///
/// For the main thread of a process without other threads, which was executed with what `left` is the number of.
///
/// # Errors
/// Nothing was left under this number, or the system refuses what a keeper needs.
pub fn keep(left: RawFd) -> io::Result<i32> {
    Ok(Keeper::new(left)?.keep())
}

struct Keeper {
    signals: SignalFd,
    store: Store,
    exits: Exits,
    restarts: Restarts,
    /// What the next supervisor is told first.
    hello: Words,
    seats: [Option<Running>; 2],
    /// When the next supervisor is started, if none serves.
    due: Instant,
    phase: Phase,
    next_second: Instant,
    /// When a service manager is to hear that all is well.
    next_watchdog: Option<Instant>,
}

/// A supervisor's process.
struct Running {
    pid: u32,
    line: Line,
    watch: Watch,
    ready: bool,
    /// It has said that it acts no more, and is held to it.
    frozen: bool,
    /// The exit code that it said goodbye with.
    goodbye: Option<i32>,
    /// When its time is over.
    kill_at: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Phase {
    Keeping,
    /// All is to end, and the supervisor was told at this time.
    Ending(Instant),
    /// The supervisor is gone for good. What is left is killed until this time; then the keeper exits with this code.
    Leaving(i32, Instant),
}

impl Keeper {
    /// Takes signals, children and what was left over.
    fn new(left: RawFd) -> io::Result<Keeper> {
        let left = estate::read(left)?;
        let (first, left) = left.split_first().ok_or(io::ErrorKind::InvalidData)?;
        let mut hello = first.words;
        (hello[PROTOCOL], hello[KEEPER_PID]) = (PROTOCOL_VERSION, std::process::id().into());
        let signals = sys::take_signals()?;
        prctl::set_child_subreaper(true)?;
        // Only for people that read process lists.
        let _ = prctl::set_name(c"herdwire-keeper");
        let now = Instant::now();
        let mut keeper = Keeper {
            signals,
            store: Store::new(hello[STORE_LIMIT] as usize),
            exits: Exits::new(hello[LAST_EXIT]),
            restarts: Restarts::new(),
            hello,
            seats: [None, None],
            due: now,
            phase: Phase::Keeping,
            next_second: now + SECOND,
            next_watchdog: (hello[WATCHDOG_US] > 0).then_some(now),
        };
        left.iter().try_for_each(|message| keeper.inherit(message))?;
        Ok(keeper)
    }

    fn inherit(&mut self, left: &Message) -> io::Result<()> {
        match left.words {
            // What a store has no room for is lost, as it would have been to the keeper before.
            [verb::LEFT, number, ..] => drop(self.store.put(left.name, process::inherit(number as RawFd)?)),
            // They follow one another, so each gets the number that it had.
            [verb::EXIT, ..] => self.exits.record(left.words),
            [verb::SERVING, pid, number, ready, ..] => {
                let line = Line::resumed(process::inherit(number as RawFd)?);
                self.seats[SERVING] = Some(Running { ready: ready != 0, ..Running::new(pid as u32, line) });
            }
            // Of a later release.
            _ => {}
        }
        Ok(())
    }

    /// Keeps until the end; answers the exit code.
    fn keep(mut self) -> i32 {
        loop {
            if let Some(code) = self.reap() {
                return code;
            }
            self.start_if_due();
            self.pass_time();
            self.seats.iter_mut().flatten().for_each(|running| running.line.tell(&self.store, &self.exits));
            self.wait();
            self.pids().for_each(|pid| self.listen(pid, RECORDS_PER_TURN));
            self.take_signals();
        }
    }

    /// Reaps what has ended; answers the exit code once nothing is left at the end, or nothing that can be killed.
    fn reap(&mut self) -> Option<i32> {
        // Supervisors by themselves: they are missed also while the table of exits is full.
        for exit in self.pids().filter_map(|pid| sys::reap(Some(pid)).ok().flatten()) {
            self.died(exit);
        }
        let mut reaped = Ok(None);
        while !self.exits.is_full() {
            reaped = sys::reap(None);
            let Ok(Some(exit)) = reaped else { break };
            self.died(exit);
        }
        let Phase::Leaving(code, until) = self.phase else { return None };
        let is_late = Instant::now() >= until;
        if is_late {
            log::line(format_args!("some processes cannot be killed; leaving them"));
        }
        (is_late || reaped.is_err()).then_some(code)
    }

    fn pids(&self) -> impl Iterator<Item = u32> + use<> {
        self.seats.each_ref().map(|seat| seat.as_ref().map(|running| running.pid)).into_iter().flatten()
    }

    fn seat_of(&self, pid: u32) -> Option<usize> {
        self.seats.iter().position(|seat| seat.as_ref().is_some_and(|running| running.pid == pid))
    }

    fn died(&mut self, exit: Words) {
        let pid = exit[exit::PID] as u32;
        // What it said before it died still counts, and may have moved it. All of that lies in the socket by now, so
        // this ends.
        self.listen(pid, usize::MAX);
        match (self.seat_of(pid).and_then(|seat| Some((seat, self.seats[seat].take()?))), self.phase) {
            (Some((SERVING, served)), _) => self.server_died(&served, ExitStatus::from_raw(exit[exit::STATUS] as i32)),
            // Nobody is left to be told.
            (_, Phase::Leaving(..)) => {}
            // Also that of a successor: it is how the one that has frozen for it learns of its failure.
            _ => self.exits.record(exit),
        }
    }

    fn server_died(&mut self, served: &Running, status: ExitStatus) {
        if let Some(code) = served.goodbye {
            return self.leave(code);
        }
        self.hello[REASON] = if served.watch.gave_up() { Reason::Hang } else { Reason::Crash } as u64;
        let when = if served.ready { "" } else { " before it was ready" };
        self.replace(format_args!("supervisor {} ended{when} ({status})", served.pid), served.ready);
    }

    /// Says when the next supervisor starts, and of which program.
    fn replace(&mut self, why: fmt::Arguments<'_>, was_ready: bool) {
        let now = Instant::now();
        let pause = self.restarts.pause(was_ready, now);
        self.due = now + pause;
        log::line(format_args!("{why}; the next starts in {} s", pause.as_secs()));
        if self.restarts.gives_program_up() {
            self.change_program();
        }
        // Without a home there is nobody who could ask for the end, and no supervisor that could come up to see it.
        let has_no_home = std::fs::metadata(".").is_ok_and(|home| home.nlink() == 0);
        if !pause.is_zero() && (has_no_home || matches!(self.phase, Phase::Ending(_))) {
            self.force("supervisors die instead of ending the instances");
        }
    }

    /// Has the next supervisor be one of the program that worked before, if there is one.
    fn change_program(&mut self) {
        let Some(before) = self.store.remove(&PROGRAM_BEFORE) else { return };
        self.restarts.forgive();
        log::line(format_args!("supervisors of this program do not get ready; trying the one before it"));
        if let Some(current) = self.store.remove(&PROGRAM) {
            self.store.put(PROGRAM_BEFORE, current);
        }
        self.store.put(PROGRAM, before);
    }

    fn start_if_due(&mut self) {
        let (Phase::Keeping | Phase::Ending(_), [None, other]) = (self.phase, &self.seats) else { return };
        // One that takes over is waited for.
        if other.as_ref().is_some_and(|other| !other.ready) || Instant::now() < self.due {
            return;
        }
        match self.start() {
            Ok(running) => self.seats[SERVING] = Some(running),
            Err(error) => self.replace(format_args!("cannot start a supervisor: {error}"), false),
        }
    }

    fn start(&mut self) -> io::Result<Running> {
        let (ours, theirs) = seqpacket::pair()?;
        let binary = self.store.get(&PROGRAM).ok_or(io::ErrorKind::NotFound)?;
        let (pid, _) = program::launch(binary, SUPERVISOR, theirs.as_fd(), None, Parent::Caller)?;
        // Where the keeper could make itself hard to kill, its supervisor is to be easier to kill; where not, neither
        // changes.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-500");
        Ok(self.begin(pid, ours))
    }

    /// A supervisor that is told everything, and that all is to end, if so.
    fn begin(&mut self, pid: u32, socket: OwnedFd) -> Running {
        self.hello[EPOCH] += 1;
        let mut line = Line::new(socket, self.hello);
        if matches!(self.phase, Phase::Ending(_)) {
            line.say(Message::new([verb::STOP]));
        }
        Running::new(pid, line)
    }

    /// Waits for a signal, a supervisor, or the time.
    fn wait(&self) {
        let mut interest = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        interest.extend(self.seats.iter().flatten().filter_map(|running| running.line.interest()));
        let is_calm = match (self.phase, &self.seats) {
            (Phase::Keeping, [Some(serving), None]) => serving.line.blocked.is_none() && serving.kill_at.is_none(),
            _ => false,
        };
        let until = self.next_watchdog.map_or(self.next_second, |next| next.min(self.next_second));
        let left = if is_calm { until.saturating_duration_since(Instant::now()) } else { AGAIN };
        // Rounded up: a wait that ends too early would be taken up again at once, and again.
        let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        // Signals are blocked, so it is not interrupted; were it, the loop would just come round earlier.
        let _ = poll(&mut interest, timeout);
    }

    /// Takes what a supervisor said, up to so many records.
    fn listen(&mut self, pid: u32, records: usize) {
        for _ in 0..records {
            // Each time anew: what it says may move it.
            let Some(seat) = self.seat_of(pid) else { return };
            let Some(running) = &mut self.seats[seat] else { return };
            // Also where all are read: then it is dead, and its refusals concern nobody.
            if records != usize::MAX && running.line.must_be_heard() {
                return;
            }
            let Some((message, descriptors)) = running.line.hear() else { return };
            if running.goodbye.is_none() {
                running.watch.heard();
            }
            // What a later release says is skipped, and one that has frozen has let go.
            if let Some(message) = message.filter(|_| !running.frozen) {
                self.obey(seat, message, descriptors);
            }
        }
    }

    fn obey(&mut self, seat: usize, message: Message, descriptors: Vec<OwnedFd>) {
        let Some(running) = &mut self.seats[seat] else { return };
        let descriptor = descriptors.into_iter().next();
        match message.words {
            [verb::STORE, ..] => {
                let stored = descriptor.is_some_and(|descriptor| self.store.put(message.name, descriptor));
                if !stored {
                    running.line.say(Message { name: message.name, ..Message::new([verb::REFUSED]) });
                }
            }
            [verb::DROP, ..] => drop(self.store.remove(&message.name)),
            [verb::ACKNOWLEDGE, sequence, ..] => self.exits.acknowledge(sequence),
            [verb::READY, ..] => self.became_ready(seat),
            [verb::GOODBYE, code, ..] => running.goodbye = Some(code as i32),
            [verb::SUCCEED, pid, ..] if seat == SERVING && running.ready => self.try_successor(pid as u32, descriptor),
            [verb::RENEW, ..] => self.renew(descriptor),
            // To be heard is all that there is to `ALIVE`; the rest is of a later release.
            _ => {}
        }
    }

    /// Lets the one that serves go, for one that has yet to get ready.
    fn try_successor(&mut self, pid: u32, line: Option<OwnedFd>) {
        // Of one that has ended meanwhile the exit was told.
        let Some(line) = line.filter(|_| sys::is_child(pid)) else { return };
        let until = Instant::now() + TAKEOVER;
        if let Some(serving) = &mut self.seats[SERVING] {
            (serving.frozen, serving.kill_at) = (true, Some(until + LAST_WORDS));
        }
        self.hello[REASON] = Reason::Upgrade as u64;
        let successor = Running { kill_at: Some(until), ..self.begin(pid, line) };
        if let Some(relieved) = self.seats[OTHER].replace(successor) {
            sys::signal(relieved.pid, Signal::SIGKILL);
        }
    }

    fn became_ready(&mut self, seat: usize) {
        let Some(running) = &mut self.seats[seat] else { return };
        (running.ready, running.kill_at) = (true, None);
        if seat == OTHER {
            log::line(format_args!("upgrade: supervisor {} serves", running.pid));
            self.seats.swap(SERVING, OTHER);
            if let Some(relieved) = &mut self.seats[OTHER] {
                relieved.line.say(Message::new([verb::RELIEVED]));
                relieved.kill_at = Some(Instant::now() + LAST_WORDS);
            }
        }
        // Each time: the unit's main process may have been another, which is dead.
        self.notify(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// Tells the service manager, by the protocol of `sd_notify`, if there is one. None is waited for that does not listen.
    fn notify(&self, text: &str) {
        if let Some(manager) = self.store.get(&SERVICE) {
            let _ = send(manager.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match self.phase {
                // It only wakes: the loop reaps in any case.
                _ if signal.ssi_signo == Signal::SIGCHLD as u32 => {}
                Phase::Keeping => self.end(),
                Phase::Ending(since) if since.elapsed() >= SECOND => self.force("it was asked for twice"),
                Phase::Ending(_) | Phase::Leaving(..) => {}
            }
        }
    }

    /// Begins the orderly end. An upgrade goes its way, and whoever serves after it is told as well.
    fn end(&mut self) {
        log::line(format_args!("ending all instances"));
        self.notify("STOPPING=1");
        self.phase = Phase::Ending(Instant::now());
        for running in self.seats.iter_mut().flatten() {
            running.line.say(Message::new([verb::STOP]));
        }
    }

    /// Ends everything without the supervisor.
    fn force(&mut self, why: &str) {
        log::line(format_args!("killing everything: {why}"));
        self.pids().for_each(|pid| sys::signal(pid, Signal::SIGKILL));
        self.leave(FORCED);
    }

    /// Kills every process whose pidfd is in the store, each with its process group.
    fn kill_stored(&self) {
        for (_, pidfd) in self.store.after(&[0; NAME_BYTES]).filter(|(name, _)| name.starts_with(&PIDFD)) {
            for flags in [process::TO_GROUP, 0] {
                // It fails where the process is gone or the kernel knows no groups here: there is nothing more to do.
                let _ = process::pidfd_send_signal(pidfd, Signal::SIGKILL as i32, flags);
            }
        }
    }

    /// Ends what is left. Supervisors are children like others, from now on.
    fn leave(&mut self, code: i32) {
        self.notify("STOPPING=1");
        self.seats = [None, None];
        self.phase = Phase::Leaving(code, Instant::now() + LEAVE);
    }

    /// Does what is due.
    fn pass_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_second {
            // From now on and not from when it was due: a keeper that was frozen makes up for nothing.
            self.next_second = now + SECOND;
            self.look_after_supervisor();
        }
        if self.next_watchdog.is_some_and(|next| next <= now) {
            self.next_watchdog = Some(now + Duration::from_micros(self.hello[WATCHDOG_US]));
            if self.seats[SERVING].as_ref().is_none_or(|running| !running.watch.gave_up()) {
                self.notify("WATCHDOG=1");
            }
        }
        let over = self.seats.iter().flatten().filter(|running| running.kill_at.is_some_and(|at| at <= now));
        over.for_each(|running| sys::signal(running.pid, Signal::SIGKILL));
        if matches!(self.phase, Phase::Leaving(..)) {
            self.kill_stored();
            sys::kill_children();
        }
    }

    fn look_after_supervisor(&mut self) {
        let Some(running) = &mut self.seats[SERVING] else { return };
        let Some(signal) = running.watch.second(!running.ready || running.line.must_be_heard()) else { return };
        log::line(format_args!("supervisor {} hangs; ending it by {signal}", running.pid));
        sys::signal(running.pid, signal);
    }

    /// Becomes this program, unless something is on its way that it would have to know of. Then it may be asked for again.
    fn renew(&self, program: Option<OwnedFd>) {
        let (Phase::Keeping, [Some(serving), None], Some(program)) = (self.phase, &self.seats, program) else { return };
        // One that is reaped, and whose last words these are, nobody could go on with.
        let Some(line) = serving.line.quiet().filter(|_| sys::is_child(serving.pid)) else { return };
        let Err(error) = self.leave_all(serving, line).and_then(|estate| estate.execute(program.as_fd()));
        // All is as it was: the supervisor does not notice this either.
        log::line(format_args!("the keeper cannot be renewed: {error}"));
    }

    fn leave_all(&self, serving: &Running, line: BorrowedFd<'_>) -> io::Result<Estate> {
        let mut hello = self.hello;
        hello[LAST_EXIT] = self.exits.acknowledged;
        let mut estate = Estate::new(hello)?;
        let mut told = 0;
        while let Some(exit) = self.exits.after(told) {
            estate.say(Message::new(*exit))?;
            told = exit[exit::SEQUENCE];
        }
        for (name, descriptor) in self.store.after(&[0; NAME_BYTES]) {
            estate.leave(name, descriptor)?;
        }
        let line = estate.hold_open(line)?;
        estate.say(Message::new([verb::SERVING, serving.pid.into(), line, serving.ready.into()]))?;
        Ok(estate)
    }
}

impl Running {
    fn new(pid: u32, line: Line) -> Running {
        Running { pid, line, watch: Watch::default(), ready: false, frozen: false, goodbye: None, kill_at: None }
    }
}
