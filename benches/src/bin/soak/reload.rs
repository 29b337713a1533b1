//! `soak reload`: an HTTP app is reloaded under load, by good releases and by bad ones, and no request fails.
//!
//! The load comes from wrk, over connections that are kept and over new ones for each request. The app is a server on an
//! inherited listener that either announces `Connection: close` once it is told to end, or closes without a word: what
//! fails then is what HTTP itself cannot avoid, and is printed, not promised.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use measure::stand::Stand;
use measure::{figures, interrupt, place};

use crate::promise::Promises;

/// Connections of the load.
const CONNECTIONS: u32 = 16;
/// The exit code of a reload that was taken back.
const TAKEN_BACK: i32 = 3;

/// What a run looks like.
#[derive(Debug, Args)]
pub struct Options {
    /// How often the app is reloaded, with each kind of connection.
    #[arg(long, default_value_t = 10)]
    reloads: u32,
    /// How many instances.
    #[arg(long, default_value_t = 4)]
    instances: u32,
}

/// How the server of an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Every answer says `Connection: close` from then on.
    Announces,
    /// Connections are closed between two requests.
    Closes,
}

/// What is wrong with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Good,
    ThrowsAtStart,
    NeverReady,
}

/// Runs it, prints its figures, returns the promises that were broken.
pub fn run(options: &Options, keep: bool) -> anyhow::Result<Vec<String>> {
    let mut stand = Stand::new()?;
    let outcome = soak(options, &mut stand);
    let ended = stand.finish(keep);
    let promises = outcome?;
    ended?;
    Ok(promises.broken())
}

fn soak(options: &Options, stand: &mut Stand) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    let announces = config(options, Manner::Announces, Release::Good, stand)?;
    stand.start(&announces)?;
    for (connections, kept) in [("kept", true), ("closed", false)] {
        let (load, reloads) = under_load(stand, kept, |stand| reload_often(options, Manner::Announces, stand))?;
        figures::print(&format!("reloads_{connections}"), reloads, "reloads");
        figures::print(&format!("requests_{connections}"), load.requests, "requests");
        figures::print(&format!("requests_failed_{connections}"), load.failed, "requests");
        promises.holds(load.requests > 0, || format!("no request was made over {connections} connections"));
        promises.is_zero(&format!("requests_failed_{connections}"), load.failed);
    }
    for (name, release) in [("throws_at_start", Release::ThrowsAtStart), ("never_ready", Release::NeverReady)] {
        let (load, said) = under_load(stand, true, |stand| {
            let text = config(options, Manner::Announces, release, stand)?;
            refused_reload(stand, &text)
        })?;
        figures::print(&format!("requests_failed_{name}"), load.failed, "requests");
        promises.is_zero(&format!("requests_failed_{name}"), load.failed);
        promises.holds(said.code == Some(TAKEN_BACK), || format!("{name}: exit code {:?} instead of 3", said.code));
        promises.holds(said.text.contains("error:"), || format!("{name}: no reason was given: {}", said.text));
    }
    let (load, _) = under_load(stand, true, |stand| reload_often(options, Manner::Closes, stand))?;
    figures::print("requests_silent", load.requests, "requests");
    figures::print("requests_failed_silent", load.failed, "requests");
    Ok(promises)
}

/// What wrk counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    requests: u64,
    failed: u64,
}

