//! Listeners that a service manager has kept while nobody of this home lived, and passes to the next start: `LISTEN_FDS`.
//!
//! Owns the names under which they are kept. They come back to the program that the unit starts, which takes them
//! before it opens anything of its own; each says itself where it listens.
//!
//! Invariants
//! - Only what bears a name of ours is taken; what a unit passes besides (a `.socket`) is none of our business.
//! - Nobody inherits the variables, and no descriptor is inherited by accident.

#![allow(unsafe_code)] // What is inherited by number becomes an owner by an unsafe constructor only.

use std::env;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::SockRef;

use crate::config::address;
use crate::config::spec::ListenAddress;

/// Before the name of every listener that we have kept.
const PREFIX: &str = "herdwire-listener-";
/// The number of the first descriptor that is passed.
const FIRST: RawFd = 3;
/// The variables of the protocol.
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The name of a listener: the same for the same address, of characters that a name may have, and not too long.
pub fn name_of(address: &ListenAddress) -> String {
    // FNV-1a: short, and the same in every release.
    let hash = address::display(address)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{PREFIX}{hash:016x}")
}

/// Where a socket listens; `None` for one that does not.
pub fn address_of(socket: &OwnedFd) -> Option<ListenAddress> {
    if !getsockopt(socket, sockopt::AcceptConn).is_ok_and(|listens| listens) {
        return None;
    }
    let address = SockRef::from(socket).local_addr().ok()?;
    match address.as_socket() {
        Some(address) => Some(ListenAddress::Tcp(address)),
        None => Some(ListenAddress::Unix(address.as_pathname()?.to_owned())),
    }
}

/// Takes what was passed to this process, once, and removes the variables. For a process without other threads that has
/// opened nothing yet by these numbers.
pub fn take() -> Vec<OwnedFd> {
    let [pid, count, names] = VARIABLES.map(env::var_os);
    // SAFETY: this process has no other thread that could look at the environment, as is asked of the caller.
    VARIABLES.into_iter().for_each(|name| unsafe { env::remove_var(name) });
    let number = |text: Option<std::ffi::OsString>| text?.to_str()?.parse::<u32>().ok();
    if number(pid) != Some(std::process::id()) {
        return Vec::new();
    }
    let names = names.unwrap_or_default();
    let names = names.as_bytes().split(|byte| *byte == b':');
    let count = number(count).unwrap_or(0) as usize;
    let ours = (FIRST..).zip(names).take(count).filter(|(_, name)| name.starts_with(PREFIX.as_bytes()));
    ours.filter_map(|(number, _)| own(number)).collect()
}

/// Makes an inherited descriptor ours alone, to be inherited no further.
fn own(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only borrowed for the call, which fails for a number that is no descriptor.
    let set = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    // SAFETY: it is open, and whoever started this process left the number to it for this purpose; `take` is called once.
    set.ok().map(|_| unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_says_where_it_listens_and_anything_else_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        assert_eq!(address_of(&tcp.into()), Some(ListenAddress::Tcp(at)));
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(address_of(&unix.into()), Some(ListenAddress::Unix(path)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(address_of(&file.into()), None);
    }

    #[test]
    fn a_name_tells_addresses_apart_and_may_stand_in_a_list_of_names() {
        let names = ["tcp://127.0.0.1:80", "tcp://127.0.0.1:81", "unix:///run/a:b"];
        let names = names.map(|text| name_of(&address::listen(text).unwrap()));
        assert!(names.iter().all(|name| name.len() < 255 && !name.contains(':')));
        assert!(names[0] != names[1] && names[1] != names[2]);
        // It outlives releases.
        assert_eq!(names[0], name_of(&address::listen("tcp://127.0.0.1:80").unwrap()));
    }
}
