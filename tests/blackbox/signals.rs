//! Signals to the supervisor. Those to the keeper are in `tests/keeper.rs`.

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, is_alive, signal, until};

#[test]
fn a_supervisor_does_not_end_because_of_a_signal_that_is_its_keepers() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "exec sleep 1000", "-n", "nap"]);
    let (supervisor, nap) = (herdwire.supervisor_pid(), herdwire.instance("nap"));
    let meaningless = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGALRM];
    let stopping = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
    let harmless = [Signal::SIGPIPE, Signal::SIGWINCH, Signal::SIGCHLD];
    for one in meaningless.into_iter().chain(stopping).chain(harmless) {
        signal(supervisor, one);
        assert_eq!(herdwire.supervisor_pid(), supervisor, "{one}");
    }
    assert_eq!(herdwire.instance("nap").pid, nap.pid);
    // Nothing of that is inherited: an instance ends at any of them.
    signal(nap.pid, Signal::SIGHUP);
    until("it has ended", || !is_alive(nap.pid));
}
