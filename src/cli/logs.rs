//! `logs`: what instances wrote, read from the files themselves, so that it works without a supervisor too.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};

use super::arguments::LogsOptions;
use super::client::Client;
use super::error::CliError;
use super::output::Output;
use super::{list, select};
use crate::logs::{Follower, From};

/// How often followed files are looked at.
const TICK: Duration = Duration::from_millis(100);

/// One log and whose it is.
struct Source {
    /// The instance's id, where one is known.
    id: Option<u32>,
    app: String,
    path: PathBuf,
    error: bool,
}

/// Prints the last lines of the logs asked for, then what is written to them, if asked to.
pub fn logs(client: &Client, options: &LogsOptions, out: &mut Output) -> Result<(), CliError> {
    let mut sources = sources(client, options)?;
    sources.retain(|source| if source.error { !options.out } else { !options.err });
    let mut followers = Vec::new();
    for source in &sources {
        let mut follower = Follower::new();
        let added = follower.add(&source.path, From::Last(options.lines));
        added.map_err(|source| CliError::System { what: "read a log", source })?;
        followers.push(follower);
    }
    let width = sources.iter().map(|source| source.app.chars().count()).max().unwrap_or(0);
    let printer = Printer { raw: options.raw, width };
    for (source, follower) in sources.iter().zip(&mut followers) {
        printer.header(source, options.lines, out)?;
        printer.all(source, follower, out)?;
        if !options.follow {
            for line in follower.rest() {
                printer.line(source, &line.bytes, out)?;
            }
        }
    }
    out.flush()?;
    while options.follow && !reader_is_gone()? {
        for (source, follower) in sources.iter().zip(&mut followers) {
            printer.all(source, follower, out)?;
        }
        out.flush()?;
    }
    Ok(())
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

/// How lines are printed.
struct Printer {
    raw: bool,
    width: usize,
}

impl Printer {
    fn header(&self, source: &Source, lines: usize, out: &mut Output) -> io::Result<()> {
        if self.raw || lines == 0 {
            return Ok(());
        }
        writeln!(out, "{} last {lines} lines:", source.path.display())
    }

    /// Prints what is there now.
    fn all(&self, source: &Source, follower: &mut Follower, out: &mut Output) -> io::Result<()> {
        while let Some(line) = follower.next(Duration::ZERO)? {
            self.line(source, &line.bytes, out)?;
        }
        Ok(())
    }

    fn line(&self, source: &Source, line: &[u8], out: &mut Output) -> io::Result<()> {
        if !self.raw {
            let id = source.id.map(|id| id.to_string()).unwrap_or_default();
            let app = list::printable(&source.app);
            let (begin, end) = match (out.colour, source.error) {
                (false, _) => ("", ""),
                (true, false) => ("\x1b[32m", "\x1b[0m"),
                (true, true) => ("\x1b[31m", "\x1b[0m"),
            };
            write!(out, "{begin}{id}|{app:width$} |{end} ", width = self.width)?;
        }
        out.write_all(line)?;
        out.write_all(b"\n")
    }
}

/// The logs asked for: of the instances that the supervisor knows, else of whatever lies in the folder.
fn sources(client: &Client, options: &LogsOptions) -> Result<Vec<Source>, CliError> {
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
    use crate::cli::testing;

    #[test]
    fn a_files_name_says_whose_log_it_is() {
        let source = |name: &str| source_of(Path::new(name)).map(|source| (source.app, source.id, source.error));
        assert_eq!(source("/l/web-out-3.log"), Some(("web".into(), Some(3), false)));
        assert_eq!(source("/l/my-app-error.log"), Some(("my-app".into(), None, true)));
        assert_eq!(source("/l/web-7-out.log"), Some(("web-7".into(), None, false)));
        assert_eq!(source("/l/herdwire.log"), None);
    }

    #[test]
    fn lines_look_like_pm2s_or_are_as_they_were() {
        let source = source_of(Path::new("/l/web-out-3.log")).unwrap();
        let (mut out, text) = testing::output();
        Printer { raw: false, width: 6 }.line(&source, b"hello", &mut out).unwrap();
        Printer { raw: true, width: 6 }.line(&source, b"hello", &mut out).unwrap();
        assert_eq!(text.take(), "3|web    | hello\nhello\n");
    }
}
