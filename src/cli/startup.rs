//! `startup` and `unstartup`: a systemd unit that brings everything back when the machine starts.
//!
//! Owns the unit's text and its file. Says exactly what was done and what is left to run; never writes over a unit
//! that is another's, or was changed by hand, unless told to.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use super::arguments::StartupOptions;
use super::error::CliError;
use super::output::Output;

/// The first line of every unit that we write.
const MARK: &str = "# Written by `herdwire startup`; `herdwire unstartup` removes it.";
/// What exists where systemd runs.
const RUNNING: &str = "/run/systemd/system";
/// Where units of the administrator lie.
const UNITS: &str = "/etc/systemd/system";

/// Why a unit was not written or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    #[error("there is no user `{name}`")]
    NoUser { name: String },
    #[error("only root can write into {}", folder.display())]
    NotRoot { folder: PathBuf, command: String },
    #[error("`{name}` cannot be a unit's name")]
    BadName { name: String },
    #[error("`{}` cannot stand in a unit", path.display())]
    BadPath { path: PathBuf },
    #[error("`{}` exists and is another", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` was not written by `herdwire startup`", path.display())]
    NotOurs { path: PathBuf },
    #[error("there is no `{}`", path.display())]
    Missing { path: PathBuf },
    #[error("cannot {what} `{}`", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the path of this program cannot be told")]
    NoProgram(#[source] io::Error),
    #[error("`{command}` failed{}", if says.is_empty() { String::new() } else { format!(": {says}") })]
    Systemctl { command: String, says: String },
}

impl StartupError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            StartupError::NotRoot { command, .. } => format!("run: {command}"),
            StartupError::BadName { .. } => "letters, digits, `-`, `_` and `.` make a name".into(),
            StartupError::BadPath { .. } => "it must be absolute, UTF-8, and without line breaks".into(),
            StartupError::Exists { .. } => "`--print` shows ours; `--force` writes over it".into(),
            StartupError::NotOurs { .. } => "remove it by hand, or give `--force`".into(),
            StartupError::Missing { .. } => "`--service-name` names another".into(),
            _ => return None,
        })
    }
}

/// What a unit is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    name: String,
    user: String,
    program: PathBuf,
    home: PathBuf,
    path: String,
}

/// Writes the unit and has it enabled, where systemd runs; or prints it.
pub fn startup(options: &StartupOptions, out: &mut Output) -> Result<(), CliError> {
    let unit = Unit::new(options)?;
    let text = unit.text()?;
    if options.print {
        return Ok(write!(out, "{text}")?);
    }
    must_be_root(options, &unit, "startup")?;
    let path = unit.file(&options.unit_dir);
    match fs::read_to_string(&path) {
        Ok(there) if there == text => writeln!(out, "{} is there already", path.display())?,
        Ok(_) if !options.force => return Err(StartupError::Exists { path }.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound && !options.force => {
            return Err(StartupError::File { what: "read", path, source: error }.into());
        }
        _ => {
            write_unit(&path, &text)?;
            writeln!(out, "wrote {}", path.display())?;
        }
    }
    let commands = ["systemctl daemon-reload".to_owned(), format!("systemctl enable {}", unit.name)];
    carry_out(options, &commands, out)?;
    writeln!(out, "what runs is saved by itself, and started again with the machine")?;
    writeln!(out, "to put what runs now under the unit: herdwire kill && systemctl start {}", unit.name)?;
    Ok(())
}

/// Removes the unit.
pub fn unstartup(options: &StartupOptions, out: &mut Output) -> Result<(), CliError> {
    let unit = Unit::new(options)?;
    must_be_root(options, &unit, "unstartup")?;
    let path = unit.file(&options.unit_dir);
    match fs::read_to_string(&path) {
        Ok(text) if !text.starts_with(MARK) && !options.force => return Err(StartupError::NotOurs { path }.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StartupError::Missing { path }.into()),
        Err(source) => return Err(StartupError::File { what: "read", path, source }.into()),
    }
    carry_out(options, &[format!("systemctl disable {}", unit.name)], out)?;
    fs::remove_file(&path).map_err(|source| StartupError::File { what: "remove", path: path.clone(), source })?;
    writeln!(out, "removed {}", path.display())?;
    carry_out(options, &["systemctl daemon-reload".to_owned()], out)
}

fn must_be_root(options: &StartupOptions, unit: &Unit, verb: &str) -> Result<(), StartupError> {
    if geteuid().is_root() || options.unit_dir != Path::new(UNITS) {
        return Ok(());
    }
    let (path, home, program) = (quoted(&unit.path), quoted(&text_of(&unit.home)?), quoted(&text_of(&unit.program)?));
    let command =
        format!("sudo env PATH={path} HERDWIRE_HOME={home} {program} {verb} systemd -u {}", quoted(&unit.user));
    Err(StartupError::NotRoot { folder: options.unit_dir.clone(), command })
}

/// Runs commands where systemd would take them, else says that they are to be run.
fn carry_out(options: &StartupOptions, commands: &[String], out: &mut Output) -> Result<(), CliError> {
    let usable = options.unit_dir == Path::new(UNITS) && Path::new(RUNNING).is_dir();
    for command in commands {
        if !usable {
            writeln!(out, "to do: {command}")?;
            continue;
        }
        let mut words = command.split(' ');
        let program = words.next().expect("a command has a first word");
        let ran = Command::new(program).args(words).output();
        let failed = |says: String| StartupError::Systemctl { command: command.clone(), says };
        match ran {
            Ok(ran) if ran.status.success() => writeln!(out, "ran {command}")?,
            Ok(ran) => return Err(failed(String::from_utf8_lossy(&ran.stderr).trim().to_owned()).into()),
            Err(error) => return Err(failed(error.to_string()).into()),
        }
    }
    Ok(())
}

fn write_unit(path: &Path, text: &str) -> Result<(), StartupError> {
    use std::os::unix::fs::OpenOptionsExt;
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&aside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path));
    written.map_err(|source| {
        // What was not written whole is of no use.
        let _ = fs::remove_file(&aside);
        StartupError::File { what: "write", path: path.to_owned(), source }
    })
}

