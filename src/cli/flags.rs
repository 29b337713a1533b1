//! Options of `start` that stand for keys of an `[[app]]`: one table, read by the reader of files.
//!
//! What is given becomes the text of a file, a line for each option, so that a key means the same wherever it is
//! written. Knows how an option is written and which key it is; types, units and checks are `config`'s. A place in
//! that text is the option that the line came from.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::file::{AppFile, File};
use crate::config::{ConfigError, Place};

/// How the value of an option is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As a string.
    Text,
    /// As a number if it is one, else as a string.
    Number,
    /// Several, by commas or by giving the option again.
    List,
    /// A number without a unit counts seconds, as in pm2.
    Seconds,
    /// The option alone stands for `true`; with `=VALUE`, for a list.
    SwitchOrList,
    /// No value: it stands for this.
    Word(&'static str),
}

use Shape::{List, Number, Seconds, SwitchOrList, Text, Word};

/// One option.
struct Flag {
    /// With its hyphens: what errors call it.
    name: &'static str,
    short: Option<char>,
    aliases: &'static [&'static str],
    /// The key of `[[app]]`, perhaps within a table.
    key: &'static str,
    shape: Shape,
    help: &'static str,
}

const fn flag(name: &'static str, key: &'static str, shape: Shape, help: &'static str) -> Flag {
    Flag { name, short: None, aliases: &[], key, shape, help }
}

impl Flag {
    const fn short(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }

    const fn or(self, aliases: &'static [&'static str]) -> Flag {
        Flag { aliases, ..self }
    }

    fn id(&self) -> &'static str {
        self.name.trim_start_matches('-')
    }

    fn value_name(&self) -> &'static str {
        match (self.shape, self.key) {
            (Number, _) => "N",
            (List, "groups") => "GROUPS",
            (Text, "node_args") => "ARGS",
            (List, "limits") => "NAME=LIMIT",
            (List, _) => "LIST",
            (Seconds, _) => "TIME",
            (SwitchOrList, _) => "PATHS",
            (Text, "cron_restart") => "SCHEDULE",
            (Text, key) if key.ends_with("file") => "FILE",
            (Text, key) if key.contains("memory") || key.ends_with("size") => "SIZE",
            (Text, key) if key.contains("delay") || key.contains("time") || key.contains("window") => "TIME",
            (Text, "kill_signal") => "SIGNAL",
            (Text, "cron_timezone") => "ZONE",
            (Text, "readiness" | "liveness") => "PROBE",
            (
                Text,
                "watchdog" | "heartbeat" | "rotate.age" | "min_uptime" | "reload.min_ready" | "reload.probation",
            ) => "TIME",
            (Text, "user" | "group") => "NAME",
            (Text, "umask") => "MASK",
            (Text, "cpu_max") => "PERCENT",
            (Text, "exp_backoff_max" | "exp_backoff_reset") => "TIME",
            (Text, "log_date_format") => "PATTERN",
            (Text, "log_mode" | "log_type") => "KIND",
            (Text | Word(_), _) => "VALUE",
        }
    }
}

