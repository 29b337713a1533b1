//! `MAINPID`: an instance whose life is another process's than the one that was started.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, Instance, is_alive, signal, until};
use crate::puppets::{Puppet, Stage};

/// An app that forks into the background, and its process there.
struct Daemon {
    herdwire: Herdwire,
    stage: Stage,
    puppet: Puppet,
}

impl Daemon {
    /// `role` says whether the first process ends, `says` what it notifies before that.
    fn new(role: &str, says: &str, more: &str) -> Daemon {
        let (herdwire, stage) = Daemon::prepare(role, says, more);
        herdwire.ok(&["start"]);
        let puppet = stage.next();
        Daemon { herdwire, stage, puppet }
    }

    fn prepare(role: &str, says: &str, more: &str) -> (Herdwire, Stage) {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let more = format!("args = [{role:?}, {says:?}]\n{more}");
        herdwire.write("herdwire.toml", &Stage::app(&herdwire, "daemon", 1, &more));
        (herdwire, stage)
    }

    /// Online in that process, never having been restarted.
    #[track_caller]
    fn is_supervised(&self) -> Instance {
        let is_it = |now: &Instance| now.is_online() && now.pid == self.puppet.pid;
        let now = self.herdwire.await_instance("daemon", "ran in the background", is_it);
        assert_eq!(now.restarts, 0, "{}", self.herdwire.own_log());
        now
    }

    /// It ends with this code, which is seen and answered as any other instance's end.
    #[track_caller]
    fn its_exit_is_the_instances(&mut self) {
        self.puppet.tell("exit 7");
        let next = self.stage.next();
        assert_ne!(next.pid, self.puppet.pid);
        self.herdwire.await_instance("daemon", "came back", |now| now.restarts == 1 && now.pid == next.pid);
        let exit = self.herdwire.snapshot()["instances"][0]["last_exit"].clone();
        assert_eq!(exit, serde_json::json!({ "Code": 7 }), "{}", self.herdwire.own_log());
    }
}

#[test]
fn a_daemon_that_forks_into_the_background_runs_as_an_instance() {
    let mut daemon = Daemon::new("background", "MAINPID=WHO", "");
    daemon.is_supervised();
    assert!(daemon.herdwire.ok(&["describe", "daemon"]).contains(&daemon.puppet.pid.to_string()));
    daemon.its_exit_is_the_instances();
}

#[test]
fn it_may_say_that_it_is_ready_in_the_same_breath() {
    let mut daemon = Daemon::new("background", "MAINPID=WHO|READY=1", "wait_ready = true");
    daemon.is_supervised();
    daemon.its_exit_is_the_instances();
}

#[test]
fn the_process_that_stays_in_front_does_not_hide_how_the_main_one_ended() {
    let mut daemon = Daemon::new("in-front", "MAINPID=WHO", "");
    daemon.is_supervised();
    daemon.its_exit_is_the_instances();
}

#[test]
fn a_stop_reaches_it_in_its_own_session_with_the_apps_own_signal() {
    let daemon = Daemon::new("background", "MAINPID=WHO", "kill_signal = \"SIGTERM\"\nkill_timeout = \"1h\"");
    daemon.is_supervised();
    daemon.herdwire.ok(&["stop", "daemon"]);
    assert!(!is_alive(daemon.puppet.pid));
    let exit = daemon.herdwire.snapshot()["instances"][0]["last_exit"].clone();
    assert_eq!(exit, serde_json::json!({ "Signal": 15 }));
}

#[test]
fn without_control_groups_it_is_known_and_ended_all_the_same() {
    let (herdwire, stage) = Daemon::prepare("background", "MAINPID=WHO", "");
    if !herdwire.start_without_groups(&[]) {
        return;
    }
    let puppet = stage.next();
    let mut daemon = Daemon { herdwire, stage, puppet };
    daemon.is_supervised();
    daemon.its_exit_is_the_instances();
    daemon.herdwire.await_instance("daemon", "came back", Instance::is_online);
    let again = daemon.herdwire.instance("daemon").pid;
    daemon.herdwire.ok(&["stop", "daemon"]);
    assert!(!is_alive(again));
}