impl Unit {
    fn new(options: &StartupOptions) -> Result<Unit, StartupError> {
        let user = match &options.user {
            Some(name) => {
                User::from_name(name).ok().flatten().ok_or_else(|| StartupError::NoUser { name: name.clone() })
            }
            None => User::from_uid(geteuid())
                .ok()
                .flatten()
                .ok_or_else(|| StartupError::NoUser { name: geteuid().to_string() }),
        }?;
        let name = options.service_name.clone().unwrap_or_else(|| format!("herdwire-{}", user.name));
        let name = name.strip_suffix(".service").unwrap_or(&name).to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(plain) {
            return Err(StartupError::BadName { name });
        }
        let said = std::env::var_os("HERDWIRE_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = match (&options.hp, said) {
            (Some(folder), _) => folder.join(".herdwire"),
            (None, Some(home)) => home,
            (None, None) => user.dir.join(".herdwire"),
        };
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|_| StartupError::BadPath { path: path.to_owned() });
        Ok(Unit {
            name,
            user: user.name,
            program: std::env::current_exe().map_err(StartupError::NoProgram)?,
            home: absolute(&home)?,
            path: std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        })
    }

    fn file(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.service", self.name))
    }

    fn text(&self) -> Result<String, StartupError> {
        let program = in_unit(&text_of(&self.program)?).replace('$', "$$");
        let home = in_unit(&text_of(&self.home)?);
        let path = in_unit(&self.path);
        if self.path.contains(char::is_control) {
            return Err(StartupError::BadPath { path: self.path.clone().into() });
        }
        let user = &self.user;
        Ok(format!(
            r#"{MARK}
[Unit]
Description=Herdwire, the apps of {user}
Wants=network-online.target
After=network-online.target

[Service]
# The keeper stays in the foreground. It says READY when its supervisor serves, and WATCHDOG as long as that is well.
# Not `NotifyAccess=main`: whoever takes a dead keeper's place speaks for the unit, too.
Type=notify
NotifyAccess=all
WatchdogSec=30
User={user}
Environment="HERDWIRE_HOME={home}"
Environment="PATH={path}"
ExecStart="{program}" resurrect --no-daemon
ExecReload="{program}" reload all
Restart=on-failure
RestartSec=1

# A stop asks the keeper alone: it ends the apps in their order, each by its own signal and within its own time. What is
# left after that is killed.
KillMode=mixed
TimeoutStopSec=120
# Should the keeper die, its supervisor takes its place and no app notices. Without this line systemd would take the
# keeper's death for the unit's, and kill all apps. (Releases before 250 do not know it: there a dead keeper is a restart
# of everything. And where both die at once the watchdog ends what is left, and everything is started again.)
ExitType=cgroup
# An app that the kernel kills for its memory is that app's affair.
OOMPolicy=continue

# Limits of memory, tasks and CPU time are cgroups below the unit's.
Delegate=yes
# About six descriptors an instance, in keeper and supervisor.
LimitNOFILE=1048576
TasksMax=infinity
# Room for the apps' listening sockets: they stay bound while the unit is started again after the death of keeper and
# supervisor, and what waits at them is served then.
FileDescriptorStoreMax=16384

[Install]
WantedBy=multi-user.target
"#
        ))
    }
}

/// A path as text that can stand in a unit.
fn text_of(path: &Path) -> Result<String, StartupError> {
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(StartupError::BadPath { path: path.to_owned() }),
    }
}

/// Between double quotes in a unit.
fn in_unit(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('%', "%%")
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            name: "herdwire-ann".into(),
            user: "ann".into(),
            program: "/opt/my tools/100%/herdwire".into(),
            home: "/home/ann/.herd\"wire".into(),
            path: "/usr/bin:/bin".into(),
        }
    }

    #[test]
    fn whatever_a_path_holds_stays_within_its_quotes() {
        let text = unit().text().unwrap();
        assert!(text.contains("ExecStart=\"/opt/my tools/100%%/herdwire\" resurrect --no-daemon\n"), "{text}");
        assert!(text.contains("Environment=\"HERDWIRE_HOME=/home/ann/.herd\\\"wire\"\n"), "{text}");
        let broken = Unit { home: "/a\nExecStart=/bin/evil".into(), ..unit() };
        assert!(matches!(broken.text(), Err(StartupError::BadPath { .. })));
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn who_is_not_root_is_told_what_to_run() {
        let options = StartupOptions { unit_dir: UNITS.into(), ..StartupOptions::default() };
        let said = must_be_root(&options, &unit(), "startup");
        if geteuid().is_root() {
            assert!(said.is_ok());
        } else {
            let hint = said.unwrap_err().hint().unwrap();
            assert!(
                hint.starts_with("run: sudo env PATH=/usr/bin:/bin HERDWIRE_HOME='/home/ann/.herd\"wire' "),
                "{hint}"
            );
        }
    }
}
