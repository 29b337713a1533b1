//! What the user wrote: every setting optional, each with its place. No defaults and no checks of meaning here
//! (`resolve`); types, keys and units are settled when one of these exists.

use std::num::IntErrorKind;
use std::time::Duration;

use toml::de::DeValue;

use super::bounds::BoundsFile;
use super::error::{At, ConfigError, Place, Problem};
use super::health::HealthFile;
use super::output::OutputFile;
use super::reload::ReloadFile;
use super::section::{Named, Section, Text, integer};
use super::spec::Transport;
use super::triggers::TriggersFile;
use super::{signal, words};

/// A configuration file, or what a command line stands for.
#[derive(Debug, Default)]
pub struct File {
    pub apps: Vec<AppFile>,
    pub redis: Option<RedisFile>,
    pub front: Option<FrontFile>,
    pub status: Option<StatusFile>,
}

/// `[[app]]`.
#[derive(Debug, Default)]
pub struct AppFile {
    pub place: Place,
    pub name: Option<At<String>>,
    pub script: Option<At<String>>,
    pub args: Option<At<Vec<String>>>,
    pub interpreter: Option<At<String>>,
    pub node_args: Option<At<Vec<String>>>,
    pub instances: Option<At<Instances>>,
    pub env: Vec<(At<String>, String)>,
    pub cwd: Option<At<String>>,
    pub herd: Option<At<String>>,
    pub listen: Vec<At<String>>,
    pub bridge: Vec<At<String>>,
    pub autostart: Option<At<bool>>,
    pub autorestart: Option<At<bool>>,
    pub max_restarts: Option<At<u32>>,
    pub min_uptime: Option<At<Duration>>,
    pub restart_delay: Option<At<Duration>>,
    pub kill_signal: Option<At<i32>>,
    pub kill_timeout: Option<At<Duration>>,
    pub wait_ready: Option<At<bool>>,
    pub listen_timeout: Option<At<Duration>>,
    pub ring_size: Option<At<u64>>,
    pub max_message: Option<At<u64>>,
    pub stall_timeout: Option<At<Duration>>,
    pub transport: Option<At<Transport>>,
    pub env_file: Vec<At<String>>,
    pub restart_window: Option<At<Duration>>,
    pub exp_backoff_restart_delay: Option<At<Duration>>,
    pub exp_backoff_max: Option<At<Duration>>,
    pub exp_backoff_reset: Option<At<Duration>>,
    pub stop_exit_codes: Vec<At<String>>,
    pub shutdown_with_message: Option<At<bool>>,
    pub depends_on: Vec<Named>,
    pub bounds: BoundsFile,
    pub output: OutputFile,
    pub health: HealthFile,
    pub triggers: TriggersFile,
    pub reload: ReloadFile,
}

/// pm2's other names of keys.
const ALIASES: [(&str, &str); 20] = [
    ("exec", "script"),
    ("cmd", "script"),
    ("command", "script"),
    ("exec_interpreter", "interpreter"),
    ("interpreter_args", "node_args"),
    ("uid", "user"),
    ("gid", "group"),
    ("out", "out_file"),
    ("output", "out_file"),
    ("out_log", "out_file"),
    ("error", "error_file"),
    ("err", "error_file"),
    ("err_file", "error_file"),
    ("err_log", "error_file"),
    ("log", "log_file"),
    ("combine_logs", "merge_logs"),
    ("cron", "cron_restart"),
    ("timezone", "cron_timezone"),
    ("env_files", "env_file"),
    ("oom_score", "oom_score_adj"),
];

/// How many instances somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// So many.
    Exactly(u64),
    /// One for each CPU but so many: `max` is 0, -1 is 1.
    AllBut(u64),
}

impl Instances {
    /// Reads a number; 0 is `max`, as in pm2.
    pub fn from_number(number: i64) -> Instances {
        match number {
            1.. => Instances::Exactly(number.unsigned_abs()),
            _ => Instances::AllBut(number.unsigned_abs()),
        }
    }

