//! The command line from outside: what it prints, on which stream, and how it ends, alone and before a supervisor that
//! says what each test wants it to say.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use herdwire::snapshot::{HostView, InstanceView, Snapshot, Status, SupervisorView};
use herdwire::supervisor::control::{self, CONTROL_VERSION, Failure, Pong, Request, Response, Selector};
use herdwire_ipc::{codec, frame};
use tempfile::TempDir;

/// A home and a folder to work in.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.home()).unwrap();
        place
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herdwire"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HERDWIRE_HOME", self.home());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    /// Answers one connection with `answer`.
    fn supervisor(&self, answer: impl FnOnce(Request) -> Vec<u8> + Send + 'static) -> JoinHandle<()> {
        self.supervisor_of(vec![Box::new(answer)])
    }

    /// Answers so many connections, one after the other.
    fn supervisor_of(&self, answers: Vec<Answer>) -> JoinHandle<()> {
        let listener = UnixListener::bind(self.home().join("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let mut stream = accept(&listener);
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let frame = answer(read_request(&mut stream));
                stream.write_all(&frame).unwrap();
            }
        })
    }
}

type Answer = Box<dyn FnOnce(Request) -> Vec<u8> + Send>;

/// The next connection. One that does not come is a failure, not a test that hangs.
fn accept(listener: &UnixListener) -> UnixStream {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < until, "nobody asked");
        thread::yield_now();
    }
}

fn read_request(stream: &mut UnixStream) -> Request {
    let mut header = [0; frame::HEADER_BYTES];
    stream.read_exact(&mut header).unwrap();
    let header = frame::Header::from_bytes(&header).unwrap();
    assert_eq!(header.kind, CONTROL_VERSION);
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body).unwrap();
    codec::decode(&body).unwrap()
}

fn pong() -> Response {
    Response::Pong(Pong {
        pid: 7,
        version: "0.1.0".into(),
        uptime_ms: 61_000,
        keeper_pid: 6,
        status_address: Some("127.0.0.1:9615".into()),
        status_elsewhere: None,
    })
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn snapshot(instances: Vec<InstanceView>) -> Snapshot {
    let supervisor = SupervisorView {
        version: "0.1.0".into(),
        node: "0123456789abcdef".into(),
        pid: 7,
        keeper_pid: 6,
        uptime_ms: 0,
        epoch: 1,
        home: "/h".into(),
        status_address: None,
        store_used: 0,
        store_limit: 0,
        warnings: Vec::new(),
        notifications_ignored: 0,
    };
    let host = HostView { name: "h".into(), cpus: 1, load_1m: 0.0, memory_total_bytes: 0, memory_used_bytes: 0 };
    Snapshot { supervisor, instances, herds: Vec::new(), bridge: None, front: None, deployments: Vec::new(), host }
}

fn instance(app: &str, log: &Path) -> InstanceView {
    InstanceView {
        id: 0,
        app: app.into(),
        herd: app.into(),
        index: 0,
        instances: 1,
        pid: None,
        status: Status::Online,
        incarnation: 1,
        restarts: 0,
        unstable_restarts: 0,
        started_at_ms: 0,
        uptime_ms: 0,
        created_at_ms: 0,
        last_exit: None,
        reason: None,
        cause: None,
        cpu_percent: 0.0,
        memory_bytes: 0,
        script: "/s".into(),
        args: Vec::new(),
        node_args: Vec::new(),
        interpreter: "none".into(),
        cwd: "/".into(),
        out_log: log.into(),
        error_log: log.into(),
        log_fault: None,
        autorestart: true,
        wait_ready: false,
        kill_timeout_ms: 1600,
        max_restarts: 16,
        listen: Vec::new(),
        slot: None,
        transport: "native".into(),
        stand_in: None,
        health: Default::default(),
        env: None,
    }
}

/// How a command ended and what it said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Said {
    #[track_caller]
    fn failed_with(&self, code: i32, err: &str) {
        assert_eq!((self.code, self.err.as_str(), self.out.as_str()), (Some(code), err, ""));
    }
}

#[test]
fn without_a_supervisor_a_list_is_empty_and_a_ping_fails() {
    let place = Place::new();
    let list = place.run(&["list"]);
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""));
    assert!(list.out.contains("│ id │ name │"), "{}", list.out);
    assert_eq!(place.run(&["jlist"]).out, "[]\n");
    assert_eq!(place.run(&["list", "--json"]).out, "{\"instances\":[],\"supervisor\":null}\n");
    let home = place.home();
    let expected =
        format!("error: no supervisor is running in `{}`\nhint:  `herdwire start` starts one\n", home.display());
    for verb in [&["ping"][..], &["kill"], &["stop", "all"], &["restart", "web"], &["describe", "0"], &["delete", "0"]]
    {
        place.run(verb).failed_with(1, &expected);
    }
    assert_eq!(fs::read_dir(home).unwrap().count(), 0, "nothing was started or left behind");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let place = Place::new();
    for arguments in
        [&["bogus"][..], &["stop"], &["start", "a", "--bogus"], &["start", "a", "b", "-n", "x"], &["start"]]
    {
        let said = place.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
        assert!(said.err.starts_with("error: ") && said.out.is_empty(), "{}", said.err);
    }
    assert_eq!(place.run(&["--help"]).code, Some(0));
}

