//! What is measured: one line a metric, and one line a comparison.
//!
//! Names: `_onecore` (all ends pinned to one core), `_twocores` (each pinned to its own), nothing (unpinned, wherever
//! the kernel puts them), `_busy` (unpinned, beside two processes that compute without end).

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use nix::sys::eventfd::EventFd;

use super::Setting;
use super::ends::{Carrier, Job, Outcome};
use super::herd::Herd;
use crate::end::End;
use crate::placement::Placement;
use Placement::{OneCore, TwoCores, Unpinned};

/// One metric.
pub struct Case {
    pub metric: &'static str,
    pub measure: Measure,
}

/// What a metric measures.
pub enum Measure {
    /// One message there and one back, both ends asleep in between (but for [`By::SpinningWire`]).
    RoundTrip { by: By, placement: Placement },
    /// Messages from one end to `readers` others, as fast as they go: one call a message at the sender.
    Stream { by: By, placement: Placement, size: usize, readers: usize, busy: bool },
    /// What one publish costs the publisher, with so many readers subscribed and awake.
    PublishCost { awake: u16 },
}

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Wire,
    /// The wire, and readers that never sleep.
    SpinningWire,
    Eventfd,
    Pipe,
    Unix,
    Redis,
}

const fn round_trip(metric: &'static str, by: By, placement: Placement) -> Case {
    Case { metric, measure: Measure::RoundTrip { by, placement } }
}

const fn stream(metric: &'static str, by: By, size: usize) -> Case {
    Case { metric, measure: Measure::Stream { by, placement: Unpinned, size, readers: 1, busy: false } }
}

const fn placed(metric: &'static str, by: By, placement: Placement) -> Case {
    Case { metric, measure: Measure::Stream { by, placement, size: 64, readers: 1, busy: false } }
}

const fn busy(metric: &'static str, by: By) -> Case {
    Case { metric, measure: Measure::Stream { by, placement: Unpinned, size: 64, readers: 1, busy: true } }
}

const fn fan_out(metric: &'static str, by: By) -> Case {
    Case { metric, measure: Measure::Stream { by, placement: Unpinned, size: 64, readers: 4, busy: false } }
}

/// Everything, in the order in which it is measured: what is compared stands side by side.
pub const CASES: &[Case] = &[
    round_trip("rtt_parked_64", By::Wire, Unpinned),
    round_trip("rtt_eventfd", By::Eventfd, Unpinned),
    round_trip("rtt_pipe", By::Pipe, Unpinned),
    round_trip("rtt_unix", By::Unix, Unpinned),
    round_trip("rtt_redis", By::Redis, Unpinned),
    round_trip("rtt_parked_64_onecore", By::Wire, OneCore),
    round_trip("rtt_eventfd_onecore", By::Eventfd, OneCore),
    round_trip("rtt_parked_64_twocores", By::Wire, TwoCores),
    round_trip("rtt_eventfd_twocores", By::Eventfd, TwoCores),
    round_trip("rtt_spin_64_twocores", By::SpinningWire, TwoCores),
    stream("throughput_64", By::Wire, 64),
    stream("throughput_64_pipe", By::Pipe, 64),
    stream("throughput_64_unix", By::Unix, 64),
    stream("throughput_64_redis", By::Redis, 64),
    placed("throughput_64_onecore", By::Wire, OneCore),
    placed("throughput_64_onecore_pipe", By::Pipe, OneCore),
    placed("throughput_64_twocores", By::Wire, TwoCores),
    placed("throughput_64_twocores_pipe", By::Pipe, TwoCores),
    busy("throughput_64_busy", By::Wire),
    busy("throughput_64_busy_pipe", By::Pipe),
    stream("throughput_1k", By::Wire, 1024),
    stream("throughput_1k_pipe", By::Pipe, 1024),
    stream("throughput_1k_unix", By::Unix, 1024),
    stream("throughput_1k_redis", By::Redis, 1024),
    stream("throughput_64k", By::Wire, 65536),
    stream("throughput_64k_unix", By::Unix, 65536),
    fan_out("fanout4_64_rate", By::Wire),
    fan_out("fanout4_64_rate_pipe", By::Pipe),
    fan_out("fanout4_64_rate_redis", By::Redis),
    Case { metric: "publish_unheard_ns", measure: Measure::PublishCost { awake: 0 } },
    Case { metric: "publish_heard_by_4_awake_ns", measure: Measure::PublishCost { awake: 4 } },
];

