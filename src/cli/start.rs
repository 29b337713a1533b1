//! `start`: a file's apps, a script, a command line, or again what was stopped.
//!
//! What a word means is decided in this order: a file that ends in `.toml`; a name or an id that the supervisor knows;
//! a script, a program in PATH, a command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::StartOptions;
use super::client::{ACT_LIMIT, Client};
use super::error::{CliError, LogTail};
use super::outlast::{Wanted, Wish, outlast};
use super::output::Output;
use super::{describe, list, select};
use crate::config::file::{AppFile, File, Instances};
use crate::config::spec::{AppSpec, Settings};
use crate::config::{self, At, ConfigError, Place, Problem, Resolved, Surroundings, units};
use crate::process::env_file;
use crate::snapshot::{ExitView, InstanceView, Snapshot, Status};
use crate::supervisor::control::{Failure, Request, Response};

/// The file that is started when none is named.
const DEFAULT_FILE: &str = "herdwire.toml";
/// Endings of pm2's configuration files, which are another format.
const ECOSYSTEM: [&str; 6] = [".json", ".config.js", ".config.cjs", ".config.mjs", ".yml", ".yaml"];
/// Lines of a log that an error shows.
const LOG_LINES: usize = 8;
/// Instances whose logs an error shows.
const SHOWN_FAILURES: usize = 3;

/// Starts each target in turn.
pub fn start(client: &Client, options: &StartOptions, out: &mut Output) -> Result<(), CliError> {
    let surroundings = surroundings()?;
    if options.targets.is_empty() {
        return start_default(client, options, &surroundings, out);
    }
    if let ([_, _, ..], Some(option)) = (options.targets.as_slice(), options.describes_an_app()) {
        return Err(CliError::usage(
            format!("{option} describes one app, but several are named"),
            "start them one by one, or describe them in a herdwire.toml",
        ));
    }
    options.targets.iter().try_for_each(|target| start_one(client, target, options, &surroundings, out))
}

/// What configurations are seen against here.
pub fn surroundings() -> Result<Surroundings, CliError> {
    Surroundings::here().map_err(|source| CliError::System { what: "tell the current folder", source })
}

/// Reads a file and prints what it may not have meant.
pub fn load(path: &Path, surroundings: &Surroundings) -> Result<config::Loaded, CliError> {
    let name = path.to_string_lossy();
    if let Some(ending) = ECOSYSTEM.iter().find(|ending| name.ends_with(**ending)) {
        return Err(CliError::Usage {
            what: format!("`{name}`: ecosystem files (`{ending}`) are not supported yet"),
            hint: Some("write a herdwire.toml: each app is an [[app]] with `name`, `script`, `instances`, ...".into()),
        });
    }
    let loaded = config::load(path, surroundings)?;
    check_env_files(&loaded.resolved)
        .map_err(|error| ConfigError { file: Some(path.to_owned()), ..error })
        .map_err(CliError::from)?;
    warn(&loaded.resolved);
    Ok(loaded)
}

/// Reads the apps' files of variables and forgets them: what is wrong with one is better said here than at each spawn.
fn check_env_files(resolved: &Resolved) -> Result<(), ConfigError> {
    for app in &resolved.apps {
        env_file::read(&app.env_files).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let (key, reason) = ("env_file".to_owned(), format!("app `{}`: {error}{cause}", app.name));
            ConfigError::at(Place::Whole, Problem::Value { key, reason, hint: error.hint() })
        })?;
    }
    Ok(())
}

