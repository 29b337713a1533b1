//! As whom and within which bounds an app runs: user, groups, limits of the process and of its cgroup.
//!
//! Looks users and groups up, so that a name that does not exist is refused here and not at the first spawn; whether
//! this process may become somebody else is said as a warning, since it is the supervisor that will.

use std::collections::BTreeMap;

use nix::unistd::{Group, User};
use toml::de::DeValue;

use super::error::{At, ConfigError, Place, Problem};
use super::resolve::bad;
use super::section::{Section, integer};
use super::spec::{Bounds, Limit};
use super::units;

/// `setrlimit(2)`'s limits: their keys, and whether they count bytes.
const LIMITS: [(&str, Limit, bool); 15] = [
    ("as", Limit::As, true),
    ("core", Limit::Core, true),
    ("cpu", Limit::Cpu, false),
    ("data", Limit::Data, true),
    ("fsize", Limit::Fsize, true),
    ("memlock", Limit::Memlock, true),
    ("msgqueue", Limit::Msgqueue, true),
    ("nice", Limit::Nice, false),
    ("nofile", Limit::Nofile, false),
    ("nproc", Limit::Nproc, false),
    ("rss", Limit::Rss, true),
    ("rtprio", Limit::Rtprio, false),
    ("rttime", Limit::Rttime, false),
    ("sigpending", Limit::Sigpending, false),
    ("stack", Limit::Stack, true),
];

/// A limit, its soft and its hard value.
pub type LimitPair = (Limit, (u64, u64));

/// What somebody wrote.
#[derive(Debug, Default)]
pub struct BoundsFile {
    pub user: Option<At<String>>,
    pub group: Option<At<String>>,
    pub groups: Option<Vec<At<String>>>,
    pub umask: Option<At<u32>>,
    pub nice: Option<At<i32>>,
    pub limits: Vec<LimitPair>,
    pub no_new_privs: Option<At<bool>>,
    pub oom_score: Option<At<i32>>,
    pub memory_max: Option<At<u64>>,
    pub tasks_max: Option<At<u64>>,
    pub cpu_max: Option<At<u32>>,
}

impl BoundsFile {
    /// Reads its keys of an app.
    pub(super) fn read(section: &mut Section<'_>) -> Result<BoundsFile, ConfigError> {
        Ok(BoundsFile {
            user: section.word_of("user")?,
            group: section.word_of("group")?,
            groups: section.words("groups")?,
            umask: section.read("umask", "an octal number in quotes, such as \"027\"", umask)?,
            nice: section.number("nice")?,
            limits: match section.within("limits", "[app.limits]")? {
                Some(limits) => read_limits(limits)?,
                None => Vec::new(),
            },
            no_new_privs: section.boolean("no_new_privs")?,
            oom_score: section.number("oom_score_adj")?,
            memory_max: section.size("memory_max")?,
            tasks_max: section.number("tasks_max")?,
            cpu_max: section.read("cpu_max", "a percentage such as \"150%\"", percent)?,
        })
    }

    /// Applies the defaults and checks.
    pub(super) fn resolve(&self) -> Result<Bounds, ConfigError> {
        if let Some(user) = &self.user {
            exists("user", user, |name| User::from_name(name).map(|user| user.is_some()))?;
        }
        let group = |at: &At<String>, key| exists(key, at, |name| Group::from_name(name).map(|group| group.is_some()));
        self.group.iter().try_for_each(|at| group(at, "group"))?;
        self.groups.iter().flatten().try_for_each(|at| group(at, "groups"))?;
        within(&self.nice, "nice", -20..=19)?;
        within(&self.oom_score, "oom_score_adj", -1000..=1000)?;
        within(&self.memory_max, "memory_max", 1 << 20..=units::MAX_SIZE)?;
        within(&self.tasks_max, "tasks_max", 1..=4_194_304)?;
        within(&self.cpu_max, "cpu_max", 1..=100_000)?;
        let plain = |at: &At<String>| at.value.clone();
        Ok(Bounds {
            user: self.user.as_ref().map(plain),
            group: self.group.as_ref().map(plain),
            groups: self.groups.as_ref().map(|groups| groups.iter().map(plain).collect()),
            umask: self.umask.as_ref().map(|at| at.value),
            nice: self.nice.as_ref().map(|at| at.value),
            limits: self.limits.iter().copied().collect::<BTreeMap<_, _>>(),
            no_new_privs: self.no_new_privs.as_ref().is_some_and(|at| at.value),
            oom_score: self.oom_score.as_ref().map(|at| at.value),
            memory_max: self.memory_max.as_ref().map(|at| at.value),
            tasks_max: self.tasks_max.as_ref().map(|at| at.value),
            cpu_max: self.cpu_max.as_ref().map(|at| at.value),
        })
    }
}

