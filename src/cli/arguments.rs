//! Verbs and options. pm2's names wherever pm2 has one.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::flags::Flags;

const EXAMPLES: &str = "\
Examples:
  herdwire start herdwire.toml           start everything that a file describes
  herdwire start server.js -i max        one instance for each CPU
  herdwire start api.py -n api -- --port 8000
  herdwire start \"npm run worker\"        a command line
  herdwire restart api web               names, ids, or `all`
  herdwire logs api                      the last lines, and what follows (--nostream: not that)
  herdwire run herdwire.toml             in the foreground, for containers

Everything lies in HERDWIRE_HOME (default ~/.herdwire).";

/// A process manager with a wire.
#[derive(Debug, Parser)]
#[command(name = "herdwire", version, disable_version_flag = true, about, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(infer_subcommands = false, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
    /// Print the version
    #[arg(short, long, visible_short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a file's apps, a script, a command line, or what was stopped
    #[command(after_help = START_HELP)]
    Start(Box<StartOptions>),
    /// Run a file's apps in the foreground, logs on stdout
    #[command(after_help = RUN_HELP)]
    Run {
        /// A herdwire.toml
        #[arg(default_value = "herdwire.toml")]
        file: PathBuf,
    },
    /// Show what runs
    #[command(after_help = "Examples:\n  herdwire list\n  herdwire list --json | jq .instances")]
    #[command(visible_alias = "ls", aliases = ["l", "ps", "status"])]
    List {
        /// Everything that is known, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what runs as pm2's JSON
    #[command(after_help = "HERDWIRE_JLIST_ENV=0 leaves out the apps' environments.")]
    Jlist,
    /// Show what runs as pm2's `prettylist` does
    #[command(after_help = "HERDWIRE_JLIST_ENV=0 leaves out the apps' environments.")]
    Prettylist,
    /// Show what runs over the whole screen, anew each second; q quits
    #[command(alias = "dash")]
    Monit,
    /// Print process ids, 0 for what does not run
    #[command(after_help = "Example: kill -USR2 $(herdwire pid api)")]
    Pid {
        /// A name or an id [default: all]
        #[arg(value_name = "NAME|ID")]
        select: Option<String>,
    },
    /// Print the ids of an app's instances
    #[command(after_help = "Example: herdwire id api")]
    Id {
        /// Name of the app
        name: String,
    },
    /// Print the environment of an instance; values that look like secrets are hidden
    #[command(after_help = "Example: herdwire env 0")]
    Env {
        /// A name or an id
        #[arg(value_name = "NAME|ID")]
        select: String,
        /// Hide nothing
        #[arg(long)]
        show: bool,
    },
    /// Show all about some instances
    #[command(after_help = "Example: herdwire describe api")]
    #[command(visible_alias = "show", aliases = ["desc", "info"])]
    Describe {
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what changes, and why
    #[command(after_help = EVENTS_HELP)]
    Events(EventsOptions),
    /// Show the last lines of logs, and what follows; --nostream ends there
    #[command(after_help = "Examples:\n  herdwire logs api\n  herdwire logs --err --since 10m --nostream")]
    #[command(alias = "log")]
    Logs(LogsOptions),
    /// Empty logs; those that were put aside stay
    #[command(after_help = "Example: herdwire flush api")]
    Flush {
        /// Names, ids, or `all` [default: all]
        #[arg(value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// Open logs anew, after something else has moved them
    #[command(name = "reloadLogs", alias = "reload-logs")]
    ReloadLogs {
        /// Names, ids, or `all` [default: all]
        #[arg(value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// Stop instances; they stay in the list
    #[command(after_help = "Example: herdwire stop api 3")]
    Stop {
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// Stop instances and start them again
    #[command(after_help = RESTART_HELP)]
    Restart {
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
        #[command(flatten)]
        env: UpdateEnv,
    },
    /// Set the counters of instances back
    #[command(after_help = "Example: herdwire reset api")]
    Reset {
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// Send a signal to processes, and do nothing else
    #[command(name = "sendSignal", alias = "send-signal", after_help = "Example: herdwire sendSignal SIGUSR2 api")]
    SendSignal {
        /// Such as SIGUSR2, usr2 or 12
        signal: String,
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// Replace instances by new ones, each only once its successor is ready
    #[command(after_help = RELOAD_HELP)]
    Reload(ReloadArguments),
    /// Change how many instances an app has
    #[command(after_help = "Examples:\n  herdwire scale api 4\n  herdwire scale api +2\n  herdwire scale api -1")]
    Scale {
        /// Name of the app
        app: String,
        /// A number, or +N or -N for more or fewer
        #[arg(allow_hyphen_values = true, value_name = "N")]
        to: String,
    },
    /// Make what runs be what a file says, and touch nothing else
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArguments),
    /// Stop instances and take them off the list
    #[command(after_help = "Example: herdwire delete api")]
    #[command(visible_alias = "del")]
    Delete {
        /// Names, ids, or `all`
        #[arg(required = true, value_name = "NAME|ID")]
        select: Vec<String>,
    },
    /// End all instances and the supervisor
    Kill,
    /// Write down what runs, for `resurrect`; it is written by itself, too
    #[command(after_help = "Example: herdwire save")]
    #[command(alias = "dump")]
    Save {
        /// Also when nothing runs, which forgets what was written down
        #[arg(short, long)]
        force: bool,
    },
    /// Start again what was written down and does not run
    #[command(after_help = "Example: herdwire resurrect")]
    Resurrect {
        /// Stay in the foreground as the keeper, for units and containers
        #[arg(long)]
        no_daemon: bool,
    },
    /// Have everything started again when the machine starts
    #[command(after_help = "Example: sudo herdwire startup -u deploy")]
    Startup(StartupOptions),
    /// Undo `startup`
    Unstartup(StartupOptions),
    /// Replace the supervisor by another release, touching no instance
    #[command(after_help = UPGRADE_HELP)]
    Upgrade {
        /// A `herdwire` binary [default: what is installed now where the running one was started from]
        binary: Option<PathBuf>,
    },
    /// Ask whether the supervisor answers
    Ping {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

const START_HELP: &str = "\
Examples:
  herdwire start                         the herdwire.toml here
  herdwire start server.js -i max -n api
  herdwire start api.py --max-memory-restart 512M -- --port 8000
  herdwire start \"npm run worker\"
  herdwire start api                     again, after a stop

Exit codes: 0 when all is online (or done), 1 when something is not, 2 for a command line that cannot mean anything.";

const RESTART_HELP: &str = "\
Example: herdwire restart api

An app keeps the environment that it was started with; files of variables (`--env-file`) are read anew each time. `start`,
`reload` and `apply` with its file or script take the environment of the shell that they are called in.";

/// pm2's `--update-env`: what it asks for is what happens wherever an app is described anew, and cannot be had elsewhere.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct UpdateEnv {
    /// Take the environment of this shell (pm2's option; so does every `start`, `reload` and `apply` of a file)
    #[arg(short = 'a', long = "update-env", hide = true)]
    pub update_env: bool,
}

impl UpdateEnv {
    /// Says what to do instead, where it has no effect.
    pub fn warn(self) {
        if self.update_env {
            // A warning that nobody can read is no reason to stop.
            let _ = writeln!(
                std::io::stderr(),
                "warning: --update-env changes nothing here: an app keeps the environment that it was started with; \
                 `herdwire start` or `reload` with its file or script takes the present one"
            );
        }
    }
}

const APPLY_HELP: &str = "\
Example: herdwire apply herdwire.toml --dry-run

Apps that are new in the file are started; those that differ in what an instance knows from its start are reloaded, as by
`herdwire reload`; other settings are taken over without touching an instance. Variables of a terminal or a login
(TERM, SSH_*, ...) are no difference. What was stopped stays stopped.

Exit codes: 0 it is so, 2 it cannot work and nothing was touched, 3 a reload failed and was taken back.";

const RELOAD_HELP: &str = "\
Examples:
  herdwire reload api                    as it is, one instance after the other
  herdwire reload herdwire.toml          as the file says now

The first new instance is tried alone; when it stays ready for `min_ready` its predecessor finishes what it has begun and
goes, and the others follow. One that fails ends the reload: the old instances serve on.

Exit codes: 0 all is replaced, 2 it cannot work and nothing was touched, 3 it failed and was taken back.";

const UPGRADE_HELP: &str = "\
The new supervisor starts beside the old one and must prove that it can go on before the old one lets go. Whatever goes
wrong, the old one serves on, and this says why. Exit codes: 0 when the new one serves, else 1.";

const RUN_HELP: &str = "\
Exit codes: 0 when every app ended well or was told to stop, else the exit code of the first app that failed
(128 + number when a signal ended it); 1 when nothing could be started.";

const EVENTS_HELP: &str = "\
Changes are numbered, also across restarts of the supervisor, and the last 1024 are kept: `--after N` goes on where
another one has stopped. Numbers that are missing were not kept any more.";

#[derive(Debug, Args)]
pub struct EventsOptions {
    /// As JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Begin with the change after number N
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
    /// Changes to begin with
    #[arg(long, default_value_t = 20, value_name = "N", conflicts_with = "after")]
    pub lines: u32,
    /// Go on with what changes from now on (the default)
    #[arg(short, long, hide = true, conflicts_with = "no_follow")]
    pub follow: bool,
    /// Only show what is there
    #[arg(long, alias = "nostream")]
    pub no_follow: bool,
}

#[derive(Debug, Default, Args)]
pub struct StartOptions {
    /// A herdwire.toml, a script, a command line in quotes, a name or an id [default: herdwire.toml]
    #[arg(value_name = "FILE|SCRIPT|NAME")]
    pub targets: Vec<String>,
    /// Name of the app [default: the script's]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Number of instances; `max` for one for each CPU, -1 for one less
    #[arg(short, long, allow_hyphen_values = true, value_name = "N")]
    pub instances: Option<String>,
    /// Program that runs the script; `none` runs it by itself [default: by its extension]
    #[arg(long, alias = "exec-interpreter")]
    pub interpreter: Option<String>,
    /// Folder to run in
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Herd whose channels it shares [default: its own name]
    #[arg(long)]
    pub herd: Option<String>,
    /// Set a variable of its environment
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Do not start it again when it exits by itself
    #[arg(long)]
    pub no_autorestart: bool,
    /// Quick deaths in a row before it is given up
    #[arg(long, value_name = "N")]
    pub max_restarts: Option<u32>,
    /// Wait before a restart, for instance 500ms
    #[arg(long, value_name = "TIME")]
    pub restart_delay: Option<String>,
    /// Time that a stop may take before it is killed
    #[arg(short, long, value_name = "TIME")]
    pub kill_timeout: Option<String>,
    /// It is online only when it says so
    #[arg(long)]
    pub wait_ready: bool,
    /// Time that it may take to say so
    #[arg(long, value_name = "TIME")]
    pub listen_timeout: Option<String>,
    #[command(flatten)]
    pub flags: Flags,
    #[command(flatten)]
    pub env_of_shell: UpdateEnv,
    /// Arguments of the script
    #[arg(last = true)]
    pub args: Vec<String>,
}

impl StartOptions {
    /// The first option that describes a new app, if there is one.
    pub fn describes_an_app(&self) -> Option<&'static str> {
        let given = [
            (self.name.is_some(), "--name"),
            (self.instances.is_some(), "-i"),
            (self.interpreter.is_some(), "--interpreter"),
            (self.cwd.is_some(), "--cwd"),
            (self.herd.is_some(), "--herd"),
            (!self.env.is_empty(), "--env"),
            (self.no_autorestart, "--no-autorestart"),
            (self.max_restarts.is_some(), "--max-restarts"),
            (self.restart_delay.is_some(), "--restart-delay"),
            (self.kill_timeout.is_some(), "--kill-timeout"),
            (self.wait_ready, "--wait-ready"),
            (self.listen_timeout.is_some(), "--listen-timeout"),
            (!self.args.is_empty(), "--"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option)).or(self.flags.first())
    }
}

#[derive(Debug, Default, Args)]
pub struct StartupOptions {
    /// The init system: systemd is the one that is known
    #[arg(default_value = "systemd", value_parser = ["systemd"])]
    pub platform: String,
    /// Whose apps they are [default: yours]
    #[arg(short, long)]
    pub user: Option<String>,
    /// That user's home folder [default: as the system says]
    #[arg(long, value_name = "DIR")]
    pub hp: Option<std::path::PathBuf>,
    /// Name of the unit [default: herdwire-USER]
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,
    /// Only print the unit
    #[arg(long)]
    pub print: bool,
    /// Write over a unit that is another
    #[arg(long)]
    pub force: bool,
    /// Where units lie
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system", hide = true)]
    pub unit_dir: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// A herdwire.toml
    #[arg(default_value = "herdwire.toml")]
    pub file: PathBuf,
    /// Delete apps that are not in the file
    #[arg(long)]
    pub prune: bool,
    /// Show what would be done, and do nothing
    #[arg(long, visible_alias = "plan")]
    pub dry_run: bool,
    /// Do not ask before something is deleted
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct ReloadArguments {
    /// Names, ids (each stands for its app), `all`, or a herdwire.toml whose apps get what it says
    #[arg(required = true, value_name = "NAME|ID|FILE")]
    pub targets: Vec<String>,
    /// Instances that are replaced at once, after the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: Option<u32>,
    /// Keep what was replaced when a later one fails
    #[arg(long)]
    pub no_rollback: bool,
    #[command(flatten)]
    pub env_of_shell: UpdateEnv,
}

#[derive(Debug, Args)]
pub struct LogsOptions {
    /// Names, ids, or `all` [default: all]
    #[arg(value_name = "NAME|ID")]
    pub select: Vec<String>,
    /// Go on with what is written from now on: what it does anyway, unless --until says when to end
    #[arg(short, long)]
    pub follow: bool,
    /// End after the last lines, or after what was written since
    #[arg(long, visible_alias = "no-stream", conflicts_with = "follow")]
    pub nostream: bool,
    /// Lines of each log to begin with
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub lines: usize,
    /// Only what went to stderr
    #[arg(long, conflicts_with = "out")]
    pub err: bool,
    /// Only what went to stdout
    #[arg(long)]
    pub out: bool,
    /// The lines as they are, without a name before them
    #[arg(long, conflicts_with_all = ["json", "format"])]
    pub raw: bool,
    /// One JSON object a line
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// `timestamp=... app=... id=N type=out message=...`
    #[arg(long)]
    pub format: bool,
    /// When each line was written, by a pattern like YYYY-MM-DD HH:mm:ss.SSS
    #[arg(long, visible_alias = "timestamps", value_name = "PATTERN", num_args = 0..=1, default_missing_value = crate::logs::PLAIN)]
    pub timestamp: Option<String>,
    /// Only what was written since: 10m ago, or a moment
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what was written until then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only lines with this in them
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
}

impl LogsOptions {
    /// Whether it goes on with what is written from now on, as pm2 does.
    pub fn follows(&self) -> bool {
        self.follow || !self.nostream && self.until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn start(arguments: &[&str]) -> StartOptions {
        let all = ["herdwire", "start"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().verb {
            Verb::Start(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_of_verbs_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn start_takes_options_after_the_script_and_arguments_after_two_dashes() {
        let options = start(&["server.js", "-i", "4", "-n", "web", "--", "--port", "80", "-n"]);
        assert_eq!(options.targets, ["server.js"]);
        assert_eq!(options.instances.as_deref(), Some("4"));
        assert_eq!(options.name.as_deref(), Some("web"));
        assert_eq!(options.args, ["--port", "80", "-n"]);
    }

    #[test]
    fn a_number_of_instances_may_be_negative() {
        assert_eq!(start(&["a", "-i", "-1"]).instances.as_deref(), Some("-1"));
        assert_eq!(start(&["a", "-i-1"]).instances.as_deref(), Some("-1"));
        assert_eq!(start(&["-i", "max", "a"]).instances.as_deref(), Some("max"));
    }

    #[test]
    fn pm2s_names_of_verbs_work() {
        for verb in [
            "list",
            "ls",
            "l",
            "ps",
            "status",
            "jlist",
            "kill",
            "ping",
            "logs",
            "log",
            "save",
            "dump",
            "resurrect",
            "startup",
            "unstartup",
            "prettylist",
            "pid",
        ] {
            assert!(Arguments::try_parse_from(["herdwire", verb]).is_ok(), "{verb}");
        }
        for verb in
            ["describe", "desc", "info", "show", "stop", "restart", "reload", "delete", "del", "reset", "sendSignal"]
        {
            assert!(Arguments::try_parse_from(["herdwire", verb, "0", "web"]).is_ok(), "{verb}");
            assert_eq!(Arguments::try_parse_from(["herdwire", verb]).unwrap_err().exit_code(), 2);
        }
    }
}