fn warn(resolved: &Resolved) {
    for warning in &resolved.warnings {
        // A warning that nobody can read is no reason to stop.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

fn start_default(
    client: &Client,
    options: &StartOptions,
    surroundings: &Surroundings,
    out: &mut Output,
) -> Result<(), CliError> {
    if !surroundings.folder.join(DEFAULT_FILE).is_file() {
        return Err(CliError::usage(
            format!("start what? There is no {DEFAULT_FILE} here"),
            "name a file, a script, a command line in quotes, or what was stopped",
        ));
    }
    start_one(client, DEFAULT_FILE, options, surroundings, out)
}

fn start_one(
    client: &Client,
    target: &str,
    options: &StartOptions,
    surroundings: &Surroundings,
    out: &mut Output,
) -> Result<(), CliError> {
    if target.ends_with(".toml") || is_ecosystem(target, surroundings) {
        let loaded = load(Path::new(target), surroundings)?;
        if let Some(option) = options.describes_an_app() {
            return Err(CliError::usage(
                format!("{option} describes an app, but `{target}` does that already"),
                "change the file, or name a script",
            ));
        }
        let before = list::fetch(client, false)?;
        return start_new(client, loaded.resolved, loaded.origin, before.as_ref(), out);
    }
    let is_file = surroundings.folder.join(target).is_file();
    let before = list::fetch(client, false)?;
    if let Some(snapshot) = &before
        && (target == "all" || select::means_any(target, snapshot))
        && !(is_file && options.describes_an_app().is_some())
    {
        return start_existing(client, target, options, snapshot, out);
    }
    if target == "all" {
        return Err(CliError::NoMatch { selector: target.to_owned(), near: None });
    }
    let file = File { apps: vec![app_file(target, options)?], ..File::default() };
    let resolved = config::resolve(&file, surroundings).map_err(|error| options.flags.place(error))?;
    check_env_files(&resolved)?;
    warn(&resolved);
    start_new(client, resolved, PathBuf::new(), before.as_ref(), out)
}

/// Whether a target is a file of pm2's: one of its endings, and a file (`config.json` might be an app's name).
fn is_ecosystem(target: &str, surroundings: &Surroundings) -> bool {
    ECOSYSTEM.iter().any(|ending| target.ends_with(ending)) && surroundings.folder.join(target).is_file()
}

fn start_existing(
    client: &Client,
    target: &str,
    options: &StartOptions,
    before: &Snapshot,
    out: &mut Output,
) -> Result<(), CliError> {
    if let Some(option) = options.describes_an_app() {
        return Err(CliError::usage(
            format!("{option} describes a new app, but `{target}` exists already"),
            format!("`herdwire delete {target}` first, or start its script again with the options"),
        ));
    }
    options.env_of_shell.warn();
    let words = [target.to_owned()];
    let wish = Wish::Online(select::numbers(&words, before));
    let answer = client.ask(&Request::StartExisting { select: select::selector(&words) }, ACT_LIMIT);
    let answer = outlast(client, answer, &wish, Some(before), ACT_LIMIT)?;
    finish(client, answer, &|instance| select_word(target, instance), out)
}

fn select_word(word: &str, instance: &InstanceView) -> bool {
    word == "all" || instance.app == word || instance.id.to_string() == word
}

fn start_new(
    client: &Client,
    resolved: Resolved,
    origin: PathBuf,
    before: Option<&Snapshot>,
    out: &mut Output,
) -> Result<(), CliError> {
    let Resolved { apps, settings, .. } = resolved;
    let names: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    let limit = limit(&apps);
    let wanted: Vec<Wanted> = apps.iter().map(Wanted::from).collect();
    let answer = client.ask_or_launch(&request(apps, settings, origin), limit);
    let answer = outlast(client, answer, &Wish::Started(&wanted), before, limit)?;
    finish(client, answer, &|instance| names.contains(&instance.app), out)
}

/// The request that starts what was resolved. Apps of a command line have no file, and an empty origin.
pub fn request(apps: Vec<AppSpec>, settings: Settings, origin: PathBuf) -> Request {
    Request::Start { apps, settings, origin }
}

/// How long a start may take: what its apps are given to stop and to get ready, and some.
fn limit(apps: &[AppSpec]) -> Duration {
    let given = |app: &AppSpec| app.rules.kill_timeout + app.rules.listen_timeout;
    ACT_LIMIT + apps.iter().map(given).max().unwrap_or_default()
}

/// What the command line says of an app.
fn app_file(script: &str, options: &StartOptions) -> Result<AppFile, CliError> {
    let text = |value: &Option<String>, flag| value.clone().map(|value| At::flag(value, flag));
    let app = AppFile {
        script: Some(At::new(script.to_owned(), Place::Whole)),
        name: text(&options.name, "--name"),
        args: (!options.args.is_empty()).then(|| At::flag(options.args.clone(), "--")),
        interpreter: text(&options.interpreter, "--interpreter"),
        instances: quantity(&options.instances, "-i", "instances", Instances::from_text)?,
        env: options.env.iter().map(|pair| variable(pair)).collect::<Result<_, _>>()?,
        cwd: text(&options.cwd, "--cwd"),
        herd: text(&options.herd, "--herd"),
        place: Place::Whole,
        autorestart: options.no_autorestart.then_some(At::flag(false, "--no-autorestart")),
        max_restarts: options.max_restarts.map(|number| At::flag(number, "--max-restarts")),
        restart_delay: quantity(&options.restart_delay, "--restart-delay", "restart_delay", units::duration)?,
        kill_timeout: quantity(&options.kill_timeout, "--kill-timeout", "kill_timeout", units::duration)?,
        wait_ready: options.wait_ready.then_some(At::flag(true, "--wait-ready")),
        listen_timeout: quantity(&options.listen_timeout, "--listen-timeout", "listen_timeout", units::duration)?,
        ..options.flags.app()?
    };
    Ok(app)
}

fn quantity<T>(
    value: &Option<String>,
    flag: &'static str,
    key: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<At<T>>, ConfigError> {
    let Some(text) = value else { return Ok(None) };
    let wrong = |reason| Problem::Value { key: key.to_owned(), reason, hint: None };
    read(text)
        .map(|value| Some(At::flag(value, flag)))
        .map_err(|reason| ConfigError::at(Place::Flag(flag), wrong(reason)))
}

fn variable(pair: &str) -> Result<(At<String>, String), CliError> {
    match pair.split_once('=') {
        Some((name, value)) => Ok((At::flag(name.to_owned(), "--env"), value.to_owned())),
        None => Err(CliError::usage(format!("--env {pair} has no `=`"), "write it as --env NAME=VALUE")),
    }
}

/// Prints what came of it, or says which of the instances concerned failed, and why.
fn finish(
    client: &Client,
    answer: Response,
    concerned: &dyn Fn(&InstanceView) -> bool,
    out: &mut Output,
) -> Result<(), CliError> {
    match answer {
        Response::Done(snapshot) => {
            let down: Vec<_> = snapshot.instances.iter().filter(|one| concerned(one) && !is_well(one)).collect();
            list::table(snapshot.instances.iter().filter(|one| concerned(one)), out)?;
            list::warn_of_logs(snapshot.instances.iter().filter(|one| concerned(one)));
            if down.is_empty() {
                return Ok(());
            }
            out.flush()?;
            Err(not_online(&down, None))
        }
        Response::Failed(failure) => {
            // The reason is known; the logs may tell more, if the supervisor still shows the instances.
            let snapshot = list::fetch(client, false).ok().flatten();
            Err(refused(failure, snapshot.as_ref(), concerned))
        }
        _ => Err(CliError::OddAnswer),
    }
}

fn refused(failure: Failure, snapshot: Option<&Snapshot>, concerned: &dyn Fn(&InstanceView) -> bool) -> CliError {
    let instances = snapshot.iter().flat_map(|snapshot| &snapshot.instances);
    let down: Vec<_> = instances.filter(|one| concerned(one) && one.pid.is_none() && !is_well(one)).collect();
    match down.is_empty() {
        true => CliError::Refused(failure),
        false => not_online(&down, Some(failure)),
    }
}

/// Whether an instance is as a start leaves it: online, or through with its work.
fn is_well(instance: &InstanceView) -> bool {
    match instance.status {
        Status::Online => true,
        // Added with `autostart = false`, or ended well and not to be started again.
        Status::Stopped => matches!(instance.last_exit, None | Some(ExitView::Code(0))) && instance.reason.is_none(),
        // On its way out since before the start: it is being deleted, or somebody else has stopped it.
        Status::Stopping => true,
        Status::Launching | Status::WaitingRestart | Status::Errored => false,
    }
}

fn not_online(down: &[&InstanceView], failure: Option<Failure>) -> CliError {
    let of = |instance: &InstanceView| {
        let (app, index, id, status) = (&instance.app, instance.index, instance.id, instance.status.as_str());
        format!("app `{app}`: instance {index} (id {id}) is {status}")
    };
    let more = match down.len() {
        1 => String::new(),
        several => format!(", and {} more are not online", several - 1),
    };
    let reason = down[0].reason.clone().or_else(|| down[0].last_exit.map(describe::exit_text));
    let app = &down[0].app;
    let (what, cause, hint) = match failure {
        Some(Failure { what, cause, hint, .. }) => (what, cause.or(reason), hint),
        None => (format!("{}{more}", of(down[0])), reason, None),
    };
    let hint = hint.unwrap_or_else(|| format!("`herdwire logs {app} --err` shows more"));
    CliError::NotOnline { what, cause, logs: last_lines(down), hint, code: 1 }
}

fn last_lines(down: &[&InstanceView]) -> Vec<LogTail> {
    let mut tails: Vec<LogTail> = Vec::new();
    for instance in down.iter().take(SHOWN_FAILURES) {
        let path = &instance.error_log;
        if tails.iter().any(|tail| tail.path == *path) {
            continue;
        }
        let lines = crate::logs::tail(path, LOG_LINES).unwrap_or_default();
        let lines: Vec<_> = lines.iter().map(|line| list::printable(&String::from_utf8_lossy(line))).collect();
        if !lines.is_empty() {
            tails.push(LogTail { path: path.clone(), output: None, lines });
        }
    }
    tails
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::snapshot;

    fn options(change: impl FnOnce(&mut StartOptions)) -> StartOptions {
        let mut options = StartOptions::default();
        change(&mut options);
        options
    }

    #[test]
    fn options_become_settings_and_name_themselves_in_errors() {
        let app = app_file(
            "a.js",
            &options(|o| {
                o.instances = Some("-1".into());
                o.kill_timeout = Some("2s".into());
                o.env = vec!["A=b=c".into()];
            }),
        )
        .unwrap();
        assert_eq!(app.instances.unwrap().value, Instances::AllBut(1));
        assert_eq!(app.kill_timeout.unwrap().value, Duration::from_secs(2));
        assert_eq!((app.env[0].0.value.as_str(), app.env[0].1.as_str()), ("A", "b=c"));

        let error = app_file("a.js", &options(|o| o.instances = Some("many".into()))).unwrap_err();
        assert_eq!(error.report(), "error: -i: `instances`: `many` is neither a number nor `max`\n");
        let error = app_file("a.js", &options(|o| o.env = vec!["A".into()])).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_start_that_failed_says_which_and_why_with_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("jobs-error.log");
        std::fs::write(&log, "old\nError: no database\x1b[0m\n").unwrap();
        let mut snapshot = snapshot();
        snapshot.instances[2].error_log = log.clone();
        let error = not_online(&[&snapshot.instances[2]], None);
        let expected = format!(
            "error: app `jobs`: instance 0 (id 2) is errored\ncause: 16 quick deaths in a row\nlast lines of {}:\n  old\n  \
             Error: no database\\u{{1b}}[0m\nhint:  `herdwire logs jobs --err` shows more\n",
            log.display()
        );
        assert_eq!(error.report(), expected);
    }

    #[test]
    fn an_instance_that_ended_well_is_no_failure() {
        let mut instance = snapshot().instances[2].clone();
        assert!(!is_well(&instance));
        instance.status = Status::Stopped;
        instance.reason = None;
        assert!(!is_well(&instance), "ended by a signal");
        instance.last_exit = Some(ExitView::Code(0));
        assert!(is_well(&instance));
    }
}
