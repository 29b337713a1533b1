//! The supervisor dies of SIGKILL: nothing that runs notices, nothing is forgotten.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, finish, is_alive, signal, until};
use crate::survivors::identity;

#[test]
fn instances_keep_their_processes_ids_uptimes_and_counts() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "3"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "other"]);
    herdwire.ok(&["restart", "other"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "stopped"]);
    herdwire.ok(&["stop", "stopped"]);
    herdwire.run(&["start", "exit 1", "-n", "errored", "--max-restarts", "1"]);
    herdwire.await_instance("errored", "was given up", |now| now.status == "errored");
    let before: Vec<_> = herdwire.list().iter().map(identity).collect();
    let keeper = herdwire.keeper_pid();
    for _ in 0..3 {
        herdwire.kill_supervisor();
        assert_eq!(herdwire.list().iter().map(identity).collect::<Vec<_>>(), before);
        assert_eq!(herdwire.keeper_pid(), keeper);
    }
    let reason = herdwire.instance("errored").own("reason").clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("before it had started well")), "{reason}");
}

#[test]
fn what_ended_meanwhile_is_known_with_its_status() {
    let herdwire = Herdwire::new();
    let ends = "while [ ! -e go ]; do sleep 0.01; done; exit 5";
    herdwire.ok(&["start", ends, "-n", "ends", "--no-autorestart"]);
    herdwire.ok(&["start", ends, "-n", "again"]);
    let (ended, again) = (herdwire.instance("ends").pid, herdwire.instance("again").pid);
    // A stopped supervisor acts on nothing, and is then killed with all it had received.
    let supervisor = herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    herdwire.write("go", "");
    until("both have ended", || !is_alive(ended) && !is_alive(again));
    std::fs::remove_file(herdwire.work().join("go")).unwrap();
    signal(supervisor, Signal::SIGKILL);
    let known = herdwire.await_instance("ends", "ended", |now| now.pid == 0);
    assert_eq!(known.own("last_exit")["Code"], 5);
    let known = herdwire.await_instance("again", "came back", |now| now.is_online() && now.pid != again);
    assert_eq!((known.restarts, &known.own("last_exit")["Code"]), (1, &5.into()));
}

#[test]
fn a_command_that_comes_while_there_is_no_supervisor_waits_for_the_next() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let instance = herdwire.instance("nap");
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        signal(herdwire.supervisor_pid(), Signal::SIGKILL);
        let since = Instant::now();
        herdwire.ok(&["list"]);
        fastest = fastest.min(since.elapsed());
    }
    assert!(fastest < Duration::from_secs(1), "the fastest answer after a death took {fastest:?}");
    assert_eq!(identity(&herdwire.instance("nap")), identity(&instance));
}

#[test]
fn an_adopted_instance_is_stopped_restarted_and_deleted_like_any_other() {
    let herdwire = Herdwire::new();
    let polite = "trap 'echo goodbye; exit 0' INT; echo up; while :; do sleep 0.01; done";
    herdwire.ok(&["start", polite, "-n", "polite"]);
    herdwire.await_log("polite-out.log", "up\n");
    herdwire.kill_supervisor();
    let adopted = herdwire.instance("polite");
    signal(adopted.pid, Signal::SIGKILL);
    let next = herdwire.await_instance("polite", "came back", |now| now.is_online() && now.pid != adopted.pid);
    herdwire.kill_supervisor();
    until("the new one is up", || herdwire.log("polite-out.log").matches("up\n").count() == 2);
    herdwire.ok(&["stop", "polite"]);
    assert!(!is_alive(next.pid));
    assert_eq!(herdwire.log("polite-out.log"), "up\nup\ngoodbye\n");
    herdwire.ok(&["delete", "polite"]);
    herdwire.kill_supervisor();
    assert!(herdwire.list().is_empty());
}

#[test]
fn ids_go_on_counting_after_a_death() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "a", "-i", "2"]);
    herdwire.ok(&["delete", "1"]);
    herdwire.kill_supervisor();
    herdwire.ok(&["start", "sleep 1000", "-n", "b"]);
    assert_eq!(herdwire.instance("b").id, 2);
}

#[test]
fn a_restart_delay_is_kept_across_a_death() {
    let herdwire = Herdwire::new();
    herdwire.run(&["start", "exit 1", "-n", "slow", "--restart-delay", "1h"]);
    herdwire.await_instance("slow", "waited", |now| now.status == "waiting restart");
    herdwire.kill_supervisor();
    assert_eq!(herdwire.instance("slow").status, "waiting restart");
}

#[test]
fn a_supervisor_that_dies_again_and_again_loses_nothing() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "4"]);
    let before: Vec<_> = herdwire.list().iter().map(identity).collect();
    for _ in 0..10 {
        herdwire.kill_supervisor();
    }
    assert_eq!(herdwire.list().iter().map(identity).collect::<Vec<_>>(), before);
}

/// In a world of its own with a hundred process numbers: an instance ends while its supervisor stands still, a stranger
/// gets its number, and a supervisor that knows nothing of all this takes over.
const REUSE: &str = r#"
echo 400 > /proc/sys/kernel/pid_max || { echo no small world; exit 0; }
herdwire() { "$HERDWIRE" "$@"; }
# Numbers below 300 are not given again.
until [ "${last:-0}" -gt 310 ]; do sleep 0 & last=$!; wait "$last"; done
herdwire start 'exec sleep 1000' -n nap >/dev/null || exit 1
nap=$(herdwire jlist | grep -o '"pid":[0-9]*' | head -1 | cut -d: -f2)
supervisor=$(herdwire ping --json | tr -d ' \n' | grep -o '"supervisor":{"pid":[0-9]*' | grep -o '[0-9]*$')
kill -STOP "$supervisor"
kill -KILL "$nap"
while [ -e "/proc/$nap" ]; do :; done
stranger=
for _ in $(seq 3000); do
    sleep 1000 &
    if [ "$!" = "$nap" ]; then stranger=$!; break; fi
    kill -KILL "$!"; wait "$!" 2>/dev/null
done
[ -n "$stranger" ] || { echo its number was never given again; exit 1; }
kill -KILL "$supervisor"
herdwire list >/dev/null || exit 1
now=$(herdwire jlist | grep -o '"pid":[0-9]*' | head -1 | cut -d: -f2)
[ "$now" != "$nap" ] || { echo a stranger was adopted; exit 1; }
herdwire restart nap >/dev/null && herdwire stop nap >/dev/null && herdwire kill >/dev/null || exit 1
kill -0 "$stranger" || { echo the stranger was killed; exit 1; }
echo the stranger lives
"#;

#[test]
fn a_process_that_was_given_the_number_of_a_dead_instance_is_neither_adopted_nor_signalled() {
    let herdwire = Herdwire::new();
    let mut command = std::process::Command::new("unshare");
    herdwire.place(&mut command);
    command.env("HERDWIRE", env!("CARGO_BIN_EXE_herdwire"));
    // Its first process is the shell, with whose end everything in it ends.
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", REUSE]);
    let ran = finish(&mut command);
    if ran.stderr.contains("unshare failed") || ran.stdout.contains("no small world") {
        eprintln!("not tried, this machine does not allow it: {}{}", ran.stdout, ran.stderr);
        return;
    }
    assert_eq!(ran.stdout, "the stranger lives\n", "{ran:#?}\n{}", herdwire.own_log());
}
