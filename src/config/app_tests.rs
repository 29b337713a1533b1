//! Settings of apps, good and bad: what becomes of them, and the exact words of each refusal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::spec::*;
use super::testing;
use super::tests::World;

const MS: Duration = Duration::from_millis(1);

fn refusal(world: &World, lines: &str) -> String {
    world.refusal(&format!("[[app]]\nscript = \"server.js\"\n{lines}\n")).replace("herdwire.toml:", "")
}

fn app(world: &World, lines: &str) -> AppSpec {
    world.app(&format!("script = \"server.js\"\n{lines}\n"))
}

#[test]
fn what_is_not_said_is_as_the_reference_page_says() {
    let app = app(&World::new(), "");
    assert_eq!(app.bounds, Bounds::default());
    assert_eq!(app.logs, LogSpec::default());
    assert_eq!(app.health, HealthSpec::default());
    assert_eq!(app.triggers, Triggers::default());
    assert_eq!(app.reload, ReloadSpec::default());
    assert_eq!(app.rules, Rules::default());
    assert!(app.depends_on.is_empty() && app.env_files.is_empty());
}

#[test]
fn bounds_can_be_said() {
    let world = World::new();
    let bounds = app(
        &world,
        "user = \"root\"\ngid = 0\ngroups = [0, \"root\"]\numask = \"027\"\nnice = -5\nno_new_privs = true\n\
         oom_score_adj = 300\nmemory_max = \"1G\"\ntasks_max = 64\ncpu_max = \"150%\"\n[app.limits]\n\
         nofile = [1024, 65536]\ncore = \"unlimited\"\nstack = \"8M\"\nnproc = 7",
    )
    .bounds;
    let limits = [
        (Limit::Nofile, (1024, 65_536)),
        (Limit::Core, (u64::MAX, u64::MAX)),
        (Limit::Stack, (8 << 20, 8 << 20)),
        (Limit::Nproc, (7, 7)),
    ];
    let expected = Bounds {
        user: Some("root".into()),
        group: Some("0".into()),
        groups: Some(vec!["0".into(), "root".into()]),
        umask: Some(0o27),
        nice: Some(-5),
        limits: limits.into(),
        no_new_privs: true,
        oom_score: Some(300),
        memory_max: Some(1 << 30),
        tasks_max: Some(64),
        cpu_max: Some(150),
    };
    assert_eq!(bounds, expected);
    assert_eq!(app(&world, "umask = 0o77\ncpu_max = 50").bounds.umask, Some(0o77));
}

#[test]
fn pm2s_other_names_of_keys_work_and_two_names_of_one_are_an_error() {
    let world = World::new();
    assert_eq!(world.app("exec = \"job.py\"\nexec_interpreter = \"tool\"").interpreter, "tool");
    for (other, key) in [("out", "out_file"), ("output", "out_file"), ("err_log", "error_file"), ("log", "log_file")] {
        let (by_other, by_key) = (format!("{other} = \"x.log\""), format!("{key} = \"x.log\""));
        assert_eq!(app(&world, &by_other), app(&world, &by_key));
        let says = format!(
            "4:{}: `{other}` and `{key}` exclude each other | remove one of them, for instance `{other}`",
            other.len() + 4
        );
        assert_eq!(refusal(&world, &format!("{by_key}\n{by_other}")), says);
    }
    assert_eq!(refusal(&world, "exce = \"x\""), "3:1: unknown key `exce` in [[app]] | did you mean `exec`?");
}

#[test]
fn bounds_that_cannot_be_are_refused() {
    let world = World::new();
    for (lines, says) in [
        ("user = \"nobody-at-all\"", "3:8: `user`: there is no user `nobody-at-all`"),
        ("gid = \"nobody-at-all\"", "3:7: `group`: there is no group `nobody-at-all`"),
        (
            "user = \"root\"\nuid = 0",
            "4:7: `uid` and `user` exclude each other | remove one of them, for instance `uid`",
        ),
        ("umask = 27", "3:9: `umask` must be an octal number in quotes, such as \"027\", not a whole number"),
        ("umask = \"088\"", "3:9: `umask`: `088` is not an octal number from 000 to 777"),
        ("nice = 20", "3:8: `nice`: 20 is not from -20 to 19"),
        ("oom_score_adj = -1001", "3:17: `oom_score_adj`: -1001 is not from -1000 to 1000"),
        ("memory_max = \"512\"", "3:14: `memory_max`: 512 is not from 1048576 to 1099511627776"),
        ("cpu_max = \"fast\"", "3:11: `cpu_max`: `fast` is not a percentage of one CPU; write for instance \"150%\""),
        ("limits = { nofile = [9, 8] }", "3:21: `limits.nofile`: the soft limit is above the hard one"),
        ("limits = { nofiles = 9 }", "3:12: unknown key `nofiles` in [app.limits] | did you mean `nofile`?"),
        ("limits = { nofile = -1 }", "3:21: `nofile`: -1 is negative; for none write \"unlimited\""),
        ("limits = true", "3:10: `limits` must be a table, not a boolean"),
    ] {
        assert_eq!(refusal(&world, lines), says, "{lines}");
    }
}

