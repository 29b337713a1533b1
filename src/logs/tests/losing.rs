//! A file that takes nothing for too long: nobody waits for ever, and what is missing is counted to the line.

use super::*;

/// Lines that are printed, and their bytes.
const LINES: u64 = 2_000_000;
const BYTES: u64 = 14_888_896;
/// The small file system, and what is left of it at first.
const SMALL: usize = 64 << 20;
const LEFT: usize = 250_000;

/// Not a test by itself: runs in a mount namespace of its own, with a small file system at `SMALL`.
#[test]
#[ignore = "run by the tests below"]
fn in_a_full_file_system() {
    let small = PathBuf::from(std::env::var_os("SMALL").expect("run by the tests below"));
    let way = std::env::var("WAY").expect("run by the tests below");
    let pump = Pump::with_patience(Duration::from_millis(200)).unwrap();
    let mut bench = Bench { events: pump.events().unwrap(), pump, folder: tempfile::tempdir().unwrap() };
    let ballast = small.join("ballast");
    fs::write(&ballast, vec![0; SMALL - LEFT]).unwrap();
    let path = small.join("out.log");
    let route = match way.as_str() {
        "stamped, its spool elsewhere" => {
            let spec = LogSpec { format: LogFormat::Stamped("SSS".into()), ..LogSpec::default() };
            let paths = Paths { out: path.clone(), error: path.clone(), combined: None };
            Route::of(&spec, &paths, bench.file(".raw"), "app", 1, Kind::Out)
        }
        way => route(way, &path),
    };
    let (read, write) = pipe();
    bench.pump.attach(key(1), read, route);
    let mut keep = write.try_clone().unwrap();
    let mut child = counting(LINES as u32, write);
    assert!(matches!(bench.event(), Event::Trouble { drops: false, error, .. }
        if error.raw_os_error() == Some(libc::ENOSPC)));
    // It does not wait for the disk.
    assert!(child.wait().unwrap().success());
    until("it says that lines are dropped", || matches!(bench.event(), Event::Trouble { drops: true, .. }));
    fs::remove_file(&ballast).unwrap();
    let lost = loop {
        match bench.event() {
            Event::Lost { stream, lost, .. } if stream == key(1) => break lost,
            Event::Trouble { .. } => {}
            other => panic!("nothing lost but {other:?}"),
        }
    };
    keep.write_all(b"after\n").unwrap();
    drop(keep);
    let mut seen = vec![bench.event()];
    while !matches!(seen.last(), Some(Event::Closed(_))) {
        seen.push(bench.event());
    }
    assert!(seen.iter().any(|event| matches!(event, Event::Recovered(_))), "{seen:?}");
    assert!(!seen.iter().any(|event| matches!(event, Event::Lost { .. })), "{seen:?}");
    let text = content(&path);
    let lines: Vec<&str> = match way.starts_with("stamped") {
        true => text.lines().map(|line| line.split_once(": ").expect("a stamp").1).collect(),
        false => text.lines().collect(),
    };
    assert_is_whole_but_for(&lines, lost);
    println!("counted");
}

/// The lines count up from 1, but for those that one line among them says are lost; `after` is the last one.
fn assert_is_whole_but_for(lines: &[&str], lost: Lost) {
    let words = format!("-- herdwire: {} lines ({} bytes) are missing here: ", lost.lines, lost.bytes);
    let said = lines.iter().position(|line| line.starts_with(&words)).expect("the line about those that are lost");
    let (before, after) = (&lines[..said], &lines[said + 1..lines.len() - 1]);
    assert_eq!(lines.last(), Some(&"after"));
    for (line, number) in before.iter().zip(1..) {
        assert_eq!(
            *line,
            number.to_string(),
            "before the gap: {:?}",
            &lines[said.saturating_sub(3)..(said + 3).min(lines.len())]
        );
    }
    for (line, number) in after.iter().zip(said as u64 + lost.lines + 1..) {
        assert_eq!(*line, number.to_string(), "after the gap");
    }
    assert_eq!(before.len() as u64 + lost.lines + after.len() as u64, LINES);
    let there: usize = before.iter().chain(after).map(|line| line.len() + 1).sum();
    assert_eq!(there as u64 + lost.bytes, BYTES);
}

fn fill(way: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={SMALL} small \"$SMALL\" || exit 77; exec \"$@\"");
    let done = Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "logs::tests::losing::in_a_full_file_system", "--ignored", "--nocapture"])
        .env("SMALL", folder.path())
        .env("WAY", way)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    if done.status.code() == Some(77) || !done.status.success() && text.is_empty() {
        eprintln!("not run: no mount here");
        return;
    }
    assert!(done.status.success() && text.contains("counted"), "{text}{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_disk_that_stays_full_stops_no_instance_and_what_is_lost_is_counted_in_whole_lines() {
    fill("raw");
}

#[test]
fn what_a_full_disk_loses_of_a_stamped_log_is_counted_in_whole_lines() {
    fill("stamped");
}

#[test]
fn what_is_lost_of_a_log_on_another_disk_than_its_spool_is_counted_in_whole_lines() {
    fill("stamped, its spool elsewhere");
}

/// A pump that has no patience, and a device that takes nothing.
#[test]
fn what_was_read_for_a_device_that_takes_nothing_is_counted_too() {
    let pump = Pump::with_patience(Duration::ZERO).unwrap();
    let mut bench = Bench { events: pump.events().unwrap(), pump, folder: tempfile::tempdir().unwrap() };
    let link = bench.file("out");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    let (read, write) = pipe();
    bench.pump.attach(key(1), read, raw(&link));
    let mut child = counting(100_000, write);
    until("lines are dropped", || matches!(bench.event(), Event::Trouble { drops: true, .. }));
    assert!(child.wait().unwrap().success());
    fs::remove_file(&link).unwrap();
    let lost = loop {
        match bench.event() {
            Event::Lost { lost, .. } => break lost,
            Event::Closed(_) => panic!("nothing is lost"),
            Event::Trouble { .. } | Event::Recovered(_) => {}
        }
    };
    let text = content(&link);
    let rest = text.split_once('\n').unwrap().1;
    assert_eq!(lost.lines + rest.lines().count() as u64, 100_000);
    assert_eq!(lost.bytes + rest.len() as u64, 588_895);
}
