//! What an app finds of its bounds. Most of it takes root, as whom it is skipped otherwise.

use super::*;
use crate::config::spec::Limit;

/// A user of every system, and not root.
const USER: &str = "daemon";

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

fn as_user(script: &str) -> Shell<'_> {
    let mut app = shell(script);
    app.bounds.user = Some(USER.to_owned());
    app
}

/// What the name service says.
fn known(command: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_app_runs_as_its_user_with_the_users_groups_and_variables() {
    if !is_root() {
        return;
    }
    let ended = as_user("id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL").run();
    let expected = known(&format!(
        "id -u {USER}; id -g {USER}; id -G {USER}; getent passwd {USER} | awk -F: '{{print $6, $1, $1, $7}}'"
    ));
    assert_eq!((ended.out, ended.err), (expected, String::new()));
}

#[test]
fn a_number_is_a_user_too_and_needs_a_group_when_nobody_has_it() {
    if !is_root() {
        return;
    }
    let mut app = shell("id -u; id -g; id -G");
    app.bounds.user = Some("54321".to_owned());
    assert_eq!(app.run().launched, Err(ExecFailure::new(Step::Group, 0).about("54321")));
    let mut app = shell("id -u; id -g; id -G");
    app.bounds.user = Some("54321".to_owned());
    app.bounds.group = Some("12345".to_owned());
    assert_eq!(app.run().out, "54321\n12345\n12345\n");
}

#[test]
fn group_and_groups_take_the_place_of_the_users_own() {
    if !is_root() {
        return;
    }
    let mut app = as_user("id -u; id -g; id -G");
    app.bounds.group = Some("11".to_owned());
    app.bounds.groups = Some(vec!["12".to_owned(), "13".to_owned()]);
    assert_eq!(app.run().out, format!("{}11\n11 12 13\n", known(&format!("id -u {USER}"))));
}

#[test]
fn what_the_app_sets_itself_wins_over_what_its_user_has() {
    if !is_root() {
        return;
    }
    let mut app = as_user("echo $HOME $USER");
    app.env.push(("HOME".to_owned(), "/elsewhere".to_owned()));
    assert_eq!(app.run().out, format!("/elsewhere {USER}\n"));
}

#[test]
fn a_user_that_does_not_exist_is_named_and_nothing_runs() {
    let mut app = shell("echo ran");
    app.bounds.user = Some("no-such-user".to_owned());
    let ended = app.run();
    let failure = ended.launched.unwrap_err();
    assert_eq!(failure.to_string(), "there is no user `no-such-user`");
    assert!(failure.hint().is_some());
    assert_eq!((ended.status.code(), ended.out.as_str()), (Some(127), ""));
    assert_eq!(ended.err, "herdwire: /bin/sh: there is no user `no-such-user` (create the user or correct `user`)\n");
    let mut app = shell("echo ran");
    app.bounds.group = Some("no-such-group".to_owned());
    assert_eq!(app.run().launched.unwrap_err().to_string(), "there is no group `no-such-group`");
}

#[test]
fn another_user_keeps_no_right_and_finds_no_way_back() {
    if !is_root() {
        return;
    }
    let status = as_user("exec grep -E '^(Uid|Gid|Cap(Prm|Eff|Amb))' /proc/self/status").run();
    let (uid, gid) = (known(&format!("id -u {USER}")), known(&format!("id -g {USER}")));
    let expected = format!(
        "Uid: {u} {u} {u} {u} Gid: {g} {g} {g} {g} CapPrm: {none} CapEff: {none} CapAmb: {none}",
        u = uid.trim(),
        g = gid.trim(),
        none = "0".repeat(16)
    );
    assert_eq!(status.out.split_whitespace().collect::<Vec<_>>().join(" "), expected);
}

#[test]
fn its_output_can_be_opened_by_name_by_another_user() {
    if !is_root() {
        return;
    }
    let ended = as_user("echo out >/dev/stdout; echo err >/dev/stderr").run();
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn a_folder_that_only_the_user_may_enter_will_do_and_one_that_it_may_not_enter_is_named() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let uid = nix::unistd::User::from_name(USER).unwrap().unwrap().uid;
    let script = ["-c".to_owned(), "pwd".to_owned()];
    let bounds = Bounds { user: Some(USER.to_owned()), ..Bounds::default() };
    let attempt = || {
        run(spawn(Launch { bounds: Some(&bounds), ..Launch::new(Path::new("/bin/sh"), &script, folder.path(), "t/0") })
            .unwrap())
    };
    let refused = attempt().launched.unwrap_err();
    assert_eq!(refused, ExecFailure::new(Step::Folder, libc::EACCES));
    assert!(refused.hint().unwrap().contains("user"));
    nix::unistd::chown(folder.path(), Some(uid), None).unwrap();
    assert_eq!(attempt().out, format!("{}\n", folder.path().display()));
}

#[test]
fn an_unprivileged_supervisor_runs_apps_as_itself_and_as_nobody_else() {
    if !is_root() {
        return;
    }
    let supervisor = |test: &str| {
        // The test binary lies where only root may go, so it keeps root's groups and finds it by descriptor.
        let binary = fs::File::open("/proc/self/exe").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&binary));
        nix::fcntl::fcntl(&binary, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let test = format!("process::tests::bounds::{test}");
        let mut command = std::process::Command::new("setpriv");
        let user = nix::unistd::User::from_name(USER).unwrap().unwrap();
        command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), "--init-groups"]);
        command.args([&path, "--exact", &test, "--ignored", "--nocapture"]).current_dir("/");
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = supervisor("what_an_unprivileged_supervisor_gets");
    assert!(said.contains(&format!("as itself: {USER}\n")), "{said}");
    assert!(said.contains("as another: Err(ExecFailure { step: Identity, errno: 1, name: \"\" })"), "{said}");
}

