//! The committed state is spoilt while instances run: they are found again by what the store holds.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, Instance, is_alive, signal, until};
use crate::puppets::Stage;
use crate::survivors::{LINES, lines_go_on};

/// Bytes of a place of the state, and where things lie in it: `src/supervisor/state.rs`.
const PLACE: u64 = 512;
const FORMAT: u64 = 512;
const GLOBALS: u64 = 1024;
const APPS: u64 = 4096;
const INSTANCES: u64 = APPS + 1024 * PLACE;

/// The state as it lies in the keeper's store.
fn state(herdwire: &Herdwire) -> File {
    let folder = PathBuf::from(format!("/proc/{}/fd", herdwire.keeper_pid()));
    let descriptors = std::fs::read_dir(&folder).unwrap().flatten();
    let found = descriptors.map(|entry| entry.path()).find(|path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:herdwire-state"))
    });
    OpenOptions::new().read(true).write(true).open(found.expect("the keeper holds the state")).unwrap()
}

/// What must not change: name, id, pid, count of restarts and index.
type Identity = (String, u64, u32, u64, u64);

fn identity(instance: &Instance) -> Identity {
    let index = instance.record["pm2_env"]["NODE_APP_INSTANCE"].as_u64().expect("jlist has it");
    (instance.name.clone(), instance.id, instance.pid, instance.restarts, index)
}

/// Two apps, three running instances, one of them in its second incarnation; and one that is stopped.
fn herd() -> (Herdwire, Vec<Identity>) {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", LINES, "-n", "web", "-i", "2"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "api"]);
    herdwire.ok(&["restart", "api"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "rest"]);
    herdwire.ok(&["stop", "rest"]);
    let running = herdwire.list().iter().filter(|now| now.is_online()).map(identity).collect();
    (herdwire, running)
}

#[track_caller]
fn all_are_adopted(herdwire: &Herdwire, before: &[Identity]) {
    herdwire.kill_supervisor();
    let now: Vec<_> = herdwire.list().iter().filter(|now| now.is_online()).map(identity).collect();
    assert_eq!(now, before, "{}", herdwire.own_log());
    assert!(before.iter().all(|(_, _, pid, ..)| is_alive(*pid)));
}

#[track_caller]
fn is_warned_of(herdwire: &Herdwire, words: &str) {
    let warnings = herdwire.snapshot()["supervisor"]["warnings"].to_string();
    assert!(warnings.contains(words), "{warnings}");
}

/// Every line that `web` has printed is in its files once, and more come.
#[track_caller]
fn webs_lines_go_on(herdwire: &Herdwire) {
    for instance in herdwire.instances("web") {
        lines_go_on(herdwire, &format!("web-out-{}.log", instance.id));
    }
}

#[test]
fn a_state_that_is_all_zeroes_costs_no_instance() {
    let (herdwire, before) = herd();
    let state = state(&herdwire);
    let zeroes = vec![0; state.metadata().unwrap().len() as usize];
    state.write_all_at(&zeroes, 0).unwrap();
    all_are_adopted(&herdwire, &before);
    is_warned_of(&herdwire, "is not one of Herdwire: rebuilt from the store, 3 instances that run");
    assert_eq!(herdwire.instance("rest").status, "stopped", "it is in the list and was not started");
    webs_lines_go_on(&herdwire);
    // What was rebuilt is a state like any other.
    all_are_adopted(&herdwire, &before);
    herdwire.ok(&["start", "sleep 1000", "-n", "new"]);
    let ids: Vec<u64> = herdwire.list().iter().map(|now| now.id).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    herdwire.ok(&["restart", "all"]);
}

/// Nobody remembers the process that was started: it has ended, and the record that knew its number is lost.
#[test]
fn a_daemon_whose_first_process_has_ended_is_found_by_its_main_one() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    let into_background = "args = [\"background\", \"MAINPID=WHO\"]";
    herdwire.write("herdwire.toml", &Stage::app(&herdwire, "daemon", 1, into_background));
    herdwire.ok(&["start"]);
    let mut puppet = stage.next();
    let before = identity(&herdwire.await_instance("daemon", "is known", |now| now.pid == puppet.pid));
    state(&herdwire).write_all_at(b"HWSTATE9", 0).unwrap();
    all_are_adopted(&herdwire, &[before]);
    puppet.tell("exit 3");
    stage.next();
    assert_eq!(herdwire.instance("daemon").own("last_exit")["Code"], 3);
}

#[test]
fn a_state_of_something_else_costs_no_instance() {
    let (herdwire, before) = herd();
    state(&herdwire).write_all_at(b"HWSTATE9", 0).unwrap();
    all_are_adopted(&herdwire, &before);
    is_warned_of(&herdwire, "3 instances that run and 1 as stopped");
}

/// A format whose oldest reader is a release that does not exist yet, as a valid copy of its place.
fn later_format() -> Vec<u8> {
    let fields = [9_u16.to_le_bytes(), 9_u16.to_le_bytes()].concat();
    let fields = [&fields[..], &1024_u32.to_le_bytes(), &8192_u32.to_le_bytes()].concat();
    let header = [&(fields.len() as u16).to_le_bytes()[..], &1_u16.to_le_bytes(), &99_u64.to_le_bytes()].concat();
    let checked = [&FORMAT.to_le_bytes()[..], &header, &fields].concat();
    [&crc32fast::hash(&checked).to_le_bytes()[..], &header, &fields].concat()
}

