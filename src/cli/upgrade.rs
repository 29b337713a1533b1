//! `upgrade`: another supervisor takes over, and no instance notices.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, ClientError, LOOK_LIMIT};
use super::error::CliError;
use super::output::Output;
use crate::supervisor::control::{Failure, Pong, Request, Response};

/// How long the answer may take: more than what keeper and supervisor grant each other.
const LIMIT: Duration = Duration::from_secs(30);

/// Has the supervisor replaced by this program, or by what is installed now where the running one was started from.
pub fn upgrade(client: &Client, binary: Option<&Path>, out: &mut Output) -> Result<(), CliError> {
    let binary = match binary {
        Some(path) => std::path::absolute(path)
            .map_err(|source| CliError::System { what: "tell where that program is", source })?,
        None => PathBuf::new(),
    };
    let before = ping(client)?;
    match client.ask(&Request::Upgrade { binary }, LIMIT) {
        Ok(Response::Upgraded { from, took_ms }) => {
            let now = ping(client)?;
            writeln!(
                out,
                "supervisor {} (version {from}) was replaced by supervisor {} (version {}) in {took_ms} ms; no instance was touched",
                before.pid, now.pid, now.version
            )?;
            Ok(())
        }
        Ok(Response::Failed(failure)) => Err(CliError::Refused(failure)),
        Ok(_) => Err(CliError::OddAnswer),
        // The one that was to answer has died over it. What serves now is what there is to say.
        Err(ClientError::WentAway) => Err(CliError::Refused(went_away(&before, &ping(client)?))),
        Err(error) => Err(error.into()),
    }
}

fn ping(client: &Client) -> Result<Pong, CliError> {
    match client.ask(&Request::Ping, LOOK_LIMIT)? {
        Response::Pong(pong) => Ok(pong),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

fn went_away(before: &Pong, now: &Pong) -> Failure {
    let what = format!(
        "supervisor {} (version {}) died before it told what became of the upgrade",
        before.pid, before.version
    );
    let serves = format!("supervisor {} (version {}) serves now; no instance was touched", now.pid, now.version);
    Failure::new(what).cause(serves).hint("the reason may stand in herdwire.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_dies_over_an_upgrade_is_told_with_the_one_that_serves_now() {
        let pong = |pid: u32, version: &str| Pong {
            pid,
            version: version.into(),
            uptime_ms: 5,
            keeper_pid: 1,
            status_address: None,
            status_elsewhere: None,
        };
        let failure = went_away(&pong(7, "0.1.0"), &pong(8, "0.2.0"));
        assert!(failure.what.starts_with("supervisor 7 (version 0.1.0) died"));
        assert_eq!(failure.cause.unwrap(), "supervisor 8 (version 0.2.0) serves now; no instance was touched");
    }
}
