//! How an app's instances show that they are ready and well: probes, a descriptor, a watchdog, a heartbeat, memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::bounds::within;
use super::error::{At, ConfigError, Place, Problem};
use super::resolve::bad;
use super::section::Section;
use super::spec::{AppSpec, Command, HealthSpec, ListenAddress, Probe, ProbeTarget};
use super::{address, script, words};

/// What somebody wrote.
#[derive(Debug, Default)]
pub struct HealthFile {
    pub readiness: Option<ProbeFile>,
    pub liveness: Option<ProbeFile>,
    pub notify_descriptor: Option<At<u32>>,
    pub watchdog: Option<At<Duration>>,
    pub heartbeat: Option<At<Duration>>,
    pub max_memory: Option<At<u64>>,
}

/// `readiness` or `liveness`: a target, or a table with it.
#[derive(Debug, Default)]
pub struct ProbeFile {
    pub place: Place,
    pub target: Option<At<String>>,
    pub interval: Option<At<Duration>>,
    pub timeout: Option<At<Duration>>,
    pub failures: Option<At<u32>>,
    pub delay: Option<At<Duration>>,
}

/// Where commands of probes are looked for.
pub(super) struct Lookup<'a> {
    pub cwd: &'a Path,
    pub env: &'a BTreeMap<String, String>,
}

impl HealthFile {
    /// Reads its keys of an app.
    pub(super) fn read(section: &mut Section<'_>) -> Result<HealthFile, ConfigError> {
        Ok(HealthFile {
            readiness: probe(section, "readiness", "[app.readiness]")?,
            liveness: probe(section, "liveness", "[app.liveness]")?,
            notify_descriptor: section.number("notify_descriptor")?,
            watchdog: section.duration("watchdog")?,
            heartbeat: section.duration("heartbeat")?,
            max_memory: section.size("max_memory_restart")?,
        })
    }

    /// What makes an instance wait until it is ready, if anything does.
    pub(super) fn waits(&self) -> Option<&'static str> {
        let readiness = self.readiness.as_ref().map(|_| "readiness");
        readiness.or(self.notify_descriptor.as_ref().map(|_| "notify_descriptor"))
    }

    /// Applies the defaults and checks.
    pub(super) fn resolve(&self, lookup: &Lookup<'_>) -> Result<HealthSpec, ConfigError> {
        within(&self.notify_descriptor, "notify_descriptor", 3..=1023)?;
        at_least(&self.watchdog, "watchdog", Duration::from_millis(100))?;
        at_least(&self.heartbeat, "heartbeat", Duration::from_millis(100))?;
        // pm2's way to say that there is none.
        let max_memory = self.max_memory.as_ref().filter(|bytes| bytes.value != 0);
        if let Some(At { value, place }) = max_memory
            && *value < 1 << 20
        {
            let (reason, hint) =
                (format!("{value} bytes are less than any program needs"), Some("\"512M\" is 512 MiB".into()));
            return Err(ConfigError::at(*place, Problem::Value { key: "max_memory_restart".into(), reason, hint }));
        }
        const MS: Duration = Duration::from_millis(1);
        let ready = Probe {
            target: ProbeTarget::Tcp(SocketAddr::from(([0; 4], 0))),
            interval: 500 * MS,
            timeout: 2000 * MS,
            failures: 1,
            delay: Duration::ZERO,
        };
        let alive = Probe { interval: 10_000 * MS, timeout: 5000 * MS, failures: 3, ..ready.clone() };
        let resolve = |probe: &Option<ProbeFile>, key, default| {
            probe.as_ref().map(|probe| probe.resolve(key, default, lookup)).transpose()
        };
        Ok(HealthSpec {
            readiness: resolve(&self.readiness, "readiness", ready)?,
            liveness: resolve(&self.liveness, "liveness", alive)?,
            notify_descriptor: self.notify_descriptor.as_ref().map(|at| at.value),
            watchdog: self.watchdog.as_ref().map(|at| at.value),
            heartbeat: self.heartbeat.as_ref().map(|at| at.value),
            max_memory: max_memory.map(|at| at.value),
        })
    }
}