#[test]
fn log_files_count_from_the_apps_folder() {
    let world = World::new();
    let logs = app(
        &world,
        "out = \"a.log\"\nerror_file = \"/dev/null\"\nlog_file = \"/tmp/both.log\"\nmerge_logs = true\n\
         time = true\nlog_type = \"json\"\nrotate = { size = \"1M\", age = \"1d\", keep = 3, compress = false }",
    )
    .logs;
    assert_eq!(logs.out, LogFile::At(world.path("a.log")));
    assert_eq!((logs.error, logs.combined), (LogFile::Off, Some("/tmp/both.log".into())));
    assert_eq!((logs.mode, logs.merge), (LogMode::Pipe, true));
    assert_eq!(logs.format, LogFormat::Json(Some("YYYY-MM-DDTHH:mm:ss".into())));
    let day = Duration::from_secs(86_400);
    let rotation = Rotation { max_bytes: Some(1 << 20), max_age: Some(day), keep: 3, compress: false };
    assert_eq!(logs.rotation, rotation);
    let logs = app(&world, "rotate = false\nlog_date_format = \"HH:mm\"\ntime = true\ndisable_logs = true").logs;
    assert_eq!((logs.rotation.max_bytes, logs.rotation.max_age), (None, None));
    assert_eq!((logs.format, logs.mode), (LogFormat::Stamped("HH:mm".into()), LogMode::Off));
}

#[test]
fn output_that_cannot_be_is_refused() {
    let world = World::new();
    for (lines, says) in [
        ("log_mode = \"pipes\"", "3:12: `log_mode`: `pipes` is none of pipe, file and off"),
        (
            "log_mode = \"file\"\ntime = true",
            "3:12: `log_mode`: with `file` nobody renders the lines: neither `time`, `log_date_format` nor `log_type` can be",
        ),
        (
            "log_mode = \"file\"\nmerge_logs = true\ninstances = 2",
            "3:12: `log_mode`: with `file` several instances cannot share a file: remove `merge_logs`",
        ),
        (
            "log_mode = \"file\"\ndisable_logs = true",
            "4:16: `disable_logs` and `log_mode` exclude each other | remove one of them, for instance `disable_logs`",
        ),
        ("out_file = \"web\"", "3:12: `out_file`: `DIR/web` is a folder"),
        ("log_type = \"xml\"", "3:12: `log_type`: `xml` is neither raw nor json"),
        ("rotate = { size = 1 }", "3:19: `rotate.size`: 1 is not from 1024 to 1099511627776"),
        ("rotate = { age = 1 }", "3:18: `rotate.age`: is less than a second"),
        (
            "out_file = \"x.log\"\n[[app]]\nname = \"b\"\nscript = \"job.py\"\nlog_file = \"./x.log\"",
            "7:12: app `b`: log file `DIR/x.log` is already app `server`'s | set `merge_logs` in both, or give one of them another file",
        ),
    ] {
        assert_eq!(refusal(&world, lines), says, "{lines}");
    }
    let both =
        "merge_logs = true\nout_file = \"x.log\"\n[[app]]\nscript = \"job.py\"\nmerge_logs = true\nout = \"x.log\"";
    assert!(world.load(&format!("[[app]]\nscript = \"server.js\"\n{both}")).is_ok());
}