#[test]
fn a_state_for_later_releases_only_costs_no_instance() {
    let (herdwire, before) = herd();
    state(&herdwire).write_all_at(&later_format(), FORMAT).unwrap();
    all_are_adopted(&herdwire, &before);
    is_warned_of(&herdwire, "may be read from version 9 of its format on");
    assert_eq!(herdwire.instance("rest").status, "stopped");
}

#[test]
fn spoilt_globals_and_a_spoilt_format_cost_nothing_at_all() {
    for place in [GLOBALS, FORMAT] {
        let (herdwire, before) = herd();
        state(&herdwire).write_all_at(&[0xff; PLACE as usize], place).unwrap();
        all_are_adopted(&herdwire, &before);
        assert_eq!(herdwire.instance("rest").status, "stopped");
        herdwire.ok(&["start", "sleep 1000", "-n", "new"]);
        assert!(before.iter().all(|(_, id, ..)| *id != herdwire.instance("new").id), "an id was given twice");
    }
}

#[test]
fn damaged_records_of_apps_and_instances_cost_no_instance() {
    let (herdwire, before) = herd();
    let state = state(&herdwire);
    for place in [APPS, APPS + PLACE, INSTANCES, INSTANCES + 2 * PLACE] {
        state.write_all_at(&[0xff; PLACE as usize], place).unwrap();
    }
    all_are_adopted(&herdwire, &before);
    is_warned_of(&herdwire, "4 records of the stored state are damaged");
    webs_lines_go_on(&herdwire);
}

#[test]
fn flipped_bits_anywhere_cost_no_instance() {
    let (herdwire, before) = herd();
    // One bit in each of so many places; over the whole, all that a record has.
    for round in 0..8_u64 {
        let state = state(&herdwire);
        for place in [0, FORMAT, GLOBALS, APPS, APPS + PLACE, INSTANCES, INSTANCES + PLACE, INSTANCES + 2 * PLACE] {
            let at = place + (round * 131 + place / 64) % PLACE;
            let mut byte = [0];
            state.read_exact_at(&mut byte, at).unwrap();
            state.write_all_at(&[byte[0] ^ (1 << (round % 8))], at).unwrap();
        }
        let now = |herdwire: &Herdwire| {
            let mut pids: Vec<_> = herdwire.list().iter().filter(|now| now.pid != 0).map(|now| now.pid).collect();
            pids.sort_unstable();
            pids
        };
        herdwire.kill_supervisor();
        let mut pids: Vec<u32> = before.iter().map(|(_, _, pid, ..)| *pid).collect();
        pids.sort_unstable();
        assert_eq!(now(&herdwire), pids, "round {round}: {}", herdwire.own_log());
    }
}

#[test]
fn what_was_rebuilt_ends_and_comes_back_like_any_other() {
    let (herdwire, before) = herd();
    state(&herdwire).write_all_at(&[0; 8], 0).unwrap();
    all_are_adopted(&herdwire, &before);
    let api = herdwire.instance("api");
    signal(api.pid, Signal::SIGKILL);
    let again = herdwire.await_instance("api", "came back", |now| now.is_online() && now.pid != api.pid);
    assert_eq!((again.id, &again.own("last_exit")["Signal"]), (api.id, &9.into()));
    herdwire.ok(&["stop", "web"]);
    assert!(herdwire.instances("web").iter().all(|now| now.status == "stopped"));
    herdwire.ok(&["start", "rest"]);
    assert!(herdwire.instance("rest").is_online());
}

#[test]
fn what_ended_while_the_state_was_lost_is_known_and_comes_back() {
    let (herdwire, _) = herd();
    let api = herdwire.instance("api");
    let supervisor = herdwire.supervisor_pid();
    state(&herdwire).write_all_at(&[0; 8], 0).unwrap();
    signal(supervisor, Signal::SIGSTOP);
    signal(api.pid, Signal::SIGKILL);
    until("it has ended", || !is_alive(api.pid));
    signal(supervisor, Signal::SIGKILL);
    // Only `api` lacks an instance that could have been it, besides `rest`: nothing is guessed, and nothing is lost.
    until("a supervisor serves", || herdwire.run(&["list"]).status.success());
    assert_eq!(herdwire.instances("web").iter().filter(|now| now.is_online()).count(), 2);
    herdwire.ok(&["restart", "api"]);
    assert!(herdwire.instance("api").is_online());
}

#[test]
fn a_control_socket_that_was_removed_is_made_again() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let (socket, before) = (herdwire.home().join("control.sock"), herdwire.instance("nap").pid);
    std::fs::remove_file(&socket).unwrap();
    until("the socket is there again", || socket.exists());
    assert_eq!(herdwire.instance("nap").pid, before);
    // It is the one that a successor gets.
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instance("nap").pid, before);
}

#[test]
fn something_else_in_the_place_of_the_control_socket_is_left_alone() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let (socket, nap) = (herdwire.home().join("control.sock"), herdwire.instance("nap").pid);
    std::fs::remove_file(&socket).unwrap();
    let other = UnixListener::bind(&socket).unwrap();
    until("it is told", || herdwire.own_log().contains("is not our socket any more"));
    drop(other);
    std::fs::remove_file(&socket).unwrap();
    until("the socket is there again", || herdwire.run(&["ping"]).status.success());
    assert_eq!(herdwire.instance("nap").pid, nap);
    assert!(!herdwire.snapshot()["supervisor"]["warnings"].to_string().contains("not our socket"));
}
