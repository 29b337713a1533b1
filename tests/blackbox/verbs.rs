//! pm2's small verbs, as scripts use them: `pid`, `id`, `env`, `prettylist`, `reset`, `sendSignal`, `-v`.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, signal, until};

/// `one` with two instances, and `other`, which is stopped.
fn two_apps() -> Herdwire {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "one", "-i", "2"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    herdwire.ok(&["stop", "other"]);
    herdwire
}

#[test]
fn pid_and_id_print_numbers_for_scripts() {
    let herdwire = two_apps();
    let pids: Vec<u32> = herdwire.instances("one").iter().map(|instance| instance.pid).collect();
    assert_eq!(herdwire.ok(&["pid", "one"]), format!("{}\n{}\n", pids[0], pids[1]));
    assert_eq!(herdwire.ok(&["pid", "1"]), format!("{}\n", pids[1]));
    assert_eq!(herdwire.ok(&["pid"]), format!("{}\n{}\n0\n", pids[0], pids[1]));
    assert_eq!(herdwire.ok(&["pid", "nobody"]), "\n");
    assert_eq!(herdwire.ok(&["id", "one"]), "[ 0, 1 ]\n");
    assert_eq!(herdwire.ok(&["id", "nobody"]), "[]\n");
}

#[test]
fn nothing_that_only_looks_starts_a_supervisor() {
    let herdwire = Herdwire::new();
    for (arguments, says) in [(&["pid"][..], "\n"), (&["id", "x"], "[]\n"), (&["prettylist"], "[]\n")] {
        assert_eq!(herdwire.ok(arguments), says);
    }
    assert!(herdwire.refused(&["env", "0"]).contains("no supervisor is running"));
    assert!(herdwire.processes().is_empty());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(herdwire.ok(&["-v"]), format!("{version}\n"));
    assert_eq!(herdwire.ok(&["--version"]), format!("herdwire {version}\n"));
}

#[test]
fn env_hides_what_looks_like_a_secret_unless_it_is_asked_for() {
    let herdwire = Herdwire::new();
    let set = ["--env", "DB_PASSWORD=hunter2", "--env", "COLOUR=blue"];
    herdwire.ok(&[&["start", "sleep 1000", "-n", "nap"][..], &set].concat());
    let said = herdwire.ok(&["env", "0"]);
    assert!(said.contains("COLOUR: blue\n") && said.contains("DB_PASSWORD: ***\n"), "{said}");
    assert!(herdwire.ok(&["env", "nap", "--show"]).contains("DB_PASSWORD: hunter2\n"));
    assert!(herdwire.refused(&["env", "7"]).contains("no app or instance `7`"));
}

#[test]
fn prettylist_has_a_key_a_line_as_node_prints_it() {
    let herdwire = two_apps();
    let said = herdwire.ok(&["prettylist"]);
    let of = |key: &str| -> Vec<String> {
        let lines = said.lines().map(str::trim).filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        lines.map(|value| value.trim_end_matches(',').to_owned()).collect()
    };
    assert_eq!(of("status"), ["'online'", "'online'", "'stopped'"]);
    // At the top and in `pm2_env`.
    assert_eq!(of("name"), ["'one'", "'one'", "'one'", "'one'", "'other'", "'other'"]);
    assert_eq!(of("args"), vec!["[ '-c', 'sleep 1000' ]"; 3]);
    assert_eq!(of("restart_time"), ["0", "0", "0"]);
    assert!(said.starts_with("[\n  {\n    pid: ") && said.ends_with(" }\n  }\n]\n"), "{said}");
    assert!(!said.contains("herdwire:"), "{said}");
}

#[test]
fn reset_sets_counters_back_and_touches_no_process() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let first = herdwire.instance("nap").pid;
    signal(first, Signal::SIGKILL);
    let before = herdwire.await_instance("nap", "came back", |one| one.restarts == 1 && one.is_online());
    assert_eq!(before.record["pm2_env"]["unstable_restarts"], 1);
    herdwire.ok(&["reset", "nap"]);
    herdwire.kill_supervisor();
    let after = herdwire.instance("nap");
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    assert_eq!(after.record["pm2_env"]["unstable_restarts"], 0);
    assert!(herdwire.refused(&["reset", "nobody"]).contains("`nobody`"));
}

#[test]
fn a_signal_is_sent_to_the_process_alone_and_only_if_there_is_one() {
    let herdwire = Herdwire::new();
    herdwire.write("hears.sh", "trap 'echo heard' USR2; echo ready; while :; do sleep 0.01; done");
    herdwire.ok(&["start", "hears.sh", "-n", "app"]);
    herdwire.await_log("app-out.log", "ready");
    let pid = herdwire.instance("app").pid;
    assert_eq!(herdwire.ok(&["sendSignal", "usr2", "app"]), format!("sent SIGUSR2 to app:0 (pid {pid})\n"));
    herdwire.await_log("app-out.log", "heard");
    let ran = herdwire.run(&["sendSignal", "SIGNOPE", "app"]);
    assert!(ran.status.code() == Some(2) && ran.stderr.contains("`SIGNOPE` is not a signal"), "{ran:?}");
    herdwire.ok(&["stop", "app"]);
    assert!(herdwire.refused(&["sendSignal", "12", "app"]).contains("not running"));
    assert!(herdwire.refused(&["sendSignal", "12", "nobody"]).contains("`nobody`"));
}

#[test]
fn an_interpreters_arguments_stand_before_the_script_and_are_not_its_own() {
    let herdwire = Herdwire::new();
    herdwire.script("args.sh", "#!/bin/bash\necho \"$- $*\"; exec sleep 1000");
    let flags = ["--node-args", "-f -u", "--", "a b", "c"];
    herdwire.ok(&[&["start", "args.sh", "-n", "app"][..], &flags].concat());
    herdwire.await_log("app-out.log", "uB a b c");
    let pm2 = herdwire.instance("app").record["pm2_env"].clone();
    assert_eq!((&pm2["args"], &pm2["node_args"]), (&["a b", "c"][..].into(), &["-f", "-u"][..].into()));
    let said = herdwire.ok(&["describe", "app"]);
    let arguments = said.lines().find(|line| line.contains(" arguments ")).unwrap();
    assert!(arguments.contains("\"a b\" c") && !arguments.contains("args.sh"), "{said}");
    let said = herdwire.refused(&["start", "sleep 1000", "-n", "plain", "--node-args", "-x"]);
    assert!(said.contains("--node-args") && said.contains("no interpreter"), "{said}");
}

#[test]
fn update_env_is_taken_and_said_to_be_of_no_use_where_it_is() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "--update-env"]);
    let ran = herdwire.run(&["restart", "nap", "--update-env"]);
    assert!(ran.status.success() && ran.stderr.contains("warning: --update-env changes nothing here"), "{ran:?}");
    until("it is online", || herdwire.instance("nap").is_online());
}
