//! Reading a log through what was put aside of it.

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::index::Index;
use super::super::rotate;
use super::*;

/// A log of which the lines 1 to 6 were put aside, two a file, the older ones compressed; 7 and 8 are current. Each
/// file's lines were written at 1000 times its first line.
fn long_lived() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a.log");
    for first in [1, 3, 5, 7] {
        fs::write(&log, format!("{first}\n{}\n", first + 1)).unwrap();
        Index::of(&log, Duration::ZERO).note(0, first * 1000);
        if first < 7 {
            rotate::put_aside(&log, 9).unwrap();
        }
    }
    for aside in &rotate::asides(&log)[..2] {
        let gzip = File::create(aside.path.with_file_name(format!("a.log.{:06}.gz", aside.number))).unwrap();
        let mut gzip = GzEncoder::new(gzip, Compression::fast());
        gzip.write_all(&fs::read(&aside.path).unwrap()).unwrap();
        gzip.finish().unwrap();
        fs::remove_file(&aside.path).unwrap();
    }
    (folder, log)
}

fn read(log: &Path, from: From) -> Vec<(String, Option<u64>)> {
    let mut follower = Follower::timed();
    follower.add(log, from).unwrap();
    let mut lines = vec![];
    while let Some(line) = follower.next(Duration::ZERO).unwrap() {
        lines.push((String::from_utf8(line.bytes).unwrap(), line.time));
    }
    lines
}

fn texts(log: &Path, from: From) -> String {
    read(log, from).into_iter().map(|(text, _)| text).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_last_lines_are_found_in_what_was_put_aside_too() {
    let (_folder, log) = long_lived();
    for (lines, expected) in
        [(1, "8"), (2, "7 8"), (3, "6 7 8"), (5, "4 5 6 7 8"), (7, "2 3 4 5 6 7 8"), (99, "1 2 3 4 5 6 7 8"), (0, "")]
    {
        assert_eq!(texts(&log, From::Last(lines)), expected, "the last {lines}");
    }
    fs::remove_file(&log).unwrap();
    assert_eq!(texts(&log, From::Last(3)), "4 5 6");
}

#[test]
fn what_was_written_since_a_time_is_found_in_what_was_put_aside_too() {
    let (_folder, log) = long_lived();
    for (since, expected) in [
        (0, "1 2 3 4 5 6 7 8"),
        (1000, "1 2 3 4 5 6 7 8"),
        (1001, "3 4 5 6 7 8"),
        (5000, "5 6 7 8"),
        (7000, "7 8"),
        (7001, ""),
    ] {
        assert_eq!(texts(&log, From::Since(since)), expected, "since {since}");
    }
    assert_eq!(read(&log, From::Since(5000))[1], ("6".to_owned(), Some(5000)));
}

#[test]
fn a_follower_that_did_not_look_for_long_goes_through_all_that_was_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a.log");
    fs::write(&log, "1\n").unwrap();
    let mut follower = Follower::new();
    follower.add(&log, From::Start).unwrap();
    let next = |follower: &mut Follower| follower.next(Duration::ZERO).unwrap().map(|line| line.bytes);
    assert_eq!(next(&mut follower).unwrap(), b"1");
    File::options().append(true).open(&log).unwrap().write_all(b"2\n").unwrap();
    for number in 3..=6 {
        rotate::put_aside(&log, 9).unwrap();
        fs::write(&log, format!("{number}\n")).unwrap();
    }
    for number in 2..=6 {
        assert_eq!(next(&mut follower).unwrap(), number.to_string().as_bytes());
    }
    rotate::put_aside(&log, 9).unwrap();
    assert_eq!(next(&mut follower), None);
    fs::write(&log, "7\n").unwrap();
    assert_eq!(next(&mut follower).unwrap(), b"7");
}

#[test]
fn a_follower_of_a_flood_that_is_put_aside_misses_nothing() {
    let bench = bench();
    let (read, write) = pipe();
    let path = bench.file("out.log");
    let rotation = Rotation { max_bytes: Some(50_000), keep: 1000, ..Rotation::default() };
    bench.pump.attach(key(1), read, Route::Raw { path: path.clone(), rotation });
    let mut follower = Follower::new();
    follower.add(&path, From::Start).unwrap();
    let mut child = counting(100_000, write);
    for number in 1..=100_000 {
        assert_eq!(next(&mut follower).1, number.to_string());
    }
    child.wait().unwrap();
}

#[test]
fn a_line_that_is_cut_off_is_not_shown_and_nothing_is_shown_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("a.log");
    fs::write(&log, "one\ntw").unwrap();
    let mut follower = Follower::new();
    follower.add(&log, From::Start).unwrap();
    let next = |follower: &mut Follower| follower.next(Duration::ZERO).unwrap().map(|line| line.bytes);
    assert_eq!(next(&mut follower).unwrap(), b"one");
    assert_eq!(next(&mut follower), None);
    File::options().write(true).open(&log).unwrap().set_len(4).unwrap();
    assert_eq!(next(&mut follower), None);
    File::options().append(true).open(&log).unwrap().write_all(b"three\n").unwrap();
    assert_eq!(next(&mut follower).unwrap(), b"three");
    assert_eq!(next(&mut follower), None);
}
