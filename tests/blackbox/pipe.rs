//! Workers in Python, over the pipe, beside native ones: real clients, a real supervisor that is killed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::herdwire::{Herdwire, signal, until};
use crate::puppets::{Me, Puppet, Stage};

/// A herd of Python workers `py` and native ones `rs` that have taken their places and hear the channel `news`.
struct Herd {
    herdwire: Herdwire,
    stage: Stage,
    pythons: Vec<Puppet>,
    natives: Vec<Puppet>,
    python: Vec<Me>,
    native: Vec<Me>,
}

/// The interpreter itself: what is in PATH may be a wrapper. `None`, with a word about it, where there is none.
fn python() -> Option<String> {
    let found = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok();
    let path = found.filter(|found| found.status.success()).map(|found| String::from_utf8(found.stdout).unwrap());
    if path.is_none() {
        eprintln!("skipped: there is no python3 here");
    }
    path.map(|path| path.trim().to_owned())
}

/// The section of a config that has puppets in Python.
fn section(herdwire: &Herdwire, python: &str, name: &str, instances: u32, more: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (script, client) = (root.join("tests/workers/puppet.py"), root.join("examples/python"));
    let socket = herdwire.work().join("stage.sock");
    format!(
        "[[app]]\nname = {name:?}\nscript = {script:?}\ninterpreter = {python:?}\ntransport = \"pipe\"\n\
         instances = {instances}\n{more}\nenv = {{ PUPPET_SOCKET = {socket:?}, PYTHON_CLIENT = {client:?} }}\n",
    )
}

impl Herd {
    fn of(pythons: u32, natives: u32) -> Option<Herd> {
        Herd::with(pythons, natives, "")
    }

    fn with(pythons: u32, natives: u32, more: &str) -> Option<Herd> {
        let mut herd = Herd::unconnected(pythons, natives, more)?;
        herd.python = herd.pythons.iter_mut().map(Puppet::connects).collect();
        herd.native = herd.natives.iter_mut().map(Puppet::connects).collect();
        for puppet in herd.pythons.iter_mut().chain(&mut herd.natives) {
            puppet.does("subscribe news");
        }
        Some(herd)
    }

    fn unconnected(pythons: u32, natives: u32, more: &str) -> Option<Herd> {
        let python = python()?;
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let more = format!("herd = \"mixed\"\n{more}");
        let mut text = String::new();
        if pythons > 0 {
            text.push_str(&section(&herdwire, &python, "py", pythons, &more));
        }
        if natives > 0 {
            text.push_str(&Stage::app(&herdwire, "rs", natives, &more));
        }
        herdwire.write("herdwire.toml", &text);
        herdwire.ok(&["start"]);
        let all = stage.next_of((pythons + natives) as usize);
        let (pythons, natives) = all.into_iter().partition(|puppet| puppet.app == "py");
        Some(Herd { herdwire, stage, pythons, natives, python: Vec::new(), native: Vec::new() })
    }

    /// A client by hand, and a native worker that hears `news`.
    fn by_hand() -> Option<Herd> {
        let mut herd = Herd::unconnected(1, 1, "")?;
        herd.native = herd.natives.iter_mut().map(Puppet::connects).collect();
        herd.natives[0].does("subscribe news");
        herd.pythons[0].does("by-hand");
        Some(herd)
    }
}

