//! Real processes: what an app finds when it starts, and that it ends.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::*;
use crate::config::spec::Bounds;

mod bounds;
mod groups;

const SOON: Duration = Duration::from_secs(20);

/// A shell script as an app.
struct Shell<'a> {
    script: &'a str,
    env: Vec<(String, String)>,
    listeners: Vec<&'a OwnedFd>,
    link: Option<OwnedFd>,
    extra: Vec<(RawFd, OwnedFd)>,
    to: Output,
    bounds: Bounds,
    group: Option<&'a Group>,
    open_files: Option<OpenFiles>,
    parent: Parent,
}

fn shell(script: &str) -> Shell<'_> {
    Shell {
        script,
        env: vec![],
        listeners: vec![],
        link: None,
        extra: vec![],
        to: Output::Pipe,
        bounds: Bounds::default(),
        group: None,
        open_files: None,
        parent: Parent::Caller,
    }
}

impl Shell<'_> {
    fn spawn(self) -> Spawned {
        let args = ["-c".to_owned(), self.script.to_owned()];
        let mut env = self.env;
        env.push(("PATH".to_owned(), "/usr/bin:/bin".to_owned()));
        spawn(Launch {
            env,
            listeners: self.listeners.iter().map(|fd| fd.as_fd()).collect(),
            link: self.link,
            extra: self.extra,
            out: self.to,
            bounds: Some(&self.bounds),
            group: self.group,
            open_files: self.open_files,
            parent: self.parent,
            ..Launch::new(Path::new("/bin/sh"), &args, Path::new("/"), "test/0")
        })
        .unwrap()
    }

    fn run(self) -> Ended {
        run(self.spawn())
    }
}

struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
    launched: Result<(), ExecFailure>,
}

/// Releases it and takes what it prints until it has ended.
fn run(spawned: Spawned) -> Ended {
    let Spawned { pidfd, out, err, go, .. } = spawned;
    let launched = go.release().unwrap().wait(SOON).expect("an answer in time");
    let (out, err) = (read_all(&out), read_all(&err));
    Ended { status: end_of(&pidfd), out, err, launched }
}

fn end_of(pidfd: &Pidfd) -> ExitStatus {
    assert!(pidfd.wait_dead(SOON), "it ends in time");
    pidfd.reap().unwrap().expect("it has ended")
}

/// All that comes out of the pipe, if there is one.
fn read_all(pipe: &Option<OwnedFd>) -> String {
    let Some(pipe) = pipe else { return String::new() };
    let mut file = fs::File::from(pipe.try_clone().unwrap());
    let mut bytes = vec![];
    let deadline = Instant::now() + SOON;
    while let Err(error) = file.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(Instant::now() < deadline, "no end of output, so far: {}", String::from_utf8_lossy(&bytes));
        nix::poll::poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], 1000u16).unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

/// The first line that it prints.
fn read_line(pipe: &Option<OwnedFd>) -> String {
    let pipe = pipe.as_ref().expect("a pipe");
    let mut line = String::new();
    let deadline = Instant::now() + SOON;
    while !line.ends_with('\n') {
        assert!(Instant::now() < deadline, "no line, so far: {line}");
        nix::poll::poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], 1000u16).unwrap();
        let mut byte = [0];
        if nix::unistd::read(pipe, &mut byte) == Ok(1) {
            line.push(byte[0].into());
        }
    }
    line.trim_end().to_owned()
}

fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_released_process_becomes_its_app() {
    let mut app = shell("echo $GREETING; echo oops >&2; pwd; exit 7");
    app.env.push(("GREETING".to_owned(), "hello there".to_owned()));
    let ended = app.run();
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("hello there\n/\n", "oops\n"));
    assert_eq!((ended.launched, ended.status.code()), (Ok(()), Some(7)));
}

#[test]
fn a_process_that_is_not_released_ends_with_125_and_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("ran");
    let Spawned { pidfd, go, out, err, .. } = shell(&format!("touch {}", proof.display())).spawn();
    assert!(!pidfd.is_dead());
    drop(go);
    assert_eq!(end_of(&pidfd).code(), Some(125));
    assert_eq!((read_all(&out), read_all(&err)), (String::new(), String::new()));
    assert!(!proof.exists());
}

