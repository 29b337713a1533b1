//! `events`: what changes, as it changes, also across deaths of the supervisor.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arguments::EventsOptions;
use super::client::{Client, ClientError, LOOK_LIMIT, Watch};
use super::error::CliError;
use super::list;
use super::output::Output;
use crate::supervisor::control::{EventView, Request, Response};

/// How long a successor of a supervisor that died may take to answer.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked for.
const TICK: Duration = Duration::from_millis(50);
/// More than a journal keeps.
const ALL: u32 = u32::MAX;

/// Prints the last changes, then what changes, if asked to.
pub fn events(client: &Client, options: &EventsOptions, out: &mut Output) -> Result<(), CliError> {
    let last = if options.after.is_some() { ALL } else { options.lines };
    let mut seen = options.after;
    for event in
        journal(client, None, last)?.iter().filter(|event| options.after.is_none_or(|after| event.sequence > after))
    {
        tell(event, options.json, &mut seen, out)?;
    }
    out.flush()?;
    if options.no_follow {
        return Ok(());
    }
    loop {
        // Changes from the last one seen on: none is missed between two supervisors.
        let mut watch = client.watch(&Request::Events { after: seen })?;
        if !follow(&mut watch, options.json, &mut seen, out)? {
            return Ok(());
        }
        if !came_back(client) {
            return Err(ClientError::WentAway.into());
        }
    }
}

/// The last changes, of one instance where one is given, oldest first.
pub fn journal(client: &Client, instance: Option<u32>, last: u32) -> Result<Vec<EventView>, CliError> {
    match client.ask(&Request::Journal { instance, last }, LOOK_LIMIT)? {
        Response::Journal(events) => Ok(events),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

/// Prints what comes until the connection ends; false when nobody reads us any more.
fn follow(watch: &mut Watch<'_>, json: bool, seen: &mut Option<u64>, out: &mut Output) -> Result<bool, CliError> {
    loop {
        if !is_told(watch)? {
            return Ok(false);
        }
        match watch.next(LOOK_LIMIT) {
            Ok(Response::Event(event)) => tell(&event, json, seen, out)?,
            Ok(Response::Failed(failure)) => return Err(CliError::Refused(failure)),
            Ok(_) => return Err(CliError::OddAnswer),
            Err(ClientError::WentAway) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        out.flush()?;
    }
}

/// Waits until something comes; false when whoever reads our stdout has gone, which a quiet journal would not show.
fn is_told(watch: &Watch<'_>) -> Result<bool, CliError> {
    let stdout = io::stdout();
    loop {
        let mut watched =
            [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(CliError::System { what: "wait for changes", source: error.into() }),
        }
        let [told, reader] = watched.map(|one| one.revents().unwrap_or(PollFlags::empty()));
        if !reader.is_empty() {
            return Ok(false);
        }
        if !told.is_empty() {
            return Ok(true);
        }
    }
}

/// Waits for the next supervisor; false when none comes.
fn came_back(client: &Client) -> bool {
    let until = Instant::now() + SUCCESSOR_LIMIT;
    while Instant::now() < until {
        match client.ask(&Request::Ping, LOOK_LIMIT) {
            Ok(_) => return true,
            // Everything was ended.
            Err(ClientError::NotRunning { .. }) if !client.home().control().exists() => return false,
            Err(_) => thread::sleep(TICK),
        }
    }
    false
}

fn tell(event: &EventView, json: bool, seen: &mut Option<u64>, out: &mut Output) -> Result<(), CliError> {
    if let Some(missed) = missed(*seen, event.sequence).filter(|_| !json) {
        writeln!(out, "({missed} are not kept any more)")?;
    }
    *seen = Some(event.sequence);
    if json {
        let value = serde_json::to_string(event).map_err(io::Error::from)?;
        return Ok(writeln!(out, "{value}")?);
    }
    Ok(writeln!(out, "{}", line(event))?)
}

/// How many lie between the last one seen and this one.
fn missed(seen: Option<u64>, sequence: u64) -> Option<u64> {
    sequence.checked_sub(seen? + 1).filter(|missed| *missed > 0)
}

/// A change as a line: number, time, what, whose, why.
pub fn line(event: &EventView) -> String {
    let whose = match (&event.app, event.instance) {
        (Some(app), Some(instance)) => format!(" {}:{instance}", list::printable(app)),
        (Some(app), None) => format!(" {}", list::printable(app)),
        (None, _) => String::new(),
    };
    let why = if event.cause.is_empty() { String::new() } else { format!(": {}", list::printable(&event.cause)) };
    format!("{} {} {}{whose}{why}", event.sequence, time(event.at_ms), event.what)
}

/// Local time to the millisecond, with its distance from UTC.
fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let zoned = at.map(|at| at.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn event(sequence: u64) -> EventView {
        EventView {
            sequence,
            at_ms: 1_700_000_000_123,
            what: "instance.exited".into(),
            app: Some("web".into()),
            instance: Some(3),
            cause: "exit code\n1".into(),
        }
    }

    #[test]
    fn a_change_is_a_line_with_its_number_and_cause_and_nothing_that_moves_the_cursor() {
        let line = line(&event(7));
        assert!(line.starts_with("7 2023-11-1") && line.contains(".123"), "{line}");
        assert!(line.ends_with(" instance.exited web:3: exit code\\n1"), "{line}");
    }

    #[test]
    fn what_is_not_kept_any_more_is_counted() {
        let (mut out, text) = testing::output();
        let mut seen = Some(4);
        for sequence in [5, 9, 10] {
            tell(&event(sequence), false, &mut seen, &mut out).unwrap();
        }
        let text = text.take();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[1], "(3 are not kept any more)");
    }

    #[test]
    fn as_json_each_change_is_a_line_of_its_own() {
        let (mut out, text) = testing::output();
        tell(&event(5), true, &mut None, &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_str(text.take().trim_end()).unwrap();
        assert_eq!((value["sequence"].as_u64(), value["what"].as_str()), (Some(5), Some("instance.exited")));
    }
}
