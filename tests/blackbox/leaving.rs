//! How instances are told to go: once, whoever dies meanwhile.

use std::process::Stdio;

use crate::herdwire::{Herdwire, is_alive, until};
use crate::puppets::Stage;

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
    until("it has gone", || !is_alive(old));
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

/// Two instances that are deaf to their signal, with the same short time to end; one of them asks for more.
#[test]
fn one_that_needs_more_time_to_stop_gets_it_and_another_is_killed() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    let deaf = |name: &str| {
        let app = Stage::app(&herdwire, name, 1, "kill_timeout = \"500ms\"");
        let puppet = crate::herdwire::worker("puppet").display().to_string();
        app.replace(&format!("{puppet:?}"), &format!("{:?}", format!("trap '' INT; exec {puppet}")))
    };
    herdwire.write("herdwire.toml", &(deaf("patient") + &deaf("plain")));
    herdwire.ok(&["start"]);
    let mut puppets = stage.next_of(2);
    // Over its link it learns at once that it is to stop.
    puppets[0].connects();
    let stop = herdwire.command(&["stop", "all"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    puppets[0].must_hear("shutdown");
    puppets[0].does("notify EXTEND_TIMEOUT_USEC=3600000000");
    until("the other one is killed", || !is_alive(puppets[1].pid));
    herdwire.await_instance("plain", "was stopped", |now| now.status == "stopped");
    assert_eq!(herdwire.instance("plain").own("last_exit")["Signal"], 9);
    // Its time was over together with the other's.
    assert!(is_alive(puppets[0].pid));
    puppets[0].tell("exit 4");
    herdwire.await_instance("patient", "was stopped", |now| now.status == "stopped");
    assert_eq!(herdwire.instance("patient").own("last_exit")["Code"], 4);
    stop.unwrap().wait().unwrap();
}

/// While both run, a message reaches both; what the old one was sent it reads to the end, and the new one has all that
/// comes after it has joined.
#[test]
fn a_reload_loses_and_repeats_no_message() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    let more = "herd = \"herd\"\nwait_ready = true\nlisten_timeout = \"10m\"\nkill_timeout = \"10m\"";
    let reader = Stage::app(&herdwire, "reader", 1, more) + "[app.reload]\nmin_ready = 0\ndrain_timeout = \"10m\"\n";
    herdwire.write("herdwire.toml", &(Stage::app(&herdwire, "writer", 1, "herd = \"herd\"") + &reader));
    let start = herdwire.command(&["start"]).stdout(Stdio::null()).spawn();
    let mut puppets = stage.next_of(2);
    let (mut writer, mut old) = (puppets.pop().unwrap(), puppets.pop().unwrap());
    assert_eq!((writer.app.as_str(), old.app.as_str()), ("writer", "reader"));
    let (from, first) = (writer.connects().id, old.connects().id);
    old.does("subscribe news");
    old.does("ready");
    start.unwrap().wait().unwrap();
    let mut say = |numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| drop(writer.does(&format!("publish news {number}"))));
        writer.does(&format!("send {first} news for the old one"));
    };
    say(0..10);
    let reload = herdwire.command(&["reload", "reader"]).stdout(Stdio::null()).spawn();
    let mut new = stage.next();
    new.connects();
    new.does("subscribe news");
    say(10..20);
    new.does("ready");
    reload.unwrap().wait().unwrap();
    let mut heard = Vec::new();
    loop {
        match old.hears() {
            words if words == "shutdown" => break,
            words => heard.push(words),
        }
    }
    old.tell("exit 0");
    until("the old one is gone", || !is_alive(old.pid));
    (20..30).for_each(|number| drop(writer.does(&format!("publish news {number}"))));

    let messages = |numbers: std::ops::Range<u32>| numbers.map(|number| format!("heard news {from} {number}"));
    let alone = || std::iter::once(format!("heard-alone news {from} for the old one"));
    let to_the_old: Vec<String> = messages(0..10).chain(alone()).chain(messages(10..20)).chain(alone()).collect();
    assert_eq!(heard, to_the_old);
    for message in messages(10..30) {
        new.must_hear(&message);
    }
    assert_eq!(new.heard_so_far(), None);
}
