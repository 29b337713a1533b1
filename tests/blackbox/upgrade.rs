//! `herdwire upgrade`: another supervisor takes over, or the one before it serves on; no instance notices either way.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::herdwire::{Herdwire, finish, is_alive, signal, until, worker};
use crate::puppets::Stage;
use crate::survivors::{Identity, LINES, identities, lines_go_on};

const BINARY: &str = env!("CARGO_BIN_EXE_herdwire");

/// A program of its own, as another release would be installed.
fn install(herdwire: &Herdwire, from: &Path, name: &str) -> PathBuf {
    let path = herdwire.work().join(name);
    fs::copy(from, &path).unwrap();
    path
}

fn program_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn another_supervisor_takes_over_and_no_instance_notices() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    herdwire.write("herdwire.toml", &Stage::app(&herdwire, "herd", 2, ""));
    herdwire.ok(&["start", LINES, "-n", "lines"]);
    herdwire.ok(&["start"]);
    let mut puppets = stage.next_of(2);
    puppets.iter_mut().for_each(|puppet| drop(puppet.connects()));
    puppets[1].does("subscribe news");
    puppets[0].does("publish news before");
    assert!(puppets[1].hears().ends_with(" before"));
    let (before, keeper, supervisor) = (identities(&herdwire), herdwire.keeper_pid(), herdwire.supervisor_pid());

    let new = install(&herdwire, Path::new(BINARY), "herdwire-new");
    let said = herdwire.ok(&["upgrade", new.to_str().unwrap()]);

    let now = herdwire.supervisor_pid();
    assert!(
        said.contains(&format!("supervisor {supervisor} (version 0.1.0) was replaced by supervisor {now}")),
        "{said}"
    );
    assert_eq!(program_of(now), new);
    until("the one before it is gone", || !is_alive(supervisor));
    assert_eq!((identities(&herdwire), herdwire.keeper_pid()), (before.clone(), keeper));
    puppets[0].does("publish news after");
    assert!(puppets[1].hears().ends_with(" after"));
    lines_go_on(&herdwire, "lines-out.log");
    // What it says goes where its keeper's words go, not where those of the standby went.
    until("it speaks into the log", || {
        herdwire.own_log().contains(&format!("supervisor {now} serves")) || {
            herdwire.own_log().contains("becomes the program of this supervisor")
        }
    });
    until("the keeper is of that program, too", || program_of(keeper) == new);
    herdwire.kill_supervisor();
    assert_eq!((identities(&herdwire), herdwire.keeper_pid()), (before, keeper));
    assert_eq!(program_of(herdwire.supervisor_pid()), new, "also after a crash");
    lines_go_on(&herdwire, "lines-out.log");
}

#[test]
fn without_a_path_what_is_installed_now_takes_over() {
    let herdwire = Herdwire::new();
    let installed = install(&herdwire, Path::new(BINARY), "herdwire");
    let mut command = Command::new(&installed);
    herdwire.place(&mut command);
    assert!(finish(command.args(["start", "sleep 1000", "-n", "nap"])).status.success());
    let before = identities(&herdwire);
    let first = herdwire.supervisor_pid();
    // As a package manager does it: the new file takes the name, the old one is unlinked.
    fs::rename(install(&herdwire, Path::new(BINARY), "herdwire.new"), &installed).unwrap();
    assert!(program_of(first).to_str().unwrap().ends_with("(deleted)"));
    herdwire.ok(&["upgrade"]);
    assert_eq!(program_of(herdwire.supervisor_pid()), installed);
    assert_eq!(identities(&herdwire), before);
    until("the keeper is of that program, too", || program_of(herdwire.keeper_pid()) == installed);
}

#[test]
fn upgrades_in_a_row_lose_no_line_and_leave_no_descriptor() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", LINES, "-n", "lines"]);
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "4"]);
    let keeper = herdwire.keeper_pid();
    let descriptors = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = identities(&herdwire);
    herdwire.ok(&["upgrade"]);
    let mut held = None;
    for _ in 0..8 {
        let supervisor = herdwire.supervisor_pid();
        herdwire.ok(&["upgrade"]);
        until("the one before it is gone", || !is_alive(supervisor));
        let now = descriptors(keeper);
        assert!(now <= *held.get_or_insert(now) + 1, "the keeper holds {now} descriptors, {held:?} before");
    }
    assert_eq!(identities(&herdwire), before);
    lines_go_on(&herdwire, "lines-out.log");
}