    /// Reads what stands on a command line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn from_text(text: &str) -> Result<Instances, String> {
        match text.parse::<i64>() {
            Ok(number) => Ok(Instances::from_number(number)),
            Err(_) if text == "max" => Ok(Instances::AllBut(0)),
            Err(error) if *error.kind() != IntErrorKind::InvalidDigit && *error.kind() != IntErrorKind::Empty => {
                Err(format!("`{text}` is out of range"))
            }
            Err(_) => Err(format!("`{text}` is neither a number nor `max`")),
        }
    }
}

/// `[redis]`.
#[derive(Debug, Default)]
pub struct RedisFile {
    pub place: Place,
    pub url: Option<Secret>,
    pub url_env: Option<At<String>>,
    pub spool: Option<At<u64>>,
}

/// `[front]`.
#[derive(Debug, Default)]
pub struct FrontFile {
    pub place: Place,
    pub listen: Option<At<String>>,
    pub files: Option<At<String>>,
    pub max_connections: Option<At<u32>>,
    pub origins: Vec<At<String>>,
    pub paths: Vec<PathFile>,
}

/// `[[front.path]]`.
#[derive(Debug, Default)]
pub struct PathFile {
    pub place: Place,
    pub path: Option<At<String>>,
    pub herd: Option<At<String>>,
    pub channels: Option<Vec<At<String>>>,
    pub handshake: Option<At<String>>,
    pub token: Option<Secret>,
    pub token_env: Option<At<String>>,
    pub max_message: Option<At<u64>>,
    pub queue: Option<At<u64>>,
}

/// `[status]`.
#[derive(Debug, Default)]
pub struct StatusFile {
    pub place: Place,
    pub listen: Option<At<String>>,
    pub token: Option<Secret>,
    pub token_env: Option<At<String>>,
}

/// A string that does not show itself.
pub struct Secret(pub At<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl File {
    /// Reads the text of a `herdwire.toml`.
    ///
    /// # Errors
    /// The first thing that is not as it must be, with its line and column.
    pub fn parse(text: &str) -> Result<File, ConfigError> {
        let text = Text::new(text);
        let table = text.parse()?;
        let mut root = Section::new(&text, table.get_ref(), "the file", Place::Whole);
        let apps = root.sections("app", "[[app]]")?.into_iter().map(AppFile::read).collect::<Result<_, _>>()?;
        let file = File {
            apps,
            redis: root.section("redis")?.map(RedisFile::read).transpose()?,
            front: root.section("front")?.map(FrontFile::read).transpose()?,
            status: root.section("status")?.map(StatusFile::read).transpose()?,
        };
        root.finish()?;
        Ok(file)
    }

    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.redis.is_none() && self.front.is_none() && self.status.is_none()
    }
}

impl AppFile {
    fn read(section: Section<'_>) -> Result<AppFile, ConfigError> {
        let mut section = section.with_aliases(&ALIASES);
        let app = AppFile {
            place: section.place(),
            name: section.text("name")?,
            script: section.text("script")?,
            args: arguments(&mut section, "args")?,
            interpreter: section.text("interpreter")?,
            node_args: arguments(&mut section, "node_args")?,
            instances: section.read("instances", "a whole number or \"max\"", instances)?,
            env: section.variables("env")?,
            cwd: section.text("cwd")?,
            herd: section.text("herd")?,
            listen: section.strings("listen")?.unwrap_or_default(),
            bridge: section.strings("bridge")?.unwrap_or_default(),
            autostart: section.boolean("autostart")?,
            autorestart: section.boolean("autorestart")?,
            max_restarts: section.number("max_restarts")?,
            min_uptime: section.duration("min_uptime")?,
            restart_delay: section.duration("restart_delay")?,
            kill_signal: section.read("kill_signal", "a signal such as \"SIGINT\"", kill_signal)?,
            kill_timeout: section.duration("kill_timeout")?,
            wait_ready: section.boolean("wait_ready")?,
            listen_timeout: section.duration("listen_timeout")?,
            ring_size: section.size("ring_size")?,
            max_message: section.size("max_message")?,
            stall_timeout: section.duration("stall_timeout")?,
            transport: section.read("transport", "\"native\" or \"pipe\"", transport)?,
            env_file: section.words("env_file")?.unwrap_or_default(),
            restart_window: section.duration("restart_window")?,
            exp_backoff_restart_delay: section.duration("exp_backoff_restart_delay")?,
            exp_backoff_max: section.duration("exp_backoff_max")?,
            exp_backoff_reset: section.duration("exp_backoff_reset")?,
            stop_exit_codes: section.words("stop_exit_codes")?.unwrap_or_default(),
            shutdown_with_message: section.boolean("shutdown_with_message")?,
            depends_on: section
                .named("depends_on", "a name, a list of names, or a table such as { db = \"ready\" }")?,
            bounds: BoundsFile::read(&mut section)?,
            output: OutputFile::read(&mut section)?,
            health: HealthFile::read(&mut section)?,
            triggers: TriggersFile::read(&mut section)?,
            reload: ReloadFile::read(&mut section)?,
        };
        section.finish()?;
        Ok(app)
    }
}

