//! The apps of a run, and whether exactly they run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use measure::stand::{Stand, is_alive};
use measure::{interrupt, place};
use serde_json::Value;

/// Instances at most.
pub const LIMIT: usize = 4000;
/// Instances of one app that only sleeps.
const SLEEPERS: usize = 250;
/// After everything has been started again, all are there at the latest.
const WHOLE_LIMIT: Duration = Duration::from_secs(30);

/// The apps: one whose instances have something to lose, and as many that sleep as are needed.
pub fn config(instances: usize, chatters: usize, stand: &Stand) -> anyhow::Result<String> {
    let mut text = format!(
        r#"
[status]
listen = "127.0.0.1:0"

[[app]]
name = "chatter"
script = {program:?}
interpreter = "none"
instances = {chatters}
env = {{ FLOOD_FOLDER = {folder:?} }}
wait_ready = true
listen_timeout = "30s"
# However often one exits, it comes back at once.
max_restarts = 1000000
min_uptime = 0
"#,
        program = place::built("chatter")?,
        folder = stand.work(),
    );
    let sleepers = instances - chatters;
    for (app, first) in (0..sleepers).step_by(SLEEPERS).enumerate() {
        let count = SLEEPERS.min(sleepers - first);
        text += &format!(
            "\n[[app]]\nname = \"sleeper-{app}\"\nscript = \"/bin/sleep\"\nargs = [\"infinity\"]\ninstances = {count}\n"
        );
    }
    Ok(text)
}

/// Those of `jlist` that log and exchange messages.
pub fn chatters(instances: &[Value]) -> Vec<Value> {
    instances.iter().filter(|instance| instance["name"] == "chatter").cloned().collect()
}

/// Waits until all instances are online, and no process of this home runs twice.
///
/// # Errors
/// They are not in time.
pub fn is_whole(stand: &Stand, instances: usize) -> anyhow::Result<()> {
    let mut seen = 0;
    let is_whole = interrupt::wait_for(WHOLE_LIMIT, || {
        // Nobody may answer for a moment.
        let Ok(all) = stand.instances() else { return Ok(false) };
        seen = all.iter().filter(|instance| instance["pm2_env"]["status"] == "online").count();
        Ok(seen == instances && all.len() == instances && doubled(&stand.home(), &all)? == 0)
    })?;
    ensure!(is_whole, "{seen} of {instances} instances are online, or some run twice");
    Ok(())
}

/// Processes of this home that lead a session of their own and that `jlist` does not know.
pub fn doubled(home: &Path, instances: &[Value]) -> anyhow::Result<u64> {
    let known: Vec<u64> = instances.iter().filter_map(|instance| instance["pid"].as_u64()).collect();
    let mark = format!("HERDWIRE_HOME={}", home.display());
    let mut doubled = 0;
    let mut places: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Whoever has ended meanwhile has no environment.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let variable = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            variables.find(|variable| variable.starts_with(name)).map(|variable| variable.into_owned())
        };
        let is_instance = variable("HERDWIRE_ID=").is_some() && variable(&mark).is_some_and(|found| found == mark);
        if !is_instance || !is_alive(pid) {
            continue;
        }
        let place = format!("{:?} {:?}", variable("HERDWIRE_NAME="), variable("HERDWIRE_INDEX="));
        *places.entry(place).or_default() += 1;
        if !known.contains(&u64::from(pid)) && !is_being_replaced(pid) {
            doubled += 1;
        }
    }
    let twice = places.values().filter(|count| **count > 1).count() as u64;
    Ok(doubled.min(twice))
}

/// Whether a process ends by itself within a moment: it was on its way out, or not yet let go.
fn is_being_replaced(pid: u32) -> bool {
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while is_alive(pid) {
        if std::time::Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
