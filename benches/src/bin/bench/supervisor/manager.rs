//! Herdwire or pm2 in a home of its own: the verbs are the same, what is around them is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{expect_online, memory};

/// How long a manager may take to be gone after `kill`.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// What instances run unless something else is named: native, ends at once when it is told to, and by itself should all
/// else fail.
pub const SLEEPER: App<'_> = App { name: "bench", script: "/bin/sleep", args: &["3600"], stamped: false };
/// More instances than one app of Herdwire may have are several apps.
const INSTANCES_OF_ONE: usize = 250;

/// What is run.
#[derive(Clone, Copy)]
pub struct App<'a> {
    pub name: &'a str,
    pub script: &'a str,
    pub args: &'a [&'a str],
    /// Whether its log has a stamp in front of each line.
    pub stamped: bool,
}

/// A manager of processes in a home of its own. Killed when dropped.
pub struct Manager {
    kind: Kind,
    program: PathBuf,
    home: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Herdwire,
    Pm2,
}

impl Manager {
    /// Herdwire, with its home in `folder`.
    pub fn herdwire(program: PathBuf, folder: &Path) -> Result<Manager> {
        ensure!(program.exists(), "there is no `{}`: build it first", program.display());
        Ok(Manager { kind: Kind::Herdwire, program, home: folder.join("herdwire") })
    }

    /// pm2, with its home in `folder`.
    pub fn pm2(program: PathBuf, folder: &Path) -> Result<Manager> {
        ensure!(program.exists(), "there is no `{}`", program.display());
        let home = folder.join("pm2");
        fs::create_dir_all(&home)?;
        Ok(Manager { kind: Kind::Pm2, program, home })
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Herdwire => "herdwire",
            Kind::Pm2 => "pm2",
        }
    }

    /// Whether this is Herdwire.
    pub fn is_ours(&self) -> bool {
        self.kind == Kind::Herdwire
    }

    /// The name of a metric of this manager.
    pub fn metric(&self, metric: &str) -> String {
        match self.kind {
            Kind::Herdwire => metric.to_owned(),
            Kind::Pm2 => format!("{metric}_pm2"),
        }
    }

    /// Runs a command to its end; milliseconds. One that fails is an error.
    pub fn run(&self, arguments: &[&str]) -> Result<f64> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null());
        let start = Instant::now();
        let status = command.status().with_context(|| format!("cannot run `{}`", self.program.display()))?;
        let time = start.elapsed();
        ensure!(status.success(), "`{} {}` failed: {status}", self.name(), arguments.join(" "));
        Ok(time.as_secs_f64() * 1e3)
    }

    /// Starts a command and leaves it to its owner.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        child.with_context(|| format!("cannot run `{}`", self.program.display()))
    }

    /// Starts so many sleepers from a file; milliseconds until the command says that it is done, which must be true.
    pub fn start(&self, instances: usize) -> Result<f64> {
        self.start_app(SLEEPER, instances)
    }

    /// Starts so many instances of an app from a file; as [`Manager::start`].
    pub fn start_app(&self, app: App<'_>, instances: usize) -> Result<f64> {
        let file = self.app_file(app, instances)?;
        let time = self.run(&["start", &file.to_string_lossy()])?;
        expect_online(self, instances)?;
        Ok(time)
    }

    /// All instances, as `jlist` shows them.
    pub fn list(&self) -> Result<Vec<Value>> {
        let output = self.command(&["jlist"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(&text[text.find('[').unwrap_or(0)..])?)
    }

    /// How many instances are online.
    pub fn online(&self) -> Result<usize> {
        let list = self.list()?;
        Ok(list.iter().filter(|instance| instance["pm2_env"]["status"] == "online").count())
    }

    /// Memory of the manager's own processes in MiB, shared pages divided among those who share them.
    pub fn pss(&self) -> Result<f64> {
        let pids = self.pids()?;
        ensure!(!pids.is_empty(), "{} does not run", self.name());
        let bytes: u64 = pids.into_iter().map(memory::pss).sum::<Result<u64>>()?;
        Ok(bytes as f64 / (1 << 20) as f64)
    }

    /// Ends the manager with all that it runs; returns when its processes are gone.
    pub fn kill(&self) -> Result<()> {
        let pids = self.pids()?;
        if pids.is_empty() {
            return Ok(());
        }
        // What counts is that its processes go; a command that says otherwise is worth a word.
        if let Err(error) = self.run(&["kill"]) {
            eprintln!("bench: {error:#}");
        }
        let until = Instant::now() + KILL_LIMIT;
        while pids.iter().any(|pid| memory::lives(*pid)) {
            if Instant::now() >= until {
                bail!("{} is still there {} s after `kill`", self.name(), KILL_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        match self.kind {
            Kind::Herdwire => command.env_remove("PM2_HOME").env("HERDWIRE_HOME", &self.home),
            // It asks the registry for a newer version otherwise.
            Kind::Pm2 => command.env("PM2_HOME", &self.home).env("PM2_DISABLE_VERSION_CHECK", "true"),
        };
        command
    }

    fn app_file(&self, app: App<'_>, instances: usize) -> Result<PathBuf> {
        let App { name, script, args, stamped } = app;
        // Nothing is held up or given up, however often one dies.
        let (name, text) = match self.kind {
            Kind::Herdwire => {
                let mut text = String::new();
                for first in (0..instances).step_by(INSTANCES_OF_ONE) {
                    let count = INSTANCES_OF_ONE.min(instances - first);
                    let name = if first == 0 { name.to_owned() } else { format!("{name}-{first}") };
                    text += &format!(
                        "[[app]]\nname = {name:?}\nscript = {script:?}\nargs = {args:?}\ninterpreter = \"none\"\n\
                         instances = {count}\nmin_uptime = 0\nmax_restarts = 1000000\nrotate = false\ntime = {stamped}\n"
                    );
                }
                ("bench.toml", text)
            }
            Kind::Pm2 => {
                let mut app = json!({"name": name, "script": script, "args": args, "interpreter": "none",
                    "exec_mode": "fork", "instances": instances, "min_uptime": 0, "max_restarts": 1_000_000});
                if stamped {
                    app["time"] = json!(true);
                }
                ("bench.json", json!({"apps": [app]}).to_string())
            }
        };
        let file = self.home.parent().context("a home lies in a folder")?.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }

    /// The manager's own processes, none when it does not run.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let pids = match self.kind {
            Kind::Herdwire => {
                let output = self.command(&["ping", "--json"]).stderr(Stdio::null()).output()?;
                let Ok(ping) = serde_json::from_slice::<Value>(&output.stdout) else { return Ok(Vec::new()) };
                [&ping["keeper"]["pid"], &ping["supervisor"]["pid"]].iter().filter_map(|pid| pid.as_u64()).collect()
            }
            Kind::Pm2 => {
                let text = fs::read_to_string(self.home.join("pm2.pid")).unwrap_or_default();
                text.trim().parse().into_iter().collect::<Vec<u64>>()
            }
        };
        Ok(pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).filter(|pid| memory::lives(*pid)).collect())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("bench: {} may still run: {error:#}", self.name());
        }
    }
}
