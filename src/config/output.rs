//! Where an app's output goes: files, their format, their rotation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::bounds::within;
use super::error::{At, ConfigError, Place, Problem};
use super::resolve::bad;
use super::script;
use super::section::{Section, Within};
use super::spec::{AppSpec, LogFile, LogFormat, LogMode, LogSpec, Rotation};
use super::units;
use crate::logs;

/// pm2's `time = true`.
const TIME: &str = "YYYY-MM-DDTHH:mm:ss";

/// What somebody wrote.
#[derive(Debug, Default)]
pub struct OutputFile {
    pub out_file: Option<At<String>>,
    pub error_file: Option<At<String>>,
    pub log_file: Option<At<String>>,
    pub merge_logs: Option<At<bool>>,
    pub log_mode: Option<At<LogMode>>,
    pub disable_logs: Option<At<bool>>,
    pub log_date_format: Option<At<String>>,
    pub time: Option<At<bool>>,
    /// Whether lines become JSON.
    pub json: Option<At<bool>>,
    pub rotate: RotateFile,
}

/// `[app.rotate]`.
#[derive(Debug, Default)]
pub struct RotateFile {
    /// `rotate = false`.
    pub switch: Option<At<bool>>,
    pub size: Option<At<u64>>,
    pub age: Option<At<Duration>>,
    pub keep: Option<At<u32>>,
    pub compress: Option<At<bool>>,
}

impl OutputFile {
    /// Reads its keys of an app.
    pub(super) fn read(section: &mut Section<'_>) -> Result<OutputFile, ConfigError> {
        Ok(OutputFile {
            out_file: log_path(section, "out_file")?,
            error_file: log_path(section, "error_file")?,
            log_file: log_path(section, "log_file")?,
            merge_logs: section.boolean("merge_logs")?,
            log_mode: section.read("log_mode", "\"pipe\", \"file\" or \"off\"", |value| match value.as_str() {
                Some("pipe") => Ok(LogMode::Pipe),
                Some("file") => Ok(LogMode::File),
                Some("off") => Ok(LogMode::Off),
                Some(other) => Err(Some(format!("`{}` is none of pipe, file and off", other.escape_debug()))),
                None => Err(None),
            })?,
            disable_logs: section.boolean("disable_logs")?,
            log_date_format: section.text("log_date_format")?,
            time: section.boolean("time")?,
            json: section.read("log_type", "\"raw\" or \"json\"", |value| match value.as_str() {
                Some("json") => Ok(true),
                Some("raw" | "") => Ok(false),
                Some(other) => Err(Some(format!("`{}` is neither raw nor json", other.escape_debug()))),
                None => Err(None),
            })?,
            rotate: match section.within_or_switch("rotate", "[app.rotate]")? {
                None => RotateFile::default(),
                Some(Within::Switch(switch)) => RotateFile { switch: Some(switch), ..RotateFile::default() },
                Some(Within::Table(table)) => RotateFile::read(table)?,
            },
        })
    }

    /// Applies the defaults and checks. Relative paths count from `cwd`, as in pm2.
    pub(super) fn resolve(&self, cwd: &Path, instances: u32) -> Result<LogSpec, ConfigError> {
        let mode = self.mode()?;
        let format = self.format();
        let merge = self.merge_logs.as_ref().is_some_and(|merge| merge.value);
        if mode == LogMode::File {
            let place = self.log_mode.as_ref().map_or(Place::Whole, |mode| mode.place);
            let wrong = |reason: &str| Err(bad("log_mode", place, reason.to_owned()));
            if format != LogFormat::Raw {
                return wrong(
                    "with `file` nobody renders the lines: neither `time`, `log_date_format` nor `log_type` can be",
                );
            }
            if merge && instances > 1 {
                return wrong("with `file` several instances cannot share a file: remove `merge_logs`");
            }
            if self.log_file.is_some() {
                return wrong("with `file` nobody sees the lines: there can be no `log_file` of both");
            }
        }
        Ok(LogSpec {
            mode,
            out: file("out_file", &self.out_file, cwd)?,
            error: file("error_file", &self.error_file, cwd)?,
            combined: match file("log_file", &self.log_file, cwd)? {
                LogFile::At(path) => Some(path),
                LogFile::Default | LogFile::Off => None,
            },
            merge,
            format,
            rotation: self.rotate.resolve()?,
        })
    }

    fn mode(&self) -> Result<LogMode, ConfigError> {
        let off = self.disable_logs.as_ref().filter(|off| off.value);
        match (&self.log_mode, off) {
            (Some(mode), Some(off)) if mode.value != LogMode::Off => {
                Err(ConfigError::at(off.place, Problem::Either { key: "disable_logs", other: "log_mode" }))
            }
            (_, Some(_)) => Ok(LogMode::Off),
            (mode, None) => Ok(mode.as_ref().map_or(LogMode::Pipe, |mode| mode.value)),
        }
    }

