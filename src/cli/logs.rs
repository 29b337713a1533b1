//! `logs`: what instances wrote, read from the files themselves, so that it works without a supervisor too.
//!
//! A reader that does not keep up holds up this process and nobody else.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, poll};

use super::arguments::LogsOptions;
use super::client::Client;
use super::error::CliError;
use super::log_view::{Printer, View};
use super::output::Output;
use super::{list, select};
use crate::config::units;
use crate::logs::{Follower, From};

/// How often followed files are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the supervisor is asked for instances that are new.
const ASK: Duration = Duration::from_secs(1);

/// One log and whose it is.
pub struct Source {
    /// The instance's id, where one is known.
    pub id: Option<u32>,
    pub app: String,
    pub path: PathBuf,
    pub error: bool,
}

/// A log that is read.
struct Reading {
    source: Source,
    follower: Follower,
    printer: Printer,
}

/// Which lines are shown.
#[derive(Clone)]
struct Wanted {
    from: From,
    /// Lines of each log, when it is not followed.
    most: Option<usize>,
    /// In ms since 1970.
    until: Option<u64>,
    part: Option<String>,
}

/// Prints the last lines of the logs asked for, then what is written to them, if asked to.
pub fn logs(client: &Client, options: &LogsOptions, out: &mut Output) -> Result<(), CliError> {
    let wanted = wanted(options)?;
    let view = View::of(options);
    let sources = sources(client, options)?;
    let width = sources.iter().map(|source| source.app.chars().count()).max().unwrap_or(0);
    let mut readings =
        sources.into_iter().map(|source| open(source, &wanted, &view, width)).collect::<Result<Vec<_>, _>>()?;
    let follows = options.follows();
    if follows && view.has_headers() && wanted.most.is_some_and(|most| most > 0) {
        let whose = if options.select.is_empty() { "all".to_owned() } else { options.select.join(", ") };
        let lines = options.lines;
        writeln!(
            out,
            "[TAILING] Tailing last {lines} lines for [{whose}] processes (change the value with --lines option)"
        )?;
    }
    for reading in &mut readings {
        if view.has_headers() && wanted.most.is_some_and(|most| most > 0) {
            writeln!(out, "{} last {} lines:", reading.source.path.display(), options.lines)?;
        }
        let most = wanted.most.filter(|_| !follows);
        let left = reading.print(&wanted, most, out)?;
        if !follows && left != Some(0) {
            reading.print_rest(&wanted, out)?;
        }
    }
    out.flush()?;
    let mut asked = Instant::now();
    while follows && !reader_is_gone()? {
        if asked.elapsed() >= ASK {
            asked = Instant::now();
            for source in newcomers(client, options, &readings) {
                // From its start: it has just appeared.
                readings.push(open(source, &Wanted { from: From::Start, ..wanted.clone() }, &view, width)?);
            }
        }
        for reading in &mut readings {
            reading.print(&wanted, None, out)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn open(source: Source, wanted: &Wanted, view: &View, width: usize) -> Result<Reading, CliError> {
    let mut follower = if view.is_timed() || wanted.until.is_some() { Follower::timed() } else { Follower::new() };
    let added = follower.add(&source.path, wanted.from);
    added.map_err(|source| CliError::System { what: "read a log", source })?;
    let printer = Printer::new(view, &source, width);
    Ok(Reading { source, follower, printer })
}

impl Reading {
    /// Prints what is there now, at most `most` lines: how many more there may be.
    fn print(&mut self, wanted: &Wanted, most: Option<usize>, out: &mut Output) -> Result<Option<usize>, CliError> {
        let mut left = most;
        while left != Some(0) {
            let next = self.follower.next(Duration::ZERO);
            let next = next.map_err(|source| CliError::System { what: "read a log", source })?;
            let Some(line) = next else { break };
            if wanted.until.is_some_and(|until| line.time.is_some_and(|time| time > until)) {
                return Ok(Some(0));
            }
            left = left.map(|left| left - usize::from(line.ended));
            if wanted.has(&line.bytes) {
                self.printer.line(&line, out)?;
            }
        }
        Ok(left)
    }

    /// Prints what has no newline.
    fn print_rest(&mut self, wanted: &Wanted, out: &mut Output) -> Result<(), CliError> {
        for line in self.follower.rest() {
            if wanted.has(&line.bytes) {
                self.printer.last(&line, out)?;
            }
        }
        Ok(())
    }
}

impl Wanted {
    fn has(&self, line: &[u8]) -> bool {
        let part = self.part.as_deref().unwrap_or("").as_bytes();
        part.is_empty() || line.windows(part.len()).any(|found| found == part)
    }
}

fn wanted(options: &LogsOptions) -> Result<Wanted, CliError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let read = |text: &String| time(text, now).map_err(|what| CliError::usage(what, TIMES));
    let since = options.since.as_ref().map(read).transpose()?;
    let until = options.until.as_ref().map(read).transpose()?;
    let ends_now = since.is_some() && !options.follows();
    Ok(Wanted {
        from: since.map_or(From::Last(options.lines), From::Since),
        most: since.is_none().then_some(options.lines),
        until: until.or(ends_now.then_some(now)),
        part: options.grep.clone(),
    })
}

const TIMES: &str = "write for instance 10m, 2h, `2026-11-24 08:15` or 2026-11-24T08:15:00Z";

/// A time as people write it, in ms since 1970: so long ago, or a moment, in local time unless it says otherwise.
fn time(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(ago) = units::duration(text) {
        return Ok(now.saturating_sub(ago.as_millis() as u64));
    }
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let local = text.parse::<jiff::civil::DateTime>().ok()?;
        Some(local.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp())
    });
    let moment = moment.ok_or_else(|| format!("`{text}` is no time"))?;
    Ok(u64::try_from(moment.as_millisecond()).unwrap_or(0))
}

