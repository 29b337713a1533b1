//! Settings, from where they are written to where they are in force.

use serde_json::{Value, json};

use crate::herdwire::{Herdwire, until};

/// The only app on disk, as soon as it is there.
fn spec(herdwire: &Herdwire) -> Value {
    let mut spec = Value::Null;
    until("it is saved", || {
        let text = std::fs::read_to_string(herdwire.home().join("saved")).unwrap_or_default();
        let document: Value =
            text.split_once('\n').and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default();
        spec = document["apps"][0]["spec"].clone();
        !spec.is_null()
    });
    spec
}

#[test]
fn options_and_keys_mean_the_same() {
    let by_options = Herdwire::new();
    by_options.script("run", "#!/bin/sh\nexec sleep 1000\n");
    by_options.ok(&[
        "start",
        "./run",
        "--min-uptime",
        "2s",
        "--exp-backoff-restart-delay",
        "100",
        "--stop-exit-codes",
        "3,4",
        "--max-memory-restart",
        "512M",
        "--cron",
        "0 3 * * *",
        "--cron-timezone",
        "UTC",
        "--merge-logs",
        "--time",
        "--limit",
        "nofile=512:1024",
        "--nice",
        "5",
        "--kill-signal",
        "SIGTERM",
        "--reload-parallel",
        "2",
    ]);
    let by_keys = Herdwire::new();
    by_keys.script("run", "#!/bin/sh\nexec sleep 1000\n");
    by_keys.write(
        "herdwire.toml",
        "[[app]]\nscript = \"./run\"\nmin_uptime = \"2s\"\nexp_backoff_restart_delay = 100\nstop_exit_codes = [3, 4]\n\
         max_memory_restart = \"512M\"\ncron_restart = \"0 3 * * *\"\ncron_timezone = \"UTC\"\nmerge_logs = true\ntime = true\n\
         nice = 5\nkill_signal = \"SIGTERM\"\n[app.limits]\nnofile = [512, 1024]\n[app.reload]\nparallel = 2\n",
    );
    by_keys.ok(&["start"]);
    let (mut options, mut keys) = (spec(&by_options), spec(&by_keys));
    for key in ["rules", "bounds", "logs", "health", "triggers", "reload"] {
        assert_eq!(options[key].take(), keys[key].take(), "{key}");
    }
    assert_eq!(spec(&by_keys)["bounds"]["limits"], json!({ "nofile": [512, 1024] }));
}

#[test]
fn an_option_that_cannot_be_is_refused_by_its_name() {
    let herdwire = Herdwire::new();
    herdwire.script("run", "#!/bin/sh\nexec sleep 1000\n");
    for (arguments, says) in [
        (
            ["--max-memory-restart", "lots"],
            "error: --max-memory-restart: `max_memory_restart`: `lots` is not a size; write for instance 65536, 64KiB or 1M\n",
        ),
        (["--user", "nobody-at-all"], "error: --user: `user`: there is no user `nobody-at-all`\n"),
        (["--cron", "whenever"], "error: --cron-restart: `cron_restart`: `whenever` is not a schedule: "),
        (["--limit", "nofile=9:8"], "error: --limit: `limits.nofile`: the soft limit is above the hard one\n"),
    ] {
        let refusal = herdwire.refused(&[&["start", "./run"][..], &arguments].concat());
        assert!(refusal.starts_with(says), "{refusal}");
    }
    assert!(!herdwire.home().exists(), "nothing was started");
}

#[test]
fn a_file_that_cannot_be_is_refused_by_line_and_column() {
    let herdwire = Herdwire::new();
    herdwire.script("run", "#!/bin/sh\nexec sleep 1000\n");
    herdwire.write("herdwire.toml", "[[app]]\nscript = \"./run\"\nmax_memory_restat = 1\n");
    assert_eq!(
        herdwire.refused(&["start"]),
        "error: herdwire.toml:3:1: unknown key `max_memory_restat` in [[app]]\nhint:  did you mean `max_memory_restart`?\n"
    );
    herdwire.write(
        "herdwire.toml",
        "[[app]]\nname = \"a\"\nscript = \"./run\"\ndepends_on = \"b\"\n[[app]]\nname = \"b\"\nscript = \"./run\"\ndepends_on = \"a\"\n",
    );
    assert_eq!(
        herdwire.refused(&["start"]),
        "error: herdwire.toml:8:14: `depends_on`: these wait for one another: a -> b -> a\n"
    );
}