#[test]
fn health_can_be_said_and_what_waits_implies_wait_ready() {
    let world = World::new();
    let spec = app(
        &world,
        "readiness = \"http://127.0.0.1:8080/health?x=1\"\nwatchdog = \"3s\"\nheartbeat = 500\nmax_memory_restart = \"512M\"\n\
         [app.liveness]\ntarget = \"exec:tool --check 'a b'\"\ninterval = \"1s\"\nfailures = 2\ndelay = \"4s\"",
    );
    assert!(spec.rules.wait_ready);
    let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let target = ProbeTarget::Http { address, host: "127.0.0.1:8080".into(), path: "/health?x=1".into() };
    let readiness = Probe { target, interval: 500 * MS, timeout: 2000 * MS, failures: 1, delay: Duration::ZERO };
    assert_eq!(spec.health.readiness, Some(readiness));
    let command = Command { program: world.path("bin/tool"), args: vec!["--check".into(), "a b".into()] };
    let liveness = Probe {
        target: ProbeTarget::Exec(command),
        interval: 1000 * MS,
        timeout: 5000 * MS,
        failures: 2,
        delay: 4000 * MS,
    };
    assert_eq!(spec.health.liveness, Some(liveness));
    assert_eq!((spec.health.watchdog, spec.health.heartbeat), (Some(3000 * MS), Some(500 * MS)));
    assert_eq!(spec.health.max_memory, Some(512 << 20));

    assert!(app(&world, "notify_descriptor = 4").rules.wait_ready);
    assert!(!app(&world, "liveness = \"tcp://127.0.0.1:1\"").rules.wait_ready);
    let bare = app(&world, "readiness = \"http://localhost\"").health.readiness.unwrap().target;
    assert_eq!(
        bare,
        ProbeTarget::Http { address: "127.0.0.1:80".parse().unwrap(), host: "localhost".into(), path: "/".into() }
    );
}

#[test]
fn health_that_cannot_be_is_refused() {
    let world = World::new();
    for (lines, says) in [
        (
            "readiness = \"8080\"",
            "3:13: `readiness`: `8080` is no target; write for instance tcp://127.0.0.1:8080, http://127.0.0.1:8080/health or exec:COMMAND",
        ),
        ("readiness = \"tcp://127.0.0.1:0\"", "3:13: `readiness`: nothing can be reached at port 0 of 127.0.0.1"),
        (
            "readiness = \"exec:no-such-program x\"",
            "3:13: `readiness`: program `no-such-program` is neither in PATH nor executable",
        ),
        (
            "wait_ready = false\nreadiness = \"tcp://127.0.0.1:1\"",
            "3:14: `wait_ready` and `readiness` exclude each other | remove one of them, for instance `wait_ready`",
        ),
        (
            "[app.liveness]\ninterval = 10",
            "3:1: [app.liveness] needs `target` | for instance target = \"http://127.0.0.1:8080/health\"",
        ),
        ("notify_descriptor = 2", "3:21: `notify_descriptor`: 2 is not from 3 to 1023"),
        ("watchdog = 0", "3:12: `watchdog`: is less than 100ms"),
        (
            "max_memory_restart = 512",
            "3:22: `max_memory_restart`: 512 bytes are less than any program needs | \"512M\" is 512 MiB",
        ),
    ] {
        assert_eq!(refusal(&world, lines), says, "{lines}");
    }
}

#[test]
fn a_probe_of_a_shared_listener_is_warned_of() {
    let world = World::new();
    let warnings = |lines: &str| world.load(&format!("[[app]]\nscript = \"server.js\"\n{lines}")).unwrap().warnings;
    let shared = "listen = [\"127.0.0.1:80\"]\nreadiness = \"tcp://127.0.0.1:80\"";
    assert_eq!(
        warnings(shared),
        [
            "app `server`: `readiness` looks at a listener that the supervisor holds and all instances share: it says nothing of one of them"
        ]
    );
    assert!(warnings("listen = [\"127.0.0.1:80\"]\nliveness = \"http://127.0.0.1:80/\"").is_empty());
}

#[test]
fn triggers_can_be_said() {
    let world = World::new();
    let triggers = app(&world, "cron = \"*/5 * * * *\"\ncron_timezone = \"Europe/Berlin\"\nwatch = [\"web\", \"server.js\"]\nignore_watch = \"*.tmp\"\nwatch_delay = \"1s\"").triggers;
    assert_eq!(triggers.cron, Some(Cron { pattern: "*/5 * * * *".into(), zone: Some("Europe/Berlin".into()) }));
    let watch = Watch {
        paths: vec![world.path("web"), world.path("server.js")],
        ignore: vec!["*.tmp".into()],
        settle: 1000 * MS,
    };
    assert_eq!(triggers.watch, Some(watch));
    let watch = app(&world, "watch = true").triggers.watch.unwrap();
    assert_eq!((watch.paths, watch.settle), (vec![world.path("")], 200 * MS));
    assert!(watch.ignore.contains(&"**/node_modules".to_owned()));
    assert_eq!(app(&world, "watch = false\ncron_restart = 0").triggers, Triggers::default());
    assert!(app(&world, "cron = \"*/30 * * * * *\"").triggers.cron.is_some());
}

