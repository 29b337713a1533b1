//! What is printed does not become our memory, however much of it there is and however long its lines are.

use super::*;

const STREAMS: u32 = 100;
const LONG: usize = 1_000_000;
const VERY_LONG: usize = 10_000_000;
/// What the pump may need beside what it has at first: far less than is printed.
const MOST: usize = 48 << 20;

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn length(stream: u32) -> usize {
    if stream == 1 { VERY_LONG } else { LONG }
}

/// Has a hundred streams print one line each, one of them a very long one, and looks at what that costs.
fn print_long_lines(way: &str) -> (Bench, usize) {
    let mut bench = bench();
    let mut printing = Vec::new();
    let before = resident();
    for stream in 1..=STREAMS {
        let (read, mut write) = pipe();
        bench.pump.attach(key(stream), read, route(way, &bench.file(&format!("{stream}.log"))));
        let print = move || {
            for _ in 0..length(stream) / 1000 {
                write.write_all(&[b'x'; 1000]).unwrap();
            }
            write.write_all(b"\n").unwrap();
        };
        printing.push(std::thread::Builder::new().stack_size(64 * 1024).spawn(print).unwrap());
    }
    let mut most = before;
    for _ in 0..STREAMS {
        bench.closed();
        most = most.max(resident());
    }
    printing.into_iter().for_each(|thread| thread.join().unwrap());
    (bench, most - before)
}

#[test]
fn a_hundred_long_lines_at_once_cost_little_memory() {
    let (bench, cost) = print_long_lines("raw");
    for stream in 1..=STREAMS {
        let log = fs::read(bench.file(&format!("{stream}.log"))).unwrap();
        assert!(log.len() == length(stream) + 1 && log.ends_with(b"x\n"), "{} bytes of {stream}", log.len());
    }
    assert!(cost < MOST, "{} KiB", cost / 1024);
}

#[test]
fn a_hundred_long_lines_at_once_cost_little_memory_when_they_are_rendered() {
    let (bench, cost) = print_long_lines("stamped");
    for stream in 1..=STREAMS {
        let log = fs::read(bench.file(&format!("{stream}.log"))).unwrap();
        assert_eq!(log.iter().filter(|byte| **byte == b'x').count(), length(stream), "of {stream}");
    }
    assert!(cost < MOST, "{} KiB", cost / 1024);
}