/// Not a test by itself: the unprivileged part of the one above.
#[test]
#[ignore = "run by the test above"]
fn what_an_unprivileged_supervisor_gets() {
    print!("as itself: {}", as_user("id -un").run().out);
    let mut app = shell("id -un");
    app.bounds.user = Some("root".to_owned());
    println!("as another: {:?}", app.run().launched);
}

#[test]
fn limits_priority_score_and_umask_are_as_asked() {
    if !is_root() {
        return;
    }
    let mut app = shell("ulimit -n; ulimit -Hn; ulimit -c; nice; umask; cat /proc/self/oom_score_adj");
    app.bounds.limits = [(Limit::Nofile, (200, 300)), (Limit::Core, (u64::MAX, u64::MAX))].into();
    app.bounds.nice = Some(5);
    app.bounds.umask = Some(0o077);
    app.bounds.oom_score = Some(700);
    // Theirs wins over what the supervisor had.
    app.open_files = Some(OpenFiles { soft: 10, hard: 10 });
    let ended = app.run();
    assert_eq!(ended.out, "200\n300\nunlimited\n5\n0077\n700\n", "{}", ended.err);
}

#[test]
fn every_limit_can_be_set() {
    let rows = [
        (Limit::As, "Max address space", 1 << 40),
        (Limit::Core, "Max core file size", 0),
        (Limit::Cpu, "Max cpu time", 1000),
        (Limit::Data, "Max data size", 1 << 40),
        (Limit::Fsize, "Max file size", 1 << 40),
        (Limit::Memlock, "Max locked memory", 4096),
        (Limit::Msgqueue, "Max msgqueue size", 4096),
        (Limit::Nice, "Max nice priority", 0),
        (Limit::Nofile, "Max open files", 64),
        (Limit::Nproc, "Max processes", 1000),
        (Limit::Rss, "Max resident set", 1 << 40),
        (Limit::Rtprio, "Max realtime priority", 0),
        (Limit::Rttime, "Max realtime timeout", 1_000_000),
        (Limit::Sigpending, "Max pending signals", 10),
        (Limit::Stack, "Max stack size", 1 << 20),
    ];
    let mut app = shell("exec cat /proc/self/limits");
    app.bounds.limits = rows.iter().map(|(limit, _, value)| (*limit, (*value, *value))).collect();
    let ended = app.run();
    for (_, name, value) in rows {
        let line = ended.out.lines().find(|line| line.starts_with(name)).expect(name);
        let figures: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(figures, [value.to_string(), value.to_string()], "{name}");
    }
}

#[test]
fn a_limit_that_cannot_be_set_is_named() {
    let mut app = shell("echo ran");
    app.bounds.limits = [(Limit::Stack, (2, 1))].into();
    let ended = app.run();
    let failure = ended.launched.unwrap_err();
    assert_eq!(failure.to_string(), "cannot set the limit `stack`: Invalid argument (os error 22)");
    assert!(failure.hint().is_some());
    assert_eq!(ended.out, "");
}

#[test]
fn no_new_privs_is_given_up_when_asked_and_only_then() {
    let asked = |no_new_privs| {
        let mut app = shell("exec grep NoNewPrivs /proc/self/status");
        app.bounds.no_new_privs = no_new_privs;
        app.run().out
    };
    assert_eq!((asked(true).as_str(), asked(false).as_str()), ("NoNewPrivs:\t1\n", "NoNewPrivs:\t0\n"));
}