/// The next frame that a client by hand is told.
#[track_caller]
fn frame(puppet: &mut Puppet) -> Value {
    let line = puppet.does("next");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[track_caller]
fn says(puppet: &mut Puppet, line: &str) -> Value {
    puppet.does(&format!("say {line}"));
    frame(puppet)
}

#[test]
fn a_python_worker_and_a_native_one_hear_each_other() {
    let Some(mut herd) = Herd::of(2, 1) else { return };
    let (python, native) = (herd.python[0].id, herd.native[0].id);
    herd.pythons[0].does("publish news hello");
    herd.natives[0].must_hear(&format!("heard news {python} hello"));
    herd.pythons[1].must_hear(&format!("heard news {python} hello"));
    herd.natives[0].does("publish news back");
    for puppet in &herd.pythons {
        puppet.must_hear(&format!("heard news {native} back"));
    }
    // To one alone, subscribed or not, either way.
    herd.pythons[0].does(&format!("send {native} private for you"));
    herd.natives[0].must_hear(&format!("heard-alone private {python} for you"));
    herd.natives[0].does(&format!("send {python} private and you"));
    herd.pythons[0].must_hear(&format!("heard-alone private {native} and you"));
    herd.pythons[0].does("json news a \"text\"");
    herd.natives[0].must_hear(&format!("heard news {python} \"a \\\"text\\\"\""));
    herd.pythons[0].tell("send 99 private nobody");
    assert!(herd.pythons[0].answer().unwrap_err().contains("unknown_instance"));
    let mut peers: Vec<_> = herd.pythons[0].does("peers").split(' ').map(str::to_owned).collect();
    peers.sort();
    let mut others = [format!("{}:running", herd.python[1].id), format!("{native}:running")];
    others.sort();
    assert_eq!(peers, others);
}

#[test]
fn bytes_pass_and_what_is_too_large_is_refused_by_name() {
    let Some(mut herd) = Herd::of(2, 0) else { return };
    herd.pythons[0].does("bytes news 131000");
    herd.pythons[1].must_hear(&format!("heard news {} 131000 bytes", herd.python[0].id));
    for bytes in [131_072, 300_000] {
        herd.pythons[0].tell(&format!("bytes news {bytes}"));
        assert!(herd.pythons[0].answer().unwrap_err().contains("too_large"), "{bytes}");
    }
    herd.pythons[0].does("publish news after");
    herd.pythons[1].must_hear(&format!("heard news {} after", herd.python[0].id));
}

#[test]
fn an_instance_on_a_pipe_is_online_when_it_says_so_and_is_asked_to_finish() {
    let more = "wait_ready = true\nlisten_timeout = \"10m\"\nshutdown_with_message = true\nkill_timeout = \"10m\"";
    let Some(python) = python() else { return };
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    herdwire.write("herdwire.toml", &section(&herdwire, &python, "py", 1, more));
    let mut start = herdwire.command(&["start"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut puppet = stage.next();
    puppet.connects();
    assert_eq!(herdwire.instance("py").status, "launching");
    puppet.does("ready");
    assert!(start.wait().unwrap().success());
    assert_eq!(herdwire.instance("py").status, "online");
    let described = herdwire.ok(&["describe", "py"]);
    assert!(described.contains("transport") && described.contains("pipe"), "{described}");
    let mut stop = herdwire.command(&["stop", "py"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    puppet.must_hear("shutdown");
    puppet.tell("exit 0");
    assert!(stop.wait().unwrap().success());
}

/// Whoever hears a flood hears each message once, and those of one publisher in their order.
#[track_caller]
fn must_hear_floods(puppet: &mut Puppet, floods: &[(u32, &str, u64)]) {
    let mut next: BTreeMap<(u32, &str), u64> = floods.iter().map(|(from, text, _)| ((*from, *text), 0)).collect();
    for _ in 0..floods.iter().map(|(.., count)| count).sum() {
        let line = puppet.hears();
        let words: Vec<&str> = line.split(' ').collect();
        let ["heard", "news", from, text] = words[..] else { panic!("{line}") };
        let (text, number) = text.trim_matches('"').rsplit_once('-').unwrap();
        let (from, number): (u32, u64) = (from.parse().unwrap(), number.parse().unwrap());
        let expected = next.iter_mut().find(|((of, with), _)| (*of, *with) == (from, text)).unwrap().1;
        assert_eq!(number, *expected, "of {from} by {}:{}", puppet.app, puppet.index);
        *expected += 1;
    }
    assert_eq!(puppet.heard_so_far(), None);
}

#[test]
fn a_flood_in_all_directions_loses_and_doubles_nothing() {
    let Some(mut herd) = Herd::with(2, 1, "stall_timeout = \"10m\"\nring_size = \"64KiB\"") else { return };
    const COUNT: u64 = 5_000;
    herd.pythons[0].tell(&format!("many news {COUNT} a"));
    herd.pythons[1].tell(&format!("flood news {COUNT} b"));
    herd.natives[0].tell(&format!("flood news {COUNT} c"));
    let (a, b, c) = ((herd.python[0].id, "a", COUNT), (herd.python[1].id, "b", COUNT), (herd.native[0].id, "c", COUNT));
    let [first, second] = &mut herd.pythons[..] else { panic!("there are two") };
    let third = &mut herd.natives[0];
    std::thread::scope(|scope| {
        scope.spawn(move || must_hear_floods(first, &[b, c]));
        scope.spawn(move || must_hear_floods(second, &[a, c]));
        must_hear_floods(third, &[a, b]);
    });
    for puppet in herd.pythons.iter_mut().chain(&mut herd.natives) {
        puppet.answer().unwrap();
    }
    assert_eq!(herd.pythons[0].does("missed"), "0");
}

#[test]
fn supervisors_that_are_killed_in_the_middle_lose_and_double_nothing() {
    let Some(mut herd) = Herd::with(1, 1, "stall_timeout = \"10m\"") else { return };
    const COUNT: u64 = 4_000;
    let (python, native) = ((herd.python[0].id, "a", COUNT), (herd.native[0].id, "c", COUNT));
    herd.pythons[0].tell(&format!("flood news {COUNT} a"));
    herd.natives[0].tell(&format!("flood news {COUNT} c"));
    let Herd { herdwire, pythons, natives, .. } = &mut herd;
    let (hearer, other) = (&mut pythons[0], &mut natives[0]);
    std::thread::scope(|scope| {
        let hears = scope.spawn(move || must_hear_floods(hearer, &[native]));
        let others = scope.spawn(move || must_hear_floods(other, &[python]));
        let mut kills = 0;
        while kills < 3 || (kills < 40 && !(hears.is_finished() && others.is_finished())) {
            herdwire.kill_supervisor();
            kills += 1;
        }
    });
    herd.pythons[0].answer().unwrap();
    herd.natives[0].answer().unwrap();
    assert_eq!(herd.pythons[0].does("missed"), "0");
    assert_eq!(herd.herdwire.list().iter().map(|instance| instance.restarts).sum::<u64>(), 0);
    // What concerns the herd itself works as well.
    herd.pythons[0].does("subscribe late");
    herd.natives[0].does("publish late hello");
    herd.pythons[0].must_hear(&format!("heard late {} hello", herd.native[0].id));
}

#[test]
fn an_upgrade_passes_clients_on_like_everybody_else() {
    let Some(mut herd) = Herd::of(1, 1) else { return };
    herd.pythons[0].does("publish news before");
    herd.natives[0].must_hear(&format!("heard news {} before", herd.python[0].id));
    herd.herdwire.ok(&["upgrade"]);
    herd.pythons[0].does("publish news after");
    herd.natives[0].must_hear(&format!("heard news {} after", herd.python[0].id));
    herd.natives[0].does("publish news back");
    herd.pythons[0].must_hear(&format!("heard news {} back", herd.native[0].id));
}

#[test]
fn a_client_that_does_not_read_misses_messages_and_is_told_how_many() {
    let Some(mut herd) = Herd::with(1, 2, "stall_timeout = \"200ms\"\nring_size = \"64KiB\"") else { return };
    const COUNT: u64 = 20_000;
    let native = herd.native[0].id;
    signal(herd.pythons[0].pid, Signal::SIGSTOP);
    herd.natives[0].tell(&format!("flood news {COUNT} c"));
    // Whoever reads hears everything, and the publisher comes to its end.
    must_hear_floods(&mut herd.natives[1], &[(native, "c", COUNT)]);
    herd.natives[0].answer().unwrap();
    signal(herd.pythons[0].pid, Signal::SIGCONT);
    herd.natives[0].does("publish news end");
    let (mut heard, end) = (0, format!("heard news {native} end"));
    while herd.pythons[0].hears() != end {
        heard += 1;
    }
    let missed: u64 = herd.pythons[0].does("missed").parse().unwrap();
    assert!(missed > 0);
    assert_eq!(heard + missed, COUNT);
    let described = herd.herdwire.ok(&["describe", "py"]);
    assert!(described.contains(&format!("{missed} messages")), "{described}");
}

#[test]
fn a_full_ring_holds_up_the_client_that_filled_it_and_nobody_else() {
    let Some(mut herd) = Herd::with(2, 1, "stall_timeout = \"10m\"\nring_size = \"64KiB\"") else { return };
    const COUNT: u64 = 3_000;
    let (first, second) = (herd.python[0].id, herd.python[1].id);
    signal(herd.natives[0].pid, Signal::SIGSTOP);
    herd.pythons[0].tell(&format!("flood news {COUNT} a"));
    // Its sibling is heard by it, and the supervisor answers, while it waits.
    herd.pythons[1].does("publish news from the other");
    herd.pythons[0].must_hear(&format!("heard news {second} from the other"));
    assert!(herd.herdwire.run(&["ping"]).status.success());
    signal(herd.natives[0].pid, Signal::SIGCONT);
    herd.pythons[0].answer().unwrap();
    must_hear_floods(&mut herd.pythons[1], &[(first, "a", COUNT)]);
}

#[test]
fn what_is_no_frame_is_answered_and_harms_nobody() {
    let Some(mut herd) = Herd::by_hand() else { return };
    let hand = &mut herd.pythons[0];
    assert_eq!(says(hand, r#"{"op":"publish","channel":"news","value":1,"id":"x"}"#)["error"], "no_hello");
    assert_eq!(says(hand, r#"{"op":"hello","protocol":9}"#)["error"], "version");
    let welcome = says(hand, r#"{"op":"hello","protocol":1,"future":true}"#);
    assert_eq!((&welcome["op"], &welcome["herd"], &welcome["app"]), (&"welcome".into(), &"mixed".into(), &"py".into()));
    for bad in ["what?", "[]", "{", r#"{"op":7}"#, r#"{"op":"subscribe","channel":7}"#, r#"{"op":"subscribe"}"#] {
        assert_eq!(says(hand, bad)["error"], "bad_frame", "{bad}");
    }
    hand.does("say-bytes 7b22ff220a");
    assert_eq!(frame(hand)["error"], "bad_frame");
    hand.does("say-bytes 00000a");
    assert_eq!(frame(hand)["error"], "bad_frame");
    let deep =
        format!(r#"{{"op":"publish","channel":"news","id":5,"value":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let refused = says(hand, &deep);
    assert_eq!((&refused["error"], &refused["id"]), (&"bad_frame".into(), &5.into()));
    assert_eq!(says(hand, r#"{"op":"fly","id":6}"#)["error"], "unknown_operation");
    assert_eq!(says(hand, r#"{"op":"request","id":7}"#)["error"], "unsupported");
    let nameless = format!(r#"{{"op":"subscribe","channel":"{}","id":8}}"#, "n".repeat(256));
    assert_eq!(says(hand, &nameless)["error"], "unknown_channel");
    // A line without an end is answered as soon as it is too long, and skipped to where it ends.
    let longest = welcome["max_line"].as_u64().unwrap() as usize;
    hand.does(&format!("say-bytes {}", "78".repeat(longest + 1000)));
    assert_eq!(frame(hand)["error"], "too_large");
    hand.does(&format!("say-bytes {}", "79".repeat(3 * longest)));
    hand.does("say-bytes 0a");
    let heard = says(hand, r#"{"op":"publish","channel":"news","text":"still here","id":9}"#);
    assert_eq!((&heard["op"], &heard["id"], &heard["heard"]), (&"ok".into(), &9.into(), &true.into()));
    let id = welcome["instance"].as_u64().unwrap();
    herd.natives[0].must_hear(&format!("heard news {id} still here"));
}

#[test]
fn who_speaks_another_protocol_is_told_so_and_closed() {
    let Some(mut herd) = Herd::by_hand() else { return };
    herd.pythons[0].does("repeat 100 GET / HTTP/1.1");
    let mut last = Value::Null;
    loop {
        let line = herd.pythons[0].does("next");
        if line == "end" {
            break;
        }
        last = serde_json::from_str(&line).unwrap();
    }
    assert_eq!(last["error"], "closed", "{last}");
    until("it is shown", || herd.herdwire.ok(&["describe", "py"]).contains("pipe closed"));
    herd.herdwire.kill_supervisor();
    until("the next one shows it, too", || herd.herdwire.ok(&["describe", "py"]).contains("pipe closed"));
    assert!(herd.herdwire.instance("py").is_online(), "its process is none of the pipe's business");
}

#[test]
fn a_client_that_has_nothing_more_to_say_still_hears() {
    let Some(mut herd) = Herd::by_hand() else { return };
    let id = says(&mut herd.pythons[0], r#"{"op":"hello"}"#)["instance"].as_u64().unwrap();
    assert_eq!(says(&mut herd.pythons[0], r#"{"op":"subscribe","channel":"news","id":1}"#)["op"], "ok");
    herd.pythons[0].does("close write");
    herd.natives[0].does("publish news still");
    assert_eq!(frame(&mut herd.pythons[0])["text"], "still");
    assert_eq!(herd.natives[0].does("peers"), format!("{id}:Running"));
    herd.pythons[0].does("close all");
    herd.natives[0].does("publish news gone");
    until("its place is empty", || herd.natives[0].does("peers") == format!("{id}:Down"));
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_and_ends_with_its_process() {
    let Some(mut herd) = Herd::by_hand() else { return };
    assert_eq!(says(&mut herd.pythons[0], r#"{"op":"hello"}"#)["op"], "welcome");
    // Far more than sockets and supervisor take without being read.
    herd.pythons[0].tell(r#"repeat 400000 {"op":"peers","id":"0123456789"}"#);
    herd.natives[0].does("subscribe more");
    assert!(herd.herdwire.run(&["ping"]).status.success());
    herd.herdwire.ok(&["restart", "py"]);
    let mut next = herd.stage.next();
    next.connects();
    next.does("subscribe news");
    herd.natives[0].does("publish news hello");
    next.must_hear(&format!("heard news {} hello", herd.native[0].id));
}

#[test]
fn what_a_process_said_before_its_end_is_published() {
    let Some(herd) = Herd::of(0, 1) else { return };
    let mut words = String::new();
    for number in 0..100 {
        writeln!(words, r#"echo '{{"op":"publish","channel":"news","text":"word-{number}"}}' >&"$HERDWIRE_PIPE_FD""#)
            .unwrap();
    }
    let script = format!("#!/bin/bash\necho '{{\"op\":\"hello\"}}' >&\"$HERDWIRE_PIPE_FD\"\n{words}");
    herd.herdwire.script("words.sh", &script);
    let app = "[[app]]\nname = \"brief\"\nscript = \"words.sh\"\nherd = \"mixed\"\ntransport = \"pipe\"\nautorestart = false\n";
    herd.herdwire.write("brief.toml", app);
    herd.herdwire.ok(&["start", "brief.toml"]);
    for number in 0..100 {
        let line = herd.natives[0].hears();
        assert!(line.starts_with("heard news ") && line.ends_with(&format!(" word-{number}")), "{line}");
    }
}

#[test]
fn a_successor_of_a_client_hears_what_was_sent_while_there_was_none() {
    let Some(mut herd) = Herd::with(1, 1, "restart_delay = \"1s\"") else { return };
    let (python, native) = (herd.python[0].id, herd.native[0].id);
    signal(herd.pythons[0].pid, Signal::SIGKILL);
    until("its place is empty", || herd.natives[0].does("peers") == format!("{python}:Down"));
    herd.natives[0].does(&format!("send {python} private while you were away"));
    let mut next = herd.stage.next();
    let me = next.connects();
    assert_eq!((me.slot, me.incarnation), (herd.python[0].slot, 2));
    next.must_hear(&format!("heard-alone private {native} while you were away"));
    next.does("publish news back");
    herd.natives[0].must_hear(&format!("heard news {python} back"));
}