#[test]
fn triggers_that_cannot_be_are_refused() {
    let world = World::new();
    let cron = " | for instance \"0 3 * * *\" for three at night, or \"*/30 * * * * *\" with seconds";
    for (lines, says) in [
        ("cron_restart = \"0 0 30 2 *\"", format!("3:16: `cron_restart`: `0 0 30 2 *` never comes{cron}")),
        (
            "cron_restart = \"* * * * *\"\ncron_timezone = \"Mars/Base\"",
            "4:17: `cron_timezone`: there is no time zone `Mars/Base` | for instance \"Europe/Berlin\" or \"UTC\"".into(),
        ),
        ("cron_timezone = \"UTC\"", "3:17: `cron_timezone`: is of no use without `cron_restart` | set `cron_restart`, or remove it".into()),
        ("watch = \"/\"", "3:9: `watch`: `/` is too much to watch | name the folders that its program is in".into()),
        ("watch = \"/usr/..\"", "3:9: `watch`: `/` is too much to watch | name the folders that its program is in".into()),
        (
            "watch = \"gone\"",
            "3:9: `watch`: `DIR/gone` cannot be watched: No such file or directory (os error 2) | name the folders that its program is in".into(),
        ),
        ("watch_delay = 1", "3:15: `watch_delay`: is of no use without `watch` | set `watch`, or remove it".into()),
        ("watch = true\nignore_watch = [\"[\"]", "4:17: `ignore_watch`: `[` is not a pattern: unclosed character class; missing ']'".into()),
    ] {
        assert_eq!(refusal(&world, lines), says, "{lines}");
    }
    for nonsense in ["", "every day", "61 * * * *", "* * * *", "* * * * * * 2030"] {
        let says = refusal(&world, &format!("cron_restart = \"{nonsense}\""));
        assert!(says.starts_with(&format!("3:16: `cron_restart`: `{nonsense}` is not a schedule: ")), "{says}");
    }
}

#[test]
fn restarts_can_be_said() {
    let world = World::new();
    let rules = app(
        &world,
        "restart_window = \"1m\"\nexp_backoff_restart_delay = 100\nexp_backoff_max = \"1m\"\nstop_exit_codes = [0, 143, 0]\nshutdown_with_message = true",
    )
    .rules;
    assert_eq!(rules.restart_window, Duration::from_secs(60));
    let backoff = Backoff { first: 100 * MS, longest: 60_000 * MS, reset: 30_000 * MS };
    assert_eq!(rules.backoff, Some(backoff));
    assert_eq!((rules.stop_exit_codes, rules.shutdown_with_message), (vec![0, 143], true));
    for (lines, says) in [
        (
            "exp_backoff_max = 1",
            "3:19: `exp_backoff_max`: is of no use without `exp_backoff_restart_delay` | set `exp_backoff_restart_delay`, or remove it",
        ),
        (
            "exp_backoff_restart_delay = 9\nexp_backoff_max = 1",
            "4:19: `exp_backoff_max`: is shorter than the first wait, `exp_backoff_restart_delay`",
        ),
        ("stop_exit_codes = [256]", "3:20: `stop_exit_codes`: `256` is not an exit code from 0 to 255"),
        ("restart_window = 0", "3:18: `restart_window`: in no time nothing counts: it cannot be 0"),
    ] {
        assert_eq!(refusal(&world, lines), says, "{lines}");
    }
}

#[test]
fn a_new_releases_way_can_be_said() {
    let world = World::new();
    let reload = app(&world, "[app.reload]\nmin_ready = \"1s\"\ndrain_timeout = 500\nparallel = 4\nmax_failures = 2\nrollback = false\nprobation = 0").reload;
    let expected = ReloadSpec {
        min_ready: 1000 * MS,
        drain_timeout: 500 * MS,
        parallel: 4,
        max_failures: 2,
        rollback: false,
        probation: Duration::ZERO,
    };
    assert_eq!(reload, expected);
    assert_eq!(refusal(&world, "reload = { parallel = 0 }"), "3:23: `reload.parallel`: 0 is not from 1 to 256");
}

