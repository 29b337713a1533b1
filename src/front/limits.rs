//! How much a stranger may ask of us, in one place.

use std::time::Duration;

use super::pulse::Patience;

/// The limits that are not configured.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a request to the end of its head; idle connections wait as long for the next.
    pub header: Duration,
    /// The largest head of a request, in bytes.
    pub header_bytes: usize,
    /// Headers at most.
    pub headers: usize,
    /// An HTTP connection on which nothing moves for this long is dropped.
    pub http_stall: Duration,
    /// Pings, silence, slowness.
    pub patience: Patience,
    /// How long a session's message may wait for room on its way to the workers.
    pub arrival: Duration,
    /// How long a closing handshake may take.
    pub close: Duration,
    /// How long a session that did not keep up gets to take what is half written and the reason.
    pub slow_close: Duration,
    /// How long all connections together may take to end when the front is closed.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header: Duration::from_secs(5),
            header_bytes: 16 * 1024,
            headers: 64,
            http_stall: Duration::from_secs(30),
            patience: Patience {
                ping_every: Duration::from_secs(25),
                silent: Duration::from_secs(60),
                stalled: Duration::from_secs(30),
            },
            arrival: Duration::from_secs(10),
            close: Duration::from_secs(3),
            slow_close: Duration::from_secs(2),
            shutdown: Duration::from_secs(5),
        }
    }
}
