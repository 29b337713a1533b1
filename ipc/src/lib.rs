//! The wire of Herdwire: shared-memory channels between the workers of a herd, and the client that workers link.

#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod codec;
pub mod frame;
pub mod link;
pub mod seqpacket;
mod tag;

pub use tag::Tag;
