//! From what somebody calls a script to what is executed, the way pm2 does it.
//!
//! A file goes to the interpreter of its extension, or runs by itself when it is executable. What is no file is
//! looked for in PATH. What has spaces and is neither is a command line for bash.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::error::Problem;
use super::names;
use super::spec::Command;

/// Extensions, and the interpreters that are tried for each in turn.
const INTERPRETERS: [(&str, &[&str]); 11] = [
    ("js", &["node"]),
    ("cjs", &["node"]),
    ("mjs", &["node"]),
    ("py", &["python3"]),
    ("sh", &["bash"]),
    ("rb", &["ruby"]),
    ("php", &["php"]),
    ("pl", &["perl"]),
    // node strips types by itself since version 22.
    ("ts", &["bun", "node"]),
    ("tsx", &["bun", "node"]),
    ("mts", &["bun", "node"]),
];

/// Where programs are looked for when nobody says.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What somebody asked to run.
pub struct Wanted<'a> {
    pub script: &'a str,
    pub args: Vec<String>,
    pub interpreter: Option<&'a str>,
    /// Arguments of the interpreter, before the script.
    pub interpreter_args: Vec<String>,
    /// The name, when one was given: errors use it.
    pub name: Option<&'a str>,
    /// What relative paths count from.
    pub cwd: &'a Path,
    /// The PATH to search.
    pub path: &'a str,
}

/// What is run.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The name that it has unless another is given.
    pub name: String,
    pub command: Command,
    pub script: PathBuf,
    /// `none` for a program of its own.
    pub interpreter: String,
}

/// Finds the program.
///
/// # Errors
/// Nothing of that name, nothing that can be run, no interpreter.
pub fn resolve(wanted: Wanted<'_>) -> Result<Found, Problem> {
    let script = absolute(wanted.cwd, wanted.script);
    let app = || wanted.name.unwrap_or(wanted.script).to_owned();
    if script.is_file() {
        return of_file(script, wanted);
    }
    // Before the complaint about folders: a program in PATH may have the name of a folder here.
    if let Some(program) = plain_name(wanted.script).and_then(|name| in_path(name, wanted.path)) {
        return Ok(program_of_its_own(program, wanted));
    }
    if script.exists() {
        let reason = if script.is_dir() { "is a folder" } else { "is not a file" };
        return Err(Problem::BadScript { app: app(), script, reason });
    }
    if wanted.script.trim().contains(char::is_whitespace) {
        return command_line(wanted);
    }
    let searched_path = plain_name(wanted.script).is_some();
    let shown = if searched_path { PathBuf::from(wanted.script) } else { script };
    Err(Problem::NoScript { app: app(), script: shown, searched_path })
}

/// A path as the user named it, absolute, without `.` in it. `..` stays: what it means depends on links.
pub fn absolute(folder: &Path, path: &str) -> PathBuf {
    folder.join(path).components().collect()
}

fn of_file(script: PathBuf, wanted: Wanted<'_>) -> Result<Found, Problem> {
    let stem = script.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let app = wanted.name.unwrap_or(&stem).to_owned();
    let Some(interpreter) = interpreter(&script, &wanted, &app)? else {
        if !is_executable(&script) {
            return Err(match wanted.interpreter {
                Some(_) => Problem::BadScript { app, script, reason: "is not executable" },
                None => Problem::NoInterpreterKnown { app, script },
            });
        }
        return Ok(program_of_its_own(script, wanted));
    };
    let (name, program) = interpreter;
    let mut args = wanted.interpreter_args;
    args.push(script.display().to_string());
    args.extend(wanted.args);
    Ok(Found { name: stem, command: Command { program, args }, script, interpreter: name })
}

/// The interpreter's name and path; `None` when the script runs by itself.
fn interpreter(script: &Path, wanted: &Wanted<'_>, app: &str) -> Result<Option<(String, PathBuf)>, Problem> {
    let extension = script.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let candidates: &[&str] = match &wanted.interpreter {
        Some("none") => return Ok(None),
        Some(name) => std::slice::from_ref(name),
        None => match INTERPRETERS.iter().find(|(known, _)| *known == extension) {
            Some((_, candidates)) => candidates,
            None => return Ok(None),
        },
    };
    let found = candidates.iter().find_map(|name| Some(((*name).to_owned(), program(name, wanted.cwd, wanted.path)?)));
    let missing = || Problem::NoInterpreter { app: app.to_owned(), interpreter: candidates.join("` or `") };
    found.map(Some).ok_or_else(missing)
}

/// A program by name or by path.
pub fn program(name: &str, cwd: &Path, path: &str) -> Option<PathBuf> {
    match plain_name(name) {
        Some(name) => in_path(name, path),
        None => Some(absolute(cwd, name)).filter(|path| path.is_file() && is_executable(path)),
    }
}

fn program_of_its_own(program: PathBuf, wanted: Wanted<'_>) -> Found {
    let name = program.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let command = Command { program: program.clone(), args: wanted.args };
    Found { name, command, script: program, interpreter: "none".to_owned() }
}

fn command_line(wanted: Wanted<'_>) -> Result<Found, Problem> {
    let name = names::from_command_line(wanted.script);
    let app = wanted.name.unwrap_or(&name).to_owned();
    if !wanted.args.is_empty() {
        let reason = "is a command line: it takes its arguments within its quotes";
        return Err(Problem::BadScript { app, script: PathBuf::from(wanted.script), reason });
    }
    let shell = in_path("bash", wanted.path).or_else(|| in_path("sh", wanted.path));
    let program = shell.ok_or(Problem::NoInterpreter { app, interpreter: "bash".to_owned() })?;
    let args = vec!["-c".to_owned(), wanted.script.to_owned()];
    let command = Command { program: program.clone(), args };
    Ok(Found { name, command, script: program, interpreter: "none".to_owned() })
}

/// The name, when it is one that PATH is searched for.
fn plain_name(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

fn in_path(name: &str, path: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|program| program.is_file() && is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    access(path, AccessFlags::X_OK).is_ok()
}
