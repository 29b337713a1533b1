//! What an instance finds when it begins: who it is, what it inherits and what it does not; and what comes of it when the
//! machine has nothing left to give.

use std::process::Command;

use nix::sys::signal::{SigSet, Signal};

use crate::herdwire::{Herdwire, finish, until};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The binary, started by a shell that first does something to itself.
fn start_after(herdwire: &Herdwire, first: &str, arguments: &[&str]) {
    let mut command = Command::new("sh");
    herdwire.place(&mut command);
    command.args(["-c", &format!("{first}; exec \"$@\""), "sh"]).arg(herdwire.command(&[]).get_program());
    let ran = finish(command.args(arguments));
    assert!(ran.status.success(), "{ran:#?}\n{}", herdwire.own_log());
}

/// What the instance says of itself. What is read of its signals is read without a child: a shell blocks some for that.
const CONFESSION: &str = r#"
while read -r line; do case $line in Sig[PBI]*|Shd*|Umask*) echo $line;; esac; done </proc/$$/status
ls /proc/$$/fd; for fd in 0 1 2 3; do readlink /proc/$$/fd/$fd; done
read -r stat </proc/$$/stat; set -- ${stat##*) }; echo leads $(($3 - $$)) $(($4 - $$)) terminal $5
pwd; cat /proc/$$/limits; echo end; exec sleep 1000"#;

#[test]
fn an_instance_inherits_what_is_documented_and_nothing_else() {
    let herdwire = Herdwire::new();
    // Blocked by us, ignored and leaked by the shell: all of it reaches the command line.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGTERM);
    blocked.thread_block().unwrap();
    let leaky = "exec 9</dev/zero; trap '' USR2 HUP PIPE; umask 077";
    start_after(&herdwire, leaky, &["start", "/bin/sh", "-n", "confessor", "--", "-c", CONFESSION]);
    blocked.thread_unblock().unwrap();
    herdwire.await_log("confessor-out.log", "end\n");
    // Pipes and sockets have numbers of their own.
    let said = herdwire.log("confessor-out.log");
    let said: Vec<&str> = said.lines().map(|line| line.split_once(":[").map_or(line, |(kind, _)| kind)).collect();
    let said = said.join("\n");
    let none = "0000000000000000";
    let expected = format!(
        "Umask: 0022\nSigPnd: {none}\nShdPnd: {none}\nSigBlk: {none}\nSigIgn: {none}\n\
         0\n1\n2\n3\n/dev/null\npipe\npipe\nsocket\n\
         leads 0 0 terminal 0\n{}\n{}end",
        herdwire.work().display(),
        std::fs::read_to_string("/proc/self/limits").unwrap()
    );
    assert_eq!(said, expected);
}

#[test]
fn an_app_runs_as_its_user_within_its_bounds() {
    if !is_root() {
        return;
    }
    let herdwire = Herdwire::new();
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"bound\"\nuser = \"daemon\"\numask = \"027\"\nnice = 3\nno_new_privs = true\n\
         script = \"id -un; echo $HOME $USER $GREETING; umask; nice; ulimit -n; grep NoNew /proc/self/status; echo end; exec sleep 1000\"\n\
         env = { GREETING = \"hello\" }\nlimits = { nofile = 123 }\n",
    );
    herdwire.ok(&["start"]);
    herdwire.await_log("bound-out.log", "end\n");
    let home = nix::unistd::User::from_name("daemon").unwrap().unwrap().dir;
    let expected = format!("daemon\n{} daemon hello\n0027\n3\n123\nNoNewPrivs:\t1\nend\n", home.display());
    assert_eq!(herdwire.log("bound-out.log"), expected);
    // The supervisor reaches it as before.
    herdwire.ok(&["restart", "bound"]);
    herdwire.ok(&["stop", "bound"]);
}

#[test]
fn a_folder_that_the_user_may_not_enter_is_told_with_what_to_do() {
    if !is_root() {
        return;
    }
    let herdwire = Herdwire::new();
    let closed = herdwire.work().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"out\"\nuser = \"daemon\"\nscript = \"sleep 1000\"\ncwd = \"closed\"\nautorestart = false\n",
    );
    let ran = herdwire.run(&["start"]);
    assert!(!ran.status.success());
    assert!(ran.stderr.contains("cannot enter the working folder: Permission denied"), "{}", ran.stderr);
    let said = herdwire.log("out-error.log");
    assert!(said.contains("closed: cannot enter the working folder") && said.contains("the app's user"), "{said}");
}

