//! What is wrong gets one clear sentence and a refusal, and disturbs nothing that runs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use herdwire::supervisor::control::{self, CONTROL_VERSION, Request, Response};
use herdwire_ipc::{codec, frame};

use crate::herdwire::{Herdwire, Instance, SOON, assert_is_a_clear_error, until};

/// A home in which something runs that must not be disturbed.
struct Undisturbed {
    herdwire: Herdwire,
    bystander: Instance,
    supervisor: u32,
}

impl Undisturbed {
    fn new() -> Undisturbed {
        let herdwire = Herdwire::new();
        herdwire.ok(&["start", "sleep 1000", "-n", "bystander"]);
        let (bystander, supervisor) = (herdwire.instance("bystander"), herdwire.supervisor_pid());
        Undisturbed { herdwire, bystander, supervisor }
    }

    /// Refuses a command and checks that nothing changed. Returns what was said.
    #[track_caller]
    fn refuses(&self, arguments: &[&str]) -> String {
        let said = self.herdwire.refused(arguments);
        self.check();
        said
    }

    #[track_caller]
    fn check(&self) {
        let now = self.herdwire.instance("bystander");
        let same = |one: &Instance| (one.id, one.pid, one.restarts, one.status.clone());
        assert_eq!(same(&now), same(&self.bystander), "the bystander was disturbed");
        assert_eq!(self.herdwire.supervisor_pid(), self.supervisor, "the supervisor was disturbed");
    }

    #[track_caller]
    fn refuses_config(&self, text: &str) -> String {
        self.herdwire.write("bad.toml", text);
        let said = self.refuses(&["start", "bad.toml"]);
        assert_eq!(self.herdwire.list().len(), 1, "something of a refused file was started");
        said
    }
}

#[test]
fn a_config_that_is_not_there_is_named() {
    let place = Undisturbed::new();
    assert!(place.refuses(&["start", "missing.toml"]).contains("missing.toml"));
    let ran = place.herdwire.run(&["start"]);
    assert!(ran.status.code() == Some(2) && ran.stderr.contains("herdwire.toml"), "{ran:?}");
}