/// `metric`, what is divided, by what: always ours by theirs. For a round trip less is better, for a rate more.
pub const RATIOS: &[(&str, &str, &str)] = &[
    ("rtt_parked_64_vs_eventfd", "rtt_parked_64", "rtt_eventfd"),
    ("rtt_parked_64_p99_vs_eventfd", "rtt_parked_64_p99", "rtt_eventfd_p99"),
    ("rtt_parked_64_vs_pipe", "rtt_parked_64", "rtt_pipe"),
    ("rtt_parked_64_vs_unix", "rtt_parked_64", "rtt_unix"),
    ("rtt_parked_64_vs_redis", "rtt_parked_64", "rtt_redis"),
    ("rtt_parked_64_onecore_vs_eventfd", "rtt_parked_64_onecore", "rtt_eventfd_onecore"),
    ("rtt_parked_64_twocores_vs_eventfd", "rtt_parked_64_twocores", "rtt_eventfd_twocores"),
    ("throughput_64_vs_pipe", "throughput_64", "throughput_64_pipe"),
    ("throughput_64_vs_unix", "throughput_64", "throughput_64_unix"),
    ("throughput_64_vs_redis", "throughput_64", "throughput_64_redis"),
    ("throughput_64_cost_vs_pipe", "throughput_64_cost", "throughput_64_pipe_cost"),
    ("throughput_64_onecore_vs_pipe", "throughput_64_onecore", "throughput_64_onecore_pipe"),
    ("throughput_64_twocores_vs_pipe", "throughput_64_twocores", "throughput_64_twocores_pipe"),
    ("throughput_64_busy_vs_pipe", "throughput_64_busy", "throughput_64_busy_pipe"),
    ("throughput_1k_vs_pipe", "throughput_1k", "throughput_1k_pipe"),
    ("throughput_1k_vs_unix", "throughput_1k", "throughput_1k_unix"),
    ("throughput_1k_vs_redis", "throughput_1k", "throughput_1k_redis"),
    ("throughput_64k_vs_unix", "throughput_64k", "throughput_64k_unix"),
    ("fanout4_64_rate_vs_pipe", "fanout4_64_rate", "fanout4_64_rate_pipe"),
    ("fanout4_64_rate_vs_redis", "fanout4_64_rate", "fanout4_64_rate_redis"),
];

impl Case {
    /// Whether this machine has what it needs.
    pub fn is_possible(&self, setting: &Setting) -> bool {
        let placement = match self.measure {
            Measure::RoundTrip { placement, .. } | Measure::Stream { placement, .. } => placement,
            Measure::PublishCost { .. } => return true,
        };
        placement.is_possible(&setting.cores) && (self.by() != Some(By::Redis) || setting.redis.is_some())
    }

    /// What carries its messages, if they leave the process.
    pub fn by(&self) -> Option<By> {
        match self.measure {
            Measure::RoundTrip { by, .. } | Measure::Stream { by, .. } => Some(by),
            Measure::PublishCost { .. } => None,
        }
    }

    /// Whether its processor time is printed too. That of a server in between would be missing.
    pub fn shows_cost(&self) -> bool {
        matches!(
            self.measure,
            Measure::Stream {
                by: By::Wire | By::Pipe | By::Unix,
                placement: Unpinned,
                size: 64,
                readers: 1,
                busy: false
            }
        )
    }

    /// p50 and p99 in nanoseconds.
    pub fn round_trip(&self, setting: &Setting) -> Result<(f64, f64)> {
        let Measure::RoundTrip { by, placement } = self.measure else { bail!("{} is no round trip", self.metric) };
        let carrier = by.carrier(setting)?;
        let jobs = [Job::Call { carrier: carrier.clone(), limit: setting.limit }, Job::Echo { carrier }];
        let ends = by.connect(&jobs, placement, setting)?;
        match &begin(ends)?[..] {
            [Outcome::Latency { p50_ns, p99_ns }, ..] => Ok((*p50_ns, *p99_ns)),
            other => bail!("{}: {other:?}", self.metric),
        }
    }

    /// Messages per second at the slowest reader, and the processor time of both ends for one message in nanoseconds.
    pub fn stream(&self, setting: &Setting) -> Result<(f64, f64)> {
        let Measure::Stream { by, placement, size, readers, busy } = self.measure else {
            bail!("{} is no stream", self.metric)
        };
        let carrier = by.carrier(setting)?;
        let mut jobs = vec![Job::Send { carrier: carrier.clone(), size, limit: setting.limit }];
        jobs.extend((0..readers).map(|_| Job::Receive { carrier: carrier.clone(), size }));
        let _strangers = if busy { strangers()? } else { Vec::new() };
        let ends = by.connect(&jobs, placement, setting)?;
        self.rate(&begin(ends)?)
    }

