//! Whether a peer is still there: when to ping it and when to give it up.
//!
//! Pure: times are durations since the connection began, handed in.
//!
//! Invariants
//! - A peer that answers pings is never given up for being silent.
//! - A peer that takes nothing of what waits for it is given up even if it keeps talking.

use core::time::Duration;

/// How patient we are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two pings.
    pub ping_every: Duration,
    /// Without a byte from the peer it is gone.
    pub silent: Duration,
    /// Without a byte taken by the peer, though some wait, it does not keep up.
    pub stalled: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// Nothing came for too long.
    Silent,
    /// Nothing went for too long.
    Stalled,
}

/// One connection's clock.
#[derive(Debug)]
pub struct Pulse {
    patience: Patience,
    heard: Duration,
    next_ping: Duration,
    /// Since when something waits and nothing of it has gone.
    stuck: Option<Duration>,
}

impl Pulse {
    /// A connection that begins at time zero. Its first ping comes up to half an interval early, by `jitter` (of 512), so
    /// that connections made together do not ping together.
    pub fn new(patience: Patience, jitter: u8) -> Pulse {
        let early = patience.ping_every * u32::from(jitter) / 512;
        Pulse { patience, heard: Duration::ZERO, next_ping: patience.ping_every - early, stuck: None }
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// The writer looked: `blocked` if the socket would not take all, `moved` if it took something.
    pub fn wrote(&mut self, now: Duration, blocked: bool, moved: bool) {
        self.stuck = match (blocked, moved, self.stuck) {
            (false, _, _) => None,
            (true, false, Some(since)) => Some(since),
            (true, _, _) => Some(now),
        };
    }

    /// What is due at `now`. A ping is due once per interval.
    pub fn beat(&mut self, now: Duration) -> Beat {
        if self.stuck.is_some_and(|since| now >= since + self.patience.stalled) {
            return Beat::Stalled;
        }
        if now >= self.heard + self.patience.silent {
            return Beat::Silent;
        }
        if now >= self.next_ping {
            self.next_ping = now + self.patience.ping_every;
            return Beat::Ping;
        }
        Beat::Wait
    }

    /// When to look again.
    pub fn deadline(&self) -> Duration {
        let silent = self.heard + self.patience.silent;
        let stalled = self.stuck.map_or(silent, |since| since + self.patience.stalled);
        self.next_ping.min(silent).min(stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pulse() -> Pulse {
        Pulse::new(Patience { ping_every: s(25), silent: s(60), stalled: s(30) }, 0)
    }

    #[test]
    fn a_peer_that_answers_is_pinged_for_ever() {
        let mut pulse = pulse();
        for round in 1..100 {
            assert_eq!(pulse.deadline(), s(25 * round));
            assert_eq!(pulse.beat(s(25 * round)), Beat::Ping);
            assert_eq!(pulse.beat(s(25 * round)), Beat::Wait);
            pulse.heard(s(25 * round));
        }
    }

    #[test]
    fn a_peer_that_is_silent_is_given_up_after_two_pings() {
        let mut pulse = pulse();
        assert_eq!(pulse.beat(s(25)), Beat::Ping);
        assert_eq!(pulse.beat(s(50)), Beat::Ping);
        assert_eq!(pulse.deadline(), s(60));
        assert_eq!(pulse.beat(s(60)), Beat::Silent);
    }

    #[test]
    fn a_peer_that_talks_but_takes_nothing_is_given_up() {
        let mut pulse = pulse();
        pulse.wrote(s(1), true, true);
        pulse.wrote(s(20), true, false);
        pulse.heard(s(30));
        assert_eq!(pulse.beat(s(31)), Beat::Stalled);
    }

    #[test]
    fn a_peer_that_takes_a_little_now_and_then_is_kept() {
        let mut pulse = pulse();
        pulse.wrote(s(1), true, true);
        pulse.wrote(s(20), true, true);
        pulse.heard(s(31));
        assert_eq!(pulse.beat(s(31)), Beat::Ping);
        pulse.wrote(s(32), false, true);
        pulse.heard(s(55));
        assert_ne!(pulse.beat(s(90)), Beat::Stalled);
    }

    #[test]
    fn first_pings_are_spread_over_half_an_interval() {
        let patience = Patience { ping_every: s(25), silent: s(60), stalled: s(30) };
        let earliest = Pulse::new(patience, 255).deadline();
        assert!(earliest > s(12) && earliest < s(13), "{earliest:?}");
    }
}