#[test]
fn a_waiting_process_is_named_after_its_instance_and_leads_its_session() {
    let Spawned { pid, pidfd, go, .. } = shell("exit").spawn();
    // Until the stage has named itself, it has the name that exec gave it.
    until("named", || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "hw:test/0\n");
    let leader = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid as i32))).unwrap();
    assert_eq!(leader.as_raw() as u32, pid);
    drop(go);
    end_of(&pidfd);
}

#[test]
fn an_app_inherits_nothing_but_what_it_is_meant_to_have() {
    // Somebody's leak: open, and not close-on-exec.
    let leak = fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut usr1 = nix::sys::signal::SigSet::empty();
    usr1.add(nix::sys::signal::Signal::SIGUSR1);
    usr1.thread_block().unwrap();
    // Without a child: a shell blocks signals for a moment while it starts one.
    let status = shell("exec grep -E '^(Sig(Blk|Ign)|Umask)' /proc/self/status").run();
    // By a child, so that what it opens does not show.
    let files = shell("ls /proc/$$/fd; readlink /proc/$$/fd/0").run();
    usr1.thread_unblock().unwrap();
    let lines: Vec<&str> = status.out.split_whitespace().collect();
    assert_eq!(lines, ["Umask:", "0022", "SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"]);
    assert_eq!(files.out, "0\n1\n2\n/dev/null\n", "{}", files.err);
}

#[test]
fn listeners_come_first_and_the_link_after_them() {
    let listener = listen::bind(&"127.0.0.1:0".parse().map(crate::config::spec::ListenAddress::Tcp).unwrap()).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut app =
        shell("echo $LISTEN_FDS $LISTEN_FDNAMES $HERDWIRE_LINK $(($LISTEN_PID - $$)); echo hi >&5; ls /proc/$$/fd");
    app.listeners = vec![&listener, &listener];
    app.link = Some(theirs.into());
    // What pretends to be ours is dropped.
    app.env.push(("LISTEN_FDS".to_owned(), "99".to_owned()));
    let ended = app.run();
    assert_eq!(ended.out, "2 listen-0:listen-1 5 0\n0\n1\n2\n3\n4\n5\n", "{}", ended.err);
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hi\n");
}

#[test]
fn descriptors_reach_their_places_whatever_their_numbers_were() {
    // The link's number here is that of a target there, and the other way round.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let low: Vec<OwnedFd> = (0..5).map(|_| fs::File::open("/dev/zero").unwrap().into()).collect();
    let mut app = shell("for fd in 3 4 5 6 7; do readlink /proc/$$/fd/$fd; done; echo x >&8");
    app.listeners = low.iter().collect();
    app.link = Some(theirs.into());
    let ended = app.run();
    assert_eq!(ended.out, "/dev/zero\n".repeat(5), "{}", ended.err);
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "x\n");
}

#[test]
fn an_extra_descriptor_has_its_number_and_the_link_goes_out_of_its_way() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut app =
        shell("echo link $HERDWIRE_LINK; readlink /proc/$$/fd/3; readlink /proc/$$/fd/9; ls /proc/$$/fd; echo x >&4");
    app.extra = [3, 9].map(|number| (number, fs::File::open("/dev/zero").unwrap().into())).into();
    app.link = Some(theirs.into());
    let ended = app.run();
    assert_eq!(ended.out, "link 4\n/dev/zero\n/dev/zero\n0\n1\n2\n3\n4\n9\n", "{}", ended.err);
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "x\n");
}

#[test]
fn an_extra_descriptor_whose_number_is_taken_is_refused() {
    let zero = fs::File::open("/dev/zero").unwrap();
    for numbers in [&[2][..], &[3], &[9, 9], &[-1], &[100_000]] {
        let extra = numbers.iter().map(|number| (*number, zero.try_clone().unwrap().into())).collect();
        let listeners = vec![zero.as_fd()];
        let launch = Launch { extra, listeners, ..Launch::new(Path::new("/bin/true"), &[], Path::new("/"), "a/1") };
        assert!(matches!(spawn(launch), Err(SpawnError::NumberTaken { .. })), "{numbers:?}");
    }
}

#[test]
fn output_can_go_straight_into_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.log");
    fs::write(&path, "before\n").unwrap();
    let mut app = shell("echo hello; echo oops >&2");
    app.to = Output::File(fs::File::options().append(true).open(&path).unwrap().into());
    let spawned = app.spawn();
    assert!(spawned.out.is_none());
    assert_eq!(run(spawned).err, "oops\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\nhello\n");
}

