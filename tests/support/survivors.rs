//! What must be the same before and after something has died.

use crate::herdwire::{Herdwire, Instance, until};

/// An instance's name, id, pid, status, count of restarts and time of start.
pub type Identity = (String, u64, u32, String, u64, u64);

/// Every instance's identity, in the order of `jlist`.
#[track_caller]
pub fn identities(herdwire: &Herdwire) -> Vec<Identity> {
    herdwire.list().iter().map(identity).collect()
}

pub fn identity(instance: &Instance) -> Identity {
    let Instance { name, id, pid, status, restarts, started_at, .. } = instance.clone();
    (name, id, pid, status, restarts, started_at)
}

/// A command line that prints numbered lines, for [`lines_go_on`].
pub const LINES: &str = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";

/// Every line of a log is there, once and whole, and more come.
#[track_caller]
pub fn lines_go_on(herdwire: &Herdwire, file: &str) {
    let before = herdwire.log(file).lines().count();
    until("more lines come", || herdwire.log(file).lines().count() > before + 10);
    let log = herdwire.log(file);
    let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
    for (place, line) in whole.lines().enumerate() {
        assert_eq!(line, format!("line {}", place + 1), "in {file}");
    }
}