/// Does something while wrk asks without pause.
fn under_load<T>(
    stand: &mut Stand,
    kept: bool,
    work: impl FnOnce(&mut Stand) -> anyhow::Result<T>,
) -> anyhow::Result<(Load, T)> {
    let address = address(stand)?;
    let mut command = Command::new("wrk");
    // As long as it takes: interrupted when the work is done.
    command.args(["-t1", &format!("-c{CONNECTIONS}"), "-d600s", "--timeout", "5s"]);
    if !kept {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{address}/")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let wrk = Wrk(Some(command.spawn().context("cannot run wrk")?));
    interrupt::sleep_until(Instant::now() + Duration::from_millis(500))?;
    let done = work(stand)?;
    interrupt::sleep_until(Instant::now() + Duration::from_millis(500))?;
    Ok((wrk.finish()?, done))
}

/// A wrk that runs; ended with its owner.
struct Wrk(Option<Child>);

impl Wrk {
    fn finish(mut self) -> anyhow::Result<Load> {
        if let Some(child) = &self.0 {
            measure::stand::send(child.id(), nix::sys::signal::Signal::SIGINT)?;
        }
        let output = self.0.take().expect("it is taken only here").wait_with_output()?;
        parse(&String::from_utf8_lossy(&output.stdout))
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads wrk's report.
fn parse(report: &str) -> anyhow::Result<Load> {
    let mut load = Load::default();
    let number = |text: &str| text.trim().trim_end_matches(',').parse::<u64>().ok();
    for line in report.lines().map(str::trim) {
        if let Some((requests, _)) = line.split_once(" requests in ") {
            load.requests = number(requests).with_context(|| format!("odd report: {line}"))?;
        } else if let Some(errors) = line.strip_prefix("Socket errors:") {
            load.failed += errors.split_whitespace().filter_map(number).sum::<u64>();
        } else if let Some(others) = line.strip_prefix("Non-2xx or 3xx responses:") {
            load.failed += number(others).with_context(|| format!("odd report: {line}"))?;
        }
    }
    ensure!(report.contains(" requests in "), "wrk has made no report: {report}");
    Ok(load)
}

fn reload_often(options: &Options, manner: Manner, stand: &mut Stand) -> anyhow::Result<u32> {
    let file = stand.work().join("reload.toml");
    std::fs::write(&file, config(options, manner, Release::Good, stand)?)?;
    for _ in 0..options.reloads {
        stand.herdwire([std::ffi::OsStr::new("reload"), file.as_os_str()])?;
        interrupt::check()?;
    }
    Ok(options.reloads)
}

/// What a command that failed has said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    text: String,
}

fn refused_reload(stand: &Stand, text: &str) -> anyhow::Result<Said> {
    let file = stand.work().join("bad.toml");
    std::fs::write(&file, text)?;
    let output = Command::new(place::built("herdwire")?)
        .arg("reload")
        .arg(&file)
        .env("HERDWIRE_HOME", stand.home())
        .stdin(Stdio::null())
        .output()?;
    Ok(Said { code: output.status.code(), text: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// Where the app listens.
fn address(stand: &Stand) -> anyhow::Result<String> {
    let instances = stand.instances()?;
    let listen = instances.first().and_then(|instance| instance["herdwire"]["listen"][0].as_str());
    match listen.and_then(|listen| listen.strip_prefix("tcp://")) {
        Some(address) => Ok(address.to_owned()),
        None => bail!("the app has no address: {listen:?}"),
    }
}

fn config(options: &Options, manner: Manner, release: Release, stand: &Stand) -> anyhow::Result<String> {
    let mut args = match release {
        Release::Good => vec!["2", "wire"],
        Release::ThrowsAtStart => vec!["3", "broken"],
        Release::NeverReady => vec!["4", "late"],
    };
    if manner == Manner::Closes {
        args.push("silent");
    }
    Ok(format!(
        r#"
[status]
listen = "127.0.0.1:0"

[[app]]
name = "web"
script = {script:?}
args = {args:?}
interpreter = "none"
cwd = {work:?}
instances = {instances}
listen = ["tcp://127.0.0.1:0"]
wait_ready = true
listen_timeout = "2s"
reload = {{ min_ready = "200ms", drain_timeout = "5s" }}
"#,
        script = place::built("examples/http")?,
        work = stand.work(),
        instances = options.instances,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_wrk_reports_as_failed_counts() {
        let report = "Running 1s test\n  1234 requests in 1.00s, 1.5MB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 4\n";
        assert_eq!(parse(report).unwrap(), Load { requests: 1234, failed: 10 });
        assert!(parse("nothing").is_err());
    }
}
