//! s6's way to say "ready": a newline on a descriptor of the instance's choice.
//!
//! Owns the pipe's reading end. Looks at what is in it without taking it out (`tee(2)`), until the readiness is
//! committed: a supervisor that dies in between leaves it to its successor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use herdwire_ipc::tokio::Watched;
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, tee};

/// A pipe is full at this many bytes, as a rule; one that is full without a newline says nothing.
const MOST_BYTES: usize = 64 * 1024;
/// Whoever waits looks again after so long, in case an edge was taken by somebody else.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A pipe: the end that we keep, non-blocking, and the end that the instance gets.
///
/// # Errors
/// Those of `pipe2(2)`.
pub fn new() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// Waits until there is a newline in the pipe; false when it ends without one. Cancel safe: nothing is taken out.
///
/// # Errors
/// The pipe cannot be watched.
pub async fn says_ready(pipe: OwnedFd) -> io::Result<bool> {
    let pipe = Watched::new(pipe)?;
    loop {
        match look(pipe.get_ref())? {
            Seen::Newline => return Ok(true),
            Seen::End => return Ok(false),
            Seen::Nothing => drop(pipe.edge(LOOK_AGAIN).await),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Newline,
    Nothing,
    End,
}

/// Looks at all that is in the pipe and leaves it there.
fn look(pipe: &OwnedFd) -> io::Result<Seen> {
    let (copy, copy_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut bytes = [0; 4096];
    match tee(pipe.as_fd(), copy_end, MOST_BYTES, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(0) => return Ok(Seen::End),
        Ok(_) => {}
        Err(Errno::EAGAIN) => return Ok(Seen::Nothing),
        Err(error) => return Err(error.into()),
    }
    // The copy's writing end went into `tee`, so its end is the end of what was there.
    loop {
        match nix::unistd::read(&copy, &mut bytes) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(Seen::Nothing),
            Ok(length) if bytes[..length].contains(&b'\n') => return Ok(Seen::Newline),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_newline_is_seen_again_and_again_until_somebody_takes_it() {
        let (read, write) = new().unwrap();
        assert_eq!(look(&read).unwrap(), Seen::Nothing);
        let mut write = File::from(write);
        write.write_all(b"not yet").unwrap();
        assert_eq!(look(&read).unwrap(), Seen::Nothing);
        write.write_all(b"\n").unwrap();
        drop(write);
        assert_eq!(look(&read).unwrap(), Seen::Newline);
        assert_eq!(look(&read).unwrap(), Seen::Newline);
    }

    #[test]
    fn an_end_without_a_newline_is_no_readiness() {
        let (read, write) = new().unwrap();
        drop(write);
        assert_eq!(look(&read).unwrap(), Seen::End);
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_it() {
        let (read, write) = new().unwrap();
        let waiting = tokio::spawn(says_ready(read));
        tokio::task::yield_now().await;
        File::from(write).write_all(b"\n").unwrap();
        assert!(waiting.await.unwrap().unwrap());
    }
}
