//! From what the user wrote to what is run.

mod secret;
pub mod spec;
