//! Several streams of one file: lines stay whole.

use super::*;

#[test]
fn floods_into_one_file_are_mixed_by_whole_lines_only() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    let mut children = vec![];
    for child in 1..=4 {
        let (read, write) = pipe();
        bench.pump.attach(key(child), read, raw(&path));
        let script = format!("seq -f '{child} %.0f' 1 100000");
        children.push(Command::new("sh").args(["-c", &script]).stdout(write).spawn().unwrap());
    }
    for _ in &children {
        bench.closed();
    }
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert_of_children(content(&path).lines(), 4, 100_000);
}

#[test]
fn no_line_of_a_shared_file_is_torn_or_doubled_when_pumps_are_killed() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    killed_again_and_again(&mut bench, "raw", &path, 3, 500_000);
    assert_of_children(content(&path).lines(), 3, 500_000);
}

#[test]
fn the_beginning_of_a_line_waits_for_its_end_while_others_go_on() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    let ((first, mut one), (second, mut two)) = (pipe(), pipe());
    bench.pump.attach(key(1), first, raw(&path));
    bench.pump.attach(key(2), second, raw(&path));
    one.write_all(b"be").unwrap();
    two.write_all(b"two\n").unwrap();
    until("the second one's line", || content(&path) == "two\n");
    one.write_all(b"gun\nun").unwrap();
    until("the first one's line", || content(&path) == "two\nbegun\n");
    drop(one);
    bench.closed();
    two.write_all(b"after\n").unwrap();
    until("all of it", || content(&path) == "two\nbegun\nun\nafter\n");
}

#[test]
fn a_line_that_is_longer_than_its_pipe_has_the_file_for_itself() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    let ((first, mut one), (second, mut two)) = (pipe(), pipe());
    bench.pump.attach(key(1), first, raw(&path));
    bench.pump.attach(key(2), second, raw(&path));
    let long = std::thread::spawn(move || {
        for _ in 0..40 {
            one.write_all(&[b'x'; 10_000]).unwrap();
        }
        one.write_all(b"\n").unwrap();
    });
    for number in 0..1000 {
        writeln!(two, "{number}").unwrap();
    }
    long.join().unwrap();
    drop(two);
    bench.closed();
    bench.closed();
    let text = content(&path);
    let (long, short): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('x'));
    assert_eq!(long.iter().map(|line| line.len()).collect::<Vec<_>>(), [400_000]);
    assert!(short.iter().copied().eq((0..1000).map(|number| number.to_string()).collect::<Vec<_>>()));
}

#[test]
fn a_long_line_that_falls_silent_gives_way_with_a_newline() {
    let bench = bench();
    let path = bench.file("shared.log");
    let ((first, mut one), (second, mut two)) = (pipe(), pipe());
    bench.pump.attach(key(1), first, raw(&path));
    bench.pump.attach(key(2), second, raw(&path));
    one.write_all(&[b'x'; 50_000]).unwrap();
    until("the long one has begun", || content(&path).len() == 50_000);
    two.write_all(b"two\n").unwrap();
    until("the other one's turn", || content(&path).ends_with("x\ntwo\n"));
    one.write_all(b"more\n").unwrap();
    until("the rest", || content(&path).ends_with("x\ntwo\nmore\n"));
}

#[test]
fn what_a_successor_prints_is_not_glued_to_an_unfinished_last_line() {
    let mut bench = bench();
    let path = bench.file("out.log");
    for (instance, text) in [(1, "unfinished"), (2, "whole\n"), (3, "unfinished"), (3, " business\n")] {
        let (read, mut write) = pipe();
        bench.pump.attach(key(instance), read, raw(&path));
        write.write_all(text.as_bytes()).unwrap();
        drop(write);
        bench.closed();
    }
    // The same stream again is what a successor of the supervisor attaches: it goes on with its line.
    assert_eq!(content(&path), "unfinished\nwhole\nunfinished business\n");
}

#[test]
fn the_last_lines_of_a_stream_are_its_own_whoever_shares_the_file_and_also_after_its_end() {
    let mut bench = bench();
    let path = bench.file("shared.log");
    fs::write(&path, "of before\n").unwrap();
    let ((first, mut one), (second, mut two)) = (pipe(), pipe());
    bench.pump.attach(key(1), first, raw(&path));
    bench.pump.attach(key(2), second, raw(&path));
    for turn in 0..5 {
        writeln!(one, "one {turn}").unwrap();
        bench.pump.drain(key(1), SOON);
        writeln!(two, "two {turn}").unwrap();
        bench.pump.drain(key(2), SOON);
    }
    let last = |bench: &Bench, of: u32, lines: usize| {
        let found = bench.pump.last_lines(key(of), lines).unwrap();
        found.map(|(at, lines)| {
            assert_eq!(at, path);
            lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>().join(",")
        })
    };
    assert_eq!(last(&bench, 1, 2).unwrap(), "one 3,one 4");
    drop(one);
    assert_eq!(bench.closed(), key(1));
    assert_eq!(last(&bench, 1, 20).unwrap(), "one 0,one 1,one 2,one 3,one 4");
    assert_eq!(last(&bench, 2, 20).unwrap(), "two 0,two 1,two 2,two 3,two 4");
    assert_eq!(last(&bench, 3, 20), None);
}