/// pm2's options under pm2's names, and the rest under those of their keys.
#[rustfmt::skip] // one line each: this is a table
const FLAGS: &[Flag] = &[
    flag("--env-file", "env_file", List, "Files of variables, read when an instance is made; -FILE may be missing"),
    flag("--node-args", "node_args", Text, "Arguments of the interpreter, before the script").or(&["interpreter-args"]),
    flag("--no-autostart", "autostart", Word("false"), "Only add it"),
    flag("--min-uptime", "min_uptime", Text, "An instance that lived this long has started well"),
    flag("--restart-window", "restart_window", Text, "How long a quick death counts"),
    flag("--exp-backoff-restart-delay", "exp_backoff_restart_delay", Text, "The first of waits that grow from restart to restart"),
    flag("--exp-backoff-max", "exp_backoff_max", Text, "The longest of them"),
    flag("--exp-backoff-reset", "exp_backoff_reset", Text, "Online for so long, it begins with the first again"),
    flag("--stop-exit-codes", "stop_exit_codes", List, "Exit codes after which it stays stopped"),
    flag("--kill-signal", "kill_signal", Text, "Signal that asks it to stop"),
    flag("--shutdown-with-message", "shutdown_with_message", Word("true"), "Ask it to stop by a message instead"),
    flag("--depends-on", "depends_on", List, "Apps that must be ready before it"),
    flag("--readiness", "readiness", Text, "tcp://, http:// or exec: that succeeds when it is ready"),
    flag("--liveness", "liveness", Text, "The same while it is online; failures restart it"),
    flag("--notify-descriptor", "notify_descriptor", Number, "Descriptor on which it writes a newline when it is ready"),
    flag("--watchdog", "watchdog", Text, "The most time between two WATCHDOG=1"),
    flag("--heartbeat", "heartbeat", Text, "The most time between two signs of life on the wire"),
    flag("--transport", "transport", Text, "How it reaches the wire: native, or pipe for JSON over a socket"),
    flag("--max-memory-restart", "max_memory_restart", Text, "Restart it above this much memory"),
    flag("--cron-restart", "cron_restart", Text, "Restart it by this schedule").short('c').or(&["cron"]),
    flag("--cron-timezone", "cron_timezone", Text, "The time zone of the schedule"),
    flag("--watch", "watch", SwitchOrList, "Restart it when files change, in its folder or in =PATHS"),
    flag("--ignore-watch", "ignore_watch", List, "Patterns of files that do not count"),
    flag("--watch-delay", "watch_delay", Seconds, "Quiet time after a change; seconds unless it has a unit"),
    flag("--user", "user", Text, "User that it runs as").or(&["uid"]),
    flag("--group", "group", Text, "Group that it runs as").or(&["gid"]),
    flag("--groups", "groups", List, "Supplementary groups"),
    flag("--umask", "umask", Text, "File mode mask, octal"),
    flag("--nice", "nice", Number, "Priority, -20 to 19"),
    flag("--limit", "limits", List, "Limits such as nofile=65536 or core=unlimited"),
    flag("--no-new-privs", "no_new_privs", Word("true"), "Nothing that it executes gains rights"),
    flag("--oom-score-adj", "oom_score_adj", Number, "-1000 to 1000; the higher, the earlier the kernel kills it"),
    flag("--memory-max", "memory_max", Text, "Memory that an instance may use (cgroup)"),
    flag("--tasks-max", "tasks_max", Number, "Processes that an instance may have (cgroup)"),
    flag("--cpu-max", "cpu_max", Text, "CPU time that an instance may use, such as 150% (cgroup)"),
    flag("--output", "out_file", Text, "File of its stdout; /dev/null for none").short('o').or(&["out", "out-file"]),
    flag("--error", "error_file", Text, "File of its stderr").short('e').or(&["error-file"]),
    flag("--log", "log_file", Text, "One more file with both").short('l').or(&["log-file"]),
    flag("--merge-logs", "merge_logs", Word("true"), "All instances write into one pair of files"),
    flag("--log-mode", "log_mode", Text, "pipe, file or off"),
    flag("--disable-logs", "disable_logs", Word("true"), "Keep no logs"),
    flag("--log-date-format", "log_date_format", Text, "Stamp each line by this pattern"),
    flag("--time", "time", Word("true"), "Stamp each line"),
    flag("--log-type", "log_type", Text, "raw or json"),
    flag("--no-rotate", "rotate", Word("false"), "Never put log files aside"),
    flag("--rotate-size", "rotate.size", Text, "Put a log file aside at this size"),
    flag("--rotate-age", "rotate.age", Text, "Put a log file aside at this age"),
    flag("--rotate-keep", "rotate.keep", Number, "How many are kept"),
    flag("--no-rotate-compress", "rotate.compress", Word("false"), "Do not compress those"),
    flag("--min-ready", "reload.min_ready", Text, "In a reload: online for so long before its predecessor goes"),
    flag("--drain-timeout", "reload.drain_timeout", Text, "In a reload: time that an old one has to finish"),
    flag("--reload-parallel", "reload.parallel", Number, "In a reload: how many are replaced at once"),
    flag("--max-failures", "reload.max_failures", Number, "In a reload: failures before all is taken back"),
    flag("--no-rollback", "reload.rollback", Word("false"), "In a reload: do not take anything back"),
    flag("--probation", "reload.probation", Text, "After a reload: how long crashes still take it back"),
];

