//! The binary as its users meet it: commands, signals, sockets and files, nothing from inside.
//!
//! One program, so that it is linked once; a module for each chapter. Every test has a home of its own
//! (`support/herdwire.rs`) and leaves nothing behind.

#[path = "../support/browser.rs"]
mod chromium;
#[path = "../support/herdwire.rs"]
mod herdwire;
#[path = "../support/load.rs"]
mod load;
#[path = "../support/puppets.rs"]
mod puppets;
// Shared with `tests/bridge.rs`, which uses the rest of it.
#[allow(dead_code)]
#[path = "../support/redis.rs"]
mod redis;
#[path = "../support/sessions.rs"]
mod sessions;
#[path = "../support/survivors.rs"]
mod survivors;

mod adoption;
mod apply;
mod bad_input;
mod bridge;
mod browser;
mod cli;
mod clock;
mod config;
mod control;
mod depends;
mod events;
mod foreground;
mod front;
mod groups;
mod health;
mod home_lost;
mod keeper_death;
mod leaving;
mod leftovers;
mod lifecycle;
mod listeners;
mod log_flood;
mod logs;
mod logs_kept;
mod main_process;
mod outlast;
mod pipe;
mod process;
mod ready;
mod reload;
mod rescue;
mod resurrect;
mod safekeeping;
mod scale;
mod signals;
mod start;
mod startup;
mod status;
mod stuck;
mod triggers;
mod upgrade;
mod verbs;
mod wire;
