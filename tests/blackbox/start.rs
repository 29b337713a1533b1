//! `start`: what can be started, and what the command line does about keeper and supervisor.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::herdwire::{Herdwire, finish, poll, until};

#[test]
fn a_script_is_started_by_the_interpreter_of_its_ending() {
    let herdwire = Herdwire::new();
    herdwire.write("hello.sh", "echo \"hello from $0, $1\"; exec sleep 1000");
    herdwire.ok(&["start", "hello.sh", "--", "world"]);
    let instance = herdwire.instance("hello");
    assert!(instance.is_online());
    herdwire.await_log("hello-out.log", "hello.sh, world\n");
}

#[test]
fn an_executable_runs_by_itself_and_an_interpreter_can_be_named() {
    let herdwire = Herdwire::new();
    herdwire.script("tool", "#!/bin/sh\necho tool; exec sleep 1000");
    herdwire.write("plain", "echo plain; exec sleep 1000");
    herdwire.ok(&["start", "./tool"]);
    herdwire.ok(&["start", "./plain", "--interpreter", "sh"]);
    herdwire.await_log("tool-out.log", "tool\n");
    herdwire.await_log("plain-out.log", "plain\n");
}

#[test]
fn a_command_line_runs_in_a_shell() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "echo one; echo two >&2; sleep 1000", "--name", "line"]);
    herdwire.await_log("line-out.log", "one\n");
    herdwire.await_log("line-error.log", "two\n");
}

#[test]
fn a_file_describes_several_apps() {
    let herdwire = Herdwire::new();
    herdwire.write("herdwire.toml", TWO_APPS);
    herdwire.ok(&["start"]);
    let names: Vec<_> = herdwire.list().into_iter().map(|instance| (instance.name, instance.status)).collect();
    let expected = [("web", "online"), ("web", "online"), ("worker", "online")];
    assert_eq!(names, expected.map(|(name, status)| (name.to_owned(), status.to_owned())));
    herdwire.await_log("worker-out.log", "hello from here\n");
}

const TWO_APPS: &str = r#"
[[app]]
name = "web"
script = "sleep"
args = ["1000"]
instances = 2

[[app]]
name = "worker"
script = "echo hello from $PLACE; exec sleep 1000"
env = { PLACE = "here" }
"#;

#[test]
fn instances_of_an_app_know_which_they_are() {
    let herdwire = Herdwire::new();
    let line =
        "echo $HERDWIRE_INDEX of $HERDWIRE_INSTANCES, $NODE_APP_INSTANCE, $pm_id, $HERDWIRE_NAME; exec sleep 1000";
    herdwire.ok(&["start", line, "-n", "many", "-i", "3"]);
    let instances = herdwire.instances("many");
    assert_eq!(instances.len(), 3);
    for (index, instance) in instances.iter().enumerate() {
        let id = instance.id;
        herdwire.await_log(&format!("many-out-{id}.log"), &format!("{index} of 3, {index}, {id}, many\n"));
    }
}

#[test]
fn ids_count_upwards_and_are_never_used_again() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "first"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "second"]);
    herdwire.ok(&["delete", "second"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "third"]);
    assert_eq!(herdwire.list().iter().map(|instance| instance.id).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn two_starts_at_once_make_one_supervisor_and_two_apps() {
    let herdwire = Herdwire::new();
    let start = |name: &str| {
        let mut command = herdwire.command(&["start", "sleep 1000", "-n", name]);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let mut commands: Vec<_> = ["one", "two", "three", "four"].map(start).into();
    for command in &mut commands {
        assert!(command.wait().unwrap().success());
    }
    assert_eq!(herdwire.list().len(), 4);
    let (keeper, supervisor) = (herdwire.keeper_pid(), herdwire.supervisor_pid());
    until("only one keeper and one supervisor are left", || {
        let others = herdwire.processes();
        let managers: Vec<_> = others.into_iter().filter(|pid| is_manager(*pid)).collect();
        managers.iter().all(|pid| [keeper, supervisor].contains(pid)) && managers.len() == 2
    });
}

fn is_manager(pid: u32) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.contains("__keeper") || command.contains("__supervisor")
}

#[test]
fn a_shell_that_captures_the_output_of_start_does_not_hang() {
    let herdwire = Herdwire::new();
    let mut shell = Command::new("sh");
    herdwire.place(&mut shell);
    let line = r#"x=$("$1" start "sleep 1000" -n captured 2>&1); echo "<$x>""#;
    shell.args(["-c", line, "sh", env!("CARGO_BIN_EXE_herdwire")]).stdin(Stdio::null());
    let ran = finish(&mut shell);
    assert!(ran.stdout.starts_with('<') && ran.stdout.contains("captured"), "{ran:?}");
}

#[test]
fn what_was_stopped_starts_again_by_name_and_by_id() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    for selector in ["nap", "0"] {
        herdwire.ok(&["stop", selector]);
        assert_eq!(herdwire.instance("nap").status, "stopped");
        assert_eq!(herdwire.instance("nap").pid, 0);
        herdwire.ok(&["start", selector]);
        assert!(herdwire.instance("nap").is_online());
    }
}

#[test]
fn an_app_that_is_only_to_be_added_waits_for_its_start() {
    let herdwire = Herdwire::new();
    let file = herdwire.write("a.toml", "[[app]]\nname = \"later\"\nscript = \"sleep 1000\"\nautostart = false\n");
    herdwire.ok(&["start", file.to_str().unwrap()]);
    assert_eq!(herdwire.instance("later").status, "stopped");
    herdwire.ok(&["start", "later"]);
    assert!(herdwire.instance("later").is_online());
}

#[test]
fn the_supervisor_is_not_bound_to_the_terminal_or_the_folder_of_whoever_started_it() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let keeper = herdwire.keeper_pid();
    let folder = std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap();
    assert_ne!(folder, herdwire.work());
    let stat = std::fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!((session, terminal), (keeper.to_string().as_str(), "0"));
    let ours: Vec<_> = (0..3).map(|fd| std::fs::read_link(format!("/proc/{keeper}/fd/{fd}")).unwrap()).collect();
    assert_eq!(ours[0], std::path::Path::new("/dev/null"));
    assert!(poll(Duration::ZERO, || ours.iter().all(|path| !path.starts_with("pipe:")).then_some(())).is_some());
}
