//! The pump with real pipes and files: every byte once, whatever happens to the pump or to the files.

mod following;
mod losing;
mod memory;
mod rendered;
mod rotation;
mod shared;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::config::spec::{LogFormat, LogSpec, Rotation};

const SOON: Duration = Duration::from_secs(30);

fn pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    nix::fcntl::fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (read, File::from(write))
}

fn key(instance: u32) -> StreamKey {
    StreamKey { instance, incarnation: 1, kind: Kind::Out }
}

/// Into this file, as it is.
fn raw(path: &Path) -> Route {
    Route::Raw { path: path.to_owned(), rotation: Rotation::default() }
}

/// A pump, a folder, and what the pump tells.
struct Bench {
    pump: Pump,
    events: Receiver<Event>,
    folder: TempDir,
}

fn bench() -> Bench {
    let pump = Pump::start().unwrap();
    Bench { events: pump.events().unwrap(), pump, folder: tempfile::tempdir().unwrap() }
}

impl Bench {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A stream with its pipe's write end and its file.
    fn stream(&self, instance: u32) -> (File, PathBuf) {
        let (read, write) = pipe();
        let path = self.file(&format!("{instance}.log"));
        self.pump.attach(key(instance), read, raw(&path));
        (write, path)
    }

    fn event(&mut self) -> Event {
        let deadline = Instant::now() + SOON;
        loop {
            match self.events.try_recv() {
                Ok(event) => return event,
                Err(_) if Instant::now() < deadline => std::thread::yield_now(),
                Err(error) => panic!("no event: {error}"),
            }
        }
    }