#[test]
fn a_bad_file_touches_nothing() {
    let place = Place::new();
    fs::write(place.folder.path().join("bad.toml"), "[[app]]\nscirpt = \"x\"\n").unwrap();
    for verb in ["start", "run"] {
        place
            .run(&[verb, "bad.toml"])
            .failed_with(1, "error: bad.toml:2:1: unknown key `scirpt` in [[app]]\nhint:  did you mean `script`?\n");
    }
    let said = place.run(&["start", "none.toml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.starts_with("error: none.toml cannot be read\ncause: No such file or directory"), "{}", said.err);
    fs::write(place.folder.path().join("ecosystem.config.js"), "").unwrap();
    let said = place.run(&["start", "ecosystem.config.js"]);
    assert!(said.err.contains("ecosystem files (`.config.js`) are not supported yet"), "{}", said.err);
    assert_eq!(fs::read_dir(place.home()).unwrap().count(), 0);
}

#[test]
fn a_home_that_cannot_be_used_is_named() {
    let place = Place::new();
    let file = place.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let said = Said::from(place.command(&["list"]).env("HERDWIRE_HOME", &file).output().unwrap());
    said.failed_with(
        1,
        &format!(
            "error: home `{}` is not a folder\nhint:  set HERDWIRE_HOME to a folder that you can write to\n",
            file.display()
        ),
    );
    let deep = Path::new("/tmp").join("x".repeat(120));
    let said = Said::from(place.command(&["list"]).env("HERDWIRE_HOME", &deep).output().unwrap());
    assert!(said.err.contains("is too deep: its socket's path has 138 bytes, 107 are possible"), "{}", said.err);
}

#[test]
fn a_ping_says_who_answers() {
    let place = Place::new();
    let supervisor = place.supervisor(|request| {
        assert_eq!(request, Request::Ping);
        control::to_answer(&pong()).unwrap()
    });
    let said = place.run(&["ping", "--json"]);
    supervisor.join().unwrap();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let expected = "{\"keeper\":{\"pid\":6},\"status\":{\"address\":\"127.0.0.1:9615\"},\
                    \"supervisor\":{\"pid\":7,\"uptime_ms\":61000,\"version\":\"0.1.0\"}}\n";
    assert_eq!(said.out, expected);
}

#[test]
fn a_refusal_is_passed_on_with_cause_and_hint() {
    let place = Place::new();
    let before = |request| {
        assert!(matches!(request, Request::Snapshot { .. }), "it looks before it asks");
        control::to_answer(&Response::Snapshot(Box::new(snapshot(Vec::new())))).unwrap()
    };
    let refusal = |request| {
        let select = Selector::Several(vec![Selector::Name("web".into()), Selector::Id(3)]);
        assert_eq!(request, Request::Stop { select });
        let failure = Failure::new("no app or instance `web`").cause("none").hint("look");
        control::to_answer(&Response::Failed(failure)).unwrap()
    };
    let supervisor = place.supervisor_of(vec![Box::new(before), Box::new(refusal)]);
    let said = place.run(&["stop", "web", "3"]);
    supervisor.join().unwrap();
    said.failed_with(1, "error: no app or instance `web`\ncause: none\nhint:  look\n");
}

#[test]
fn an_answer_that_cannot_be_read_is_one_clear_sentence() {
    let ask = |answer: Vec<u8>| {
        let place = Place::new();
        let supervisor = place.supervisor(|_| answer);
        let said = place.run(&["reloadLogs"]);
        supervisor.join().unwrap();
        assert_eq!(said.code, Some(1));
        said.err
    };
    let newer = frame::compose(9, 0, b"whatever");
    assert!(
        ask(newer)
            .starts_with("error: the supervisor speaks version 9 of the control protocol, this program version 1\n")
    );
    let garbage = frame::compose(CONTROL_VERSION, 0, b"\xff\xff\xff\xff");
    assert!(
        ask(garbage).starts_with("error: the supervisor's answer cannot be read\ncause: message cannot be decoded")
    );
    let huge = frame::Header { kind: CONTROL_VERSION, length: u32::MAX, id: 0 }.to_bytes().to_vec();
    assert!(ask(huge).starts_with("error: the supervisor's answer cannot be read\ncause: message takes more bytes"));
    assert!(ask(Vec::new()).starts_with("error: the supervisor went away before it answered\n"));
    let half = control::to_answer(&pong()).unwrap()[..20].to_vec();
    assert!(ask(half).starts_with("error: the supervisor went away before it answered\n"));
}

#[test]
fn a_question_that_only_looks_is_asked_again_when_the_supervisor_dies_over_it() {
    let place = Place::new();
    let supervisor = place.supervisor_of(vec![
        Box::new(|_| Vec::new()),
        Box::new(|_| control::to_answer(&pong()).unwrap()[..7].to_vec()),
        Box::new(|_| control::to_answer(&pong()).unwrap()),
    ]);
    let said = place.run(&["ping"]);
    supervisor.join().unwrap();
    assert_eq!(said.err, "");
    assert!(said.out.starts_with("supervisor 7 (version 0.1.0, up 1m) answers; its keeper is 6\n"), "{}", said.out);
}

#[test]
fn a_script_becomes_a_request_and_a_failed_start_says_why() {
    let place = Place::new();
    fs::write(place.folder.path().join("job.sh"), "").unwrap();
    let log = place.folder.path().join("job-error.log");
    fs::write(&log, "no database\n").unwrap();
    let mut down = instance("job", &log);
    down.status = Status::Errored;
    down.reason = Some("3 quick deaths in a row".into());
    let (before, after) = (snapshot(Vec::new()), snapshot(vec![instance("other", &log), down]));
    let supervisor = place.supervisor_of(vec![
        Box::new(|request| {
            assert_eq!(request, Request::Snapshot { env: false });
            control::to_answer(&Response::Snapshot(Box::new(before))).unwrap()
        }),
        Box::new(|request| {
            let Request::Start { apps, origin, .. } = request else { panic!("{request:?}") };
            assert_eq!((apps.len(), apps[0].name.as_str(), apps[0].instances), (1, "job", 2));
            assert_eq!(apps[0].command.args[1..], ["--fast"]);
            assert!(origin.as_os_str().is_empty() && !apps[0].env.contains_key("HERDWIRE_HOME"));
            control::to_answer(&Response::Done(Box::new(after))).unwrap()
        }),
    ]);
    let said = place.run(&["start", "job.sh", "-i", "2", "--", "--fast"]);
    supervisor.join().unwrap();
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("job") && !said.out.contains("other"), "{}", said.out);
    let expected = format!(
        "error: app `job`: instance 0 (id 0) is errored\ncause: 3 quick deaths in a row\nlast lines of {}:\n  no database\n\
         hint:  `herdwire logs job --err` shows more\n",
        log.display()
    );
    assert_eq!(said.err, expected);
}

#[test]
fn a_name_that_exists_is_started_again() {
    let place = Place::new();
    let log = place.folder.path().join("none.log");
    let (before, after) = (snapshot(vec![instance("job", &log)]), snapshot(vec![instance("job", &log)]));
    let supervisor = place.supervisor_of(vec![
        Box::new(|_| control::to_answer(&Response::Snapshot(Box::new(before))).unwrap()),
        Box::new(|request| {
            assert_eq!(request, Request::StartExisting { select: Selector::Name("job".into()) });
            control::to_answer(&Response::Done(Box::new(after))).unwrap()
        }),
    ]);
    let said = place.run(&["start", "job"]);
    supervisor.join().unwrap();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn kill_returns_when_the_keeper_has_ended() {
    let place = Place::new();
    let mut keeper = Ended(Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap());
    let keeper_pid = keeper.0.id();
    let stdin = keeper.0.stdin.take();
    let supervisor = place.supervisor(move |request| {
        assert_eq!(request, Request::Kill);
        control::to_answer(&Response::Killing { keeper_pid }).unwrap()
    });
    let mut child = Ended(place.command(&["kill"]).stdout(Stdio::piped()).spawn().unwrap());
    supervisor.join().unwrap();
    assert!(child.0.try_wait().unwrap().is_none(), "the keeper has not ended yet");
    drop(stdin);
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let mut child = place.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn logs_are_read_and_followed_without_a_supervisor() {
    let place = Place::new();
    let logs = place.home().join("logs");
    fs::create_dir(&logs).unwrap();
    let log = logs.join("web-out-3.log");
    fs::write(&log, "one\ntwo\nthree").unwrap();
    fs::write(logs.join("web-error-3.log"), "oops\n").unwrap();
    assert_eq!(place.run(&["logs", "--nostream", "web", "--out", "--lines", "2", "--raw"]).out, "two\nthree\n");
    assert_eq!(place.run(&["logs", "--nostream", "3", "--err", "--raw"]).out, "oops\n");
    assert!(place.run(&["logs", "--nostream"]).out.ends_with("web-error-3.log last 15 lines:\n3|web | oops\n"));
    place
        .run(&["logs", "nobody"])
        .failed_with(1, "error: no app or instance `nobody`\nhint:  `herdwire list` shows what there is\n");

    let mut child = Ended(place.command(&["logs", "-f", "--out", "--raw"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut out = child.0.stdout.take().unwrap();
    expect(&mut out, "one\ntwo\n");
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b" and a half\nfour\n").unwrap();
    expect(&mut out, "three and a half\nfour\n");
    // A follower whose reader has gone ends by itself, though nothing is written any more.
    drop(out);
    let until = Instant::now() + Duration::from_secs(20);
    while child.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "still following");
        thread::yield_now();
    }
}

/// Reads exactly this text; the test as a whole is bounded by its runner.
fn expect(from: &mut impl Read, text: &str) {
    let mut read = vec![0; text.len()];
    from.read_exact(&mut read).unwrap();
    assert_eq!(String::from_utf8(read).unwrap(), text);
}
