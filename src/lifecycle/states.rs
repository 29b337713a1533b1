//! The words of an instance's life: where it stands, what happens to it, what is to be done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment: milliseconds of the boot clock, which goes on in suspend and never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Time {
    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One process of an instance, counted from 1; 0 is "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u32);

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Stopped,
    /// Its process is being made, or has yet to say that it is ready.
    Launching {
        ready_by: Time,
    },
    Online {
        since: Time,
    },
    /// Told to finish what it has begun and to end; asked to stop at `until`.
    Draining {
        until: Time,
    },
    /// On its way out; killed at `kill_at`.
    Stopping {
        kill_at: Time,
        then: Then,
    },
    WaitingRestart {
        until: Time,
    },
    /// Given up on; [`super::Instance::cause`] says why.
    Errored,
}

/// What follows once a stopping instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Stay,
    /// Wanted: start again at once.
    Respawn,
    /// It failed while it ran: [`super::Instance::cause`] says how.
    Retry,
    /// It is ending by itself and has said so. `young`: before it had started well.
    Ends {
        young: bool,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its supervisor died before it was let go; it never ran.
    NeverStarted,
    /// It could not be executed.
    NotExecuted,
    /// Nobody could tell.
    Unknown,
    /// The kernel killed it, or something that descends from it, for memory.
    OutOfMemory,
}

/// News for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is to be started or restarted once its turn comes, which [`Event::Restart`] will say.
    Queue,
    Start,
    Stop,
    Restart,
    /// Its process executes the program.
    Spawned(Incarnation),
    /// No process could be made.
    SpawnFailed(Incarnation),
    /// No process can be made before somebody changes something: trying again is of no use.
    Unstartable(Incarnation),
    /// It says that it is ready.
    Ready(Incarnation),
    Exited(Incarnation, Exit),
    /// It does not do what a healthy one does.
    Unwell(Incarnation, Ailment),
    /// Something besides its own end restarts it, if it runs or ended by itself.
    Due(Trigger),
    /// Its successor serves: finish within this long, then stop for good.
    Drain(Duration),
    /// It says that what it does now takes at least this long more.
    Extended(Incarnation, Duration),
    /// It says that it is ending.
    Quitting(Incarnation),
    /// The time of [`super::Instance::deadline`] has come.
    Deadline,
}

impl Event {
    pub(super) fn incarnation(self) -> Option<Incarnation> {
        match self {
            Event::Spawned(of) | Event::SpawnFailed(of) | Event::Unstartable(of) => Some(of),
            Event::Ready(of) | Event::Quitting(of) => Some(of),
            Event::Exited(of, _) | Event::Unwell(of, _) | Event::Extended(of, _) => Some(of),
            Event::Queue | Event::Start | Event::Stop | Event::Restart => None,
            Event::Deadline | Event::Due(_) | Event::Drain(_) => None,
        }
    }
}

/// What a running instance lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ailment {
    /// No `WATCHDOG=1` in time.
    Watchdog,
    /// No sign of life of its link in time.
    Heartbeat,
    /// Its liveness probe failed too often.
    Probe,
    /// It uses more than `max_memory_restart`.
    Memory,
}

/// What restarts an instance besides its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// `cron_restart`.
    Cron,
    /// A watched file changed.
    File,
}

/// Who asks for a start that an instance has not come to by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// Somebody, by `start` or `restart`.
    #[default]
    Hand,
    /// A reload, which puts it in the place of another.
    Reload,
    /// A reload that is taken back.
    TakenBack,
    Scale,
    Apply,
    /// What was written down is brought back.
    Resurrect,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the process of this incarnation.
    Spawn(Incarnation),
    /// Tell it to finish what it has begun.
    Drain(Incarnation),
    /// Ask it to stop by a message, without a signal.
    Ask(Incarnation),
    /// Send `kill_signal` to its group.
    Signal(Incarnation),
    /// SIGKILL everything that descends from it.
    Kill(Incarnation),
}
