//! What the workers `flood` and `chatter` are made of, and what reads their accounts afterwards.
//!
//! Each worker publishes numbered messages (`message`), checks those of its siblings (`verifier`) and writes both down in
//! a file that it has mapped (`account`), so that the account is exact even after SIGKILL and its successor goes on
//! from it. The one file `control` of a run says whether workers are to publish. `verdict` holds the accounts of a run
//! against one another.

#![deny(unsafe_code)]

pub mod account;
pub mod control;
pub mod message;
pub mod verdict;
pub mod verifier;
mod words;
