//! `pid`, `id` and `env`: one thing about some instances, as scripts read it.
//!
//! The forms are pm2's: a number a line, and a list as Node prints it; what is not there is an empty line or an empty
//! list, and no error. Values that look like secrets are not shown unless somebody asks for them.

use std::io::Write;

use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::error::CliError;
use super::inspect::inspect;
use super::output::Output;
use super::{list, select};
use crate::snapshot::{InstanceView, Snapshot};

/// What stands in place of a value that is not shown.
const HIDDEN: &str = "***";
/// Words in names of variables whose values are nobody's business.
const SECRET: [&str; 13] =
    ["PASS", "PWD_", "SECRET", "TOKEN", "KEY", "CRED", "AUTH", "COOKIE", "PRIVATE", "DSN", "SALT", "SIGNATURE", "CERT"];

/// Prints the process ids of what `word` means, or of everything; 0 for what does not run.
pub fn pid(client: &Client, word: Option<&str>, out: &mut Output) -> Result<(), CliError> {
    let snapshot = list::fetch(client, false)?;
    let pids: Vec<String> = matching(snapshot.as_ref(), word.unwrap_or("all"))
        .map(|instance| instance.pid.unwrap_or(0).to_string())
        .collect();
    // One line at least, so that `$(herdwire pid NAME)` and `read` find one.
    Ok(writeln!(out, "{}", pids.join("\n"))?)
}

/// Prints the ids of an app.
pub fn id(client: &Client, name: &str, out: &mut Output) -> Result<(), CliError> {
    let snapshot = list::fetch(client, false)?;
    let of_app = matching(snapshot.as_ref(), name).filter(|instance| name == "all" || instance.app == name);
    let ids: Vec<Value> = of_app.map(|instance| json!(instance.id)).collect();
    Ok(writeln!(out, "{}", inspect(&Value::Array(ids), str::to_owned))?)
}

/// Prints the environment of an instance, a variable a line.
pub fn env(client: &Client, word: &str, show: bool, out: &mut Output) -> Result<(), CliError> {
    let not_running = || ClientError::NotRunning { home: client.home().clone() };
    let snapshot = list::fetch(client, true)?.ok_or_else(not_running)?;
    // All instances of an app have the same.
    let instances = select::find(&[word.to_owned()], &snapshot)?;
    let mut hidden = false;
    for (name, value) in instances.first().and_then(|instance| instance.env.as_ref()).into_iter().flatten() {
        let hides = !show && is_secret(name, value);
        hidden |= hides;
        let value = if hides { HIDDEN } else { value };
        writeln!(out, "{}: {}", list::printable(name), list::printable(value))?;
    }
    out.flush()?;
    if hidden && out.terminal {
        // A hint that nobody can read is no reason to fail.
        let _ = writeln!(std::io::stderr(), "hint:  `herdwire env {word} --show` shows what is hidden");
    }
    Ok(())
}

fn matching<'s>(snapshot: Option<&'s Snapshot>, word: &str) -> impl Iterator<Item = &'s InstanceView> {
    let numbers = snapshot.map(|snapshot| select::numbers(&[word.to_owned()], snapshot)).unwrap_or_default();
    let instances = snapshot.into_iter().flat_map(|snapshot| &snapshot.instances);
    instances.filter(move |instance| numbers.contains(&instance.id))
}

/// By its name, or because it is a URL with a password in it.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let authority = value.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    SECRET.iter().any(|word| name.contains(word)) || authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_one() {
        for (name, value) in [
            ("DB_PASSWORD", "x"),
            ("npm_config_token", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("DATABASE_URL", "postgres://me:pw@host/db"),
            ("SESSION_COOKIE", "x"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [("PATH", "/bin"), ("PWD", "/srv"), ("HOME_PAGE", "http://h/@me"), ("PORT", "80")] {
            assert!(!is_secret(name, value), "{name}");
        }
    }
}
