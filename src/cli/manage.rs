//! `stop`, `restart`, `delete`, `reset`, `sendSignal`, `kill`, `ping`.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{ACT_LIMIT, Client, LOOK_LIMIT};
use super::error::CliError;
use super::outlast::{Wish, outlast};
use super::output::{self, Output};
use super::{list, select};
use crate::config::signal;
use crate::snapshot::Snapshot;
use crate::supervisor::control::{Failure, Pong, Request, Response};

/// How long the keeper may take to end after the last instance has.
const KEEPER_LIMIT: Duration = Duration::from_secs(10);

/// Stops instances and shows them.
pub fn stop(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    let snapshot = act(client, Request::Stop { select: select::selector(words) }, words, Wish::Stopped)?;
    list::table(snapshot.instances.iter(), out)
}

/// Restarts instances and shows them.
pub fn restart(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    let snapshot = act(client, Request::Restart { select: select::selector(words) }, words, Wish::Restarted)?;
    list::table(snapshot.instances.iter(), out)?;
    list::warn_of_logs(snapshot.instances.iter());
    Ok(())
}

/// Deletes instances and names them.
pub fn delete(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    let snapshot = act(client, Request::Delete { select: select::selector(words) }, words, Wish::Gone)?;
    for instance in &snapshot.instances {
        writeln!(out, "deleted {} (id {})", list::printable(&instance.app), instance.id)?;
    }
    Ok(())
}

/// Sets counters back and shows the instances.
pub fn reset(client: &Client, words: &[String], out: &mut Output) -> Result<(), CliError> {
    let snapshot = at_once(client, Request::Reset { select: select::selector(words) })?;
    list::table(snapshot.instances.iter(), out)
}

/// Sends a signal and says to whom.
pub fn send_signal(client: &Client, signal: &str, words: &[String], out: &mut Output) -> Result<(), CliError> {
    let number = signal::number(signal).map_err(|what| CliError::Usage { what, hint: None })?;
    let snapshot = at_once(client, Request::Signal { select: select::selector(words), signal: number })?;
    let numbers = select::numbers(words, &snapshot);
    for instance in snapshot.instances.iter().filter(|one| numbers.contains(&one.id)) {
        if let Some(pid) = instance.pid {
            let name =
                nix::sys::signal::Signal::try_from(number).map_or_else(|_| signal.to_owned(), |one| one.to_string());
            writeln!(out, "sent {name} to {}:{} (pid {pid})", list::printable(&instance.app), instance.id)?;
        }
    }
    Ok(())
}

/// Asks for what is done at once; should the supervisor die over it, nobody can tell whether it was.
fn at_once(client: &Client, request: Request) -> Result<Snapshot, CliError> {
    match client.ask(&request, ACT_LIMIT)? {
        Response::Done(snapshot) => Ok(*snapshot),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

/// Asks for something of the instances that `words` mean; `wish` says what that is of their numbers.
fn act(
    client: &Client,
    request: Request,
    words: &[String],
    wish: impl Fn(Vec<u32>) -> Wish<'static>,
) -> Result<Snapshot, CliError> {
    let before = list::fetch(client, false)?;
    let numbers = before.iter().flat_map(|before| select::numbers(words, before)).collect();
    match outlast(client, client.ask(&request, ACT_LIMIT), &wish(numbers), before.as_ref(), ACT_LIMIT)? {
        Response::Done(snapshot) => Ok(*snapshot),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

/// Ends all instances, the supervisor and the keeper; returns when all of them have.
pub fn kill(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let keeper = match client.ask_for_the_end(ACT_LIMIT)? {
        Response::Killing { keeper_pid } => keeper_pid,
        Response::Failed(failure) => return Err(CliError::Refused(failure)),
        _ => return Err(CliError::OddAnswer),
    };
    let until = Instant::now() + KEEPER_LIMIT;
    while is_alive(keeper) {
        if Instant::now() >= until {
            let what = format!("all instances have ended, but keeper {keeper} has not");
            return Err(CliError::Refused(
                Failure::new(what).hint(format!("see `{}`", client.home().own_log().display())),
            ));
        }
        thread::sleep(Duration::from_millis(2));
    }
    writeln!(out, "all instances and the supervisor have ended")?;
    Ok(())
}

/// Whether a process runs. One that ended and was not waited for does not: in a container nobody may ever wait.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Asks whether the supervisor answers.
pub fn ping(client: &Client, json: bool, out: &mut Output) -> Result<(), CliError> {
    let pong = match client.ask(&Request::Ping, LOOK_LIMIT)? {
        Response::Pong(pong) => pong,
        Response::Failed(failure) => return Err(CliError::Refused(failure)),
        _ => return Err(CliError::OddAnswer),
    };
    if json {
        return Ok(out.json(&as_json(&pong))?);
    }
    let (pid, version, keeper) = (pong.pid, &pong.version, pong.keeper_pid);
    let uptime = output::duration(pong.uptime_ms);
    writeln!(out, "supervisor {pid} (version {version}, up {uptime}) answers; its keeper is {keeper}")?;
    match &pong.status_address {
        Some(address) => writeln!(out, "status page: http://{address}/")?,
        None => writeln!(out, "status page: none")?,
    }
    if let Some(why) = &pong.status_elsewhere {
        writeln!(out, "{why}")?;
    }
    Ok(())
}

fn as_json(pong: &Pong) -> serde_json::Value {
    json!({
        "supervisor": { "pid": pong.pid, "version": pong.version, "uptime_ms": pong.uptime_ms },
        "keeper": { "pid": pong.keeper_pid },
        "status": { "address": pong.status_address },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_as_json_has_its_documented_shape() {
        let pong = Pong {
            pid: 2,
            version: "0.1.0".into(),
            uptime_ms: 5,
            keeper_pid: 1,
            status_address: Some("127.0.0.1:9615".into()),
            status_elsewhere: None,
        };
        let expected = json!({
            "supervisor": {"pid": 2, "version": "0.1.0", "uptime_ms": 5},
            "keeper": {"pid": 1},
            "status": {"address": "127.0.0.1:9615"},
        });
        assert_eq!(as_json(&pong), expected);
    }

    #[test]
    fn a_process_that_ended_is_not_alive_though_nobody_waited_for_it() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while is_alive(child.id()) {
            assert!(Instant::now() < until);
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_alive(std::process::id()));
    }
}
