//! `startup` and `unstartup`: the unit, and what becomes of one that is there.

use std::fs;
use std::process::Command;

use crate::herdwire::{Herdwire, finish};

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let herdwire = Herdwire::new();
    let text = herdwire.ok(&["startup", "systemd", "--print"]);
    for line in [
        "Type=notify",
        "User=root",
        "KillMode=mixed",
        "ExitType=cgroup",
        "OOMPolicy=continue",
        "Delegate=yes",
        "Restart=on-failure",
        &format!("Environment=\"HERDWIRE_HOME={}\"", herdwire.home().display()),
        &format!("ExecStart=\"{}\" resurrect --no-daemon", env!("CARGO_BIN_EXE_herdwire")),
    ] {
        // Whoever runs this test is whom the unit is for.
        if line != "User=root" || nix::unistd::geteuid().is_root() {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }
    assert!(!herdwire.home().exists(), "nothing was touched");
    let unit = herdwire.write("herdwire-test.service", &text);
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").arg(&unit).env("SYSTEMD_LOG_LEVEL", "warning");
    if Command::new("systemd-analyze").arg("--version").output().is_ok() {
        let verdict = finish(&mut verify);
        assert!(verdict.status.success() && verdict.stderr.is_empty(), "{verdict:#?}\n{text}");
    }
}

#[test]
fn a_unit_is_written_once_and_another_is_left_alone() {
    let herdwire = Herdwire::new();
    let units = herdwire.work().join("units");
    fs::create_dir(&units).unwrap();
    let folder = units.display().to_string();
    let startup = |more: &[&str]| {
        let always = ["startup", "--unit-dir", &folder, "--service-name", "herd"];
        herdwire.run(&always.iter().chain(more).copied().collect::<Vec<_>>())
    };
    let unit = units.join("herd.service");
    let first = startup(&[]);
    assert!(first.status.success(), "{first:#?}");
    assert!(first.stdout.starts_with(&format!("wrote {}\nto do: systemctl daemon-reload\n", unit.display())));
    assert!(first.stdout.contains("to do: systemctl enable herd\n"));
    let text = fs::read_to_string(&unit).unwrap();
    assert!(startup(&[]).stdout.starts_with(&format!("{} is there already\n", unit.display())));

    fs::write(&unit, text.replace("RestartSec=1", "RestartSec=9")).unwrap();
    let refused = startup(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        refused.stderr,
        format!(
            "error: `{}` exists and is another\nhint:  `--print` shows ours; `--force` writes over it\n",
            unit.display()
        )
    );
    assert!(startup(&["--force"]).status.success());
    assert_eq!(fs::read_to_string(&unit).unwrap(), text);
    assert_eq!(fs::read_dir(&units).unwrap().count(), 1);

    let unstartup = ["unstartup", "--unit-dir", &folder, "--service-name", "herd"];
    fs::write(&unit, "[Unit]\n").unwrap();
    assert!(herdwire.refused(&unstartup).contains("was not written by `herdwire startup`"));
    fs::write(&unit, text).unwrap();
    assert!(herdwire.ok(&unstartup).contains(&format!("removed {}\n", unit.display())));
    assert!(!unit.exists());
    assert!(herdwire.refused(&unstartup).starts_with("error: there is no "));
}

#[test]
fn a_unit_for_nobody_or_of_an_odd_name_is_refused() {
    let herdwire = Herdwire::new();
    let refusal = herdwire.refused(&["startup", "--print", "-u", "nobody-at-all"]);
    assert_eq!(refusal, "error: there is no user `nobody-at-all`\n");
    let refusal = herdwire.refused(&["startup", "--print", "--service-name", "../x"]);
    assert!(refusal.starts_with("error: `../x` cannot be a unit's name\n"), "{refusal}");
    assert_eq!(herdwire.run(&["startup", "launchd"]).status.code(), Some(2));
}