    fn format(&self) -> LogFormat {
        let said = self.log_date_format.as_ref().map(|at| at.value.clone()).filter(|format| !format.is_empty());
        let time = self.time.as_ref().is_some_and(|time| time.value).then(|| TIME.to_owned());
        match (self.json.as_ref().is_some_and(|json| json.value), said.or(time)) {
            (true, stamp) => LogFormat::Json(stamp),
            (false, Some(stamp)) => LogFormat::Stamped(stamp),
            (false, None) => LogFormat::Raw,
        }
    }

    /// Where a file's name was written, for what is found wrong with it later.
    fn place_of(&self, file: &Path, spec: &LogSpec) -> Option<Place> {
        let is = |log: &LogFile| matches!(log, LogFile::At(path) if path == file);
        let written = match () {
            () if is(&spec.out) => &self.out_file,
            () if is(&spec.error) => &self.error_file,
            () => &self.log_file,
        };
        written.as_ref().map(|at| at.place)
    }
}

impl RotateFile {
    fn read(mut section: Section<'_>) -> Result<RotateFile, ConfigError> {
        let rotate = RotateFile {
            switch: None,
            size: section.size("size")?,
            age: section.duration("age")?,
            keep: section.number("keep")?,
            compress: section.boolean("compress")?,
        };
        section.finish()?;
        Ok(rotate)
    }

    fn resolve(&self) -> Result<Rotation, ConfigError> {
        let default = Rotation::default();
        if self.switch.as_ref().is_some_and(|on| !on.value) {
            return Ok(Rotation { max_bytes: None, max_age: None, ..default });
        }
        within(&self.size, "rotate.size", 1 << 10..=units::MAX_SIZE)?;
        within(&self.keep, "rotate.keep", 0..=1000)?;
        if let Some(At { value, place }) = &self.age
            && *value < Duration::from_secs(1)
        {
            return Err(bad("rotate.age", *place, "is less than a second".to_owned()));
        }
        Ok(Rotation {
            max_bytes: self.size.as_ref().map_or(default.max_bytes, |size| Some(size.value)),
            max_age: self.age.as_ref().map(|age| age.value),
            keep: self.keep.as_ref().map_or(default.keep, |keep| keep.value),
            compress: self.compress.as_ref().map_or(default.compress, |compress| compress.value),
        })
    }
}

/// A file by name; `false` stands for none.
fn log_path(section: &mut Section<'_>, key: &'static str) -> Result<Option<At<String>>, ConfigError> {
    let path = section.read(key, "a file's name, or false", |value| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(false) => Ok("/dev/null".to_owned()),
        _ => Err(None),
    })?;
    match &path {
        Some(At { value, place }) if value.contains('\0') => {
            Err(ConfigError::at(*place, Problem::Nul { key: key.to_owned() }))
        }
        Some(At { value, place }) if value.is_empty() => Err(bad(key, *place, "is empty".to_owned())),
        _ => Ok(path),
    }
}

fn file(key: &str, written: &Option<At<String>>, cwd: &Path) -> Result<LogFile, ConfigError> {
    let Some(At { value, place }) = written else { return Ok(LogFile::Default) };
    // pm2's two ways to say "nowhere".
    if value == "NULL" || value == "/dev/null" {
        return Ok(LogFile::Off);
    }
    let path = script::absolute(cwd, value);
    if path.is_dir() || value.ends_with('/') {
        return Err(bad(key, *place, format!("`{}` is a folder", path.display())));
    }
    Ok(LogFile::At(path))
}

/// Refuses a log file that two apps write to, unless both merge.
pub(super) fn check_files<'a>(apps: impl Iterator<Item = (&'a AppSpec, &'a OutputFile)>) -> Result<(), ConfigError> {
    let mut taken: Vec<(PathBuf, &AppSpec)> = Vec::new();
    for (app, written) in apps {
        if app.logs.mode == LogMode::Off {
            continue;
        }
        for path in explicit(&app.logs) {
            let other = taken.iter().find(|(other, by)| *other == path && !(by.logs.merge && app.logs.merge));
            if let Some((_, by)) = other {
                let place = written.place_of(&path, &app.logs).unwrap_or_default();
                let (app, file, by) = (app.name.clone(), path, by.name.clone());
                return Err(ConfigError::at(place, Problem::TwiceLogged { app, file, by }));
            }
        }
        taken.extend(explicit(&app.logs).into_iter().map(|path| (path, app)));
    }
    Ok(())
}

/// What is probably not meant in an app's logs, as a sentence.
pub(super) fn warning(app: &AppSpec) -> Option<String> {
    let (LogFormat::Stamped(pattern) | LogFormat::Json(Some(pattern))) = &app.logs.format else { return None };
    let odd = logs::oddity(pattern)?;
    Some(format!("app `{}`: `log_date_format` {odd}", app.name))
}

fn explicit(logs: &LogSpec) -> Vec<PathBuf> {
    let at = |file: &LogFile| match file {
        LogFile::At(path) => Some(path.clone()),
        LogFile::Default | LogFile::Off => None,
    };
    at(&logs.out).into_iter().chain(at(&logs.error)).chain(logs.combined.clone()).collect()
}
