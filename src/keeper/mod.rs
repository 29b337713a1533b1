//! The small parent of the supervisor that holds its descriptors, reaps, and restarts it.
//!
//! One thread without a runtime, made to practically never fail: it parses nothing that comes from users, waits for
//! nobody, and keeps everything in tables of fixed size. Everything that must outlive a supervisor lies here; what any
//! of it means is the supervisor's business.
//!
//! It is small because it knows few things:
//!
//! - *One way to begin*: by exec, with what was left to it ([`estate`]). A command prepares a home and becomes the first
//!   keeper ([`start`]); a keeper becomes its own successor, in place; a supervisor whose keeper has died becomes the
//!   keeper ([`heir`]), which it sees at its end of the line ([`client::FromKeeper::Gone`]).
//! - *Two seats*: the supervisor that serves, and for a moment its successor or its predecessor ([`run`]). How a successor
//!   is found, started and put to the proof is the affair of the one that serves ([`trial`]); the keeper is told when
//!   there is one.
//! - *One shape of message*, in both directions and to the next keeper ([`protocol`]).
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | the supervisor ends all instances, then both end; once more, a second or more later: all is killed |
//! | SIGCHLD | reaps |
//! | SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU | ignored: neither a terminal nor a slip of the hand stops a keeper |
//!
//! Invariants
//! - What a supervisor sent before it died counts: its socket is emptied before its successor starts.
//! - Every exit is told to some supervisor until one acknowledges it; that of the one that served is not among them.
//! - No send blocks, no table grows, no wait has no limit.

pub mod client;
mod estate;
pub mod handle;
pub mod heir;
mod line;
mod log;
pub mod name;
pub mod protocol;
mod rules;
mod run;
pub mod start;
mod sys;
mod tables;
pub mod trial;

pub use run::keep;

/// Exit code when instances had to be killed because there was no supervisor to end them.
pub const FORCED: i32 = 70;