impl ProbeFile {
    fn resolve(&self, key: &'static str, default: Probe, lookup: &Lookup<'_>) -> Result<Probe, ConfigError> {
        let Some(At { value: target, place }) = &self.target else {
            let hint = "for instance target = \"http://127.0.0.1:8080/health\"";
            let missing = Problem::Missing { section: format!("[app.{key}]"), key: "target", hint };
            return Err(ConfigError::at(self.place, missing));
        };
        let target = read_target(target, lookup).map_err(|reason| bad(key, *place, reason))?;
        at_least(&self.interval, "interval", Duration::from_millis(10))?;
        at_least(&self.timeout, "timeout", Duration::from_millis(1))?;
        within(&self.failures, "failures", 1..=1000)?;
        let time = |written: &Option<At<Duration>>, default| written.as_ref().map_or(default, |at| at.value);
        Ok(Probe {
            target,
            interval: time(&self.interval, default.interval),
            timeout: time(&self.timeout, default.timeout),
            failures: self.failures.as_ref().map_or(default.failures, |at| at.value),
            delay: time(&self.delay, default.delay),
        })
    }
}

/// A probe, as a string or a table.
fn probe(app: &mut Section<'_>, key: &'static str, title: &'static str) -> Result<Option<ProbeFile>, ConfigError> {
    if !app.is_table(key) {
        let target = app.text(key)?;
        return Ok(target.map(|target| ProbeFile {
            place: target.place,
            target: Some(target),
            ..ProbeFile::default()
        }));
    }
    let Some(mut section) = app.within(key, title)? else { return Ok(None) };
    let probe = ProbeFile {
        place: section.place(),
        target: section.text("target")?,
        interval: section.duration("interval")?,
        timeout: section.duration("timeout")?,
        failures: section.number("failures")?,
        delay: section.duration("delay")?,
    };
    section.finish()?;
    Ok(Some(probe))
}

/// `tcp://HOST:PORT`, `http://HOST[:PORT][/PATH]` or `exec:COMMAND`.
fn read_target(text: &str, lookup: &Lookup<'_>) -> Result<ProbeTarget, String> {
    if let Some(command) = text.strip_prefix("exec:") {
        return exec(command, lookup).map(ProbeTarget::Exec);
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return http(text, rest);
    }
    if text.starts_with("tcp://") {
        return address::tcp(text).and_then(possible).map(ProbeTarget::Tcp);
    }
    Err(format!(
        "`{text}` is no target; write for instance tcp://127.0.0.1:8080, http://127.0.0.1:8080/health or exec:COMMAND"
    ))
}

fn possible(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.port() == 0 {
        return Err(format!("nothing can be reached at port 0 of {}", address.ip()));
    }
    Ok(address)
}

fn http(text: &str, rest: &str) -> Result<ProbeTarget, String> {
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.contains('@') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("is not a URL that can be asked for: no user, no blanks and no `#`".to_owned());
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let address = address::tcp(&if has_port { host.to_owned() } else { format!("{host}:80") });
    let address = address.and_then(possible).map_err(|reason| format!("`{text}` cannot be reached: {reason}"))?;
    Ok(ProbeTarget::Http { address, host: host.to_owned(), path: path.to_owned() })
}

fn exec(command: &str, lookup: &Lookup<'_>) -> Result<Command, String> {
    // Its words may hold secrets: errors name the program alone.
    let mut words = words::split(command)?.into_iter();
    let name = words.next().ok_or("names no command: exec:curl -fs http://127.0.0.1:8080/")?;
    let path = lookup.env.get("PATH").map_or(script::DEFAULT_PATH, String::as_str);
    let program = script::program(&name, lookup.cwd, path);
    let program =
        program.ok_or_else(|| format!("program `{}` is neither in PATH nor executable", name.escape_debug()))?;
    Ok(Command { program, args: words.collect() })
}

fn at_least(written: &Option<At<Duration>>, key: &str, least: Duration) -> Result<(), ConfigError> {
    match written {
        Some(At { value, place }) if *value < least => Err(bad(key, *place, format!("is less than {least:?}"))),
        _ => Ok(()),
    }
}

/// A probe that looks at what all instances share says nothing of one of them.
pub(super) fn warnings(app: &AppSpec) -> Vec<String> {
    let probes = [("readiness", &app.health.readiness), ("liveness", &app.health.liveness)];
    let shared = |probe: &Probe| {
        let (ProbeTarget::Tcp(address) | ProbeTarget::Http { address, .. }) = &probe.target else { return false };
        app.listen.iter().any(|listen| address::collide(listen, &ListenAddress::Tcp(*address)))
    };
    let of = |(key, probe): (&str, &Option<Probe>)| {
        let probe = probe.as_ref().filter(|probe| shared(probe))?;
        let tcp = matches!(probe.target, ProbeTarget::Tcp(_));
        (tcp || app.instances > 1).then(|| {
            let name = &app.name;
            format!("app `{name}`: `{key}` looks at a listener that the supervisor holds and all instances share: it says nothing of one of them")
        })
    };
    probes.into_iter().filter_map(of).collect()
}
