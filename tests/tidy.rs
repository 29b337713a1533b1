//! What no compiler checks: that rules stay pure, that the map tells the truth, that one crate alone names the codec.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that decide and do nothing else.
const RULES: [&str; 26] = [
    "src/lifecycle",
    "src/deployment",
    "src/relay",
    "src/keeper/rules.rs",
    "src/wire/barrier.rs",
    "src/wire/standin/frame.rs",
    "src/bridge/backoff.rs",
    "src/bridge/envelope.rs",
    "src/bridge/gaps.rs",
    "src/bridge/name.rs",
    "src/bridge/parcel.rs",
    "src/bridge/sieve.rs",
    "src/bridge/spool.rs",
    "src/front/codec.rs",
    "src/front/handshake.rs",
    "src/front/origin.rs",
    "src/front/plain.rs",
    "src/front/pulse.rs",
    "src/front/queue.rs",
    "src/health/notify.rs",
    "src/health/watchdog.rs",
    "src/triggers/cron.rs",
    "src/triggers/ignore.rs",
    "src/triggers/settle.rs",
    "ipc/src/record.rs",
    "ipc/src/ring",
];

/// What a rule has no use for: it is handed the time and its effects are values.
const IMPURE: [&str; 9] = [
    "tokio",
    "libc",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "std::io::Write",
];

/// The most lines of a keeper.
const KEEPER_LINES: usize = 799;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below `place`, tests and models left out.
fn sources(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "tests" {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") && !name.contains("tests") && !name.contains("loom") {
            files.push(path);
        }
    }
    files
}

/// The lines that are code of the product: without comments and without the tests at the end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rules_know_no_runtime_no_clock_and_no_input_or_output() {
    for file in RULES.iter().flat_map(|rule| sources(&root().join(rule))) {
        let code = code(&file);
        for word in IMPURE {
            assert!(!code.contains(word), "{} names `{word}`", file.display());
        }
    }
}

#[test]
fn one_crate_alone_names_the_serialisation_library() {
    for place in ["src", "examples", "benches", "tests"] {
        for file in sources(&root().join(place)).into_iter().filter(|file| !file.ends_with("tidy.rs")) {
            assert!(!code(&file).contains("bincode"), "{} names it", file.display());
        }
    }
}

#[test]
fn every_path_that_the_map_names_exists_and_every_room_is_on_it() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let words = map.split('`').skip(1).step_by(2);
    for path in words.filter(|word| word.contains('/') && !word.contains([' ', '<', ':']) && !word.starts_with('/')) {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names `{path}`, which does not exist");
    }
    for room in fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = room.file_name().unwrap().to_string_lossy().into_owned();
        if room.is_dir() {
            assert!(map.contains(&format!("`src/{name}/`")), "ARCHITECTURE.md does not name the room `src/{name}/`");
        }
    }
}

/// Text of all programs and tests, and of the scripts.
fn everything(place: &Path) -> String {
    let mut text = String::new();
    for path in fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            text += &everything(&path);
        } else if name.ends_with(".rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn every_test_and_every_run_that_the_list_of_faults_names_exists() {
    let list = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let all = everything(root());
    let soak = fs::read_to_string(root().join("scripts/soak")).unwrap();
    let mut tests = 0;
    for word in list.split('`').skip(1).step_by(2) {
        if let Some(run) = word.strip_prefix("scripts/soak ") {
            let name = run.split(' ').next().unwrap();
            assert!(soak.contains(&format!("scripts/soak {name} ")), "there is no `scripts/soak {name}`");
        } else if word.matches('_').count() >= 3 {
            assert!(all.contains(&format!("fn {word}()")), "docs/faults.md names `{word}`, which is no test");
            tests += 1;
        }
    }
    assert!(tests > 50, "the list names {tests} tests only");
}

#[test]
fn what_the_front_page_promises_as_a_file_is_there() {
    for file in
        ["scripts/demo", "scripts/test", "docs/configuration.md", "docs/BENCHMARKS.md", "ipc/README.md", "LICENSE-MIT"]
    {
        assert!(root().join(file).exists(), "{file} is missing");
    }
}

/// Lines of code that the keeper's process consists of, and the contract that it shares with supervisors: formatted,
/// without comments, blank lines and tests.
///
/// Not counted is what only others run: a supervisor (its side of the line, the names that it gives, the trial of its
/// successor, the way to become the keeper), and the command that prepares a home before it becomes the keeper. Of what
/// several rooms share (records with descriptors in `ipc`; pidfds and the start of a program by descriptor in
/// `src/process/`) nothing is counted either: it is held to be right where it is.
#[test]
fn the_keeper_is_small_enough_to_be_reviewed_in_one_sitting() {
    let of_others = ["client.rs", "handle.rs", "heir.rs", "name.rs", "start.rs", "trial.rs"];
    let files = sources(&root().join("src/keeper"));
    let counted = files.iter().filter(|file| !of_others.iter().any(|other| file.ends_with(other)));
    let lines: usize = counted.map(|file| code(file).lines().filter(|line| !line.trim().is_empty()).count()).sum();
    assert!(lines <= KEEPER_LINES, "the keeper has {lines} lines, more than {KEEPER_LINES}");
}