/// A herd of which nothing may be lost, whatever is tried with it.
struct Herd {
    herdwire: Herdwire,
    before: Vec<Identity>,
    keeper: u32,
    supervisor: u32,
}

impl Herd {
    fn new() -> Herd {
        let herdwire = Herdwire::new();
        herdwire.ok(&["start", LINES, "-n", "lines"]);
        herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "2"]);
        let (before, keeper, supervisor) = (identities(&herdwire), herdwire.keeper_pid(), herdwire.supervisor_pid());
        Herd { herdwire, before, keeper, supervisor }
    }

    /// Tries a program that cannot take over; what is said about it.
    #[track_caller]
    fn refuses(&self, program: &Path) -> String {
        let said = self.herdwire.refused(&["upgrade", program.to_str().unwrap()]);
        assert!(said.contains(program.to_str().unwrap()), "{said}");
        said
    }

    /// The same with the way in which it fails.
    #[track_caller]
    fn refuses_one_that(&self, way: &str) -> String {
        self.refuses(&install(&self.herdwire, &worker("standby"), way))
    }

    /// Everything is as before, but perhaps for the supervisor's process.
    #[track_caller]
    fn is_unharmed(&self) {
        let Herd { herdwire, before, keeper, .. } = self;
        assert_eq!((&identities(herdwire), &herdwire.keeper_pid()), (before, keeper), "{}", herdwire.own_log());
        assert_eq!(program_of(herdwire.supervisor_pid()), Path::new(BINARY));
        lines_go_on(herdwire, "lines-out.log");
        // And it still can.
        herdwire.ok(&["upgrade"]);
        assert_eq!(&identities(herdwire), before);
    }
}

#[test]
fn what_is_no_program_for_this_machine_is_refused_before_anything_is_tried() {
    let herd = Herd::new();
    let work = herd.herdwire.work();
    assert!(herd.refuses(&work.join("nowhere")).contains("No such file"));
    assert!(herd.refuses(&work).contains("is not a file"));
    assert!(herd.refuses(&herd.herdwire.write("text", "hello\n")).contains("is not executable"));
    assert!(herd.refuses(&herd.herdwire.script("run-text", "hello\n")).contains("is no program"));
    assert!(herd.refuses(&herd.herdwire.script("script", "#!/bin/sh\nexit 0\n")).contains("is a script"));
    let foreign = install(&herd.herdwire, Path::new("/bin/true"), "foreign");
    let file = fs::File::options().write(true).open(&foreign).unwrap();
    // Where an ELF file says its machine: one that does not exist here.
    file.write_all_at(&[0xf3, 0x7f], 18).unwrap();
    drop(file);
    assert!(herd.refuses(&foreign).contains("another kind of machine"));
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor, "nobody froze for any of these");
    herd.is_unharmed();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_as_such() {
    let herd = Herd::new();
    let broken = herd.herdwire.work().join("broken");
    let mut bytes = fs::read("/bin/true").unwrap();
    bytes.truncate(64);
    fs::write(&broken, bytes).unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let said = herd.refuses(&broken);
    assert!(said.contains("could not be started"), "{said}");
    herd.is_unharmed();
}

#[test]
fn a_program_that_is_none_of_ours_is_refused() {
    let herd = Herd::new();
    let said = herd.refuses(Path::new("/bin/true"));
    assert!(said.contains("ended before it said that it can take over (exit code 0)"), "{said}");
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor);
    herd.is_unharmed();
}

#[test]
fn a_standby_that_exits_or_crashes_at_once_changes_nothing() {
    let herd = Herd::new();
    for (way, how) in [("exits-0", "(exit code 0)"), ("exits-1", "(exit code 1)"), ("crashes", "(signal 6)")] {
        let said = herd.refuses_one_that(way);
        assert!(said.contains("ended before it said that it can take over") && said.contains(how), "{said}");
    }
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor);
    herd.is_unharmed();
}

#[test]
fn a_standby_that_refuses_is_told_with_its_reason() {
    let herd = Herd::new();
    let said = herd.refuses_one_that("refuses");
    assert!(said.contains("cannot take over from this supervisor (exit code 78)"), "{said}");
    assert!(said.contains("cause: first line | the state is of a release that this one does not know"), "{said}");
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor);
    herd.is_unharmed();
}

