//! Stamped, JSON and combined logs: every line once, whole, whatever happens to the pump.

use std::os::unix::fs::MetadataExt;

use super::*;

fn spec(format: LogFormat) -> LogSpec {
    LogSpec { format, ..LogSpec::default() }
}

impl Bench {
    /// Attaches a stream whose log is rendered.
    fn render(&self, key: StreamKey, read: OwnedFd, spec: &LogSpec, paths: &Paths) -> Option<(PathBuf, io::Error)> {
        let route = Route::of(spec, paths, self.file(".raw"), "app", key.instance, key.kind);
        self.pump.attach(key, read, route)
    }

    fn paths(&self) -> Paths {
        Paths { out: self.file("out.log"), error: self.file("error.log"), combined: None }
    }

    fn spools(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.file(".raw")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_none()).collect()
    }
}

/// Takes the stamp `SSS: ` off.
fn unstamped(line: &str) -> &str {
    let (stamp, line) = line.split_once(": ").unwrap_or_else(|| panic!("no stamp: {line:?}"));
    assert!(stamp.len() == 3 && stamp.parse::<u16>().is_ok(), "{stamp:?}");
    line
}

#[test]
fn every_line_is_stamped_once_and_the_spool_goes_with_its_stream() {
    let mut bench = bench();
    let (read, write) = pipe();
    bench.render(key(1), read, &spec(LogFormat::Stamped("SSS".into())), &bench.paths());
    let mut child =
        Command::new("sh").args(["-c", "seq -f '1 %.0f' 1 100000; printf '1 100001'"]).stdout(write).spawn().unwrap();
    bench.closed();
    assert!(child.wait().unwrap().success());
    assert_of_children(content(&bench.file("out.log")).lines().map(unstamped), 1, 100_001);
    assert_eq!(bench.spools(), [""; 0].map(PathBuf::from));
}

#[test]
fn no_stamped_line_is_lost_or_doubled_when_pumps_are_killed() {
    let mut bench = bench();
    let path = bench.file("out.log");
    killed_again_and_again(&mut bench, "stamped", &path, 2, 500_000);
    assert_of_children(content(&path).lines().map(unstamped), 2, 500_000);
    assert!(bench.spools().is_empty());
}

#[test]
fn no_stamped_line_is_lost_or_doubled_when_pumps_are_killed_while_putting_aside() {
    let mut bench = bench();
    let path = bench.file("out.log");
    killed_again_and_again(&mut bench, "stamped and rotated", &path, 2, 500_000);
    assert_of_children(whole(&path).lines().map(unstamped), 2, 500_000);
}

#[test]
fn a_combined_log_has_both_outputs_beside_their_own_files() {
    let mut bench = bench();
    let spec = LogSpec { combined: Some(bench.file("all.log")), ..spec(LogFormat::Json(None)) };
    let paths = Paths { combined: spec.combined.clone(), ..bench.paths() };
    let ((out, mut to_out), (err, mut to_err)) = (pipe(), pipe());
    bench.render(key(1), out, &spec, &paths);
    bench.render(StreamKey { kind: Kind::Err, ..key(1) }, err, &spec, &paths);
    to_out.write_all(b"good\n").unwrap();
    until("the first line", || content(&bench.file("all.log")).lines().count() == 1);
    to_err.write_all(b"bad\n\xff").unwrap();
    drop((to_out, to_err));
    bench.closed();
    bench.closed();
    let messages = |name: &str| -> Vec<(String, String)> {
        let text = content(&bench.file(name));
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let text_of = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        text.lines().map(value).map(|line| (text_of(&line["type"]), text_of(&line["message"]))).collect()
    };
    let pair = |kind: &str, message: &str| (kind.to_owned(), message.to_owned());
    assert_eq!(messages("out.log"), [pair("out", "good\n")]);
    assert_eq!(messages("error.log"), [pair("err", "bad\n"), pair("err", "\u{fffd}\n")]);
    assert_eq!(messages("all.log"), [pair("out", "good\n"), pair("err", "bad\n"), pair("err", "\u{fffd}\n")]);
}

#[test]
fn a_log_that_takes_nothing_does_not_hold_up_the_other_one() {
    let mut bench = bench();
    let blocked = bench.file("folder");
    fs::write(&blocked, "in the way").unwrap();
    let paths = Paths { combined: Some(blocked.join("all.log")), ..bench.paths() };
    let (read, mut write) = pipe();
    assert!(bench.render(key(1), read, &spec(LogFormat::Raw), &paths).is_some(), "told at once");
    write.write_all(b"line\n").unwrap();
    until("the other log has it", || content(&bench.file("out.log")) == "line\n");
    fs::remove_file(&blocked).unwrap();
    assert!(matches!(bench.event(), Event::Recovered(_)));
    assert_eq!(content(&blocked.join("all.log")), "line\n");
    drop(write);
    bench.closed();
    assert_eq!(
        (content(&bench.file("out.log")).as_str(), content(&blocked.join("all.log")).as_str()),
        ("line\n", "line\n")
    );
}

