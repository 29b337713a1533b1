//! The supervisor and the command line of Herdwire. A library only so that tests, benches and fuzz targets can reach
//! the rooms; what users link is `herdwire-ipc`.

#![deny(unsafe_code)]

pub mod bridge;
pub mod cli;
pub mod config;
pub mod deployment;
pub mod front;
pub mod health;
pub mod keeper;
pub mod lifecycle;
pub mod logs;
pub mod process;
pub mod relay;
pub mod snapshot;
pub mod status;
pub mod supervisor;
pub mod triggers;
pub mod wire;