#[test]
fn a_standby_that_never_answers_is_given_up() {
    let herd = Herd::new();
    let said = herd.refuses_one_that("hangs");
    assert!(said.contains("did not say in time that it can take over"), "{said}");
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor);
    herd.is_unharmed();
}

#[test]
fn a_standby_that_leaves_when_it_is_its_turn_costs_nothing() {
    let herd = Herd::new();
    let said = herd.refuses_one_that("leaves");
    assert!(said.contains("(exit code 0)"), "{said}");
    herd.is_unharmed();
}

#[test]
fn a_freeze_that_comes_to_nothing_is_undone() {
    let herd = Herd::new();
    // Connections that bring no request keep it from freezing at once.
    let idle: Vec<_> =
        (0..20).map(|_| UnixStream::connect(herd.herdwire.home().join("control.sock")).unwrap()).collect();
    let said = herd.refuses_one_that("leaves");
    assert!(said.contains("ended when its turn came (exit code 0)"), "{said}");
    drop(idle);
    assert_eq!(herd.herdwire.supervisor_pid(), herd.supervisor, "it has thawed");
    herd.is_unharmed();
}

#[test]
fn a_standby_that_dies_while_it_takes_over_is_followed_by_the_one_before_it() {
    let herd = Herd::new();
    let said = herd.refuses_one_that("dies");
    assert!(said.contains("ended while it took over (signal 9)"), "{said}");
    assert!(said.contains("cause: took "), "{said}");
    herd.is_unharmed();
}

#[test]
fn a_standby_that_takes_over_and_is_never_ready_is_followed_by_the_one_before_it() {
    let herd = Herd::new();
    let said = herd.refuses_one_that("sleeps");
    assert!(said.contains("took over and was not ready in time"), "{said}");
    herd.is_unharmed();
}

#[test]
fn one_upgrade_at_a_time() {
    let herd = Herd::new();
    let hangs = install(&herd.herdwire, &worker("standby"), "hangs");
    let mut first = herd.herdwire.command(&["upgrade", hangs.to_str().unwrap()]).spawn().unwrap();
    until("it is tried", || herd.herdwire.own_log().contains("is tried as the next supervisor"));
    let said = herd.herdwire.refused(&["upgrade"]);
    assert!(said.contains("an upgrade is under way"), "{said}");
    // Meanwhile everything works.
    assert_eq!(identities(&herd.herdwire), herd.before);
    herd.herdwire.ok(&["start", "sleep 1000", "-n", "more"]);
    herd.herdwire.ok(&["delete", "more"]);
    assert_eq!(first.wait().unwrap().code(), Some(1));
    herd.is_unharmed();
}

#[test]
fn a_supervisor_that_is_killed_during_an_upgrade_is_told_with_the_one_that_serves_now() {
    let herd = Herd::new();
    let hangs = install(&herd.herdwire, &worker("standby"), "hangs");
    let mut command = herd.herdwire.command(&["upgrade", hangs.to_str().unwrap()]);
    let first = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it is tried", || herd.herdwire.own_log().contains("is tried as the next supervisor"));
    signal(herd.supervisor, nix::sys::signal::Signal::SIGKILL);
    let ran = first.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    let now = herd.herdwire.supervisor_pid();
    assert!(said.contains(&format!("supervisor {now} (version 0.1.0) serves now")), "{said}");
    herd.is_unharmed();
}

#[test]
fn an_exit_in_the_middle_of_an_upgrade_is_known() {
    let herdwire = Herdwire::new();
    let ends = "while [ ! -e go ]; do sleep 0.01; done; exit 5";
    herdwire.ok(&["start", ends, "-n", "ends", "-i", "8", "--no-autorestart"]);
    let mut upgrade = herdwire.command(&["upgrade"]).spawn().unwrap();
    herdwire.write("go", "");
    assert!(upgrade.wait().unwrap().success());
    until("all have ended", || herdwire.instances("ends").iter().all(|now| now.status == "stopped"));
    for ended in herdwire.instances("ends") {
        assert_eq!((&ended.own("last_exit")["Code"], ended.restarts), (&5.into(), 0));
    }
}

#[test]
fn without_a_supervisor_there_is_nothing_to_upgrade() {
    let herdwire = Herdwire::new();
    assert!(herdwire.refused(&["upgrade"]).contains("no supervisor is running"));
}
