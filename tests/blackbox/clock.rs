//! The wall clock is set, by seconds or by years, while apps run that have to do with time.
//!
//! Only keeper, supervisor and what they start see it: a library is preloaded into them (`tests/workers/clock.rs`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::herdwire::{Herdwire, Instance, Ran, finish, until, worker};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
const YEAR: i64 = 366 * 24 * HOUR;

const APPS: &str = r#"
[[app]]
name = "steady"
script = "exec sleep 1000"
instances = 2
min_uptime = "1h"

[[app]]
name = "yearly"
script = "exec sleep 1000"
cron_restart = "0 0 1 1 *"
cron_timezone = "UTC"

[[app]]
name = "often"
script = "exec sleep 1000"
cron_restart = "* * * * * *"

[[app]]
name = "waiting"
script = "exit 1"
restart_delay = "1h"
"#;

/// A herd whose wall clock is ours.
struct Clock {
    herdwire: Herdwire,
    ahead: File,
    ahead_ms: i64,
}

impl Clock {
    fn new() -> Clock {
        let herdwire = Herdwire::new();
        let path = herdwire.write("clock", "");
        let ahead = File::options().write(true).open(path).unwrap();
        ahead.write_all_at(&0_i64.to_ne_bytes(), 0).unwrap();
        herdwire.write("herdwire.toml", APPS);
        let clock = Clock { herdwire, ahead, ahead_ms: 0 };
        // Not all of its apps are to stay up.
        clock.run(&["start"]);
        clock
    }

    /// Runs a command that goes by this clock.
    fn run(&self, arguments: &[&str]) -> Ran {
        let library = worker("libclock.so");
        let mut command = self.herdwire.command(arguments);
        finish(command.env("LD_PRELOAD", library).env("TEST_CLOCK", self.herdwire.work().join("clock")))
    }

    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 + self.ahead_ms
    }

    /// Sets it, and has the supervisor look at it, which it does once a minute or when something is to be watched.
    fn set(&mut self, ahead_ms: i64) {
        self.ahead_ms = ahead_ms;
        self.ahead.write_all_at(&ahead_ms.to_ne_bytes(), 0).unwrap();
        self.herdwire.write(
            "nudge.toml",
            "[[app]]\nname = \"nudge\"\nscript = \"exec sleep 1000\"\ncron_restart = \"0 0 1 1 *\"\n",
        );
        let nudged = self.run(&["start", "nudge.toml"]);
        assert!(nudged.status.success(), "{nudged:?}");
        assert!(self.run(&["delete", "nudge"]).status.success());
    }
}

/// What must be as it was: which processes run, how often they were restarted.
fn undisturbed(all: &[Instance]) -> Vec<(String, u32, u64, String)> {
    let of_it = |one: &Instance| (one.name.clone(), one.pid, one.restarts, one.status.clone());
    all.iter().filter(|one| one.name != "often").map(of_it).collect()
}

#[test]
fn a_clock_that_is_set_restarts_nothing_and_schedules_go_by_the_new_time() {
    let mut clock = Clock::new();
    clock.herdwire.await_instance("waiting", "waits", |now| now.status == "waiting restart");
    until("the schedule is kept", || clock.herdwire.instance("often").restarts > 0);
    let before = undisturbed(&clock.herdwire.list());
    // A step of an NTP client, an hour, ten years; forward, back, and back to where it was.
    for ahead in [2 * SECOND, -2 * SECOND, HOUR, -HOUR, 0, 10 * YEAR, -10 * YEAR, 0] {
        clock.set(ahead);
        let restarts = clock.herdwire.instance("often").restarts;
        until("the schedule goes on", || clock.herdwire.instance("often").restarts >= restarts + 2);
        if ahead == -10 * YEAR {
            clock.herdwire.kill_supervisor();
        }
        let all = clock.herdwire.list();
        assert_eq!(undisturbed(&all), before, "ahead by {ahead} ms\n{}", clock.herdwire.own_log());
        let snapshot: Value = serde_json::from_str(&clock.run(&["list", "--json"]).stdout).unwrap();
        for instance in snapshot["instances"].as_array().unwrap() {
            let uptime = instance["uptime_ms"].as_i64().unwrap();
            assert!((0..HOUR).contains(&uptime), "ahead by {ahead} ms, up for {uptime} ms: {instance:#}");
        }
        let next = next_of(&snapshot, "yearly").unwrap();
        let now = clock.now_ms();
        assert!(next > now && next <= now + YEAR, "ahead by {ahead} ms: next {next}, now {now}");
    }
    assert!(clock.herdwire.own_log().contains("the clock was set by"), "{}", clock.herdwire.own_log());
}

#[test]
fn a_time_that_a_jump_left_out_is_not_made_up_for() {
    let mut clock = Clock::new();
    until("the schedule is kept", || clock.herdwire.instance("often").restarts > 0);
    let yearly = clock.herdwire.instance("yearly");
    clock.set(2 * YEAR);
    until("it is left out", || clock.herdwire.own_log().contains("yearly: a `cron_restart` was due"));
    let now = clock.herdwire.instance("yearly");
    assert_eq!((now.pid, now.restarts), (yearly.pid, yearly.restarts));
}

fn next_of(snapshot: &Value, app: &str) -> Option<i64> {
    let instances = snapshot["instances"].as_array()?;
    instances.iter().find(|one| one["app"] == app)?["health"]["next_restart_ms"].as_i64()
}
