//! From what the user wrote to what is run: the only way from one to the other. Defaults of apps and the checks that
//! look at several of them live here; `settings` does the same for the sections of the supervisor as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{At, ConfigError, Place, Problem};
use super::file::{AppFile, File, Instances};
use super::spec::{AppSpec, EnvFile, ListenAddress, Settings, Transport, WireSpec};
use super::{address, bounds, environment, health, names, order, output, restarts, script, settings};

/// The most instances that one app may have.
pub const MAX_INSTANCES: u32 = 256;
/// The longest value of an environment variable: the kernel takes 128 KiB for name, `=`, value and end.
const MAX_VARIABLE: usize = 128 * 1024 - 2;

const RING_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;
const MAX_MESSAGES: std::ops::RangeInclusive<u64> = 1..=1 << 30;

/// What a configuration is seen against: nothing here is asked of the process again.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What relative paths count from, absolute.
    pub folder: PathBuf,
    /// What apps inherit (see `environment`).
    pub env: BTreeMap<String, String>,
    /// Every variable that is text, for settings that name one (`url_env`, `token_env`).
    pub variables: BTreeMap<String, String>,
    /// CPUs that `max` stands for.
    pub cpus: u32,
    /// Names of variables that could not be inherited.
    pub left_out: Vec<String>,
    /// The user that the supervisor runs as.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// The current folder is gone.
    pub fn here() -> std::io::Result<Surroundings> {
        let (env, left_out) = environment::inherited(std::env::vars_os());
        let texts =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        let uid = nix::unistd::geteuid().as_raw();
        Ok(Surroundings { folder: std::env::current_dir()?, env, variables: texts.collect(), cpus, left_out, uid })
    }
}

/// A configuration in which nothing is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub apps: Vec<AppSpec>,
    pub settings: Settings,
    /// What is not wrong but probably not meant, as sentences.
    pub warnings: Vec<String>,
}

/// Applies the defaults and checks everything.
///
/// # Errors
/// The first thing that cannot be run, with its place; the file is for the caller to add.
pub fn resolve(file: &File, surroundings: &Surroundings) -> Result<Resolved, ConfigError> {
    let apps = file.apps.iter().map(|app| resolve_app(app, surroundings)).collect::<Result<Vec<_>, _>>()?;
    let settings = settings::resolve(file, surroundings)?;
    check_names(file, &apps)?;
    check_addresses(file, &apps, &settings)?;
    output::check_files(apps.iter().zip(file.apps.iter().map(|app| &app.output)))?;
    order::check_cycles(&file.apps, &apps)?;
    let warnings = warnings(file, &apps, &settings, surroundings);
    Ok(Resolved { apps, settings, warnings })
}

fn resolve_app(app: &AppFile, surroundings: &Surroundings) -> Result<AppSpec, ConfigError> {
    let cwd = folder(app, surroundings)?;
    let mut env = environment(app, &surroundings.env)?;
    env.insert("PWD".to_owned(), cwd.display().to_string());
    let found = find_script(app, &cwd, &env)?;
    let (name, name_place) = match &app.name {
        Some(At { value, place }) => (value.clone(), *place),
        None => (found.name, app.script.as_ref().map_or(app.place, |script| script.place)),
    };
    check_name(&name, name_place, names::check_app)?;
    if found.interpreter.starts_with("python") {
        env.entry("PYTHONUNBUFFERED".to_owned()).or_insert_with(|| "1".to_owned());
    }
    for (key, value) in &app.env {
        env.insert(key.value.clone(), value.clone());
    }
    let herd = match &app.herd {
        Some(At { value, place }) => {
            check_name(value, *place, names::check_herd)?;
            value.clone()
        }
        None => name.clone(),
    };
    let instances = instances(app, &name, surroundings.cpus)?;
    Ok(AppSpec {
        instances,
        env_files: env_files(app, &cwd)?,
        bounds: app.bounds.resolve()?,
        logs: app.output.resolve(&cwd, instances)?,
        health: app.health.resolve(&health::Lookup { cwd: &cwd, env: &env })?,
        triggers: app.triggers.resolve(&cwd)?,
        depends_on: order::resolve(app, &name)?,
        reload: app.reload.resolve()?,
        listen: addresses(&app.listen)?,
        bridge: channels(&app.bridge, "bridge")?,
        rules: restarts::rules(app)?,
        autostart: value(&app.autostart, true),
        wire: wire(app)?,
        transport: value(&app.transport, Transport::Native),
        name,
        herd,
        command: found.command,
        script: found.script,
        interpreter: found.interpreter,
        cwd,
        env,
    })
}

