//! How instances are told to go: once, whoever dies meanwhile.

use std::process::Stdio;

use crate::herdwire::{Herdwire, until};

/// Says each time that it is told, and goes when there is a file `go`.
const SAYS_SO: &str = "trap 'echo told' INT; echo up; while [ ! -e go ]; do sleep 0.01; done; exit 0";

fn times_told(herdwire: &Herdwire) -> usize {
    herdwire.log("app-out.log").lines().filter(|line| *line == "told").count()
}

fn start(herdwire: &Herdwire) {
    let config = format!(
        "[[app]]\nname = \"app\"\nscript = {SAYS_SO:?}\nkill_timeout = \"1h\"\n[app.reload]\nmin_ready = 0\ndrain_timeout = \"1h\"\n"
    );
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    herdwire.await_log("app-out.log", "up\n");
}

#[test]
fn one_that_finishes_after_a_reload_is_not_told_again_by_the_next_supervisor() {
    let herdwire = Herdwire::new();
    start(&herdwire);
    let old = herdwire.instance("app").pid;
    herdwire.ok(&["reload", "app"]);
    assert_ne!(herdwire.instance("app").pid, old);
    herdwire.await_log("app-out.log", "told\n");
    for _ in 0..2 {
        herdwire.kill_supervisor();
        // Whoever answers has told everybody whom it had to tell.
        herdwire.ok(&["ping"]);
    }
    herdwire.write("go", "");
    until("it has gone", || !crate::herdwire::is_alive(old));
    assert_eq!(times_told(&herdwire), 1, "{}", herdwire.own_log());
}

#[test]
fn one_that_is_stopped_is_not_told_again_by_the_next_supervisor() {
    let herdwire = Herdwire::new();
    start(&herdwire);
    let mut stop = herdwire.command(&["stop", "app"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    herdwire.await_log("app-out.log", "told\n");
    herdwire.kill_supervisor();
    herdwire.ok(&["ping"]);
    herdwire.write("go", "");
    herdwire.await_instance("app", "stopped", |now| now.status == "stopped");
    // Its connection went with the supervisor that it had asked.
    stop.wait().unwrap();
    assert_eq!(times_told(&herdwire), 1, "{}", herdwire.own_log());
}
