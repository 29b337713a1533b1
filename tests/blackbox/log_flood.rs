//! Logs under load: floods from one and from many, lines without an end, bytes of every kind, and all of it with files put
//! aside and supervisors killed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::herdwire::{Herdwire, until};

const MIB: u64 = 1 << 20;

/// Memory of a process that is in use, in bytes.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The log and what was put aside of it, oldest first.
fn parts(log: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.", log.file_name().unwrap().to_str().unwrap());
    let names = fs::read_dir(log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.strip_prefix(&prefix).is_some_and(|end| end.bytes().all(|byte| byte.is_ascii_digit())));
    names.sort();
    names.iter().map(|name| log.with_file_name(name)).chain([log.to_owned()]).collect()
}

#[test]
fn a_flood_from_one_and_from_a_hundred_costs_others_no_line_and_the_supervisor_no_memory() {
    let herdwire = Herdwire::new();
    let rotate = "[app.rotate]\nsize = \"8MiB\"\nkeep = 2\ncompress = false\n";
    herdwire.write(
        "herdwire.toml",
        &format!(
            "[[app]]\nname = \"bystander\"\nscript = \"i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done\"\n\
             [[app]]\nname = \"one\"\nscript = \"yes $(head -c 60 /dev/zero | tr '\\\\0' x) | head -c 400000000; echo; echo over >&2; exec sleep 1000\"\n{rotate}\
             [[app]]\nname = \"many\"\nscript = \"yes of many | head -c 4000000; echo over >&2; exec sleep 1000\"\ninstances = 100\n{rotate}"
        ),
    );
    herdwire.ok(&["start"]);
    let supervisor = herdwire.supervisor_pid();
    let before = resident(supervisor);
    let mut most = before;
    until("the floods are over", || {
        most = most.max(resident(supervisor));
        let over = |file: &str| herdwire.log(file).contains("over");
        over("one-error.log")
            && herdwire.instances("many").iter().all(|one| over(&format!("many-error-{}.log", one.id)))
    });
    assert!(most < before + 64 * MIB, "{} MiB became {} MiB", before / MIB, most / MIB);
    assert_eq!(herdwire.supervisor_pid(), supervisor);
    assert!(herdwire.list().iter().all(|one| one.is_online() && one.restarts == 0));
    let lines = herdwire.log("bystander-out.log");
    let whole = lines.rsplit_once('\n').unwrap().0;
    assert!(whole.lines().eq((1..=whole.lines().count()).map(|number| number.to_string())));
}

#[test]
fn a_line_without_an_end_and_bytes_of_every_kind_are_in_the_log_as_they_were_written() {
    let herdwire = Herdwire::new();
    herdwire.write("bytes", "");
    let bytes: Vec<u8> =
        (0..10 * MIB).map(|number| (number % 256) as u8).map(|byte| if byte == b'\n' { 0 } else { byte }).collect();
    fs::write(herdwire.work().join("bytes"), &bytes).unwrap();
    herdwire.ok(&["start", "cat bytes; exec sleep 1000", "-n", "odd"]);
    herdwire.kill_supervisor();
    let log = herdwire.home().join("logs/odd-out.log");
    until("all is there", || fs::metadata(&log).is_ok_and(|of_it| of_it.size() >= bytes.len() as u64));
    assert!(fs::read(&log).unwrap() == bytes, "other bytes than were written");
    assert!(herdwire.run(&["logs", "odd", "--lines", "5", "--nostream"]).status.success());
    assert!(herdwire.instance("odd").is_online());
}

#[test]
fn lines_are_there_once_though_files_are_put_aside_and_supervisors_killed_in_a_flood() {
    let herdwire = Herdwire::new();
    const LINES: usize = 600_000;
    herdwire.write(
        "herdwire.toml",
        &format!(
            "[[app]]\nname = \"much\"\nscript = \"seq 1 {LINES}; echo over >&2; exec sleep 1000\"\n\
             [app.rotate]\nsize = \"256KiB\"\nkeep = 1000\ncompress = false\n"
        ),
    );
    herdwire.ok(&["start"]);
    let log = herdwire.home().join("logs/much-out.log");
    for _ in 0..5 {
        let seen = parts(&log).len();
        until("another file is put aside", || {
            parts(&log).len() > seen || herdwire.log("much-error.log").contains("over")
        });
        herdwire.kill_supervisor();
    }
    let read = || parts(&log).iter().map(|part| fs::read_to_string(part).unwrap_or_default()).collect::<String>();
    until("all of it", || read().ends_with(&format!("\n{LINES}\n")));
    let all = read();
    assert!(all.lines().eq((1..=LINES).map(|number| number.to_string())), "{} lines", all.lines().count());
    assert_eq!(herdwire.instance("much").restarts, 0);
}