#[test]
fn an_env_file_is_stored_by_its_path() {
    let world = World::new();
    std::fs::write(world.path(".env"), "SECRET=hunter2").unwrap();
    let spec = app(&world, "env_file = [\".env\", \"-more.env\"]");
    let file = |name: &str, optional| EnvFile { path: world.path(name), optional };
    assert_eq!(spec.env_files, [file(".env", false), file("more.env", true)]);
    assert!(!format!("{spec:?}").contains("hunter2"));
    assert_eq!(
        refusal(&world, "env_file = \"more.env\""),
        "3:12: `env_file`: file `DIR/more.env` does not exist | `-more.env` says that it may be missing"
    );
}

fn apps(text: &[(&str, &str)]) -> String {
    let app = |(name, lines): &(&str, &str)| format!("[[app]]\nname = \"{name}\"\nscript = \"server.js\"\n{lines}\n");
    text.iter().map(app).collect()
}

#[test]
fn an_app_says_which_come_before_it() {
    let world = World::new();
    let text = apps(&[
        ("db", ""),
        ("once", "autorestart = false"),
        ("web", "depends_on = { db = \"started\", once = \"completed\" }"),
        ("top", "depends_on = [\"web\", \"db\"]"),
        ("one", "depends_on = \"db\""),
    ]);
    let resolved = world.load(&text).unwrap();
    let before = |at: usize| {
        resolved.apps[at].depends_on.iter().map(|one| (one.app.as_str(), one.condition)).collect::<Vec<_>>()
    };
    assert_eq!(before(2), [("db", Condition::Started), ("once", Condition::Completed)]);
    assert_eq!(before(3), [("web", Condition::Ready), ("db", Condition::Ready)]);
    assert_eq!(before(4), [("db", Condition::Ready)]);
    assert_eq!(resolved.warnings, Vec::<String>::new());
    let odd = apps(&[("db", ""), ("web", "depends_on = { db = \"completed\", other = \"ready\" }")]);
    assert_eq!(
        world.load(&odd).unwrap().warnings,
        [
            "app `web` waits for app `db` to complete, which is started again whenever it ends: set its `autorestart` to false",
            "app `web` waits for `other`, which is not here: it must run already",
        ]
    );
}

#[test]
fn apps_that_wait_for_one_another_are_refused() {
    let world = World::new();
    for (list, says) in [
        (vec![("a", "depends_on = \"a\"")], "4:14: `depends_on`: app `a` cannot come before itself"),
        (
            vec![("a", "depends_on = \"b\""), ("b", "depends_on = [\"c\"]"), ("c", "depends_on = { a = \"started\" }")],
            "12:16: `depends_on`: these wait for one another: a -> b -> c -> a",
        ),
        (vec![("a", "depends_on = [\"b\", \"b\"]"), ("b", "")], "4:20: `depends_on`: app `b` is named twice"),
        (
            vec![("a", "depends_on = { b = \"soon\" }"), ("b", "")],
            "4:20: `depends_on`: `soon` is none of started, ready and completed",
        ),
    ] {
        assert_eq!(world.refusal(&apps(&list)), format!("herdwire.toml:{says}"));
    }
    // A way that parts and joins again is no circle, and many of them are no work.
    let wide: Vec<(String, String)> = (0..200)
        .map(|at: u32| {
            (
                format!("n{at}"),
                format!(
                    "depends_on = [{}]",
                    (at.saturating_sub(8)..at).map(|to| format!("\"n{to}\"")).collect::<Vec<_>>().join(", ")
                ),
            )
        })
        .collect();
    let wide: Vec<(&str, &str)> = wide.iter().map(|(name, lines)| (name.as_str(), lines.as_str())).collect();
    assert!(world.load(&apps(&wide)).is_ok());
}

#[test]
fn somebody_elses_app_needs_a_supervisor_of_root() {
    let world = World::new();
    std::fs::write(world.path("herdwire.toml"), "[[app]]\nscript = \"server.js\"\nuser = \"root\"").unwrap();
    let warnings = |uid| {
        let surroundings = super::Surroundings { uid, ..world.surroundings() };
        super::load(&PathBuf::from("herdwire.toml"), &surroundings).unwrap().resolved.warnings
    };
    assert_eq!(warnings(0), Vec::<String>::new());
    assert_eq!(warnings(1000), ["app `server`: it is to run as user `root`, which only a supervisor of root can do"]);
}

proptest! {
    #[test]
    fn a_spec_comes_out_of_the_store_as_it_went_in(spec in testing::any_spec()) {
        let bytes = herdwire_ipc::codec::encode(&spec).unwrap();
        prop_assert_eq!(herdwire_ipc::codec::decode::<AppSpec>(&bytes).unwrap(), spec);
    }
}