/// Waits a tick, and says whether whoever reads our stdout has gone: a quiet log would not show it.
fn reader_is_gone() -> io::Result<bool> {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let tick = u16::try_from(TICK.as_millis()).expect("a tick is short");
    match poll(&mut watched, tick) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let events = watched[0].revents().unwrap_or(PollFlags::empty());
    Ok(events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL))
}

/// Logs that were not there before. None while the supervisor does not answer.
fn newcomers(client: &Client, options: &LogsOptions, known: &[Reading]) -> Vec<Source> {
    let mut sources = sources(client, options).unwrap_or_default();
    sources.retain(|source| known.iter().all(|reading| reading.source.path != source.path));
    sources
}

/// The logs asked for.
fn sources(client: &Client, options: &LogsOptions) -> Result<Vec<Source>, CliError> {
    let mut sources = all_sources(client, options)?;
    sources.retain(|source| if source.error { !options.out } else { !options.err });
    // What goes nowhere cannot be shown.
    sources.retain(|source| !source.path.starts_with("/dev"));
    Ok(sources)
}

/// Of the instances that the supervisor knows, else of whatever lies in the folder.
fn all_sources(client: &Client, options: &LogsOptions) -> Result<Vec<Source>, CliError> {
    let everything = vec!["all".to_owned()];
    let words = if options.select.is_empty() { &everything } else { &options.select };
    let files = || in_folder(&client.home().logs(), words);
    let Some(snapshot) = list::fetch(client, false)? else {
        let files = files();
        let named = words.iter().find(|word| *word != "all");
        return match named {
            Some(word) if files.is_empty() => Err(CliError::NoMatch { selector: word.clone(), near: None }),
            _ => Ok(files),
        };
    };
    let instances = match select::find(words, &snapshot) {
        Ok(instances) => instances,
        Err(error) => {
            // Deleted apps leave their logs behind.
            let files = files();
            return if files.is_empty() { Err(error) } else { Ok(files) };
        }
    };
    let mut sources: Vec<Source> = Vec::new();
    for instance in instances {
        for (path, error) in [(&instance.out_log, false), (&instance.error_log, true)] {
            if !sources.iter().any(|source| source.path == *path) {
                let (id, app, path) = (Some(instance.id), instance.app.clone(), path.clone());
                sources.push(Source { id, app, path, error });
            }
        }
    }
    Ok(sources)
}

fn in_folder(folder: &Path, words: &[String]) -> Vec<Source> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sources: Vec<Source> = files.filter_map(|file| source_of(&file.path())).collect();
    sources.retain(|source| {
        let id = source.id.map(|id| id.to_string());
        words.iter().any(|word| word == "all" || *word == source.app || Some(word) == id.as_ref())
    });
    sources.sort_by(|a, b| (&a.app, a.id, a.error).cmp(&(&b.app, b.id, b.error)));
    sources
}

/// Reads `NAME-out[-ID].log` or `NAME-error[-ID].log`.
fn source_of(path: &Path) -> Option<Source> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let (rest, id) = match stem.rsplit_once('-') {
        Some((rest, id)) if id.bytes().all(|byte| byte.is_ascii_digit()) => (rest, id.parse().ok()),
        _ => (stem, None),
    };
    let (app, kind) = rest.rsplit_once('-')?;
    let error = match kind {
        "out" => false,
        "error" => true,
        _ => return None,
    };
    Some(Source { id, app: app.to_owned(), path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_says_whose_log_it_is() {
        let source = |name: &str| source_of(Path::new(name)).map(|source| (source.app, source.id, source.error));
        assert_eq!(source("/l/web-out-3.log"), Some(("web".into(), Some(3), false)));
        assert_eq!(source("/l/my-app-error.log"), Some(("my-app".into(), None, true)));
        assert_eq!(source("/l/web-7-out.log"), Some(("web-7".into(), None, false)));
        assert_eq!(source("/l/herdwire.log"), None);
    }

    #[test]
    fn a_time_is_so_long_ago_or_a_moment() {
        assert_eq!(time("10m", 1_000_000), Ok(400_000));
        assert_eq!(time("2026-03-05T08:37:09.042Z", 0), Ok(1_772_699_829_042));
        assert!(time("2026-03-05 08:37", 0).is_ok());
        assert_eq!(time("yesterday", 0), Err("`yesterday` is no time".into()));
    }
}
