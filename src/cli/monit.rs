//! `monit`: the table of `list` over the whole screen, shown anew each second until somebody presses q.
//!
//! Owns the terminal while it runs: another screen, no echo, no lines. It is given back however this ends: by a key, by
//! a signal, by an error.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

use super::client::Client;
use super::error::CliError;
use super::list;
use super::output::Output;
use crate::snapshot::Snapshot;

/// From one look to the next.
const TICK: Duration = Duration::from_secs(1);
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Control-C and control-D, as they come without lines.
const INTERRUPT: u8 = 3;
const END: u8 = 4;

/// Shows what runs until somebody has seen enough.
pub fn monit(client: &Client, out: &mut Output) -> Result<(), CliError> {
    if !out.terminal || !io::stdin().is_terminal() {
        return Err(CliError::usage("`monit` needs a terminal", "`herdwire list` shows the same once"));
    }
    let system = |source| CliError::System { what: "use the terminal", source };
    let signals = take_signals().map_err(system)?;
    let _screen = Screen::take().map_err(system)?;
    loop {
        let until = Instant::now() + TICK;
        let snapshot = list::fetch(client, false);
        draw(snapshot.as_ref().map(Option::as_ref).map_err(ToString::to_string), out)?;
        if is_enough(&signals, until).map_err(system)? {
            return Ok(());
        }
    }
}

/// Blocks what would end us without giving the terminal back, and what says that its size has changed.
fn take_signals() -> io::Result<SignalFd> {
    let taken: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGWINCH].into_iter().collect();
    taken.thread_block()?;
    Ok(SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits for the next look; whether there is to be none.
fn is_enough(signals: &SignalFd, until: Instant) -> io::Result<bool> {
    let stdin = io::stdin();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut wait = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, timeout) {
            Ok(0) => return Ok(false),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let has_key = wait[0].any().unwrap_or(true);
        if let Some(signal) = signals.read_signal()? {
            return Ok(signal.ssi_signo != Signal::SIGWINCH as u32);
        }
        if has_key && ends(stdin.as_fd())? {
            return Ok(true);
        }
    }
}

/// Whether the keys that were pressed end it.
fn ends(stdin: BorrowedFd<'_>) -> io::Result<bool> {
    let mut keys = [0; 64];
    let count = nix::unistd::read(stdin, &mut keys)?;
    // Nothing at all: the terminal is gone.
    Ok(count == 0 || keys[..count].iter().any(|key| matches!(*key, b'q' | b'Q' | INTERRUPT | END)))
}

fn draw(snapshot: Result<Option<&Snapshot>, String>, out: &mut Output) -> Result<(), CliError> {
    let head = match &snapshot {
        Ok(Some(snapshot)) => head(snapshot),
        Ok(None) => "no supervisor is running".to_owned(),
        Err(error) => list::printable(error),
    };
    let table = list::rows(snapshot.ok().flatten().iter().flat_map(|snapshot| &snapshot.instances), out);
    write!(out, "{}", screen(&format!("{head}\n{table}"), height()))?;
    Ok(out.flush()?)
}

fn head(snapshot: &Snapshot) -> String {
    let (supervisor, host) = (&snapshot.supervisor, &snapshot.host);
    let online = snapshot.instances.iter().filter(|instance| instance.pid.is_some()).count();
    format!(
        "{}: {online} of {} instances run; load {:.2}, memory {} of {}; herdwire {}",
        list::printable(&host.name),
        snapshot.instances.len(),
        host.load_1m,
        super::output::bytes(host.memory_used_bytes),
        super::output::bytes(host.memory_total_bytes),
        list::printable(&supervisor.version),
    )
}

/// What is written so that `text` stands on the screen, as far as it has room; the last line says how to leave.
fn screen(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1).max(1);
    let mut written = "\x1b[H".to_owned();
    for line in lines.iter().take(room) {
        written += &format!("{line}\x1b[K\r\n");
    }
    let more = lines.len().saturating_sub(room);
    let more = if more > 0 { format!("{more} more lines; ") } else { String::new() };
    // Nothing is left below of what stood there before.
    written + &format!("{more}q quits\x1b[K\x1b[J")
}

/// Lines of the terminal; of one that cannot tell, as many as terminals used to have.
fn height() -> usize {
    const HEIGHT: usize = 24;
    crossterm::terminal::size()
        .ok()
        .map(|(_, height)| usize::from(height))
        .filter(|height| *height > 0)
        .unwrap_or(HEIGHT)
}

/// The terminal, while it is ours.
struct Screen {
    before: Termios,
}

impl Screen {
    fn take() -> io::Result<Screen> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        let screen = Screen { before };
        write!(io::stdout(), "{ENTER}")?;
        io::stdout().flush()?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone takes nothing back.
        let _ = write!(io::stdout(), "{LEAVE}").and_then(|()| io::stdout().flush());
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_what_it_has_room_for_and_says_how_to_leave() {
        assert_eq!(screen("a\nb\n", 24), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nq quits\x1b[K\x1b[J");
        assert_eq!(screen("a\nb\nc\n", 3), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n1 more lines; q quits\x1b[K\x1b[J");
        assert!(screen("", 0).ends_with("q quits\x1b[K\x1b[J"));
    }
}
