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

use std::error::Error;
use std::process::ExitCode;

/// Ends a worker's `main`: an error goes to stderr with what caused it.
pub fn end(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("cause: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}
