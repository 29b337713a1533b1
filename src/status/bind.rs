//! Finds the address of the status server.
//!
//! Without a configured address the default is tried, and any free port of loopback when it is taken: a second
//! supervisor on the machine must start too. A configured address is a promise to somebody, so there a taken port is
//! an error. Beyond loopback nothing is bound without a token.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::config::spec::StatusSettings;

/// Where the page is unless configured otherwise: pm2's port for the same thing.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9615);

/// Why the status server has no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The configured address cannot be bound.
    #[error("[status] listen: cannot listen on {address}")]
    Configured { address: SocketAddr, source: io::Error },
    /// Anybody on the network could look.
    #[error("[status] listen: {address} can be reached from other hosts, and no token is set")]
    NoToken { address: SocketAddr },
    /// Neither the default nor another port of loopback.
    #[error("cannot listen on any port of {} for the status page", DEFAULT_ADDRESS.ip())]
    Loopback { source: io::Error },
}

impl BindError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            BindError::Configured { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some(format!("port {} is in use: end what holds it, or choose another", address.port()))
                }
                io::ErrorKind::AddrNotAvailable => Some(format!("this host has no address {}", address.ip())),
                io::ErrorKind::PermissionDenied => {
                    Some("ports below 1024 need a privilege: choose a higher one".into())
                }
                _ => None,
            },
            BindError::NoToken { .. } => {
                Some("set `token` in [status], or listen on a loopback address such as 127.0.0.1:9615".into())
            }
            BindError::Loopback { .. } => None,
        }
    }
}

/// Listens where `settings` say, else at [`DEFAULT_ADDRESS`], else on a free port of loopback; the second value then
/// says so in a sentence for the operator.
pub fn bind(settings: Option<&StatusSettings>) -> Result<(TcpListener, Option<String>), BindError> {
    match settings {
        Some(settings) => Ok((bind_configured(settings)?, None)),
        None => bind_or_another(DEFAULT_ADDRESS),
    }
}

fn bind_configured(settings: &StatusSettings) -> Result<TcpListener, BindError> {
    let address = settings.listen;
    let has_token = settings.token.as_ref().is_some_and(|token| !token.is_empty());
    if !is_loopback(address) && !has_token {
        return Err(BindError::NoToken { address });
    }
    TcpListener::bind(address).map_err(|source| BindError::Configured { address, source })
}

fn bind_or_another(preferred: SocketAddr) -> Result<(TcpListener, Option<String>), BindError> {
    if let Ok(listener) = TcpListener::bind(preferred) {
        return Ok((listener, None));
    }
    let another = || {
        let listener = TcpListener::bind((preferred.ip(), 0))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = another().map_err(|source| BindError::Loopback { source })?;
    let warning = format!("the status page is at http://{address}/ because {preferred} is taken");
    Ok((listener, Some(warning)))
}

/// Whether only this host can reach `address`.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: SocketAddr, token: Option<&str>) -> StatusSettings {
        StatusSettings { listen, token: token.map(str::to_owned) }
    }

    fn taken() -> (TcpListener, SocketAddr) {
        // An address that no other test binds: what is free here stays free.
        let holder = TcpListener::bind("127.96.15.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        (holder, address)
    }

    #[test]
    fn a_taken_default_gives_another_port_and_a_warning_with_both_addresses() {
        let (_holder, preferred) = taken();
        let (listener, warning) = bind_or_another(preferred).unwrap();
        let warning = warning.unwrap();
        assert!(warning.contains(&preferred.to_string()), "{warning}");
        assert!(warning.contains(&listener.local_addr().unwrap().to_string()), "{warning}");
    }

    #[test]
    fn a_free_default_gives_no_warning() {
        let (holder, preferred) = taken();
        drop(holder);
        let (listener, warning) = bind_or_another(preferred).unwrap();
        assert_eq!((listener.local_addr().unwrap(), warning), (preferred, None));
    }

    #[test]
    fn a_configured_address_that_is_taken_is_an_error_that_names_it() {
        let (_holder, address) = taken();
        let error = bind(Some(&settings(address, None))).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.hint().unwrap().contains("in use"));
    }

    #[test]
    fn beyond_loopback_a_token_is_needed() {
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            for token in [None, Some("")] {
                let error = bind(Some(&settings(listen.parse().unwrap(), token))).unwrap_err();
                assert!(matches!(error, BindError::NoToken { .. }), "{error}");
            }
        }
        bind(Some(&settings("0.0.0.0:0".parse().unwrap(), Some("t")))).unwrap();
        bind(Some(&settings("[::ffff:127.0.0.1]:0".parse().unwrap(), None))).unwrap();
    }
}