pub(super) fn value<T: Clone>(written: &Option<At<T>>, default: T) -> T {
    written.as_ref().map_or(default, |written| written.value.clone())
}

fn folder(app: &AppFile, surroundings: &Surroundings) -> Result<PathBuf, ConfigError> {
    let Some(At { value, place }) = &app.cwd else { return Ok(surroundings.folder.clone()) };
    let folder = script::absolute(&surroundings.folder, value);
    if folder.is_dir() {
        return Ok(folder);
    }
    let reason = if folder.exists() { "is not a folder" } else { "does not exist" };
    // Its name may come from the script, which is looked for only in the folder.
    let app = app.name.as_ref().or(app.script.as_ref()).map(|name| name.value.clone()).unwrap_or_default();
    Err(ConfigError::at(*place, Problem::BadFolder { app, folder, reason }))
}

fn environment(app: &AppFile, inherited: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    for (At { value: name, place }, value) in &app.env {
        let wrong = |reason: &str| {
            let key = format!("env.{name}");
            ConfigError::at(*place, Problem::Value { key, reason: reason.to_owned(), hint: None })
        };
        if environment::is_reserved(name) {
            return Err(ConfigError::at(*place, Problem::ReservedVariable { name: name.clone() }));
        }
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            return Err(wrong("the name of a variable is not empty and has neither `=` nor NUL"));
        }
        if value.contains('\0') {
            return Err(ConfigError::at(*place, Problem::Nul { key: format!("env.{name}") }));
        }
        if name.len() + value.len() > MAX_VARIABLE {
            return Err(wrong("a variable may have 128 KiB, its name included"));
        }
    }
    let mut env = inherited.clone();
    if app.bounds.user.is_some() {
        // These belong to whoever starts it. Its user's own are set when it is made.
        env.retain(|name, _| !matches!(name.as_str(), "HOME" | "LOGNAME" | "MAIL" | "SHELL" | "USER"));
    }
    // Programs are looked for in the PATH that the app will have.
    env.extend(
        app.env.iter().filter(|(name, _)| name.value == "PATH").map(|(_, value)| ("PATH".into(), value.clone())),
    );
    Ok(env)
}

/// Files of variables. They are read when an instance is made, so that what is in them is stored nowhere; a `-` before
/// the name, as in systemd, says that it may be missing.
fn env_files(app: &AppFile, cwd: &Path) -> Result<Vec<EnvFile>, ConfigError> {
    let read = |At { value, place }: &At<String>| {
        let (name, optional) = value.strip_prefix('-').map_or((value.as_str(), false), |name| (name, true));
        if name.is_empty() {
            return Err(bad("env_file", *place, "is empty".to_owned()));
        }
        let path = script::absolute(cwd, name);
        if !optional && !path.is_file() {
            let wrong = if path.exists() { "is not a file" } else { "does not exist" };
            let reason = format!("file `{}` {wrong}", path.display());
            let hint = Some(format!("`-{name}` says that it may be missing"));
            return Err(ConfigError::at(*place, Problem::Value { key: "env_file".into(), reason, hint }));
        }
        Ok(EnvFile { path, optional })
    };
    app.env_file.iter().map(read).collect()
}