#[test]
fn a_spool_takes_little_of_the_disk_however_much_goes_through() {
    let bench = bench();
    let (read, write) = pipe();
    bench.render(key(1), read, &spec(LogFormat::Stamped("SSS".into())), &bench.paths());
    let mut child = counting(1_000_000, write);
    until("all is rendered", || content_ends(&bench.file("out.log"), ": 1000000\n"));
    child.wait().unwrap();
    // Its stream may have ended, and the spool with it, or not yet.
    let blocks = bench.spools().first().and_then(|spool| fs::metadata(spool).ok()).map_or(0, |spool| spool.blocks());
    assert!(blocks * 512 < 12 * 1024 * 1024, "{} KiB", blocks / 2);
}

fn content_ends(path: &Path, end: &str) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let size = file.metadata().unwrap().len();
    let mut last = vec![0; end.len()];
    let from = size.saturating_sub(end.len() as u64);
    std::os::unix::fs::FileExt::read_at(&file, &mut last, from).is_ok() && last == end.as_bytes()
}

#[test]
fn a_very_long_line_is_rendered_in_pieces_that_say_so() {
    let mut bench = bench();
    let (read, mut write) = pipe();
    bench.render(key(1), read, &spec(LogFormat::Stamped("[t]".into())), &bench.paths());
    let printing = std::thread::spawn(move || {
        write.write_all("x".repeat(600_000).as_bytes()).unwrap();
        write.write_all(b"\nshort\n").unwrap();
    });
    bench.closed();
    printing.join().unwrap();
    let text = content(&bench.file("out.log"));
    let pieces: Vec<usize> = text.lines().map(|line| line.matches('x').count()).collect();
    assert_eq!(pieces.iter().sum::<usize>(), 600_000);
    assert_eq!(text.lines().filter(|line| line.ends_with(" [goes on]")).count(), pieces.len() - 2);
    assert!(text.ends_with("\nt: short\n"));
}

#[test]
fn a_rendered_log_that_was_emptied_goes_on() {
    let bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("out.log");
    bench.render(key(1), read, &spec(LogFormat::Stamped("[t]".into())), &bench.paths());
    write.write_all(b"one\n").unwrap();
    bench.pump.drain(key(1), SOON);
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    write.write_all(b"two\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&path), "t: two\n");
    bench.pump.flush(&bench.paths()).unwrap();
    write.write_all(b"three\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&path), "t: three\n");
}

#[test]
fn spools_of_streams_that_nobody_has_are_removed() {
    let bench = bench();
    let (read, mut write) = pipe();
    bench.render(key(1), read, &spec(LogFormat::Stamped("[t]".into())), &bench.paths());
    write.write_all(b"beginning").unwrap();
    bench.pump.drain(key(1), SOON);
    fs::write(bench.file(".raw/9-1-out-abc"), "old").unwrap();
    fs::write(bench.file(".raw/9-1-out-abc.times"), "old").unwrap();
    assert_eq!(bench.pump.remove_stray_spools(&bench.file(".raw")), 2);
    assert_eq!(bench.spools().len(), 1);
    write.write_all(b" and end\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&bench.file("out.log")), "t: beginning and end\n");
}

#[test]
fn positions_that_are_lost_cost_no_line_and_no_garbage() {
    let bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("out.log");
    let stored = read.try_clone().unwrap();
    bench.render(key(1), read, &spec(LogFormat::Stamped("[t]".into())), &bench.paths());
    for _ in 0..300 {
        // More than a step of what is cut out of the spool's front.
        write.write_all(&[[b'x'; 9_999].as_slice(), b"\n"].concat()).unwrap();
        bench.pump.drain(key(1), SOON);
    }
    bench.pump.detach(key(1));
    for file in fs::read_dir(bench.file(".raw")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|ending| ending == "at") {
            fs::write(file, "garbage").unwrap();
        }
    }
    fs::remove_file(&path).unwrap();
    bench.render(key(1), stored, &spec(LogFormat::Stamped("[t]".into())), &bench.paths());
    write.write_all(b"last\n").unwrap();
    until("it goes on", || content_ends(&path, "\nt: last\n"));
    assert!(!fs::read(&path).unwrap().contains(&0), "the hole was rendered");
    assert!(fs::metadata(&path).unwrap().len() < 2_000_000, "what was cut out is not rendered again");
}

#[test]
fn a_rendered_log_is_created_before_there_is_a_line_and_what_it_lacks_is_told() {
    let mut bench = bench();
    let (read, mut write) = pipe();
    let blocked = bench.file("folder");
    fs::write(&blocked, "in the way").unwrap();
    let paths = Paths { out: blocked.join("out.log"), error: bench.file("error.log"), combined: None };
    let told = bench.render(key(1), read, &spec(LogFormat::Stamped("[t]".into())), &paths);
    assert_eq!(told.map(|(path, error)| (path, error.raw_os_error())), Some((paths.out.clone(), Some(libc::ENOTDIR))));
    fs::remove_file(&blocked).unwrap();
    // Though nothing has been printed.
    assert!(matches!(bench.event(), Event::Recovered(_)));
    assert_eq!(content(&paths.out), "");
    write.write_all(b"line\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(content(&paths.out), "t: line\n");
    assert_eq!(bench.pump.last_lines(key(1), 5).unwrap().unwrap().1, [b"t: line"]);
}