    /// The rate and the cost, once it is sure that every reader has got all that was sent.
    fn rate(&self, outcomes: &[Outcome]) -> Result<(f64, f64)> {
        let Some((Outcome::Sent { messages: sent, spent }, readers)) = outcomes.split_first() else {
            bail!("{}: {outcomes:?}", self.metric)
        };
        let (mut slowest, mut cost) = (f64::INFINITY, spent.as_nanos() as f64 / *sent as f64);
        for reader in readers {
            match reader {
                Outcome::Received { messages, time, spent } if messages == sent => {
                    slowest = slowest.min(*messages as f64 / time.as_secs_f64());
                    cost += spent.as_nanos() as f64 / *messages as f64;
                }
                other => bail!("{}: {sent} messages were sent, a reader says {other:?}", self.metric),
            }
        }
        Ok((slowest, cost))
    }

    /// Nanoseconds of one publish.
    pub fn publish_cost(&self, setting: &Setting) -> Result<f64> {
        let Measure::PublishCost { awake } = self.measure else { bail!("{} is no cost", self.metric) };
        let end = End::start(None, &Job::PublishCost { awake, limit: setting.limit }, Vec::new())?;
        match &begin(vec![end])?[..] {
            [Outcome::Cost { ns }] => Ok(*ns),
            other => bail!("{}: {other:?}", self.metric),
        }
    }
}

impl By {
    fn carrier(self, setting: &Setting) -> Result<Carrier> {
        Ok(match self {
            By::Wire => Carrier::Wire { spins: false },
            By::SpinningWire => Carrier::Wire { spins: true },
            By::Eventfd => Carrier::Stream { unit: 8 },
            By::Pipe | By::Unix => Carrier::Stream { unit: 64 },
            By::Redis => Carrier::Redis { socket: setting.redis.as_ref().context("no Redis")?.socket().to_owned() },
        })
    }

    /// Starts one end per job, with what connects the first one to each of the others.
    fn connect(self, jobs: &[Job], placement: Placement, setting: &Setting) -> Result<Vec<End>> {
        let core = |end| placement.core(end, &setting.cores);
        if matches!(self, By::Wire | By::SpinningWire) {
            return Herd::make(jobs.len())?.start(jobs, core);
        }
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for _ in 1..jobs.len() {
            let (near, far) = self.pair()?;
            first.extend(near);
            others.push(far);
        }
        let descriptors = std::iter::once(first).chain(others);
        jobs.iter().zip(descriptors).enumerate().map(|(end, (job, fds))| End::start(core(end), job, fds)).collect()
    }

    /// What the first end and another one need: from where each reads, and where each writes.
    fn pair(self) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
        Ok(match self {
            By::Pipe => {
                let ((there_out, there_in), (back_out, back_in)) = (std::io::pipe()?, std::io::pipe()?);
                (vec![back_out.into(), there_in.into()], vec![there_out.into(), back_in.into()])
            }
            By::Unix => {
                let (near, far) = std::os::unix::net::UnixStream::pair()?;
                let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
                (vec![near.into(), near_too.into()], vec![far.into(), far_too.into()])
            }
            By::Eventfd => {
                let (there, back) = (owned(&EventFd::new()?)?, owned(&EventFd::new()?)?);
                (vec![back.try_clone()?, there.try_clone()?], vec![there, back])
            }
            By::Wire | By::SpinningWire | By::Redis => (Vec::new(), Vec::new()),
        })
    }
}

fn owned(event: &EventFd) -> Result<OwnedFd> {
    Ok(std::os::fd::AsFd::as_fd(event).try_clone_to_owned()?)
}

/// Two processes that compute without end, for as long as they are kept.
fn strangers() -> Result<Vec<End>> {
    let strangers = [End::start(None, &Job::Burn, Vec::new())?, End::start(None, &Job::Burn, Vec::new())?];
    for stranger in &strangers {
        stranger.await_ready()?;
        stranger.go()?;
    }
    Ok(strangers.into())
}

/// Lets all begin, the first one last, and collects what they say.
fn begin(ends: Vec<End>) -> Result<Vec<Outcome>> {
    for end in &ends {
        end.await_ready()?;
    }
    for end in ends.iter().rev() {
        end.go()?;
    }
    ends.into_iter().map(End::outcome).collect()
}
