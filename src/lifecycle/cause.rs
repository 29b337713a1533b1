//! Why an instance was last started, restarted, stopped or given up, and how that is said.

use std::fmt;
use std::time::Duration;

use super::Instance;
use super::states::{Ailment, By, Exit, State, Time, Trigger};
use crate::config::spec::Rules;

/// Why an instance was last started, restarted, stopped or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing has happened yet.
    None,
    /// It ended before `min_uptime`.
    QuickDeath,
    /// It did not say that it is ready within `listen_timeout`.
    NotReady,
    /// No process could be made.
    NoProcess,
    /// Somebody asked for it.
    ByHand,
    /// It ended by itself, having started well.
    Ended,
    /// The same, and it had said so before.
    Quit,
    /// It ended with one of `stop_exit_codes`.
    StopCode,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// It did not do what a healthy one does.
    Ailing(Ailment),
    /// Something besides its own end.
    Due(Trigger),
    /// A successor has taken its place.
    Retired,
}

impl Cause {
    /// Each with its number in a record. Numbers are frozen.
    pub(super) const ALL: [(u8, Cause); 16] = [
        (0, Cause::None),
        (1, Cause::QuickDeath),
        (2, Cause::NotReady),
        (3, Cause::NoProcess),
        (4, Cause::ByHand),
        (5, Cause::Ended),
        (6, Cause::Quit),
        (7, Cause::StopCode),
        (8, Cause::OutOfMemory),
        (9, Cause::Ailing(Ailment::Watchdog)),
        (10, Cause::Ailing(Ailment::Heartbeat)),
        (11, Cause::Ailing(Ailment::Probe)),
        (12, Cause::Ailing(Ailment::Memory)),
        (13, Cause::Due(Trigger::Cron)),
        (14, Cause::Due(Trigger::File)),
        (15, Cause::Retired),
    ];

    /// Whether an instance that has stopped for this did so by itself.
    pub(super) fn is_its_own(self) -> bool {
        match self {
            Cause::QuickDeath | Cause::Ended | Cause::Quit | Cause::StopCode | Cause::OutOfMemory => true,
            Cause::NotReady | Cause::NoProcess | Cause::Ailing(_) | Cause::Due(_) => true,
            Cause::None | Cause::ByHand | Cause::Retired => false,
        }
    }
}

impl Instance {
    /// Why it was last started, restarted, stopped or given up, in a sentence without a full stop.
    pub fn account(&self, rules: &Rules) -> Option<String> {
        let exit = self.last_exit.map(|exit| format!(": {exit}")).unwrap_or_default();
        let said = match self.cause {
            Cause::None => return None,
            Cause::QuickDeath => format!("it ended before it had started well{exit}"),
            Cause::NotReady => format!("it did not say that it is ready within {}", Span(rules.listen_timeout)),
            Cause::NoProcess => "no process could be made for it".to_owned(),
            Cause::ByHand if self.state == State::Stopped => "it was stopped by hand".to_owned(),
            Cause::ByHand => self.by.to_string(),
            Cause::Ended => format!("it ended by itself{exit}"),
            Cause::Quit => format!("it ended by itself, as it had announced{exit}"),
            Cause::StopCode => format!("it ended with one of its `stop_exit_codes`{exit}"),
            Cause::OutOfMemory => "the kernel killed it because memory had run out".to_owned(),
            Cause::Ailing(ailment) => ailment.to_string(),
            Cause::Due(Trigger::Cron) => "the time of `cron_restart` had come".to_owned(),
            Cause::Due(Trigger::File) => "a watched file changed".to_owned(),
            Cause::Retired => "it is not needed any more".to_owned(),
        };
        let failures = self.budget.total();
        if self.state != State::Errored || failures < 2 {
            return Some(said);
        }
        Some(format!("{said}; it failed {failures} times within {}", Span(rules.restart_window)))
    }

    /// Failures that count against `max_restarts`; of one that was given up, those that it was given up for.
    pub fn failures(&self, rules: &Rules, now: Time) -> u32 {
        match self.state {
            State::Errored => self.budget.total(),
            _ => self.budget.spent(rules.restart_window, now),
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Hand => "by hand",
            By::Reload => "by a reload",
            By::TakenBack => "by a reload that was taken back",
            By::Scale => "by `scale`",
            By::Apply => "by `apply`",
            By::Resurrect => "by `resurrect`",
        })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::NeverStarted => f.write_str("never started"),
            Exit::NotExecuted => f.write_str("could not be executed"),
            Exit::Unknown => f.write_str("nobody knows how"),
            Exit::OutOfMemory => f.write_str("killed by the kernel for memory"),
        }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ailment::Watchdog => "its watchdog ran out",
            Ailment::Heartbeat => "its link gave no sign of life",
            Ailment::Probe => "its liveness probe failed",
            Ailment::Memory => "it used more than `max_memory_restart`",
        })
    }
}

/// A duration as people write it.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            _ if ms < 1000 || !ms.is_multiple_of(1000) => write!(f, "{ms} ms"),
            _ if ms < 60_000 || !ms.is_multiple_of(60_000) => write!(f, "{} s", ms / 1000),
            _ => write!(f, "{} min", ms / 60_000),
        }
    }
}