#[test]
fn files_of_variables_are_read_at_every_start_and_kept_nowhere() {
    let herdwire = Herdwire::new();
    herdwire.write("secrets.env", "# Ours.\nexport TOKEN='first secret'\nGREETING=\"from the file\"\n");
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"reader\"\nscript = \"echo $TOKEN, $GREETING; exec sleep 1000\"\n\
         env = { GREETING = \"from the table\" }\nenv_file = [\"secrets.env\", \"-absent.env\"]\n",
    );
    herdwire.ok(&["start"]);
    herdwire.await_log("reader-out.log", "first secret, from the file\n");
    herdwire.write("secrets.env", "TOKEN=second\n");
    herdwire.ok(&["restart", "reader"]);
    herdwire.await_log("reader-out.log", "second, from the table\n");
    for shown in [herdwire.ok(&["jlist"]), herdwire.ok(&["describe", "reader"]), herdwire.own_log()] {
        assert!(!shown.contains("first secret") && !shown.contains("second"), "{shown}");
    }
}

#[test]
fn a_file_of_variables_that_is_missing_or_wrong_is_told_by_name_and_line() {
    let herdwire = Herdwire::new();
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"reader\"\nscript = \"sleep 1000\"\nenv_file = \"secrets.env\"\nrestart_delay = \"1h\"\n",
    );
    let failure = |arguments: &[&str]| {
        let ran = herdwire.run(arguments);
        assert!(!ran.status.success(), "{ran:#?}");
        ran.stderr
    };
    herdwire.write("secrets.env", "A=1\nsecret words\n");
    let said = failure(&["start"]);
    assert!(said.contains("secrets.env, line 2") && !said.contains("secret words"), "{said}");
    assert!(!herdwire.own_log().contains("secret words"));
    herdwire.write("secrets.env", "A=1\n");
    herdwire.ok(&["start"]);
    std::fs::remove_file(herdwire.work().join("secrets.env")).unwrap();
    let said = failure(&["restart", "reader"]);
    assert!(said.contains("secrets.env: No such file"), "{said}");
    herdwire.write("secrets.env", "A=1\n");
    herdwire.ok(&["restart", "reader"]);
}

#[test]
fn without_descriptors_starts_fail_one_by_one_and_what_runs_is_not_touched() {
    let herdwire = Herdwire::new();
    start_after(&herdwire, "ulimit -n 200", &["start", "sleep 1000", "-n", "first", "-i", "4"]);
    let before = herdwire.instances("first");
    herdwire.run(&["start", "sleep 1000", "-n", "many", "-i", "20", "--restart-delay", "200ms"]);
    until("one could not be started", || herdwire.own_log().contains("the keeper's store is full"));
    assert!(!herdwire.own_log().contains("Too many open files"), "the supervisor has some left by then");
    assert_eq!(herdwire.instances("first").iter().map(|one| one.pid).collect::<Vec<_>>(), {
        before.iter().map(|one| one.pid).collect::<Vec<_>>()
    });
    // Room for those that are left: they come by themselves, or when they are asked to.
    let ids: Vec<String> = herdwire.instances("many")[6..].iter().map(|one| one.id.to_string()).collect();
    ids.iter().for_each(|id| drop(herdwire.ok(&["delete", id])));
    herdwire.run(&["restart", "many"]);
    until("all that are left are online", || herdwire.instances("many").iter().all(|one| one.is_online()));
    assert!(herdwire.instances("first").iter().all(|one| one.is_online() && one.restarts == 0));
}

#[test]
fn no_control_group_outlives_its_herd() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "first", "-i", "4"]);
    let Some(folder) =
        herdwire.own_log().lines().find_map(|line| Some(line.split_once("control groups below ")?.1.to_owned()))
    else {
        return eprintln!("skipped: no control groups here");
    };
    // Processes that cannot be made have had groups, too.
    let supervisor = herdwire.supervisor_pid();
    let open = std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    limit_open_files(supervisor, open + 30);
    herdwire.run(&["start", "sleep 1000", "-n", "many", "-i", "20", "--restart-delay", "100ms"]);
    until("one could not be started", || herdwire.own_log().contains("Too many open files"));
    limit_open_files(supervisor, 1000);
    let groups = || std::fs::read_dir(&folder).unwrap().flatten().filter(|one| one.path().is_dir()).count();
    assert!(groups() >= 4);
    herdwire.ok(&["kill"]);
    assert!(!std::path::Path::new(&folder).exists());
}

/// Sets how many files a process may open from now on.
fn limit_open_files(pid: u32, soft: usize) {
    let ran = Command::new("prlimit").args([format!("--pid={pid}"), format!("--nofile={soft}:")]).status();
    assert!(ran.expect("prlimit is part of util-linux").success());
}