/// What was given.
#[derive(Debug, Default)]
pub struct Flags {
    /// Option and line, in the order of the table.
    lines: Vec<(&'static str, String)>,
}

impl Flags {
    /// The first option that was given.
    pub fn first(&self) -> Option<&'static str> {
        self.lines.first().map(|(name, _)| *name)
    }

    /// What they say of an app.
    ///
    /// # Errors
    /// A value that cannot be; its place is the option.
    pub fn app(&self) -> Result<AppFile, ConfigError> {
        let lines: Vec<&str> = self.lines.iter().map(|(_, line)| line.as_str()).collect();
        let mut file = File::parse(&format!("[[app]]\n{}\n", lines.join("\n"))).map_err(|error| self.place(error))?;
        Ok(file.apps.pop().expect("the text has one app"))
    }

    /// An error in an option's place instead of its line's.
    pub fn place(&self, mut error: ConfigError) -> ConfigError {
        if let Place::At { line, .. } = error.place {
            // The first line is the app's beginning.
            let at = (line as usize).checked_sub(2).and_then(|at| self.lines.get(at));
            error.place = at.map_or(Place::Whole, |(name, _)| Place::Flag(name));
        }
        error
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| command.arg(argument(flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        Ok(Flags { lines: FLAGS.iter().flat_map(|flag| lines(flag, matches)).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Flags::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let mut argument = Arg::new(flag.id()).long(flag.id()).help(flag.help).help_heading("Settings of the app");
    argument = argument.aliases(flag.aliases.iter().copied());
    if let Some(short) = flag.short {
        argument = argument.short(short);
    }
    argument = match flag.shape {
        Word(_) => argument.action(ArgAction::SetTrue),
        SwitchOrList => argument.num_args(0..=1).require_equals(true).default_missing_value("").action(ArgAction::Set),
        List => argument.action(ArgAction::Append),
        Text | Number | Seconds => argument.action(ArgAction::Set),
    };
    match flag.shape {
        Word(_) => {}
        // A value may begin with a hyphen: `--nice -5`, `--env-file -.env`.
        _ => argument = argument.value_name(flag.value_name()).allow_hyphen_values(true),
    }
    match flag.id() {
        "no-rotate" => argument.conflicts_with_all(["rotate-size", "rotate-age", "rotate-keep", "no-rotate-compress"]),
        _ => argument,
    }
}

/// What an option says, as lines of a file: none, one, or one for each limit.
fn lines(flag: &'static Flag, matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let given = || matches.get_many::<String>(flag.id()).into_iter().flatten().map(String::as_str);
    let several = || given().flat_map(|value| value.split(',')).map(str::trim).collect::<Vec<_>>();
    let line = |value: String| vec![(flag.name, format!("{} = {value}", flag.key))];
    match flag.shape {
        Word(word) if matches.get_flag(flag.id()) => line(word.to_owned()),
        Word(_) => Vec::new(),
        List if flag.key == "limits" => several().into_iter().map(|limit| (flag.name, limit_line(limit))).collect(),
        List if given().next().is_none() => Vec::new(),
        List => line(list(&several())),
        Text => given().next().map_or_else(Vec::new, |value| line(string(value))),
        Number => given().next().map_or_else(Vec::new, |value| line(number(value))),
        Seconds => given().next().map_or_else(Vec::new, |value| match value.parse::<f64>() {
            Ok(_) => line(string(&format!("{value}s"))),
            Err(_) => line(string(value)),
        }),
        SwitchOrList => match given().next() {
            None => Vec::new(),
            Some("") => line("true".to_owned()),
            Some(_) => line(list(&several())),
        },
    }
}

fn limit_line(limit: &str) -> String {
    let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
    // A name that is none would be TOML of its own.
    let name = if name.bytes().all(|byte| byte.is_ascii_lowercase()) && !name.is_empty() {
        name.to_owned()
    } else {
        string(name)
    };
    match value.split_once(':') {
        Some((soft, hard)) => format!("limits.{name} = [{}, {}]", number(soft), number(hard)),
        None => format!("limits.{name} = {}", number(value)),
    }
}

fn number(value: &str) -> String {
    value.parse::<i64>().map_or_else(|_| string(value), |number| number.to_string())
}

fn list(values: &[&str]) -> String {
    let values: Vec<String> = values.iter().map(|value| string(value)).collect();
    format!("[{}]", values.join(", "))
}

/// A basic string of TOML: one line, whatever is in it.
fn string(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{Args, FromArgMatches};
    use proptest::prelude::*;

    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        let command = Flags::augment_args(Command::new("x"));
        let matches = command.try_get_matches_from(std::iter::once(&"x").chain(arguments)).unwrap();
        Flags::from_arg_matches(&matches).unwrap()
    }

    fn value<T: Clone>(written: &Option<crate::config::At<T>>) -> Option<T> {
        written.as_ref().map(|at| at.value.clone())
    }

    #[test]
    fn an_option_means_what_its_key_means() {
        let app = flags(&[
            "--max-memory-restart",
            "512M",
            "--nice",
            "-5",
            "--watch=src,lib",
            "--watch-delay",
            "2",
            "--stop-exit-codes",
            "0,3",
            "--limit",
            "nofile=1024:4096,core=unlimited",
            "--merge-logs",
            "-o",
            "a \"b\".log",
            "--reload-parallel",
            "2",
        ])
        .app()
        .unwrap();
        assert_eq!(value(&app.health.max_memory), Some(512 << 20));
        assert_eq!(value(&app.bounds.nice), Some(-5));
        assert_eq!(value(&app.triggers.delay), Some(Duration::from_secs(2)));
        assert_eq!(app.stop_exit_codes.iter().map(|code| code.value.as_str()).collect::<Vec<_>>(), ["0", "3"]);
        assert_eq!(app.bounds.limits.len(), 2);
        assert_eq!(value(&app.output.out_file).as_deref(), Some("a \"b\".log"));
        assert_eq!((value(&app.output.merge_logs), value(&app.reload.parallel)), (Some(true), Some(2)));
        assert_eq!(flags(&["--watch"]).lines, [("--watch", "watch = true".to_owned())]);
    }

    #[test]
    fn a_value_that_cannot_be_names_its_option() {
        for (arguments, says) in [
            (
                vec!["--time", "--max-memory-restart", "lots"],
                "--max-memory-restart: `max_memory_restart`: `lots` is not a size; write for instance 65536, 64KiB or 1M",
            ),
            (vec!["--nice", "very"], "--nice: `nice` must be a whole number, not a string"),
            (vec!["--limit", "nofiles=1"], "--limit: unknown key `nofiles` in [app.limits]"),
            (vec!["--limit", "x]\ny=1"], "--limit: unknown key `x]\ny` in [app.limits]"),
        ] {
            assert_eq!(flags(&arguments).app().unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn every_option_stands_for_a_key_that_there_is() {
        for flag in FLAGS {
            let key = flag.key.split('.').next().unwrap();
            let text = format!("[[app]]\n{key} = 1979-05-27\n");
            let error = File::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("unknown key"), "{}: {error}", flag.name);
        }
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_line(value in "\\PC*|[\\x00-\\x1f\"\\\\a]{0,9}", at in 0..FLAGS.len()) {
            let flag = &FLAGS[at];
            let text = match flag.shape {
                Word(word) => word.to_owned(),
                _ => string(&value),
            };
            let flags = Flags { lines: vec![(flag.name, format!("{} = {text}", flag.key)), ("--end", "end = 1".into())] };
            // Whatever it is, the next line is still read as a line of its own.
            let error = flags.app().unwrap_err();
            prop_assert!(matches!(error.place, Place::Flag(_)), "{:?}", error);
            prop_assert!(!error.to_string().contains("is not TOML"), "{}", error);
        }
    }
}