#[test]
fn it_goes_on_under_the_next_supervisor_and_under_the_next_keeper() {
    let mut daemon = Daemon::new("background", "MAINPID=WHO", "");
    daemon.is_supervised();
    daemon.herdwire.kill_supervisor();
    daemon.is_supervised();
    daemon.herdwire.kill_keeper();
    daemon.is_supervised();
    daemon.its_exit_is_the_instances();
}

#[test]
fn its_end_is_known_exactly_when_it_came_without_a_supervisor() {
    let mut daemon = Daemon::new("background", "MAINPID=WHO", "");
    daemon.is_supervised();
    let supervisor = daemon.herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    daemon.puppet.tell("exit 7");
    until("it has ended", || !is_alive(daemon.puppet.pid));
    signal(supervisor, Signal::SIGKILL);
    let next = daemon.stage.next();
    daemon.herdwire.await_instance("daemon", "came back", |now| now.restarts == 1 && now.pid == next.pid);
    assert_eq!(daemon.herdwire.snapshot()["instances"][0]["last_exit"], serde_json::json!({ "Code": 7 }));
}

/// The notification and the end of the process that sent it lie side by side when a supervisor begins.
#[test]
fn what_the_first_process_said_counts_however_soon_it_ended() {
    for killed in [false, true] {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let wait = format!(
            "while [ ! -e go ]; do sleep 0.01; done; exec {} background MAINPID=WHO",
            crate::herdwire::worker("puppet").display()
        );
        let socket = herdwire.work().join("stage.sock");
        let text = format!(
            "[[app]]\nname = \"daemon\"\nscript = \"/bin/sh\"\nargs = [\"-c\", {wait:?}]\nenv = {{ PUPPET_SOCKET = {:?} }}\n",
            socket.display().to_string()
        );
        herdwire.write("herdwire.toml", &text);
        herdwire.ok(&["start"]);
        let first = herdwire.instance("daemon").pid;
        let supervisor = herdwire.supervisor_pid();
        signal(supervisor, Signal::SIGSTOP);
        herdwire.write("go", "");
        let puppet = stage.next();
        until("the first process is reaped", || !is_alive(first));
        signal(supervisor, if killed { Signal::SIGKILL } else { Signal::SIGCONT });
        let daemon = Daemon { herdwire, stage, puppet };
        daemon.is_supervised();
    }
}

#[test]
fn a_process_that_is_not_the_instances_own_cannot_be_named() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    herdwire.write("herdwire.toml", &(Stage::app(&herdwire, "one", 1, "") + &Stage::app(&herdwire, "two", 1, "")));
    herdwire.ok(&["start"]);
    let mut puppets = stage.next_of(2);
    let (own, other) = (puppets[0].pid, puppets[1].pid);
    for stranger in [std::process::id(), other, herdwire.supervisor_pid(), 4_000_000_000] {
        puppets[0].does(&format!("notify MAINPID={stranger}|STATUS=named {stranger}"));
        until("it is heard", || herdwire.snapshot()["instances"][0]["health"]["status"] == format!("named {stranger}"));
        assert_eq!(herdwire.instance("one").pid, own);
    }
    puppets[0].tell("exit 3");
    stage.next();
    assert!(is_alive(other));
}

#[test]
fn a_process_of_another_user_cannot_be_named() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can run a process as another user");
    }
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    herdwire.write("herdwire.toml", &Stage::app(&herdwire, "one", 1, ""));
    herdwire.ok(&["start"]);
    let mut puppet = stage.next();
    let child = puppet.does("start setpriv --reuid 65534 sleep 1000");
    until("it is another user's", || {
        std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n")
    });
    puppet.does(&format!("notify MAINPID={child}|STATUS=heard"));
    until("it is heard", || herdwire.snapshot()["instances"][0]["health"]["status"] == "heard");
    until("it is said", || herdwire.own_log().contains("it runs as another user"));
    assert_eq!(herdwire.instance("one").pid, puppet.pid);
}
