//! `flush` and `reloadLogs`: logs emptied, and looked for anew at their paths.

use std::io::Write;

use super::client::{ACT_LIMIT, Client};
use super::error::CliError;
use super::output::Output;
use super::select;
use crate::supervisor::control::{Request, Response, Selector};

/// Empties the logs of some instances, or of all; what was put aside stays.
pub fn flush(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    act(client, Request::FlushLogs { select: chosen(words) })?;
    writeln!(out, "the logs are empty")?;
    Ok(())
}

/// Has the supervisor look for the logs at their paths: something has moved them.
pub fn reopen(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    act(client, Request::ReopenLogs { select: chosen(words) })?;
    writeln!(out, "the logs are opened anew")?;
    Ok(())
}

fn chosen(words: &[String]) -> Selector {
    if words.is_empty() { Selector::All } else { select::selector(words) }
}

fn act(client: &Client, request: Request) -> Result<(), CliError> {
    match client.ask(&request, ACT_LIMIT)? {
        Response::Done(_) => Ok(()),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}
