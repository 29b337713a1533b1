//! What can be wrong with Redis, as sentences for an operator, and whether waiting mends it.
//!
//! Invariants
//! - No sentence holds the URL, the user or the password: addresses are redacted ones, and what a server says is
//!   shown only where it cannot repeat what we sent.

use std::time::Duration;

use super::backoff::Pace;

/// Why the bridge is not connected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("`[redis] url` is not a URL of Redis")]
    Url,
    #[error("`[redis] url` asks for TLS, which this Herdwire was built without")]
    Tls,
    #[error("cannot reach Redis at {address}: {cause}")]
    Unreachable { address: String, cause: String },
    #[error("Redis at {address} did not answer within {} s", within.as_secs())]
    Silent { address: String, within: Duration },
    #[error("the connection to Redis at {address} was lost")]
    Lost { address: String },
    #[error("Redis at {address} refused the user or the password")]
    WrongPassword { address: String },
    #[error("Redis at {address} wants a password")]
    NoPassword { address: String },
    #[error("the user of Redis at {address} lacks a right: {detail}")]
    Forbidden { address: String, detail: String },
    #[error("Redis at {address} is not a primary but a {role}: what is published there reaches nobody else")]
    NotPrimary { address: String, role: String },
    #[error("Redis at {address} is still loading its data")]
    Loading { address: String },
    #[error("Redis at {address} is too old: 6.2 or newer is needed")]
    TooOld { address: String },
    #[error("Redis at {address} answered with an error: {detail}")]
    Refused { address: String, detail: String },
    #[error("what answers at {address} does not speak Redis' protocol")]
    NotRedis { address: String },
}

impl Trouble {
    /// Who can mend it.
    pub(super) fn pace(&self) -> Pace {
        match self {
            Trouble::Url
            | Trouble::Tls
            | Trouble::WrongPassword { .. }
            | Trouble::NoPassword { .. }
            | Trouble::Forbidden { .. }
            | Trouble::TooOld { .. } => Pace::Slow,
            Trouble::Unreachable { .. }
            | Trouble::Silent { .. }
            | Trouble::Lost { .. }
            | Trouble::NotPrimary { .. }
            | Trouble::Loading { .. }
            | Trouble::Refused { .. }
            | Trouble::NotRedis { .. } => Pace::Quick,
        }
    }

    /// What an operator can do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Trouble::Url => Some("write `redis://[USER:PASSWORD@]HOST:PORT/` or `redis+unix:///PATH`"),
            Trouble::Tls => Some("use `redis://`, or a tunnel"),
            Trouble::WrongPassword { .. } => Some("check user and password in `[redis] url`"),
            Trouble::NoPassword { .. } => Some("put it into `[redis] url`: `redis://:PASSWORD@HOST:PORT/`"),
            Trouble::Forbidden { .. } => {
                Some("it needs `&hw:* +hello +auth +ping +role +publish +subscribe +unsubscribe`")
            }
            Trouble::NotPrimary { .. } => Some("point `[redis] url` at the primary"),
            Trouble::NotRedis { .. } => Some("check host and port in `[redis] url`"),
            Trouble::Unreachable { .. }
            | Trouble::Silent { .. }
            | Trouble::Lost { .. }
            | Trouble::Loading { .. }
            | Trouble::TooOld { .. }
            | Trouble::Refused { .. } => None,
        }
    }

    /// The whole sentence, advice included.
    pub(super) fn sentence(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        }
    }
}