#[test]
fn without_listeners_and_link_an_app_hears_of_none() {
    let mut app = shell("echo ${LISTEN_FDS-none} ${LISTEN_PID-none} ${HERDWIRE_LINK-none}");
    app.env.push(("LISTEN_FDS".to_owned(), "1".to_owned()));
    app.env.push(("HERDWIRE_LINK".to_owned(), "3".to_owned()));
    assert_eq!(app.run().out, "none none none\n");
}

#[test]
fn an_app_gets_its_own_limit_on_open_files_and_goes_first_when_memory_is_short() {
    let mut app = shell("ulimit -n; cat /proc/self/oom_score_adj");
    app.open_files = Some(OpenFiles { soft: 333, hard: 444 });
    let out = app.run().out;
    let (files, score) = out.trim().split_once('\n').unwrap();
    assert_eq!(files, "333");
    assert!(score.parse::<i32>().unwrap() >= 200, "{score}");
}

#[test]
fn a_program_that_is_not_there_is_told_on_every_way() {
    let spawned = spawn(Launch::new(Path::new("/nowhere/app"), &[], Path::new("/"), "test/0"));
    let ended = run(spawned.unwrap());
    assert_eq!(ended.launched, Err(ExecFailure::new(Step::Exec, libc::ENOENT)));
    assert!(ended.launched.unwrap_err().hint().is_some());
    assert_eq!(ended.status.code(), Some(127));
    assert!(ended.err.starts_with("herdwire: /nowhere/app: cannot execute the program: No such file"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1);
}

#[test]
fn a_folder_that_is_not_there_is_told_as_such() {
    let spawned = spawn(Launch::new(Path::new("/bin/true"), &[], Path::new("/nowhere"), "test/0"));
    let ended = run(spawned.unwrap());
    assert_eq!(ended.launched, Err(ExecFailure::new(Step::Folder, libc::ENOENT)));
    assert!(ended.err.starts_with("herdwire: /nowhere: cannot enter the working folder"), "{}", ended.err);
}

#[test]
fn a_process_killed_before_its_app_ran_did_not_launch() {
    let Spawned { pidfd, go, .. } = shell("exit").spawn();
    pidfd.signal(libc::SIGSTOP).unwrap();
    let mut launching = go.release().unwrap();
    pidfd.signal(libc::SIGKILL).unwrap();
    assert_eq!(launching.wait(SOON), Some(Err(ExecFailure::new(Step::Died, 0))));
    assert_eq!(end_of(&pidfd).signal(), Some(libc::SIGKILL));
}

#[test]
fn what_cannot_be_passed_on_is_refused_before_there_is_a_process() {
    let attempt = |args: &[String], env: Vec<(String, String)>| {
        spawn(Launch { env, ..Launch::new(Path::new("/bin/true"), args, Path::new("/"), "a/1") }).unwrap_err()
    };
    let error = attempt(&["a\0b".to_owned()], vec![]);
    assert_eq!(error.to_string(), "an argument of `a/1` contains a NUL byte or cannot be passed on");
    let error = attempt(&[], vec![("A=B".to_owned(), "secret".to_owned())]);
    assert!(error.to_string().contains("`A=B`") && !format!("{error:?}").contains("secret"), "{error:?}");
    let error = attempt(&[], vec![("HUGE".to_owned(), "x".repeat(2 << 20))]);
    assert!(matches!(error, SpawnError::TooLarge { .. }), "{error:?}");
}

#[test]
fn many_threads_may_spawn_at_once() {
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for turn in 0..10 {
                    let ended = shell(&format!("echo {thread} {turn}")).run();
                    assert_eq!(ended.out, format!("{thread} {turn}\n"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_signal_goes_to_the_process_and_a_group_signal_to_its_children() {
    let app = shell("trap 'echo heard' USR1; sleep 60 & echo $!; wait; wait");
    let Spawned { pidfd, out, go, .. } = app.spawn();
    go.release().unwrap();
    let child: u32 = read_line(&out).parse().unwrap();
    pidfd.signal(libc::SIGUSR1).unwrap();
    assert_eq!(read_line(&out), "heard");
    assert!(is_running(child));
    pidfd.signal_group(libc::SIGTERM).unwrap();
    assert_eq!(end_of(&pidfd).signal(), Some(libc::SIGTERM));
    until("the child has ended", || !is_running(child));
}

#[test]
fn a_group_is_reached_after_its_leader_has_been_reaped() {
    let Spawned { pidfd, out, go, .. } = shell("sleep 60 & echo $!").spawn();
    go.release().unwrap();
    let child: u32 = read_line(&out).parse().unwrap();
    end_of(&pidfd);
    assert!(pidfd.is_reaped() && is_running(child));
    pidfd.signal_group(libc::SIGKILL).unwrap();
    until("the child has ended", || !is_running(child));
}

#[test]
fn a_pidfd_names_one_process_for_ever() {
    let Spawned { pid, pidfd, go, .. } = shell("exit 9").spawn();
    let inode = pidfd.inode().unwrap();
    assert!(pidfd.matches(pid, inode));
    assert!(!pidfd.matches(pid + 1, inode) && !pidfd.matches(pid, inode + 1));
    assert_eq!((pidfd.pid(), pidfd.exit_status()), (Some(pid), None));
    go.release().unwrap();
    assert!(pidfd.wait_dead(SOON) && !pidfd.is_reaped());
    assert_eq!(pidfd.reap().unwrap().unwrap().code(), Some(9));
    assert!(pidfd.is_dead() && pidfd.is_reaped());
    assert_eq!((pidfd.pid(), pidfd.matches(pid, inode)), (None, true));
    assert_eq!(pidfd.exit_status().unwrap().code(), Some(9), "the kernel remembers, whoever asks");
    assert_eq!(pidfd.signal(libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn how_a_process_ended_is_known_before_and_after_its_parent_takes_notice() {
    let Spawned { pidfd, go, .. } = shell("exit 9").spawn();
    assert_eq!((pidfd.ended_with(), pidfd.parent()), (None, Some(std::process::id())));
    go.release().unwrap();
    assert!(pidfd.wait_dead(SOON));
    assert_eq!(pidfd.ended_with().unwrap().code(), Some(9), "it is a zombie");
    pidfd.reap().unwrap().unwrap();
    assert_eq!(pidfd.ended_with().unwrap().code(), Some(9), "it was reaped");
    assert_eq!((pidfd.parent(), pidfd.started()), (None, None));
}

#[test]
fn an_end_that_looks_like_one_that_may_not_be_seen_is_told_once_it_is_certain() {
    let Spawned { pidfd, go, .. } = shell("exit 0").spawn();
    go.release().unwrap();
    assert!(pidfd.wait_dead(SOON));
    assert_eq!(pidfd.ended_with(), None);
    pidfd.reap().unwrap().unwrap();
    assert_eq!(pidfd.ended_with().unwrap().code(), Some(0));
}

/// An app that leaves its session by `setsid` and loses its parents, and says who it is.
const RUNAWAY: &str = "setsid sh -c 'sleep 60 & echo $!' & wait; exec sleep 60";

#[test]
fn a_sweep_finds_what_left_the_session_by_the_variables_it_was_started_with() {
    let mut app = shell(RUNAWAY);
    let mark = format!("SWEEP_TEST={}-{}", std::process::id(), line!());
    let (key, value) = mark.split_once('=').unwrap();
    app.env.push((key.to_owned(), value.to_owned()));
    let Spawned { pid, pidfd, out, go, .. } = app.spawn();
    go.release().unwrap();
    let runaway: u32 = read_line(&out).parse().unwrap();
    let swept = sweep_descendants(&pidfd, pid, std::slice::from_ref(&mark), SOON);
    assert!(swept.clean && swept.killed >= 1, "{swept:?}");
    assert!(!is_running(runaway));
    assert_eq!(end_of(&pidfd).signal(), Some(libc::SIGKILL));
}

#[test]
fn a_sweep_without_marks_takes_sessions_of_descendants_whose_parents_live() {
    let Spawned { pid, pidfd, out, go, .. } = shell("setsid sh -c 'echo $$; sleep 60' & exec sleep 60").spawn();
    go.release().unwrap();
    let other: u32 = read_line(&out).parse().unwrap();
    let swept = sweep_descendants(&pidfd, pid, &[], SOON);
    assert!(swept.clean, "{swept:?}");
    assert!(!is_running(other));
    end_of(&pidfd);
}

#[test]
fn a_sweep_ends_a_family_that_grows_while_it_looks() {
    // Each generation starts its successors in sessions of their own, up to a bound that protects the machine.
    let grow = "f() { [ $1 -gt 0 ] && for i in 1 2 3; do setsid sh -c \"$F\" sh $(($1 - 1)) & done; sleep 60; }; f $1";
    let mut app = shell("sh -c \"$F\" sh 4 & echo started; wait");
    app.env.push(("F".to_owned(), grow.to_owned()));
    let Spawned { pid, pidfd, out, go, .. } = app.spawn();
    go.release().unwrap();
    assert_eq!(read_line(&out), "started");
    let swept = sweep_descendants(&pidfd, pid, &[], SOON);
    assert!(swept.clean, "{swept:?}");
    // Nobody holds the pipe any more: nothing is left.
    read_all(&out);
    end_of(&pidfd);
}

#[test]
fn a_sweep_spares_strangers() {
    let stranger = shell("exec sleep 60").spawn();
    stranger.go.release().unwrap();
    let Spawned { pid, pidfd, go, .. } = shell("exit").spawn();
    go.release().unwrap();
    end_of(&pidfd);
    let marks = ["NOBODY_HAS_THIS=1".to_owned()];
    assert_eq!(sweep_descendants(&pidfd, pid, &marks, SOON), Swept { killed: 0, clean: true });
    assert!(!stranger.pidfd.is_dead());
    stranger.pidfd.signal(libc::SIGKILL).unwrap();
    end_of(&stranger.pidfd);
}

/// Not a test by itself: the supervisor's part in the one below, in a process of its own.
#[test]
#[ignore = "run by the test below"]
fn supervisor_that_spawns_for_its_parent_and_ends() {
    let mut app = shell("exit 42");
    app.parent = Parent::Keeper;
    let Spawned { pid, go, .. } = app.spawn();
    go.release().unwrap().wait(SOON).unwrap().unwrap();
    println!("child={pid}");
}

#[test]
fn an_instance_is_its_keepers_child_from_birth() {
    let supervisor = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::tests::supervisor_that_spawns_for_its_parent_and_ends", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&supervisor.stdout);
    let child = said.lines().find_map(|line| line.split_once("child=")?.1.parse::<u32>().ok()).expect("a child");
    // Only a parent can wait for it.
    let pidfd = Pidfd::open(child).unwrap();
    assert_eq!(end_of(&pidfd).code(), Some(42));
}

#[test]
fn a_stage_that_somebody_starts_by_hand_says_so() {
    let by_hand = std::process::Command::new(std::env::current_exe().unwrap()).arg(stage::ROLE).output().unwrap();
    assert_eq!(by_hand.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&by_hand.stderr).contains("is started by the supervisor only"));
}

#[test]
fn no_descriptor_is_left_behind_by_a_spawn() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests run beside this one: the smallest of several differences is ours.
    let left = (0..5).map(|_| {
        let before = open();
        for _ in 0..20 {
            shell("exit").run();
        }
        open() as i64 - before as i64
    });
    assert!(left.min().unwrap() < 20);
}

/// Prints how long it takes from the call to a running app, with a control group (made and removed) and without:
/// `cargo test clone_to_exec -- --ignored --nocapture`.
#[test]
#[ignore = "a figure, not a check"]
fn clone_to_exec() {
    let groups = Cgroups::find(&format!("test-figure-{}", std::process::id()), &[]).ok();
    let once = |turn: u32, grouped: bool| {
        let begun = Instant::now();
        let group =
            groups.as_ref().filter(|_| grouped).map(|groups| groups.make(turn, 1, &Bounds::default()).unwrap().0);
        let Spawned { pidfd, go, .. } = Shell { group: group.as_ref(), ..shell("exit") }.spawn();
        let born = begun.elapsed();
        go.release().unwrap().wait(SOON).unwrap().unwrap();
        let launched = begun.elapsed();
        end_of(&pidfd);
        let over = Instant::now();
        group.map(|group| group.remove());
        (launched, born, over.elapsed())
    };
    let mut times = [vec![], vec![]];
    (0..200).for_each(|turn| times.iter_mut().zip([false, true]).for_each(|(times, how)| times.push(once(turn, how))));
    for (times, how) in times.iter_mut().zip(["without", "with"]) {
        times.sort();
        let (launched, born, removed) = times[times.len() / 2];
        let line =
            format!("{how} a group: clone {born:?}, app executed {launched:?}, group removed {removed:?} (medians)\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
    groups.inspect(|groups| groups.close(SOON));
}