    fn closed(&mut self) -> StreamKey {
        match self.event() {
            Event::Closed(key) => key,
            other => panic!("not closed but {other:?}"),
        }
    }
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// A child that prints the numbers from 1 to `last`.
fn counting(last: u32, out: File) -> Child {
    Command::new("seq").args(["1", &last.to_string()]).stdin(Stdio::null()).stdout(out).spawn().unwrap()
}

fn assert_counted(path: &Path, last: u32) {
    let text = content(path);
    let mut expected = 1;
    for line in text.lines() {
        assert_eq!(line, expected.to_string(), "in line {expected}");
        expected += 1;
    }
    assert_eq!(expected - 1, last);
    assert!(text.ends_with('\n'));
}

#[test]
fn every_line_of_a_child_arrives_once_and_the_end_is_told() {
    let mut bench = bench();
    let (write, path) = bench.stream(1);
    let mut child = counting(100_000, write);
    assert_eq!(bench.closed(), key(1));
    assert!(child.wait().unwrap().success());
    assert_counted(&path, 100_000);
    assert_eq!(fs::metadata(&path).unwrap().len(), 588_895);
}

#[test]
fn what_a_predecessor_has_served_is_left_alone_until_something_comes_out_of_it() {
    let mut bench = bench();
    let (quiet, mut talks, ended) = (pipe(), pipe(), pipe());
    talks.1.write_all(b"printed while there was no pump\n").unwrap();
    drop(ended.1);
    let paths = ["quiet.log", "talks.log", "ended.log"].map(|name| bench.file(name));
    for (instance, (pipe, path)) in (1..).zip([quiet.0, talks.0, ended.0].into_iter().zip(&paths)) {
        bench.pump.go_on(key(instance), pipe, raw(path));
    }
    assert_eq!(bench.closed(), key(3));
    until("what was in the pipe is in the file", || content(&paths[1]) == "printed while there was no pump\n");
    talks.1.write_all(b"and later\n").unwrap();
    until("what came is in the file", || content(&paths[1]).ends_with("and later\n"));
    assert!(!paths[0].exists(), "a file was opened for nothing");
    drop(quiet.1);
    assert_eq!(bench.closed(), key(1));
}

/// Not a test by itself: the pump of a supervisor that is killed in those below. Its pipes are descriptors from 100 on.
#[test]
#[ignore = "run by the tests below"]
fn pump_that_will_be_killed() {
    let way = std::env::var("PUMP_WAY").expect("run by the tests below");
    let path = PathBuf::from(std::env::var_os("PUMP_INTO").expect("run by the tests below"));
    let pump = Pump::start().unwrap();
    let mut instance = 1;
    while let Ok(pipe) = File::options().read(true).open(format!("/proc/self/fd/{}", 99 + instance)) {
        nix::fcntl::fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        pump.go_on(key(instance), pipe.into(), route(&way, &path));
        instance += 1;
    }
    let mut events = pump.events().unwrap();
    // Whoever started us kills us; when he is gone himself, so are the pipes' other ends.
    while events.blocking_recv().is_some() {}
}

/// A way into a file, by a name that can be told to another process.
fn route(way: &str, path: &Path) -> Route {
    let small = Rotation { max_bytes: Some(100_000), keep: 100_000, ..Rotation::default() };
    let (format, rotation) = match way {
        "raw" => (LogFormat::Raw, Rotation::default()),
        "rotated" => (LogFormat::Raw, small),
        "stamped" => (LogFormat::Stamped("SSS".into()), Rotation::default()),
        "stamped and rotated" => (LogFormat::Stamped("SSS".into()), small),
        other => panic!("no way: {other}"),
    };
    let spec = LogSpec { format, rotation, ..LogSpec::default() };
    let paths = Paths { out: path.to_owned(), error: path.to_owned(), combined: None };
    Route::of(&spec, &paths, path.parent().unwrap().join(".raw"), "app", 1, Kind::Out)
}

/// Has children print `lines` lines each into pipes, and pumps that are killed again and again move them to `path`; a
/// last one moves the rest.
fn killed_again_and_again(bench: &mut Bench, way: &str, path: &Path, children: u32, lines: u32) {
    let mut reads = vec![];
    let mut running = vec![];
    for child in 1..=children {
        let (read, write) = pipe();
        let script = format!("seq -f '{child} %.0f' 1 {lines}");
        running.push(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(write).spawn().unwrap());
        reads.push(read);
    }
    let redirections: String = (0..reads.len()).map(|at| format!("{}<&{} ", 100 + at, reads[at].as_raw_fd())).collect();
    for read in &reads {
        nix::fcntl::fcntl(read, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    }
    let written = || total(path);
    let mut killed_at_work = 0;
    for _ in 0..20 {
        let before = written();
        let mut pump = Command::new("bash")
            .args(["-c", &format!("exec \"$@\" {redirections}"), "bash"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "logs::tests::pump_that_will_be_killed", "--ignored"])
            .env("PUMP_WAY", way)
            .env("PUMP_INTO", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the pump has moved something or is done", || {
            written() > before || running.iter_mut().all(|child| child.try_wait().unwrap().is_some())
        });
        pump.kill().unwrap();
        pump.wait().unwrap();
        killed_at_work += u32::from(running.iter_mut().any(|child| child.try_wait().unwrap().is_none()));
    }
    for (number, read) in (1..).zip(reads) {
        bench.pump.attach(key(number), read, route(way, path));
    }
    for _ in 0..children {
        bench.closed();
    }
    running.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert!(killed_at_work > 2, "too fast to be a test: {killed_at_work}");
}

/// Bytes in a log and in what was put aside of it.
fn total(path: &Path) -> u64 {
    let asides = super::rotate::asides(path).into_iter().map(|aside| aside.path);
    asides.chain([path.to_owned()]).filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

/// All of a log, what was put aside first.
fn whole(path: &Path) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let mut text = String::new();
        let read = |aside: super::rotate::Aside, text: &mut String| {
            let file = File::open(&aside.path)?;
            match aside.compressed {
                true => flate2::read::GzDecoder::new(file).read_to_string(text),
                false => BufReader::new(file).read_to_string(text),
            }
        };
        match super::rotate::asides(path).into_iter().try_for_each(|aside| read(aside, &mut text).map(drop)) {
            Ok(()) => return text + &content(path),
            // Compressed just now.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// Every line is `CHILD NUMBER`, and each child's are there from 1 to `lines`, once and in order.
fn assert_of_children<'l>(all: impl Iterator<Item = &'l str>, children: u32, lines: u32) {
    let mut last = vec![0; children as usize + 1];
    for (at, line) in all.enumerate() {
        let (child, number) = line.split_once(' ').unwrap_or_else(|| panic!("line {at} is {line:?}"));
        let child: usize = child.parse().unwrap_or_else(|_| panic!("line {at} is {line:?}"));
        last[child] += 1;
        assert_eq!(number, last[child].to_string(), "line {at} of child {child}");
    }
    assert!(last[1..].iter().all(|last| *last == lines), "{last:?} of {lines}");
}

#[test]
fn no_line_is_lost_or_torn_when_pumps_are_killed_and_succeeded() {
    let mut bench = bench();
    let path = bench.file("out.log");
    killed_again_and_again(&mut bench, "raw", &path, 1, 3_000_000);
    assert_of_children(content(&path).lines(), 1, 3_000_000);
}

#[test]
fn bytes_without_a_newline_and_all_byte_values_arrive_as_they_are() {
    let mut bench = bench();
    let (mut write, path) = bench.stream(1);
    let bytes: Vec<u8> = (0..=255).collect();
    write.write_all(&bytes).unwrap();
    drop(write);
    bench.closed();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_was_in_the_file_stays_and_the_file_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("deep/er/out.log");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).unwrap().write_all(b"before\n").unwrap();
    bench.pump.attach(key(1), read, raw(&path));
    write.write_all(b"after\n").unwrap();
    drop(write);
    bench.closed();
    assert_eq!(content(&path), "before\nafter\n");
    let (write, new) = bench.stream(2);
    until("the file is there before anything is printed", || new.exists());
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    drop(write);
}

#[test]
fn after_a_drain_what_was_printed_is_in_the_file() {
    let bench = bench();
    let (mut write, path) = bench.stream(1);
    for turn in 1..=200 {
        writeln!(write, "{turn}").unwrap();
        assert_eq!(bench.pump.drain(key(1), SOON), Drained::Empty);
        assert_eq!(content(&path).lines().count(), turn);
    }
    drop(write);
    until("drained to the end", || bench.pump.drain(key(1), SOON) == Drained::Closed);
    assert_eq!(bench.pump.drain(key(99), SOON), Drained::Closed);
}

#[test]
fn a_drain_ends_though_somebody_goes_on_printing() {
    let bench = bench();
    let (write, _) = bench.stream(1);
    let mut flood = Command::new("yes").stdout(write).spawn().unwrap();
    let drained = bench.pump.drain(key(1), SOON);
    flood.kill().unwrap();
    flood.wait().unwrap();
    assert_eq!(drained, Drained::Empty);
}

#[test]
fn a_truncated_file_goes_on_from_its_new_end() {
    let bench = bench();
    let (mut write, path) = bench.stream(1);
    write.write_all(b"a long line that goes away\n").unwrap();
    bench.pump.drain(key(1), SOON);
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    write.write_all(b"new\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&path), "new\n");
}

#[test]
fn what_others_write_to_the_file_is_not_overwritten() {
    let bench = bench();
    let (mut write, path) = bench.stream(1);
    write.write_all(b"one\n").unwrap();
    bench.pump.drain(key(1), SOON);
    File::options().append(true).open(&path).unwrap().write_all(b"-- marker --\n").unwrap();
    write.write_all(b"two\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&path), "one\n-- marker --\ntwo\n");
}

#[test]
fn a_deleted_file_is_made_anew_within_a_second_or_so() {
    let bench = bench();
    let (mut write, path) = bench.stream(1);
    write.write_all(b"old\n").unwrap();
    bench.pump.drain(key(1), SOON);
    fs::remove_file(&path).unwrap();
    let begun = Instant::now();
    until("the file is back", || {
        write.write_all(b"new\n").unwrap();
        bench.pump.drain(key(1), SOON);
        content(&path).starts_with("new\n")
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_moved_file_keeps_what_it_has_and_nothing_is_lost_between_the_two() {
    let mut bench = bench();
    let (mut write, path) = bench.stream(1);
    let moved = bench.file("moved.log");
    writeln!(write, "1").unwrap();
    bench.pump.drain(key(1), SOON);
    fs::rename(&path, &moved).unwrap();
    let mut last = 1;
    until("the file is back", || {
        last += 1;
        writeln!(write, "{last}").unwrap();
        bench.pump.drain(key(1), SOON);
        path.exists()
    });
    drop(write);
    bench.closed();
    let all = content(&moved) + &content(&path);
    let numbers: Vec<u32> = all.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
}

#[test]
fn two_streams_of_one_file_lose_nothing_to_one_another() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    let mut children = vec![];
    for instance in 1..=2 {
        let (read, write) = pipe();
        bench.pump.attach(key(instance), read, raw(&path));
        let script = format!("i=0; while [ $i -lt 3000 ]; do echo {instance} $i; i=$((i+1)); done");
        children.push(Command::new("sh").args(["-c", &script]).stdout(write).spawn().unwrap());
    }
    bench.closed();
    bench.closed();
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    for instance in 1..=2 {
        let text = content(&path);
        let own = text.lines().filter_map(|line| line.strip_prefix(&format!("{instance} "))?.parse::<u32>().ok());
        assert_eq!(own.collect::<Vec<_>>(), (0..3000).collect::<Vec<_>>());
    }
}

#[test]
fn a_flood_does_not_keep_others_from_their_files() {
    let bench = bench();
    let (read, write) = pipe();
    // Into nothing, so that the disk does not fill up.
    bench.pump.attach(key(1), read, raw(Path::new("/dev/null")));
    let mut flood = Command::new("yes").stdout(write).spawn().unwrap();
    let (mut quiet, path) = bench.stream(2);
    for turn in 1..=100 {
        writeln!(quiet, "{turn}").unwrap();
        until("the quiet one's line", || content(&path).lines().count() == turn);
    }
    flood.kill().unwrap();
    flood.wait().unwrap();
}

#[test]
fn a_detached_stream_is_left_alone_and_can_be_taken_up_again() {
    let mut bench = bench();
    let (read, mut write) = pipe();
    // The store holds the same pipe, so that closing ours ends nothing.
    let stored = read.try_clone().unwrap();
    let path = bench.file("out.log");
    bench.pump.attach(key(1), read, raw(&path));
    write.write_all(b"one\n").unwrap();
    assert_eq!(bench.pump.drain(key(1), SOON), Drained::Empty);
    bench.pump.detach(key(1));
    write.write_all(b"two\n").unwrap();
    let (other, _) = bench.stream(2);
    drop(other);
    assert_eq!(bench.closed(), key(2));
    assert_eq!(content(&path), "one\n");
    bench.pump.attach(key(1), stored, raw(&path));
    drop(write);
    assert_eq!(bench.closed(), key(1));
    assert_eq!(content(&path), "one\ntwo\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_told_once_and_nothing_is_lost() {
    let mut bench = bench();
    let (read, mut write) = pipe();
    let folder = bench.file("folder");
    fs::write(&folder, "in the way").unwrap();
    let path = folder.join("out.log");
    let (at, error) = bench.pump.attach(key(1), read, raw(&path)).expect("told at once");
    assert_eq!((at.as_path(), error.raw_os_error()), (path.as_path(), Some(libc::ENOTDIR)));
    write.write_all(b"kept\n").unwrap();
    assert_eq!(bench.pump.drain(key(1), SOON), Drained::Left);
    fs::remove_file(&folder).unwrap();
    assert!(matches!(bench.event(), Event::Recovered(stream) if stream == key(1)));
    assert_eq!(content(&path), "kept\n");
}

#[test]
fn a_target_that_is_no_file_is_written_to_as_a_stream() {
    let mut bench = bench();
    let fifo = bench.file("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opened for both, so that it has a reader from the start.
    let mut reader = File::options().read(true).write(true).open(&fifo).unwrap();
    let (read, write) = pipe();
    bench.pump.attach(key(1), read, raw(&fifo));
    // Far more than a pipe holds: the pump has to wait for us.
    let mut child = counting(100_000, write);
    let mut all = vec![0; 588_895];
    reader.read_exact(&mut all).unwrap();
    assert!(all.starts_with(b"1\n2\n") && all.ends_with(b"\n100000\n"));
    bench.closed();
    child.wait().unwrap();
}

#[test]
fn a_device_that_is_full_loses_nothing() {
    let mut bench = bench();
    let path = bench.file("out.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (read, mut write) = pipe();
    bench.pump.attach(key(1), read, raw(&path));
    write.write_all(b"kept\n").unwrap();
    assert!(matches!(bench.event(), Event::Trouble { error, .. } if error.raw_os_error() == Some(libc::ENOSPC)));
    fs::remove_file(&path).unwrap();
    drop(write);
    until("it is written after all", || content(&path) == "kept\n");
}

/// Not a test by itself: runs in a mount namespace of its own, with a small file system at `SMALL`.
#[test]
#[ignore = "run by the test below"]
fn in_a_small_file_system() {
    let small = PathBuf::from(std::env::var_os("SMALL").expect("run by the test below"));
    let mut bench = bench();
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![0; 40 * 4096]).unwrap();
    let (read, write) = pipe();
    let path = small.join("out.log");
    bench.pump.attach(key(1), read, raw(&path));
    // 109 kB of lines into a file system of 256 KiB, of which 160 KiB are taken.
    let mut child = counting(20_000, write.try_clone().unwrap());
    assert!(matches!(bench.event(), Event::Trouble { error, .. } if error.raw_os_error() == Some(libc::ENOSPC)));
    // Told once, however often it is tried again; and others are not concerned.
    let (mut other, elsewhere) = bench.stream(2);
    other.write_all(b"fine\n").unwrap();
    until("the other stream goes on", || content(&elsewhere) == "fine\n");
    fs::remove_file(&ballast).unwrap();
    assert!(matches!(bench.event(), Event::Recovered(stream) if stream == key(1)));
    drop(write);
    assert_eq!(bench.closed(), key(1));
    assert!(child.wait().unwrap().success());
    assert_counted(&path, 20_000);
    println!("whole");
}

#[test]
fn a_full_disk_stops_its_streams_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k small \"$SMALL\" || exit 77; exec \"$@\"";
    let inner = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "logs::tests::in_a_small_file_system", "--ignored", "--nocapture"])
        .env("SMALL", folder.path())
        .output()
        .unwrap();
    if matches!(inner.status.code(), Some(77 | 1)) && !inner.stdout.starts_with(b"\nrunning") {
        println!("skipped: no right to mount a small file system");
        return;
    }
    let (out, err) = (String::from_utf8_lossy(&inner.stdout), String::from_utf8_lossy(&inner.stderr));
    assert!(inner.status.success(), "{out}{err}");
    assert!(out.contains("whole"));
}

#[test]
fn every_end_is_told_however_late_the_receiver_listens() {
    let mut bench = bench();
    for instance in 0..600 {
        let (read, write) = pipe();
        bench.pump.attach(key(instance), read, raw(Path::new("/dev/null")));
        drop(write);
    }
    let mut told: Vec<u32> = (0..600).map(|_| bench.closed().instance).collect();
    told.sort_unstable();
    assert_eq!(told, (0..600).collect::<Vec<_>>());
}

#[test]
fn a_stopped_pump_leaves_the_rest_in_the_pipe() {
    let bench = bench();
    let (read, mut write) = pipe();
    let mut stored = File::from(read.try_clone().unwrap());
    let path = bench.file("out.log");
    bench.pump.attach(key(1), read, raw(&path));
    write.write_all(b"one\n").unwrap();
    bench.pump.drain(key(1), SOON);
    bench.pump.stop();
    write.write_all(b"two\n").unwrap();
    let mut left = [0; 16];
    assert_eq!(stored.read(&mut left).unwrap(), 4);
    assert_eq!(content(&path), "one\n");
}

fn next(follower: &mut Follower) -> (usize, String, bool) {
    let line = follower.next(SOON).unwrap().expect("a line in time");
    (line.file, String::from_utf8_lossy(&line.bytes).into_owned(), line.ended)
}

fn append(path: &Path, text: &str) {
    File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_follower_hands_out_the_last_lines_and_then_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    append(&first, "1\n2\n3\n");
    let mut follower = Follower::new();
    assert_eq!(follower.add(&first, From::Last(2)).unwrap(), 0);
    assert_eq!(follower.add(&second, From::End).unwrap(), 1);
    assert_eq!(next(&mut follower), (0, "2".into(), true));
    assert_eq!(next(&mut follower), (0, "3".into(), true));
    assert_eq!(follower.next(Duration::ZERO).unwrap(), None);
    append(&second, "late\nunfin");
    assert_eq!(next(&mut follower), (1, "late".into(), true));
    assert_eq!(follower.next(Duration::ZERO).unwrap(), None);
    append(&second, "ished\nrest");
    assert_eq!(next(&mut follower), (1, "unfinished".into(), true));
    assert_eq!(follower.next(Duration::ZERO).unwrap(), None);
    assert_eq!(follower.rest(), [Line { file: 1, bytes: b"rest".to_vec(), ended: false, time: None }]);
}

#[test]
fn a_follower_notices_truncation_and_replacement() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, "one\ncut");
    let mut follower = Follower::new();
    follower.add(&path, From::Start).unwrap();
    assert_eq!(next(&mut follower), (0, "one".into(), true));
    assert_eq!(follower.next(Duration::ZERO).unwrap(), None);
    fs::write(&path, "two\n").unwrap();
    assert_eq!(next(&mut follower), (0, "cut".into(), false));
    assert_eq!(next(&mut follower), (0, "two".into(), true));
    append(&path, "three\n");
    fs::rename(&path, folder.path().join("moved")).unwrap();
    append(&path, "four\n");
    // The moved file is read to its end first.
    assert_eq!(next(&mut follower), (0, "three".into(), true));
    assert_eq!(next(&mut follower), (0, "four".into(), true));
    fs::remove_file(&path).unwrap();
    assert_eq!(follower.next(Duration::ZERO).unwrap(), None);
    append(&path, "five\n");
    assert_eq!(next(&mut follower), (0, "five".into(), true));
}

#[test]
fn a_follower_hands_out_a_long_line_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, &format!("{}end\n{}\nshort\n", "x".repeat(2 * LINE_LIMIT), "y".repeat(LINE_LIMIT)));
    let mut follower = Follower::new();
    follower.add(&path, From::Start).unwrap();
    for _ in 0..2 {
        let (_, piece, ended) = next(&mut follower);
        assert_eq!((piece.len(), ended), (LINE_LIMIT, false));
    }
    assert_eq!(next(&mut follower), (0, "end".into(), true));
    let (_, exact, ended) = next(&mut follower);
    assert_eq!((exact.len(), ended), (LINE_LIMIT, true));
    assert_eq!(next(&mut follower), (0, "short".into(), true));
}

#[test]
fn a_follower_of_a_running_child_misses_nothing() {
    let bench = bench();
    let (write, path) = bench.stream(1);
    let mut follower = Follower::new();
    follower.add(&path, From::Start).unwrap();
    let mut child = counting(50_000, write);
    for number in 1..=50_000 {
        assert_eq!(next(&mut follower).1, number.to_string());
    }
    child.wait().unwrap();
}
