//! The shell that runs it all.

pub mod control;
pub mod snapshot;
pub mod state;
