//! What restarts an app besides its own end: a schedule, a change of files.

use std::path::Path;
use std::time::Duration;

use croner::parser::{CronParser, Year};
use globset::Glob;
use toml::de::DeValue;

use super::bounds::needs;
use super::error::{At, ConfigError, Problem};
use super::resolve::bad;
use super::script;
use super::section::Section;
use super::spec::{Cron, Triggers, Watch};

/// What is not looked at unless configured, as in pm2: hidden files and Node's modules.
const IGNORED: [&str; 4] = ["**/.*", "**/.*/**", "**/node_modules", "**/node_modules/**"];
/// Quiet time after a change, unless configured.
const SETTLE: Duration = Duration::from_millis(200);

/// What somebody wrote.
#[derive(Debug, Default)]
pub struct TriggersFile {
    pub cron: Option<At<String>>,
    pub zone: Option<At<String>>,
    pub watch: Option<At<WatchFile>>,
    pub ignore: Option<Vec<At<String>>>,
    pub delay: Option<At<Duration>>,
}

/// `watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFile {
    /// The app's folder, or nothing.
    Switch(bool),
    Paths(Vec<String>),
}

impl TriggersFile {
    /// Reads its keys of an app.
    pub(super) fn read(section: &mut Section<'_>) -> Result<TriggersFile, ConfigError> {
        Ok(TriggersFile {
            cron: section.word_of("cron_restart")?,
            zone: section.text("cron_timezone")?,
            watch: section.read("watch", "true, a path, or a list of paths", watch)?,
            ignore: section.words("ignore_watch")?,
            delay: section.duration("watch_delay")?,
        })
    }

    /// Applies the defaults and checks.
    pub(super) fn resolve(&self, cwd: &Path) -> Result<Triggers, ConfigError> {
        Ok(Triggers { cron: self.resolve_cron()?, watch: self.resolve_watch(cwd)? })
    }

    fn resolve_cron(&self) -> Result<Option<Cron>, ConfigError> {
        // pm2's way to say that there is none.
        let Some(At { value: pattern, place }) = self.cron.as_ref().filter(|cron| cron.value != "0") else {
            return match &self.zone {
                Some(zone) => Err(needs("cron_timezone", zone.place, "cron_restart")),
                None => Ok(None),
            };
        };
        let wrong = |reason: String| {
            let hint = "for instance \"0 3 * * *\" for three at night, or \"*/30 * * * * *\" with seconds";
            let problem = Problem::Value { key: "cron_restart".into(), reason, hint: Some(hint.into()) };
            ConfigError::at(*place, problem)
        };
        let shown = pattern.escape_debug();
        let cron = CronParser::builder().year(Year::Disallowed).build().parse(pattern);
        let cron = cron.map_err(|error| wrong(format!("`{shown}` is not a schedule: {error}")))?;
        let zone = match &self.zone {
            None => jiff::tz::TimeZone::system(),
            Some(At { value, place }) => jiff::tz::TimeZone::get(value).map_err(|_| {
                let reason = format!("there is no time zone `{}`", value.escape_debug());
                let hint = Some("for instance \"Europe/Berlin\" or \"UTC\"".to_owned());
                ConfigError::at(*place, Problem::Value { key: "cron_timezone".into(), reason, hint })
            })?,
        };
        cron.find_next_occurrence(&jiff::Timestamp::now().to_zoned(zone), false)
            .map_err(|_| wrong(format!("`{shown}` never comes")))?;
        Ok(Some(Cron { pattern: pattern.trim().to_owned(), zone: self.zone.as_ref().map(|zone| zone.value.clone()) }))
    }

    fn resolve_watch(&self, cwd: &Path) -> Result<Option<Watch>, ConfigError> {
        let (paths, place) = match &self.watch {
            Some(At { value: WatchFile::Switch(true), place }) => (vec![cwd.to_owned()], *place),
            Some(At { value: WatchFile::Paths(paths), place }) => {
                (paths.iter().map(|path| script::absolute(cwd, path)).collect(), *place)
            }
            // What else is set says how, should it be switched on.
            Some(At { value: WatchFile::Switch(false), .. }) => return Ok(None),
            None => {
                let idle = self.ignore.iter().flatten().map(|at| ("ignore_watch", at.place)).next();
                let idle = idle.or(self.delay.as_ref().map(|delay| ("watch_delay", delay.place)));
                return idle.map_or(Ok(None), |(key, place)| Err(needs(key, place, "watch")));
            }
        };
        for path in &paths {
            check_watched(path).map_err(|reason| {
                let hint = Some("name the folders that its program is in".to_owned());
                ConfigError::at(place, Problem::Value { key: "watch".into(), reason, hint })
            })?;
        }
        let default = || IGNORED.iter().map(|glob| (*glob).to_owned()).collect();
        let ignore = match &self.ignore {
            None => default(),
            Some(globs) => globs.iter().map(glob).collect::<Result<_, _>>()?,
        };
        Ok(Some(Watch { paths, ignore, settle: self.delay.as_ref().map_or(SETTLE, |delay| delay.value) }))
    }
}

fn watch(value: &DeValue<'_>) -> Result<WatchFile, Option<String>> {
    let text = |value: &DeValue<'_>| match value.as_str() {
        Some("") => Err(Some("a path is empty".to_owned())),
        Some(path) if path.contains('\0') => Err(Some("a path holds a NUL byte".to_owned())),
        Some(path) => Ok(path.to_owned()),
        None => Err(None),
    };
    match value {
        DeValue::Boolean(on) => Ok(WatchFile::Switch(*on)),
        DeValue::Array(list) if list.is_empty() => Ok(WatchFile::Switch(false)),
        DeValue::Array(list) => {
            list.iter().map(|item| text(item.get_ref())).collect::<Result<_, _>>().map(WatchFile::Paths)
        }
        other => text(other).map(|path| WatchFile::Paths(vec![path])),
    }
}

/// A whole file system cannot be watched: it has more folders than the kernel has room for, and changes all the time.
fn check_watched(path: &Path) -> Result<(), String> {
    match path.canonicalize() {
        Ok(real) if real == Path::new("/") => Err("`/` is too much to watch".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{}` cannot be watched: {error}", path.display())),
    }
}

fn glob(At { value, place }: &At<String>) -> Result<String, ConfigError> {
    match Glob::new(value) {
        Ok(_) => Ok(value.clone()),
        Err(error) => {
            let reason = format!("`{}` is not a pattern: {}", value.escape_debug(), error.kind());
            Err(bad("ignore_watch", *place, reason))
        }
    }
}
