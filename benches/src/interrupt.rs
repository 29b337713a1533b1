//! SIGINT, SIGTERM and SIGHUP: the run ends early, and cleans up as it does at its end.
#![allow(unsafe_code)] // Signal handlers are set by a system call that cannot know what they do.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Longest sleep between two looks.
const NAP: Duration = Duration::from_millis(20);

/// From now on these signals are noted and do not end the process.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn notice() -> anyhow::Result<()> {
    // Not restarted: a wait in a system call is to end.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores into an atomic, which is safe at any moment.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// Fails if one of them has come.
///
/// # Errors
/// One has come.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Relaxed), "interrupted");
    Ok(())
}

/// Sleeps until a moment, or fails before.
///
/// # Errors
/// As [`check`].
pub fn sleep_until(until: Instant) -> anyhow::Result<()> {
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(NAP));
    }
}

/// Waits for a condition, at most `limit`; whether it came true.
///
/// # Errors
/// As [`check`], or the condition itself fails.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        check()?;
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(NAP);
    }
}

extern "C" fn note(_: i32) {
    INTERRUPTED.store(true, Relaxed);
}