/// Whether a supervisor of user `uid` can run an app like this; else why not, for a warning.
pub(super) fn privilege(bounds: &Bounds, uid: u32) -> Option<String> {
    if uid == 0 {
        return None;
    }
    let name = bounds.user.as_ref()?;
    let wanted = name.parse().ok().or_else(|| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()));
    (wanted != Some(uid)).then(|| format!("it is to run as user `{name}`, which only a supervisor of root can do"))
}

/// A value within limits, if there is one.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    value: &Option<At<T>>,
    key: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), ConfigError> {
    match value {
        Some(At { value, place }) if !range.contains(value) => {
            Err(bad(key, *place, format!("{value} is not from {} to {}", range.start(), range.end())))
        }
        _ => Ok(()),
    }
}

/// Numbers are taken as they are: they need no entry.
fn exists(
    key: &str,
    At { value, place }: &At<String>,
    known: impl Fn(&str) -> nix::Result<bool>,
) -> Result<(), ConfigError> {
    if value.parse::<u32>().is_ok() {
        return Ok(());
    }
    let what = if key == "user" { "user" } else { "group" };
    match known(value) {
        Ok(true) => Ok(()),
        Ok(false) => Err(bad(key, *place, format!("there is no {what} `{}`", value.escape_debug()))),
        Err(error) => Err(bad(key, *place, format!("{what} `{}` cannot be looked up: {error}", value.escape_debug()))),
    }
}

fn umask(value: &DeValue<'_>) -> Result<u32, Option<String>> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        // `0o27` says that it is octal; `27` might mean either.
        DeValue::Integer(number) if number.radix() == 8 => number.as_str().to_owned(),
        _ => return Err(None),
    };
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err(Some(format!("`{text}` is not an octal number from 000 to 777"))),
    }
}

fn percent(value: &DeValue<'_>) -> Result<u32, Option<String>> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(_) => integer(value).ok_or(None)?.to_string(),
        _ => return Err(None),
    };
    let number = text.trim().trim_end_matches('%').trim_end();
    number.parse().map_err(|_| Some(format!("`{text}` is not a percentage of one CPU; write for instance \"150%\"")))
}

fn read_limits(mut section: Section<'_>) -> Result<Vec<LimitPair>, ConfigError> {
    const EXPECTED: &str = "a number, \"unlimited\", or a list of a soft and a hard limit";
    let mut limits = Vec::new();
    for (key, limit, bytes) in LIMITS {
        let read = section.read(key, EXPECTED, |value| match value {
            DeValue::Array(pair) => match pair.iter().map(|item| item.get_ref()).collect::<Vec<_>>()[..] {
                [soft, hard] => Ok((one_limit(soft, bytes)?, one_limit(hard, bytes)?)),
                _ => Err(None),
            },
            both => one_limit(both, bytes).map(|both| (both, both)),
        })?;
        let Some(At { value: (soft, hard), place }) = read else { continue };
        if soft > hard {
            return Err(bad(&format!("limits.{key}"), place, "the soft limit is above the hard one".to_owned()));
        }
        limits.push((limit, (soft, hard)));
    }
    section.finish()?;
    Ok(limits)
}

fn one_limit(value: &DeValue<'_>, bytes: bool) -> Result<u64, Option<String>> {
    match value {
        DeValue::String(text) if matches!(text.as_ref(), "unlimited" | "infinity") => Ok(u64::MAX),
        DeValue::String(text) if bytes => units::size(text).map_err(Some),
        DeValue::String(text) => {
            text.parse().map_err(|_| Some(format!("`{text}` is not a limit; write a number or \"unlimited\"")))
        }
        DeValue::Integer(_) => {
            let number = integer(value).ok_or(None)?;
            u64::try_from(number).map_err(|_| Some(format!("{number} is negative; for none write \"unlimited\"")))
        }
        _ => Err(None),
    }
}

/// A setting that another one needs.
pub(super) fn needs(key: &str, place: Place, other: &str) -> ConfigError {
    let (reason, hint) = (format!("is of no use without `{other}`"), Some(format!("set `{other}`, or remove it")));
    ConfigError::at(place, Problem::Value { key: key.to_owned(), reason, hint })
}
