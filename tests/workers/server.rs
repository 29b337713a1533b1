//! A server for tests: answers each connection on its first listener with its process id, and ends in good order on
//! SIGINT, after the request that it has in hand. With an address as its argument it binds that one itself.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Where the first listener is, by the protocol of systemd.
const FIRST_LISTENER: i32 = 3;

fn main() -> io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    let interrupted = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    let listener = match std::env::args().nth(1) {
        Some(address) => TcpListener::bind(address)?,
        None => inherited()?,
    };
    // Shared with siblings: another one may have been quicker.
    listener.set_nonblocking(true)?;
    println!("{} listens on {}", std::process::id(), listener.local_addr()?);
    loop {
        let mut waiting = [readable(&interrupted), readable(&listener)];
        poll(&mut waiting, PollTimeout::NONE)?;
        if waiting[0].any() == Some(true) {
            return Ok(());
        }
        match listener.accept() {
            Ok((mut connection, _)) => {
                connection.set_nonblocking(false)?;
                let mut request = [0; 4];
                connection.read_exact(&mut request)?;
                connection.write_all(std::process::id().to_string().as_bytes())?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn readable<F: AsFd>(descriptor: &F) -> PollFd<'_> {
    PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)
}

/// A listener of our own on the inherited socket.
fn inherited() -> io::Result<TcpListener> {
    assert_eq!(std::env::var("LISTEN_PID").as_deref(), Ok(std::process::id().to_string().as_str()), "LISTEN_PID");
    // SAFETY: only borrowed to be duplicated; a number that is no descriptor fails that call.
    let socket = unsafe { BorrowedFd::borrow_raw(FIRST_LISTENER) };
    Ok(socket.try_clone_to_owned()?.into())
}
