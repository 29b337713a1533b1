//! Putting aside while lines come: every line once, in order.

use super::super::{index, rotate};
use super::*;

fn rotated(path: &Path, max_bytes: u64, keep: u32, compress: bool) -> Route {
    Route::Raw {
        path: path.to_owned(),
        rotation: Rotation { max_bytes: Some(max_bytes), max_age: None, keep, compress },
    }
}

#[test]
fn a_flood_that_is_put_aside_again_and_again_loses_and_tears_no_line() {
    let mut bench = bench();
    let (read, write) = pipe();
    let path = bench.file("out.log");
    bench.pump.attach(key(1), read, rotated(&path, 50_000, 1000, true));
    let mut child = Command::new("sh").args(["-c", "seq -f '1 %.0f' 1 200000"]).stdout(write).spawn().unwrap();
    bench.closed();
    assert!(child.wait().unwrap().success());
    let asides = rotate::asides(&path);
    assert!(asides.len() > 10, "{} were put aside", asides.len());
    assert!(asides.iter().all(|aside| index::path_of(&aside.plain()).exists()), "times went along");
    assert_of_children(whole(&path).lines(), 1, 200_000);
}

#[test]
fn putting_aside_while_pumps_are_killed_loses_and_doubles_no_line() {
    let mut bench = bench();
    let path = bench.file("out.log");
    killed_again_and_again(&mut bench, "rotated", &path, 2, 1_000_000);
    assert!(rotate::asides(&path).len() > 10);
    assert_of_children(whole(&path).lines(), 2, 1_000_000);
}

#[test]
fn only_as_many_are_kept_as_asked_for() {
    let mut bench = bench();
    let (read, write) = pipe();
    let path = bench.file("out.log");
    bench.pump.attach(key(1), read, rotated(&path, 20_000, 3, false));
    let mut child = counting(50_000, write);
    bench.closed();
    child.wait().unwrap();
    let asides = rotate::asides(&path);
    assert_eq!(asides.len(), 3);
    assert!(whole(&path).ends_with("\n50000\n"));
    assert!(asides.iter().all(|aside| fs::metadata(&aside.path).unwrap().len() >= 20_000));
}

#[test]
fn a_log_is_put_aside_at_its_age_with_the_next_line() {
    let bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("out.log");
    let rotation = Rotation { max_bytes: None, max_age: Some(Duration::from_millis(50)), keep: 9, compress: false };
    bench.pump.attach(key(1), read, Route::Raw { path: path.clone(), rotation });
    let mut last = 0;
    until("it is put aside", || {
        last += 1;
        writeln!(write, "{last}").unwrap();
        bench.pump.drain(key(1), SOON);
        !rotate::asides(&path).is_empty()
    });
    let numbers = whole(&path);
    assert!(numbers.lines().eq((1..=last).map(|number: u32| number.to_string()).collect::<Vec<_>>()), "{numbers}");
}

#[test]
fn flush_empties_the_file_and_leaves_what_was_put_aside() {
    let bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("out.log");
    fs::write(bench.file("out.log.000001"), "aside\n").unwrap();
    bench.pump.attach(key(1), read, rotated(&path, 1 << 20, 3, false));
    write.write_all(b"old\n").unwrap();
    bench.pump.drain(key(1), SOON);
    bench.pump.flush(&Paths { out: path.clone(), error: bench.file("none.log"), combined: None }).unwrap();
    assert_eq!(content(&path), "");
    write.write_all(b"new\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!(whole(&path), "aside\nnew\n");
    assert!(!bench.file("none.log").exists());
}

#[test]
fn a_moved_file_is_left_at_once_when_that_is_told() {
    let bench = bench();
    let (read, mut write) = pipe();
    let path = bench.file("out.log");
    bench.pump.attach(key(1), read, raw(&path));
    write.write_all(b"one\n").unwrap();
    bench.pump.drain(key(1), SOON);
    fs::rename(&path, bench.file("moved")).unwrap();
    bench.pump.reopen(|_| true);
    write.write_all(b"two\n").unwrap();
    bench.pump.drain(key(1), SOON);
    assert_eq!((content(&bench.file("moved")).as_str(), content(&path).as_str()), ("one\n", "two\n"));
}