#[test]
fn a_malformed_config_is_refused_with_line_and_column() {
    let place = Undisturbed::new();
    let said = place.refuses_config("[[app]]\nname = \"a\"\nscript = sleep\n");
    assert!(said.contains("bad.toml:3:"), "{said}");
    let said = place.refuses_config("[[app]]\nname = \"a\"\nscript = \"sleep 1\"\ninstances = \"many\"\n");
    assert!(said.contains("bad.toml:4:") && said.contains("many"), "{said}");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_key_that_was_meant() {
    let place = Undisturbed::new();
    let said = place.refuses_config("[[app]]\nname = \"a\"\nscript = \"sleep 1000\"\ninstanses = 2\n");
    assert!(said.contains("bad.toml:4:1") && said.contains("instanses") && said.contains("`instances`"), "{said}");
}

#[test]
fn an_unknown_script_is_refused() {
    let place = Undisturbed::new();
    assert!(place.refuses(&["start", "nothing-like-it"]).contains("nothing-like-it"));
    assert!(place.refuses(&["start", "./nothing.js"]).contains("nothing.js"));
    place.herdwire.write("tool.js", "");
    assert!(place.refuses(&["start", "tool.js", "--interpreter", "no-such-one"]).contains("no-such-one"));
    // One bad app keeps the good ones of its file from starting.
    place.refuses_config("[[app]]\nscript = \"sleep\"\nargs = [\"1000\"]\n[[app]]\nscript = \"no-such-thing\"\n");
}

#[test]
fn a_port_in_use_is_refused_whoever_wants_it() {
    let place = Undisturbed::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let app = "[[app]]\nname = \"a\"\nscript = \"sleep 1000\"\n";
    let listen = place.refuses_config(&format!("{app}listen = [\"tcp://{address}\"]\n"));
    let front = place.refuses_config(&format!("{app}[front]\nlisten = \"{address}\"\n"));
    let status = place.refuses_config(&format!("{app}[status]\nlisten = \"{address}\"\n"));
    for said in [listen, front, status] {
        assert!(said.contains(&address) && said.to_lowercase().contains("in use"), "{said}");
    }
}

#[test]
fn an_address_that_another_app_has_is_refused_with_its_name() {
    let place = Undisturbed::new();
    let app = |name: &str, address: &str| {
        format!("[[app]]\nname = {name:?}\nscript = \"sleep 1000\"\nlisten = [{address:?}]\n")
    };
    place.herdwire.write("first.toml", &app("first", "tcp://127.0.0.1:0"));
    place.herdwire.ok(&["start", "first.toml"]);
    let described = place.herdwire.instance("first").own("listen")[0].as_str().unwrap().to_owned();
    place.herdwire.ok(&["delete", "first"]);
    place.herdwire.write("first.toml", &app("first", &described));
    place.herdwire.ok(&["start", "first.toml"]);
    place.herdwire.write("second.toml", &app("second", &described.replace("127.0.0.1", "0.0.0.0")));
    let said = place.refuses(&["start", "second.toml"]);
    assert!(said.contains("app `second`") && said.contains("already taken by app `first`"), "{said}");
}

#[test]
fn a_file_of_variables_that_is_bad_is_refused_at_the_start_and_gives_an_instance_up_at_once() {
    let place = Undisturbed::new();
    let file = place.herdwire.write("vars", "A=1\nsecret");
    let start = ["start", "sleep 1000", "-n", "app", "--env-file", "vars"];
    let said = place.refuses(&start);
    assert!(said.contains("`env_file`") && said.contains("line 2") && !said.contains("secret"), "{said}");
    place.herdwire.write("vars", "A=1");
    place.herdwire.ok(&start);
    std::fs::remove_file(&file).unwrap();
    let said = place.refuses(&["restart", "app"]);
    assert!(said.contains("vars"), "{said}");
    let app = place.herdwire.instance("app");
    assert_eq!((app.status.as_str(), app.restarts), ("errored", 1), "{app:#?}");
    assert!(app.own("reason").as_str().unwrap().contains("vars"), "{app:#?}");
    let reload = place.herdwire.run(&["reload", "app"]);
    assert!(reload.status.code() == Some(2) && reload.stderr.contains("vars"), "{reload:?}");
    place.herdwire.write("vars", "A=2");
    place.herdwire.ok(&["restart", "app"]);
    assert!(place.herdwire.instance("app").is_online());
}

#[test]
fn words_that_cannot_be_what_they_stand_for_are_refused_in_a_sentence() {
    let place = Undisturbed::new();
    let long = "x".repeat(100_000);
    for name in ["", "all", "5", "../x", "a\nb", "\u{1b}[31m", &long] {
        assert!(place.refuses(&["start", "sleep 1", "-n", name]).contains("--name"), "{name:.20}");
    }
    let huge = "9".repeat(40);
    for number in ["0x", "NaN", "1000000000", &huge, "1.5", ""] {
        assert!(place.refuses(&["start", "sleep 1", "-n", "b", "-i", number]).contains("-i: "), "{number}");
    }
    assert!(place.refuses(&["start", "sleep 1", "-n", "b", "-i", &huge]).contains("out of range"));
    for script in ["", "  ", ".", "/dev/null", "./absent"] {
        place.refuses(&["start", script]);
    }
    for variable in ["LISTEN_FDS=3", "NOTIFY_SOCKET=/x", "=x"] {
        assert!(place.refuses(&["start", "sleep 1", "-n", "b", "--env", variable]).contains("--env"), "{variable}");
    }
    for signal in ["", "0", "65", "SIGNOPE", "-9x"] {
        let ran = place.herdwire.run(&["sendSignal", "--", signal, "bystander"]);
        assert_eq!(ran.status.code(), Some(2), "{signal}: {ran:?}");
    }
    place.check();
}

#[test]
fn files_that_are_no_configuration_are_refused_in_a_sentence() {
    let place = Undisturbed::new();
    let work = place.herdwire.work();
    place.refuses_config("a = [[[[[[");
    let deep = format!("a = {}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(place.refuses_config(&deep).contains("is not TOML"));
    assert!(place.refuses_config(&format!("[[{}b]]", "a.".repeat(20_000))).contains("is not TOML"));
    assert!(place.refuses_config("[[app]]\nname = \"x\"\nname = \"y\"\n").contains("duplicate key"));
    for (key, value) in [
        ("max_memory_restart", "\"-1\""),
        ("max_memory_restart", "\"1e400\""),
        ("kill_signal", "\"SIGSTOP\""),
        ("kill_timeout", "-1"),
        ("cron_timezone", "\"Mars/Olympus\""),
        ("cron_restart", "\"99 3 * * *\""),
        ("instances", "nan"),
        ("nice", "20"),
    ] {
        let schedule = if key == "cron_timezone" { "cron_restart = \"0 3 * * *\"\n" } else { "" };
        let app = format!("[[app]]\nname = \"x\"\nscript = \"sleep 1\"\n{schedule}{key} = {value}\n");
        let said = place.refuses_config(&app);
        assert!(said.contains(&format!("`{key}`")), "{said}");
    }
    assert!(place.refuses_config("[redis]\nurl = \"redis://127.0.0.1:99999/\"").contains("`url`"));
    std::fs::create_dir(work.join("folder.toml")).unwrap();
    std::os::unix::fs::symlink("loop.toml", work.join("loop.toml")).unwrap();
    assert!(place.refuses(&["start", "folder.toml"]).contains("is not a file"));
    assert!(place.refuses(&["start", "loop.toml"]).contains("cannot be read"));
}

#[test]
fn too_few_open_files_are_said_with_what_is_needed() {
    let herdwire = Herdwire::new();
    let mut command = std::process::Command::new("sh");
    herdwire.place(&mut command);
    command.args(["-c", "ulimit -n 32; exec \"$@\"", "sh"]).arg(herdwire.command(&[]).get_program());
    let ran = crate::herdwire::finish(command.args(["start", "sleep 1000", "-n", "nap"]));
    assert_eq!(ran.status.code(), Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("32 files may be open here") && ran.stderr.contains("`ulimit -n"), "{ran:#?}");
}

#[test]
fn a_second_home_says_once_that_the_page_is_elsewhere() {
    let (first, second) = (Undisturbed::new(), Undisturbed::new());
    // The port is another's for one of them at least.
    for place in [&first.herdwire, &second.herdwire] {
        assert!(!place.ok(&["list"]).contains("is taken"));
        let logged = place.own_log().matches("127.0.0.1:9615 is taken").count();
        assert_eq!(logged, place.ok(&["ping"]).matches("127.0.0.1:9615 is taken").count());
        place.kill_supervisor();
        assert_eq!(logged, place.own_log().matches("127.0.0.1:9615 is taken").count());
    }
}

#[test]
fn settings_that_contradict_those_in_force_are_refused() {
    let place = Undisturbed::new();
    let app = |name: &str| format!("[[app]]\nname = \"{name}\"\nscript = \"sleep 1000\"\nautostart = false\n");
    let good = place.herdwire.write("good.toml", &format!("{}[front]\nlisten = \"127.0.0.1:0\"\n", app("good")));
    place.herdwire.ok(&["start", "good.toml"]);
    place.herdwire.ok(&["delete", "good"]);
    let other = "[front]\nlisten = \"127.0.0.1:0\"\nmax_connections = 7\n";
    let said = place.refuses_config(&format!("{}{other}", app("bad")));
    assert!(said.contains("bad.toml") && said.contains(good.to_str().unwrap()), "{said}");
}

#[test]
fn a_home_that_cannot_be_written_to_is_refused() {
    let herdwire = Herdwire::new();
    std::fs::write(herdwire.home(), "in the way").unwrap();
    assert!(herdwire.refused(&["start", "sleep 1000", "-n", "a"]).contains("is not a folder"));
    std::fs::remove_file(herdwire.home()).unwrap();

    let other = |home: &str| {
        let mut command = herdwire.command(&["start", "sleep 1000", "-n", "a"]);
        crate::herdwire::finish(command.env("HERDWIRE_HOME", home))
    };
    let file = herdwire.write("file", "");
    for home in ["/proc/nothing/home".to_owned(), format!("{}/home", file.display()), format!("/{}", "x".repeat(120))] {
        let ran = other(&home);
        assert_eq!(ran.status.code(), Some(1), "{home}: {ran:?}");
        assert_is_a_clear_error(&ran.stderr);
        assert!(ran.stderr.contains(&home), "{}", ran.stderr);
    }

    std::fs::create_dir(herdwire.home()).unwrap();
    std::fs::set_permissions(herdwire.home(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(herdwire.refused(&["start", "sleep 1000", "-n", "a"]).contains("can be written by others"));
}

#[test]
fn without_a_supervisor_commands_say_so_and_start_none() {
    let herdwire = Herdwire::new();
    for arguments in [&["stop", "all"][..], &["restart", "x"], &["delete", "0"], &["describe", "x"], &["ping"]] {
        let said = herdwire.refused(arguments);
        assert!(said.contains("no supervisor is running"), "{arguments:?}: {said}");
    }
    assert!(herdwire.processes().is_empty());
}

#[test]
fn a_selector_that_matches_nothing_is_refused_and_the_rest_of_the_command_is_not_done() {
    let place = Undisturbed::new();
    for verb in ["stop", "restart", "delete", "describe"] {
        for selector in ["nobody", "77"] {
            assert!(place.refuses(&[verb, selector]).contains(selector));
            assert!(place.refuses(&[verb, "bystander", selector]).contains(selector));
        }
    }
    assert!(place.refuses(&["logs", "nobody"]).contains("nobody"));
}

#[test]
fn a_command_line_that_means_nothing_ends_with_2() {
    let place = Undisturbed::new();
    for arguments in [&["frobnicate"][..], &["stop"], &["start", "a", "--instances"], &["list", "--what"]] {
        let ran = place.herdwire.run(arguments);
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }
    place.check();
}

// --- frames on the control socket ---

/// Sends bytes to the control socket and reads the answer up to the end.
fn say(place: &Undisturbed, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(place.herdwire.home().join("control.sock")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_write_timeout(Some(SOON)).unwrap();
    // It may close before it has read all.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer
}

/// The sentence that answers such bytes.
#[track_caller]
fn refusal(place: &Undisturbed, bytes: &[u8]) -> String {
    let answer = say(place, bytes);
    let (_, body) = frame::split(&answer).expect("a whole frame");
    match codec::decode(body) {
        Ok(Response::Failed(failure)) => failure.what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_broken_frame_on_the_control_socket_is_refused() {
    let place = Undisturbed::new();
    let garbage = frame::compose(CONTROL_VERSION, 0, &[0xff; 200]);
    assert!(refusal(&place, &garbage).contains("cannot be understood"));
    let ping = control::to_frame(&Request::Ping).unwrap();
    let empty = frame::compose(CONTROL_VERSION, 0, b"");
    assert!(refusal(&place, &empty).contains("cannot be understood"));
    // Cut short, of no sense at all, or nothing: closed, in whatever way.
    say(&place, &ping[..ping.len() - 1]);
    say(&place, b"GET / HTTP/1.1\r\n\r\n");
    say(&place, b"");
    say(&place, &[0; 7]);
    place.check();
}

#[test]
fn a_frame_that_is_too_large_for_the_control_socket_is_refused() {
    let place = Undisturbed::new();
    for length in [u32::MAX, codec::LIMIT as u32 + 1] {
        let header = frame::Header { kind: CONTROL_VERSION, length, id: 0 };
        assert!(refusal(&place, &header.to_bytes()).contains("too large"));
    }
    place.check();
}

#[test]
fn an_unknown_version_on_the_control_socket_is_refused() {
    let place = Undisturbed::new();
    assert!(refusal(&place, &frame::compose(CONTROL_VERSION + 1, 0, b"")).contains("version"));
    place.check();
}

#[test]
fn connections_that_say_nothing_keep_nobody_from_being_served() {
    let place = Undisturbed::new();
    let control = place.herdwire.home().join("control.sock");
    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(&control).unwrap()).collect();
    place.check();
    drop(idle);
    place.check();
}

// --- frames on the link ---

/// A worker that writes bytes, as `printf` understands them, to its link, prints what it is answered, and lives on.
fn worker_that_says(place: &Undisturbed, name: &str, bytes: &str) -> PathBuf {
    let script = format!(
        "printf '{bytes}' >&\"$HERDWIRE_LINK\"\n\
         timeout 20 dd bs=65536 count=1 2>/dev/null <&\"$HERDWIRE_LINK\" | tr -cd '[:print:]'\n\
         echo; echo answered; exec sleep 1000\n"
    );
    place.herdwire.write(&format!("{name}.sh"), &script)
}

#[test]
fn a_link_that_begins_with_garbage_is_closed_or_refused_and_its_worker_runs_on() {
    let place = Undisturbed::new();
    let long = "x".repeat(30_000);
    for (name, bytes) in [("garbage", "garbage"), ("long", long.as_str()), ("zeroes", r"\0\0\0\0\0\0\0\0")] {
        let script = worker_that_says(&place, name, bytes);
        place.herdwire.ok(&["start", script.to_str().unwrap()]);
        place.herdwire.await_log(&format!("{name}-out.log"), "answered\n");
        let worker = place.herdwire.instance(name);
        assert!(worker.is_online() && worker.restarts == 0, "{worker:?}");
    }
    place.check();
}

#[test]
fn a_link_of_an_unknown_version_is_refused_by_name() {
    let place = Undisturbed::new();
    let hello = r"HWLK\x63\0\x64\0\x63\0\x64\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let script = worker_that_says(&place, "future", hello);
    place.herdwire.ok(&["start", script.to_str().unwrap()]);
    place.herdwire.await_log("future-out.log", "answered\n");
    let said = place.herdwire.log("future-out.log");
    assert!(said.contains("version"), "{said}");
    assert!(place.herdwire.instance("future").is_online());
    place.check();
}

#[test]
fn a_worker_that_floods_its_link_slows_nobody() {
    let place = Undisturbed::new();
    let flood =
        "timeout 3 sh -c 'while printf x >&\"$HERDWIRE_LINK\"; do :; done' 2>/dev/null; echo over; exec sleep 1000";
    place.herdwire.ok(&["start", flood, "-n", "flood"]);
    place.check();
    place.herdwire.await_log("flood-out.log", "over\n");
    place.check();
}

#[test]
fn a_worker_that_closes_its_link_runs_on() {
    let place = Undisturbed::new();
    let closes = "eval \"exec $HERDWIRE_LINK>&-\"; echo closed; exec sleep 1000";
    place.herdwire.ok(&["start", closes, "-n", "closes"]);
    place.herdwire.await_log("closes-out.log", "closed\n");
    place.herdwire.kill_supervisor();
    assert!(place.herdwire.instance("closes").is_online());
    until("it can be stopped", || place.herdwire.run(&["stop", "closes"]).status.success());
}

#[test]
fn command_lines_that_have_gone_lock_nobody_out() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "trap '' INT; while :; do sleep 0.1; done", "-n", "slow", "--kill-timeout", "20s"]);
    // More in all than there are places.
    for _ in 0..6 {
        let stop = || herdwire.command(&["stop", "slow"]).stdout(Stdio::null()).spawn().unwrap();
        let mut abandoned: Vec<_> = (0..100).map(|_| stop()).collect();
        until("the stop has begun", || herdwire.instance("slow").status == "stopping");
        for command in &mut abandoned {
            command.kill().unwrap();
            command.wait().unwrap();
        }
    }
    let since = std::time::Instant::now();
    herdwire.ping();
    assert!(since.elapsed() < std::time::Duration::from_secs(4), "{:?}", since.elapsed());
}
