//! A service manager above the keeper, by the protocol of `sd_notify`. Without one, nothing here does anything.
//!
//! The keeper is the unit's main process. It alone speaks: no instance inherits the socket's address, and a supervisor only under
//! a name of ours, for the day on which it takes a dead keeper's place.

use std::env;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::sys;

/// The service manager.
pub(super) struct Service {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that all is well, and when next.
    watchdog: Option<(Duration, Instant)>,
    ready: bool,
}

impl Service {
    /// Takes what the service manager said in the environment, for this keeper and whoever takes its place.
    pub fn from_environment() -> Service {
        let take = |name: &str| {
            let ours = format!("HERDWIRE_{name}");
            if let Some(value) = env::var_os(name) {
                sys::set_variable(&ours, Some(&value));
                sys::set_variable(name, None);
            }
            env::var_os(ours)
        };
        let (socket, interval) = (take("NOTIFY_SOCKET"), take("WATCHDOG_USEC"));
        let pid = env::var_os("WATCHDOG_PID");
        sys::set_variable("WATCHDOG_PID", None);
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
        }
    }

    /// A supervisor answers requests.
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            // The unit's main process may have been another, which is dead.
            self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
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
