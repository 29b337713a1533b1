//! Whole files, good and bad: what becomes of them, and the exact words of each refusal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::file::File;
use super::spec::{AppSpec, Handshake, ListenAddress};
use super::*;

/// A folder with some scripts, a PATH with some programs, four CPUs.
pub(super) struct World {
    folder: TempDir,
}

impl World {
    pub(super) fn new() -> World {
        let world = World { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.path("bin")).unwrap();
        fs::create_dir_all(world.path("web")).unwrap();
        for program in ["node", "python3", "bash", "tool"] {
            world.executable(&format!("bin/{program}"));
        }
        for script in ["server.js", "job.py", "notes.txt", "web/inner.js", "a.ts", "17.js"] {
            fs::write(world.path(script), "").unwrap();
        }
        world.executable("run-me");
        world
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn executable(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let env = [("PATH", self.path("bin").display().to_string()), ("LANG", "C".into())];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>();
        let variables = [("SECRET".to_owned(), "s3cret".to_owned())].into();
        Surroundings { folder: self.folder.path().to_owned(), env, variables, cpus: 4, left_out: Vec::new(), uid: 0 }
    }

    pub(super) fn load(&self, text: &str) -> Result<Resolved, ConfigError> {
        fs::write(self.path("herdwire.toml"), text).unwrap();
        load(Path::new("herdwire.toml"), &self.surroundings()).map(|loaded| loaded.resolved)
    }

    pub(super) fn app(&self, text: &str) -> AppSpec {
        let mut resolved = self.load(&format!("[[app]]\n{text}")).unwrap();
        assert_eq!(resolved.apps.len(), 1);
        resolved.apps.remove(0)
    }

    /// The error of a file, with the name of the folder taken out, and its hint.
    pub(super) fn refusal(&self, text: &str) -> String {
        let error = self.load(text).expect_err(text);
        let folder = format!("{}/", self.folder.path().display());
        let hint = error.hint().map(|hint| format!(" | {hint}")).unwrap_or_default();
        format!("{error}{hint}").replace(&folder, "DIR/")
    }
}

#[test]
fn the_smallest_app_has_the_documented_defaults() {
    let world = World::new();
    let app = world.app("script = \"server.js\"");
    assert_eq!((app.name.as_str(), app.herd.as_str(), app.interpreter.as_str()), ("server", "server", "node"));
    assert_eq!(app.command.program, world.path("bin/node"));
    assert_eq!(app.command.args, [world.path("server.js").display().to_string()]);
    assert_eq!(app.script, world.path("server.js"));
    assert_eq!(app.cwd, world.folder.path());
    assert_eq!((app.instances, app.autostart), (1, true));
    let rules = &app.rules;
    assert_eq!((rules.autorestart, rules.max_restarts, rules.kill_signal, rules.wait_ready), (true, 16, 2, false));
    assert_eq!(rules.min_uptime, Duration::from_secs(1));
    assert_eq!((rules.restart_delay, rules.kill_timeout), (Duration::ZERO, Duration::from_millis(1600)));
    assert_eq!(rules.listen_timeout, Duration::from_secs(3));
    let wire = app.wire;
    assert_eq!((wire.ring_bytes, wire.max_message, wire.stall_timeout), (1 << 20, 16 << 20, Duration::from_secs(5)));
}

#[test]
fn everything_can_be_said() {
    let world = World::new();
    let text = r#"
[[app]]
name = "api"
script = "inner.js"
args = "--port 80 'two words'"
interpreter = "node"
instances = "max"
env = { PORT = 3000, DEBUG = true, RATIO = 0.5, NAME = "x" }
cwd = "web"
herd = "shop"
listen = ["tcp://127.0.0.1:8080", "unix:///run/api.sock"]
bridge = ["orders"]
autostart = false
autorestart = false
max_restarts = 3
min_uptime = "2s"
restart_delay = 100
kill_signal = "term"
kill_timeout = "5s"
wait_ready = true
listen_timeout = "10s"
ring_size = "64KiB"
max_message = "1MiB"
stall_timeout = "1s"

[redis]
url = "redis://:pw@127.0.0.1:6379/"
spool = "1MiB"

[front]
listen = "127.0.0.1:8000"
files = "web"
max_connections = 5
origins = ["https://Example.org"]

[[front.path]]
path = "/ws"
herd = "shop"
channels = ["chat", "news"]
handshake = "token"
token_env = "SECRET"
max_message = "1KiB"
queue = "2KiB"

[[front.path]]
path = "/open"
herd = "shop"
channels = ["chat"]
handshake = "open"

[status]
listen = "0.0.0.0:9000"
token = "t"
"#;
    let resolved = world.load(text).unwrap();
    assert_eq!(resolved.warnings, Vec::<String>::new());
    let app = &resolved.apps[0];
    assert_eq!((app.name.as_str(), app.herd.as_str(), app.instances), ("api", "shop", 4));
    assert_eq!(app.command.args[1..], ["--port", "80", "two words"]);
    assert_eq!(app.cwd, world.path("web"));
    let env = |name: &str| app.env.get(name).map(String::as_str);
    assert_eq!(
        (env("PORT"), env("DEBUG"), env("RATIO"), env("LANG")),
        (Some("3000"), Some("true"), Some("0.5"), Some("C"))
    );
    assert_eq!(env("PWD"), app.cwd.to_str());
    assert_eq!(app.listen[0], ListenAddress::Tcp("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(app.rules.kill_signal, 15);
    assert_eq!(app.rules.restart_delay, Duration::from_millis(100));
    assert_eq!(app.wire.ring_bytes, 65_536);
    let front = resolved.settings.front.unwrap();
    assert_eq!(front.files, Some(world.path("web")));
    assert_eq!(front.origins, ["https://example.org"]);
    assert_eq!(front.paths[0].handshake, Handshake::Token("s3cret".into()));
    assert_eq!((front.paths[1].max_message, front.paths[1].queue_bytes), (64 << 10, 1 << 20));
    assert_eq!(resolved.settings.status.unwrap().token.as_deref(), Some("t"));
    assert_eq!(resolved.settings.redis.unwrap().spool_bytes, 1 << 20);
}

#[test]
fn a_script_runs_the_way_pm2_runs_it() {
    let world = World::new();
    let bin = |name: &str| world.path("bin").join(name);
    let full = |name: &str| world.path(name).display().to_string();
    for (text, program, args, interpreter, name) in [
        ("script = \"job.py\"", bin("python3"), vec![full("job.py")], "python3", "job"),
        ("script = \"./run-me\"", world.path("run-me"), vec![], "none", "run-me"),
        ("script = \"tool\"\nargs = [\"a b\"]", bin("tool"), vec!["a b".into()], "none", "tool"),
        ("script = \"a.ts\"", bin("node"), vec![full("a.ts")], "node", "a"),
        ("script = \"notes.txt\"\ninterpreter = \"tool\"", bin("tool"), vec![full("notes.txt")], "tool", "notes"),
        (
            "script = \"notes.txt\"\ninterpreter = \"./bin/tool\"",
            bin("tool"),
            vec![full("notes.txt")],
            "./bin/tool",
            "notes",
        ),
        ("script = \"run-me\"\ninterpreter = \"none\"", world.path("run-me"), vec![], "none", "run-me"),
        (
            "script = \"tool --x | cat\"",
            bin("bash"),
            vec!["-c".into(), "tool --x | cat".into()],
            "none",
            "tool --x | cat",
        ),
    ] {
        let app = world.app(text);
        assert_eq!((app.command.program, app.command.args), (program, args), "{text}");
        assert_eq!((app.interpreter.as_str(), app.name.as_str()), (interpreter, name), "{text}");
    }
    assert_eq!(world.app("script = \"job.py\"").env.get("PYTHONUNBUFFERED").map(String::as_str), Some("1"));
    let own = world.app("script = \"job.py\"\nenv = { PYTHONUNBUFFERED = \"\" }");
    assert_eq!(own.env.get("PYTHONUNBUFFERED").map(String::as_str), Some(""));
}

#[test]
fn instances_count_like_pm2s() {
    let world = World::new();
    for (written, instances) in [("3", 3), ("\"max\"", 4), ("0", 4), ("-1", 3), ("-9", 1), ("\"2\"", 2), ("256", 256)] {
        assert_eq!(world.app(&format!("script = \"server.js\"\ninstances = {written}")).instances, instances);
    }
}

#[test]
fn a_refusal_names_place_reason_and_cure() {
    let world = World::new();
    let app = |line: &str| format!("[[app]]\nscript = \"server.js\"\n{line}\n");
    for (text, refusal) in [
        (
            "",
            "herdwire.toml has neither an [[app]] nor settings | an app begins with a line `[[app]]` and needs `script`",
        ),
        (
            "[[app]]\nscirpt = \"server.js\"",
            "herdwire.toml:2:1: unknown key `scirpt` in [[app]] | did you mean `script`?",
        ),
        (
            "[app]\nscript = \"a\"",
            "herdwire.toml:1:1: `app` must be a list of tables, written in double brackets, not a table",
        ),
        ("[[apps]]\nscript = \"a\"", "herdwire.toml:1:3: unknown key `apps` in the file | did you mean `app`?"),
        ("é = 1", "herdwire.toml:1:1: is not TOML: "),
        (
            "[[app]]\nname = \"x\"",
            "herdwire.toml:1:1: [[app]] needs `script` | script names the file or program to run: script = \"server.js\"",
        ),
        (
            "[[app]]\nscript = \"gone.js\"",
            "herdwire.toml:2:10: app `gone.js`: script `gone.js` does not exist | it is neither a file nor a program in PATH; a command line needs quotes around it",
        ),
        (
            "[[app]]\nname = \"x\"\nscript = \"./gone.js\"",
            "herdwire.toml:3:10: app `x`: script `DIR/gone.js` does not exist | a relative path counts from `cwd`, else from the file's folder",
        ),
        ("[[app]]\nscript = \"web\"", "herdwire.toml:2:10: app `web`: script `DIR/web` is a folder"),
        (
            "[[app]]\nscript = \"notes.txt\"",
            "herdwire.toml:2:10: app `notes`: no interpreter is known for `DIR/notes.txt`, and it is not executable | `chmod +x DIR/notes.txt`, or name the program with `interpreter`",
        ),
        (
            &app("interpreter = \"rubby\""),
            "herdwire.toml:3:15: app `server`: interpreter `rubby` is not in PATH | install it, or give its full path with `interpreter`",
        ),
        (&app("cwd = \"nowhere\""), "herdwire.toml:3:7: app `server.js`: folder `DIR/nowhere` does not exist"),
        (
            &app("name = \"all\""),
            "herdwire.toml:3:8: `all` cannot be a name: `all` stands for every app | give it another name with `name` or `--name`",
        ),
        (
            &app("name = \"7\""),
            "herdwire.toml:3:8: `7` cannot be a name: a number stands for an id | give it another name with `name` or `--name`",
        ),
        (
            &app("name = \"a/b\""),
            "herdwire.toml:3:8: `a/b` cannot be a name: it contains `/` | give it another name with `name` or `--name`",
        ),
        (
            &app("name = \"a\\nb\""),
            "herdwire.toml:3:8: `a\\nb` cannot be a name: it contains a control character | give it another name with `name` or `--name`",
        ),
        (
            "[[app]]\nscript = \"17.js\"",
            "herdwire.toml:2:10: `17` cannot be a name: a number stands for an id | give it another name with `name` or `--name`",
        ),
        (
            &app("instances = 257"),
            "herdwire.toml:3:13: app `server`: 257 instances are more than 256 | lower `instances`, or split the app in two",
        ),
        (&app("instances = 1.5"), "herdwire.toml:3:13: `instances` must be a whole number or \"max\", not a fraction"),
        (&app("instances = \"many\""), "herdwire.toml:3:13: `instances`: `many` is neither a number nor `max`"),
        (&app("max_restarts = -1"), "herdwire.toml:3:16: `max_restarts`: -1 is out of range"),
        (&app("autorestart = \"yes\""), "herdwire.toml:3:15: `autorestart` must be true or false, not a string"),
        (
            &app("kill_timeout = \"soon\""),
            "herdwire.toml:3:16: `kill_timeout`: `soon` is not a duration; write for instance 1600ms, 3s or 2m",
        ),
        (
            &app("kill_signal = \"SIGNOPE\""),
            "herdwire.toml:3:15: `kill_signal`: `SIGNOPE` is not a signal; write for instance SIGINT, SIGTERM or 15",
        ),
        (
            &app("ring_size = \"100KiB\""),
            "herdwire.toml:3:13: `ring_size`: 102400 bytes are not a power of two from 64 KiB to 64 MiB | \"128KiB\" is near",
        ),
        (
            &app("ring_size = \"1.5GB\""),
            "herdwire.toml:3:13: `ring_size`: 1610612736 bytes are not a power of two from 64 KiB to 64 MiB | \"65536KiB\" is near",
        ),
        (&app("bridge = [\"\"]"), "herdwire.toml:3:11: `bridge`: a channel's name is empty"),
        (&app("bridge = [\"a\", \"a\"]"), "herdwire.toml:3:16: `bridge`: channel `a` is named twice"),
        (&app("args = \"a 'b\""), "herdwire.toml:3:8: `args`: has a quote that is not closed"),
        (&app("args = [\"a\\u0000\"]"), "herdwire.toml:3:8: `args` holds a NUL byte"),
        (
            &app("env = { LISTEN_FDS = 3 }"),
            "herdwire.toml:3:9: environment variable `LISTEN_FDS` belongs to Herdwire | remove it: every instance gets it from Herdwire",
        ),
        (
            &app("env = { \"A=B\" = 3 }"),
            "herdwire.toml:3:9: `env.A=B`: the name of a variable is not empty and has neither `=` nor NUL",
        ),
        (&app("env = { A = [1] }"), "herdwire.toml:3:13: `env.A` must be a string, a number or a boolean, not a list"),
        (
            &app("listen = [\"8080\"]"),
            "herdwire.toml:3:11: `listen`: `8080` has no port; write for instance tcp://127.0.0.1:8080",
        ),
        (
            &app("listen_timeout = 0\nwait_ready = true"),
            "herdwire.toml:3:18: `listen_timeout`: with `wait_ready` it cannot be 0",
        ),
        (
            &(app("") + &app("")),
            "herdwire.toml:4:1: app `server` is defined twice | one app may have many `instances`; two apps need two names",
        ),
        (
            &(app("listen = [\"127.0.0.1:80\"]") + &app("name = \"b\"\nlisten = [\"tcp://0.0.0.0:80\"]")),
            "herdwire.toml:7:11: app `b`: address `tcp://0.0.0.0:80` is already taken by app `server` | give one of them another port",
        ),
        (
            &(app("listen = [\"127.0.0.1:80\"]") + "[front]\nlisten = \"127.0.0.1:80\""),
            "herdwire.toml:3:11: app `server`: address `tcp://127.0.0.1:80` is already taken by [front] | give one of them another port",
        ),
        (
            "[redis]",
            "herdwire.toml:1:1: [redis] needs `url` | for instance url = \"redis://127.0.0.1:6379/\", or url_env with the name of a variable",
        ),
        (
            "[redis]\nurl_env = \"GONE\"",
            "herdwire.toml:2:11: environment variable `GONE`, named by `url_env`, is not set | set it: GONE=... herdwire start ...",
        ),
        (
            "[redis]\nurl = \"redis://h\"\nurl_env = \"SECRET\"",
            "herdwire.toml:3:11: `url_env` and `url` exclude each other | remove one of them, for instance `url_env`",
        ),
        (
            "[redis]\nurl = \"rediss://h\"",
            "herdwire.toml:2:7: `url`: TLS is not supported yet; use redis:// over a tunnel",
        ),
        (
            "[redis]\nurl = \"redis://h:99999/\"",
            "herdwire.toml:2:7: `url`: has no port from 1 to 65535; write for instance redis://127.0.0.1:6379/",
        ),
        (
            "[redis]\nurl = \"redis://h/first\"",
            "herdwire.toml:2:7: `url`: has no number of a database behind its host; for the first write /0 or nothing",
        ),
        ("[redis]\nurl = \"redis://user:pw@\"", "herdwire.toml:2:7: `url`: has no host"),
        (
            &app("kill_signal = \"SIGSTOP\""),
            "herdwire.toml:3:15: `kill_signal`: SIGSTOP cannot ask anybody to end | a signal that it can hear, such as SIGINT or SIGTERM; SIGKILL ends it at once",
        ),
        ("[front]", "herdwire.toml:1:1: [front] needs `listen` | for instance listen = \"127.0.0.1:8080\""),
        (
            "[status]\nlisten = \"0.0.0.0:9615\"",
            "herdwire.toml:2:10: [status] may not listen on `0.0.0.0:9615` without a token | set `token` or `token_env`, or listen on 127.0.0.1",
        ),
        (
            "[front]\nlisten = \"127.0.0.1:1\"\n[status]\nlisten = \"127.0.0.1:1\"",
            "herdwire.toml:4:10: `listen`: address `tcp://127.0.0.1:1` is already taken by [front]",
        ),
    ] {
        let found = world.refusal(text);
        let same = if refusal.ends_with(": ") { found.starts_with(refusal) } else { found == refusal };
        assert!(same, "\n{text}\n--- is\n{found}\n--- should be\n{refusal}");
    }
}

#[test]
fn what_can_work_is_left_as_it_is() {
    let world = World::new();
    for url in [
        "redis://h",
        "redis://h:1",
        "redis://[::1]:6379/0",
        "redis://[::1]",
        "redis://u:p%40@h:65535/15?protocol=resp3",
        "redis://:p@q@h/",
    ] {
        let settings = world.load(&format!("[redis]\nurl = {url:?}")).unwrap().settings;
        assert_eq!(settings.redis.unwrap().url, url);
    }
    assert_eq!(world.app("script = \"server.js\"\nkill_signal = \"SIGKILL\"").rules.kill_signal, 9);
}

#[test]
fn a_path_of_the_front_is_checked() {
    let world = World::new();
    let path = |lines: &str| format!("[front]\nlisten = \"127.0.0.1:80\"\n[[front.path]]\n{lines}\n");
    let rest = "herd = \"a\"\nchannels = [\"c\"]\nhandshake = \"open\"";
    for (lines, refusal) in [
        (format!("path = \"ws\"\n{rest}"), "4:8: `path`: `ws` does not begin with `/`"),
        (format!("path = \"/a b\"\n{rest}"), "4:8: `path`: `/a b` contains ` `, which a path here cannot"),
        (format!("path = \"/{{x}}\"\n{rest}"), "4:8: `path`: `/{x}` contains `{`, which a path here cannot"),
        (
            format!("path = \"/a\"\n{rest}\n[[front.path]]\npath = \"/a\"\n{rest}"),
            "9:8: path `/a` of the front is defined twice",
        ),
        (
            "path = \"/a\"\nherd = \"a\"\nchannels = []\nhandshake = \"open\"".into(),
            "3:1: `channels`: a path without channels is of no use",
        ),
        (
            "path = \"/a\"\nherd = \"a\"\nchannels = [\"c\"]".into(),
            "3:1: [[front.path]] needs `handshake` | handshake = \"token\" with token_env, or handshake = \"open\" to let anybody in",
        ),
        (
            "path = \"/a\"\nherd = \"a\"\nchannels = [\"c\"]\nhandshake = \"token\"".into(),
            "7:13: `handshake`: no token is given | set `token` or `token_env`",
        ),
        (
            "path = \"/a\"\nherd = \"a\"\nchannels = [\"c\"]\nhandshake = \"token\"\ntoken = \"\"".into(),
            "8:9: `token`: is empty",
        ),
        (format!("path = \"/a\"\n{rest}\ntoken = \"t\""), "8:9: `handshake`: an open path asks for no token"),
        (
            "path = \"/a\"\nherd = \"a\"\nchannels = [\"c\"]\nhandshake = \"jwt\"".into(),
            "7:13: `handshake`: `jwt` is neither `open` nor `token`",
        ),
    ] {
        assert_eq!(world.refusal(&path(&lines)), format!("herdwire.toml:{refusal}"), "{lines}");
    }
}

#[test]
fn no_refusal_shows_a_secret() {
    let world = World::new();
    for text in [
        "[redis]\nurl = \"http://user:hunter2@h\"",
        "[redis]\nurl = \"redis://user:hunter2@h\" x",
        "[redis]\nurl = \"redis+unix:hunter2\"",
        "[redis]\nurl = [\"hunter2\"]",
        "[status]\nlisten = \"x\"\ntoken = \"hunter2\"",
        "[[app]]\nscript = \"server.js\"\nargs = \"--password 'hunter2\"",
        "[[app]]\nscript = \"server.js\"\nenv = { PASSWORD = \"hunter2\\u0000\" }",
    ] {
        let error = world.load(text).unwrap_err();
        let said = format!("{error} {error:?} {:?}", error.hint());
        assert!(!said.contains("hunter2"), "{said}");
    }
    let file = File::parse("[status]\ntoken = \"hunter2\"\n[redis]\nurl = \"redis://:hunter2@h\"").unwrap();
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn what_is_no_file_of_text_is_refused_without_reading_it_all() {
    let world = World::new();
    let load = |name: &str| load(Path::new(&world.path(name)), &world.surroundings()).unwrap_err();
    assert!(load("none.toml").to_string().ends_with("none.toml cannot be read"));
    assert!(load("web").to_string().ends_with("web is not a file"));
    nix::unistd::mkfifo(&world.path("fifo.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load("fifo.toml").to_string().ends_with("fifo.toml is not a file"));
    fs::write(world.path("odd.toml"), [0xff]).unwrap();
    assert!(load("odd.toml").to_string().ends_with("odd.toml is not UTF-8"));
    fs::write(world.path("long.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(load("long.toml").to_string().ends_with("long.toml is larger than 1048576 bytes"));
    fs::write(world.path("deep.toml"), format!("a = {}", "[".repeat(100_000))).unwrap();
    assert!(load("deep.toml").to_string().contains("is not TOML"));
}

#[test]
fn what_was_probably_not_meant_is_a_warning() {
    let world = World::new();
    let text = "
[[app]]
script = \"server.js\"
[[app]]
script = \"job.py\"
herd = \"server\"
ring_size = \"64KiB\"
[front]
listen = \"127.0.0.1:0\"
[[front.path]]
path = \"/\"
herd = \"servre\"
channels = [\"c\"]
handshake = \"open\"
";
    assert_eq!(
        world.load(text).unwrap().warnings,
        [
            "app `job`: the wire of herd `server` is as app `server` says, not as here",
            "path `/` of the front belongs to herd `servre`, which no app here is of",
        ]
    );
}

#[test]
fn a_log_date_format_that_cannot_be_meant_is_a_warning() {
    let world = World::new();
    let warnings = |pattern: &str| {
        let text = format!("[[app]]\nscript = \"server.js\"\nlog_date_format = \"{pattern}\"\n");
        world.load(&text).unwrap().warnings
    };
    assert_eq!(warnings("YYYY-MM-DD HH:mm:ss.SSS Z"), [""; 0]);
    let [odd] = &warnings("%Y-%m-%d")[..] else { panic!("one warning") };
    assert!(odd.starts_with("app `server`: `log_date_format` is written as for strftime"), "{odd}");
}

#[test]
fn the_reference_page_names_every_key() {
    let page = include_str!("../../docs/configuration.md");
    let sections = [
        ("[[app]]", "[[app]]\n"),
        ("[app.limits]", "[[app]]\n[app.limits]\n"),
        ("[app.readiness]", "[[app]]\n[app.readiness]\n"),
        ("[app.liveness]", "[[app]]\n[app.liveness]\n"),
        ("[app.rotate]", "[[app]]\n[app.rotate]\n"),
        ("[app.reload]", "[[app]]\n[app.reload]\n"),
        ("[redis]", "[redis]\n"),
        ("[status]", "[status]\n"),
        ("[front]", "[front]\n"),
        ("[[front.path]]", "[front]\n[[front.path]]\n"),
    ];
    for (section, rest) in sections {
        let error = File::parse(&format!("{rest}no_such_key_at_all = 1")).unwrap_err();
        let Problem::UnknownKey { known, section: title, .. } = *error.problem else { panic!("{error}") };
        assert_eq!(title, section);
        let part = page.split("\n## ").find(|part| part.starts_with(&format!("`{section}`"))).expect(section);
        let named = |key: &str| {
            part.lines()
                .filter_map(|line| line.strip_prefix("| ")?.split('|').next())
                .any(|keys| keys.contains(&format!("`{key}`")))
        };
        for key in known {
            assert!(named(key) || key == "path", "{section} {key} is not documented");
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        let _ = File::parse(&text);
    }

    #[test]
    fn no_text_that_is_nearly_right_makes_it_panic(
        key in "(name|script|args|instances|env|listen|kill_timeout|ring_size|nmae|é)",
        value in "(\"[^\"\\\\]{0,9}\"|-?[0-9]{1,25}|[0-9]\\.[0-9]|true|\\[\"a\", 1\\]|\\{ a = 1 \\}|nan|1979-05-27)",
        section in "(\\[\\[app\\]\\]|\\[redis\\]|\\[front\\]|\\[\\[front.path\\]\\]|\\[status\\])",
    ) {
        let _ = File::parse(&format!("{section}\n{key} = {value}\n"));
    }
}
