//! The rules that a peer's memory must keep. Breaking one means that the peer is dropped and reported.

/// What a peer did that no honest one can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// Its head went back, is not aligned, or lies where no position can.
    #[error("its head went back or stands where no record can end")]
    Head,
    /// It announces less than it has written, or more than it could write.
    #[error("its announced position contradicts its head")]
    Intent,
    /// A record carries another position than its own.
    #[error("a record does not carry its own position")]
    Position,
    /// A record reaches over the end of its ring, its head, or the limit of a record.
    #[error("a record reaches beyond its bounds")]
    Length,
    /// A record is of a kind that the layout does not know.
    #[error("a record is of an unknown kind")]
    Kind,
    /// A record for a session is too short to name it.
    #[error("a record for a session does not name it")]
    Session,
}