fn find_script(app: &AppFile, cwd: &Path, env: &BTreeMap<String, String>) -> Result<script::Found, ConfigError> {
    let Some(At { value: wanted, place }) = &app.script else {
        let hint = "script names the file or program to run: script = \"server.js\"";
        let missing = Problem::Missing { section: "[[app]]".to_owned(), key: "script", hint };
        return Err(ConfigError::at(app.place, missing));
    };
    if wanted.trim().is_empty() {
        return Err(bad("script", *place, "is empty".to_owned()));
    }
    let interpreter_place = app.interpreter.as_ref().map_or(*place, |interpreter| interpreter.place);
    let found = script::resolve(script::Wanted {
        script: wanted,
        args: value(&app.args, Vec::new()),
        interpreter: app.interpreter.as_ref().map(|interpreter| interpreter.value.as_str()),
        interpreter_args: value(&app.node_args, Vec::new()),
        name: app.name.as_ref().map(|name| name.value.as_str()),
        cwd,
        path: env.get("PATH").map_or(script::DEFAULT_PATH, String::as_str),
    })
    .map_err(|problem| {
        let of_interpreter = matches!(problem, Problem::NoInterpreter { .. });
        ConfigError::at(if of_interpreter { interpreter_place } else { *place }, problem)
    })?;
    match &app.node_args {
        Some(At { value, place }) if !value.is_empty() && found.interpreter == "none" => {
            let reason = format!("`{}` has no interpreter that would take them", wanted.escape_debug());
            Err(bad("node_args", *place, reason))
        }
        _ => Ok(found),
    }
}

fn check_name(name: &str, place: Place, check: impl Fn(&str) -> Result<(), &'static str>) -> Result<(), ConfigError> {
    check(name).map_err(|reason| {
        // A name of any length may come in; an error is one line.
        let name = name.chars().take(names::MAX_NAME).flat_map(char::escape_debug).collect();
        ConfigError::at(place, Problem::BadName { name, reason })
    })
}

fn instances(app: &AppFile, name: &str, cpus: u32) -> Result<u32, ConfigError> {
    let Some(At { value, place }) = app.instances else { return Ok(1) };
    let asked = match value {
        Instances::Exactly(number) => number,
        Instances::AllBut(spared) => u64::from(cpus).saturating_sub(spared).max(1),
    };
    match u32::try_from(asked) {
        Ok(number) if number <= MAX_INSTANCES => Ok(number),
        _ => {
            let app = name.to_owned();
            Err(ConfigError::at(place, Problem::TooManyInstances { app, asked, limit: MAX_INSTANCES }))
        }
    }
}

fn addresses(listen: &[At<String>]) -> Result<Vec<ListenAddress>, ConfigError> {
    let read =
        |At { value, place }: &At<String>| address::listen(value).map_err(|reason| bad("listen", *place, reason));
    listen.iter().map(read).collect()
}

/// Checks the names of channels.
pub(super) fn channels(channels: &[At<String>], key: &'static str) -> Result<Vec<String>, ConfigError> {
    let mut seen: Vec<String> = Vec::new();
    for At { value, place } in channels {
        names::check_channel(value).map_err(|reason| bad(key, *place, reason))?;
        if seen.contains(value) {
            return Err(bad(key, *place, format!("channel `{value}` is named twice")));
        }
        seen.push(value.clone());
    }
    Ok(seen)
}

/// A value that cannot be, without advice.
pub(super) fn bad(key: &str, place: Place, reason: String) -> ConfigError {
    ConfigError::at(place, Problem::Value { key: key.to_owned(), reason, hint: None })
}

fn wire(app: &AppFile) -> Result<WireSpec, ConfigError> {
    let ring = app.ring_size.clone().unwrap_or(At::new(1 << 20, Place::Whole));
    if !ring.value.is_power_of_two() || !RING_SIZES.contains(&ring.value) {
        let reason = format!("{} bytes are not a power of two from 64 KiB to 64 MiB", ring.value);
        let near = ring.value.clamp(*RING_SIZES.start(), *RING_SIZES.end()).next_power_of_two() >> 10;
        let problem = Problem::Value { key: "ring_size".into(), reason, hint: Some(format!("\"{near}KiB\" is near")) };
        return Err(ConfigError::at(ring.place, problem));
    }
    let max_message = in_range(&app.max_message, "max_message", 16 << 20, MAX_MESSAGES)?;
    Ok(WireSpec {
        ring_bytes: ring.value,
        max_message,
        stall_timeout: value(&app.stall_timeout, Duration::from_secs(5)),
    })
}

