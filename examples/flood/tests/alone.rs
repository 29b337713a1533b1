//! The workers on their own, without Herdwire.

use std::process::{Command, Output};

fn alone(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("HERDWIRE_LINK").env("FLOOD_FOLDER", std::env::temp_dir());
    command.output().unwrap()
}

#[test]
fn a_worker_that_herdwire_has_not_started_says_so() {
    for program in [env!("CARGO_BIN_EXE_flood"), env!("CARGO_BIN_EXE_chatter")] {
        let output = alone(program, &[]);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("not started by Herdwire"), "{said}");
    }
}

#[test]
fn an_argument_that_is_none_is_an_error_that_shows_the_usage() {
    let output = alone(env!("CARGO_BIN_EXE_flood"), &["--speed", "9"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: flood"));
}
