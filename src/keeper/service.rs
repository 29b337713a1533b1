//! A service manager above the keeper, by the protocol of `sd_notify`. Without one, nothing here does anything.
//!
//! The keeper is the unit's main process. It alone speaks: no instance inherits the socket's address, and a supervisor only under
//! a name of ours, for the day on which it takes a dead keeper's place.

use std::ffi::{CString, OsStr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// What a service manager tells its service by, which is meant for the keeper alone.
pub(super) const ENVIRONMENT: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The first two of them, as a supervisor has them that may become the keeper.
const FOR_AN_HEIR: [&str; 2] = ["HERDWIRE_NOTIFY_SOCKET", "HERDWIRE_WATCHDOG_USEC"];

/// What is added to a supervisor's environment.
pub(super) fn for_an_heir() -> Vec<CString> {
    let named = FOR_AN_HEIR.iter().zip(ENVIRONMENT);
    let value = |(ours, theirs): (&&str, &str)| {
        let value = std::env::var_os(theirs)?;
        CString::new([ours.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    named.filter_map(value).collect()
}

/// The service manager.
pub(super) struct Service {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that all is well, and when next.
    watchdog: Option<(Duration, Instant)>,
    ready: bool,
    /// The unit's main process was another, which is dead.
    is_heir: bool,
}

impl Service {
    pub fn from_environment() -> Service {
        let [mut socket, mut interval, mut pid] = ENVIRONMENT.map(std::env::var_os);
        let is_heir = socket.is_none() && std::env::var_os(FOR_AN_HEIR[0]).is_some();
        if is_heir {
            [socket, interval] = FOR_AN_HEIR.map(std::env::var_os);
            pid = None;
        }
        let connect = |address: &OsStr| {
            let address = match address.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(address)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&address).map(|()| socket)
        };
        let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
        let is_ours = pid.is_none_or(|pid| number(&pid) == Some(std::process::id().into()));
        let interval = interval.as_deref().and_then(number).filter(|interval| is_ours && *interval > 0);
        Service {
            // One that cannot be reached will say so itself, by the time that it waits in vain.
            socket: socket.and_then(|address| connect(&address).ok()),
            watchdog: interval.map(|interval| (Duration::from_micros(interval / 2), Instant::now())),
            ready: false,
            is_heir,
        }
    }

    /// A supervisor answers requests.
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            let pid = std::process::id();
            self.tell(&if self.is_heir { format!("READY=1\nMAINPID={pid}") } else { "READY=1".to_owned() });
        }
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says that all is well, when it is time and it is true; answers when to be asked next.
    pub fn pass_time(&mut self, now: Instant, well: bool) -> Option<Instant> {
        let (interval, next) = self.watchdog?;
        if now < next {
            return Some(next);
        }
        if well {
            self.tell("WATCHDOG=1");
        }
        self.watchdog = Some((interval, now + interval));
        Some(now + interval)
    }

    fn tell(&self, text: &str) {
        if let Some(socket) = &self.socket {
            // A manager that does not listen is not waited for.
            let _ = socket.send(text.as_bytes());
        }
    }
}
