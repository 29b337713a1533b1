//! What can go wrong when the front is opened.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the front could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    #[error("front: cannot listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("front: the listening socket cannot be used")]
    Listener { source: io::Error },
    #[error("front: the path `{path}` cannot be served: {reason}")]
    Path { path: String, reason: String },
    #[error("front: the path `{path}` has no channel")]
    NoChannel { path: String },
    #[error("front: the path `{path}` has an empty token")]
    EmptyToken { path: String },
    #[error("front: the folder `{}` cannot be served", folder.display())]
    Files { folder: PathBuf, source: io::Error },
}

impl FrontError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            FrontError::Bind { address, source } => Some(bind_hint(*address, source)),
            FrontError::Listener { .. } => None,
            FrontError::Path { .. } => Some(
                "a path begins with `/`, is there once, and a part in braces must be a whole part: `/room/{id}`".into(),
            ),
            FrontError::NoChannel { .. } => {
                Some("name at least one channel: `channels = [\"chat\"]`; messages of browsers go to the first".into())
            }
            FrontError::EmptyToken { .. } => {
                Some("anybody would be let in: set a token, or say `handshake = \"open\"` if that is meant".into())
            }
            FrontError::Files { folder, .. } => Some(format!(
                "`files` of [front] must name a folder that can be read: look at `ls -ld {}`",
                folder.display()
            )),
        }
    }
}

fn bind_hint(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there: `ss -ltnp 'sport = :{port}'` shows which; stop it or change `listen` of [front]"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} is reserved: take one from 1024 on, or grant the capability cap_net_bind_service")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface of this host has the address {}: change `listen` of [front]", address.ip())
        }
        _ => "change `listen` of [front]".into(),
    }
}