/// A size within limits.
pub(super) fn in_range(
    size: &Option<At<u64>>,
    key: &'static str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    match size {
        Some(At { value, place }) if !range.contains(value) => {
            let reason = format!("{value} bytes are not from {} to {}", range.start(), range.end());
            Err(bad(key, *place, reason))
        }
        Some(At { value, .. }) => Ok(*value),
        None => Ok(default),
    }
}

fn check_names(file: &File, apps: &[AppSpec]) -> Result<(), ConfigError> {
    for (at, app) in apps.iter().enumerate() {
        if apps[..at].iter().any(|earlier| earlier.name == app.name) {
            let written = &file.apps[at];
            let place = written.name.as_ref().map_or(written.place, |name| name.place);
            return Err(ConfigError::at(place, Problem::TwiceNamed { name: app.name.clone() }));
        }
    }
    Ok(())
}

fn check_addresses(file: &File, apps: &[AppSpec], settings: &Settings) -> Result<(), ConfigError> {
    let mut taken: Vec<(ListenAddress, String)> = Vec::new();
    if let Some(front) = &settings.front {
        taken.push((ListenAddress::Tcp(front.listen), "[front]".to_owned()));
    }
    if let Some(status) = &settings.status {
        let address = ListenAddress::Tcp(status.listen);
        if let (Some((_, by)), Some(written)) =
            (taken.iter().find(|(other, _)| address::collide(other, &address)), &file.status)
        {
            let place = written.listen.as_ref().map_or(written.place, |listen| listen.place);
            let reason = format!("address `{}` is already taken by {by}", address::display(&address));
            return Err(bad("listen", place, reason));
        }
        taken.push((address, "[status]".to_owned()));
    }
    for (app, written) in apps.iter().zip(&file.apps) {
        for (address, At { place, .. }) in app.listen.iter().zip(&written.listen) {
            if let Some((_, by)) = taken.iter().find(|(other, _)| address::collide(other, address)) {
                let (app, address, by) = (app.name.clone(), address::display(address), by.clone());
                return Err(ConfigError::at(*place, Problem::TwiceBound { app, address, by }));
            }
            taken.push((address.clone(), format!("app `{}`", app.name)));
        }
    }
    Ok(())
}

fn warnings(file: &File, apps: &[AppSpec], settings: &Settings, surroundings: &Surroundings) -> Vec<String> {
    let mut warnings = Vec::new();
    for (at, app) in apps.iter().enumerate() {
        let first = apps[..at].iter().find(|earlier| earlier.herd == app.herd && earlier.wire != app.wire);
        if let Some(first) = first {
            let (app, herd, first) = (&app.name, &app.herd, &first.name);
            warnings.push(format!("app `{app}`: the wire of herd `{herd}` is as app `{first}` says, not as here"));
        }
    }
    for (app, written) in apps.iter().zip(&file.apps) {
        let name = &app.name;
        warnings.extend(health::warnings(app));
        warnings.extend(output::warning(app));
        warnings.extend(bounds::privilege(&app.bounds, surroundings.uid).map(|why| format!("app `{name}`: {why}")));
        let delays = written.restart_delay.as_ref().is_some_and(|delay| !delay.value.is_zero());
        if delays && app.rules.backoff.is_some() {
            warnings.push(format!("app `{name}`: `exp_backoff_restart_delay` takes the place of `restart_delay`"));
        }
    }
    warnings.extend(order::warnings(apps));
    for path in settings.front.iter().flat_map(|front| &front.paths) {
        if !apps.is_empty() && !apps.iter().any(|app| app.herd == path.herd) {
            warnings.push(format!(
                "path `{}` of the front belongs to herd `{}`, which no app here is of",
                path.path, path.herd
            ));
        }
    }
    if !file.apps.is_empty() && !surroundings.left_out.is_empty() {
        let names = surroundings.left_out.join(", ");
        warnings.push(format!("not passed on, since they are not UTF-8: environment variables {names}"));
    }
    warnings
}
