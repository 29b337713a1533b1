//! Why a session is closed, as the browser is told.
//!
//! 4100 to 4199 say "come back after a while"; RFC 6455's own codes are used where they fit.

use super::frame::Frame;

/// A close code and its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// As it stands in the close frame.
    pub code: u16,
    /// At most 123 bytes.
    pub text: &'static str,
}

/// The front is closed.
pub const GOING_AWAY: Reason = Reason { code: 1001, text: "the server is going away" };
/// Pings were not answered.
pub const SILENT: Reason = Reason { code: 1008, text: "nothing was heard for too long" };
/// The workers take no messages.
pub const OVERLOADED: Reason = Reason { code: 4100, text: "a message could not be handed on: come back later" };
/// The session's queue was full, or the peer took nothing of it.
pub const SLOW: Reason = Reason { code: 4101, text: "the session did not keep up" };

impl Reason {
    /// The frame that says it.
    pub fn frame(self) -> Frame {
        Frame::close(Some(self.code), self.text)
    }
}
