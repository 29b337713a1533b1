//! The binary as its users meet it: commands, signals, sockets and files, nothing from inside.
//!
//! One program, so that it is linked once; a module for each chapter. Every test has a home of its own
//! (`support/herdwire.rs`) and leaves nothing behind.

#[path = "../support/herdwire.rs"]
mod herdwire;
#[path = "../support/puppets.rs"]
mod puppets;

mod adoption;
mod bad_input;
mod cli;
mod foreground;
mod leftovers;
mod lifecycle;
mod listeners;
mod logs;
mod start;
mod status;
mod wire;