impl RedisFile {
    fn read(mut section: Section<'_>) -> Result<RedisFile, ConfigError> {
        let redis = RedisFile {
            place: section.place(),
            url: section.text("url")?.map(Secret),
            url_env: section.text("url_env")?,
            spool: section.size("spool")?,
        };
        section.finish()?;
        Ok(redis)
    }
}

impl FrontFile {
    fn read(mut section: Section<'_>) -> Result<FrontFile, ConfigError> {
        let front = FrontFile {
            place: section.place(),
            listen: section.text("listen")?,
            files: section.text("files")?,
            max_connections: section.number("max_connections")?,
            origins: section.strings("origins")?.unwrap_or_default(),
            paths: section
                .sections("path", "[[front.path]]")?
                .into_iter()
                .map(PathFile::read)
                .collect::<Result<_, _>>()?,
        };
        section.finish()?;
        Ok(front)
    }
}

impl PathFile {
    fn read(mut section: Section<'_>) -> Result<PathFile, ConfigError> {
        let path = PathFile {
            place: section.place(),
            path: section.text("path")?,
            herd: section.text("herd")?,
            channels: section.strings("channels")?,
            handshake: section.text("handshake")?,
            token: section.text("token")?.map(Secret),
            token_env: section.text("token_env")?,
            max_message: section.size("max_message")?,
            queue: section.size("queue")?,
        };
        section.finish()?;
        Ok(path)
    }
}

impl StatusFile {
    fn read(mut section: Section<'_>) -> Result<StatusFile, ConfigError> {
        let status = StatusFile {
            place: section.place(),
            listen: section.text("listen")?,
            token: section.text("token")?.map(Secret),
            token_env: section.text("token_env")?,
        };
        section.finish()?;
        Ok(status)
    }
}

/// `args`: a list of strings, or one string with quotes.
fn arguments(section: &mut Section<'_>, key: &'static str) -> Result<Option<At<Vec<String>>>, ConfigError> {
    let args = section.read(key, "a list of strings, or a string", |value| match value {
        DeValue::String(text) => words::split(text).map_err(Some),
        DeValue::Array(list) => {
            let words = list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<_>>();
            words.ok_or_else(|| Some("every argument must be a string".to_owned()))
        }
        _ => Err(None),
    })?;
    match &args {
        Some(At { value, place }) if value.iter().any(|arg| arg.contains('\0')) => {
            Err(ConfigError::at(*place, Problem::Nul { key: key.to_owned() }))
        }
        _ => Ok(args),
    }
}

fn instances(value: &DeValue<'_>) -> Result<Instances, Option<String>> {
    match value {
        DeValue::String(text) => Instances::from_text(text).map_err(Some),
        DeValue::Integer(_) => integer(value).map(Instances::from_number).ok_or(None),
        _ => Err(None),
    }
}

fn transport(value: &DeValue<'_>) -> Result<Transport, Option<String>> {
    match value {
        DeValue::String(text) => [Transport::Native, Transport::Pipe]
            .into_iter()
            .find(|transport| transport.as_str() == text)
            .map_or_else(|| Err(Some(format!("`{text}` is neither \"native\" nor \"pipe\""))), Ok),
        _ => Err(None),
    }
}

fn kill_signal(value: &DeValue<'_>) -> Result<i32, Option<String>> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(_) => integer(value).ok_or(None)?.to_string(),
        _ => return Err(None),
    };
    signal::number(&text).map_err(Some)
}
