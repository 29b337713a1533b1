//! Listening sockets that the supervisor binds once and every instance of an app inherits.
//!
//! Owns nothing: the descriptor goes to the store. Sockets are close-on-exec here and blocking, as programs that take
//! over a socket expect it; who wants another mode sets it himself.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::spec::ListenAddress;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    #[error("tcp://{address} is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    TcpInUse { address: SocketAddr, holder: Option<Holder> },
    #[error("cannot listen on tcp://{address}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("unix://{} is in use: somebody answers there", path.display())]
    UnixInUse { path: PathBuf },
    #[error("unix://{} is there already and is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot listen on unix://{}", path.display())]
    Unix { path: PathBuf, source: io::Error },
}

impl BindError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            BindError::TcpInUse { .. } => "stop the other program or choose another port",
            BindError::UnixInUse { .. } => "stop the other program or choose another path",
            BindError::NotASocket { .. } => "choose another path, or move the file away",
            BindError::Tcp { source, .. } => match source.raw_os_error()? {
                libc::EACCES => "ports below 1024 need a right (CAP_NET_BIND_SERVICE): choose a higher one",
                libc::EADDRNOTAVAIL => "this machine has no such address",
                libc::EMFILE | libc::ENFILE => "no descriptor is left: raise the limit on open files (ulimit -n)",
                _ => return None,
            },
            BindError::Unix { path, source } => match source.raw_os_error() {
                Some(libc::ENOENT) => "create the folder first",
                Some(libc::EACCES) => "the folder is not writable",
                // The library refuses a path that is too long before it asks the kernel.
                _ if path.as_os_str().len() > 107 => "a socket's path may have 107 bytes at most",
                _ => return None,
            },
        };
        Some(hint.to_owned())
    }
}

/// A process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Binds and listens. A socket file that nobody answers on is replaced.
///
/// # Errors
/// Which address, why, and, where it can be found, who holds it.
pub fn bind(address: &ListenAddress) -> Result<OwnedFd, BindError> {
    match address {
        ListenAddress::Tcp(address) => bind_tcp(*address),
        ListenAddress::Unix(path) => bind_unix(path),
    }
}

/// Where a socket listens in truth: tells the port when 0 was asked for. `None` for a socket without an IP address.
pub fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    Socket::from(socket.try_clone().ok()?).local_addr().ok()?.as_socket()
}

fn bind_tcp(address: SocketAddr) -> Result<OwnedFd, BindError> {
    let attempt = || -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Connections of the socket before that linger in TIME_WAIT must not keep the port.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    attempt().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::TcpInUse { address, holder: holder(address.port()) },
        _ => BindError::Tcp { address, source },
    })
}

fn bind_unix(path: &Path) -> Result<OwnedFd, BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    let name = SockAddr::unix(path).map_err(failed)?;
    remove_stale(path, &name)?;
    let attempt = || -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&name)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    attempt().map_err(failed)
}

/// A socket file outlives its socket. Only one that refuses connections is removed.
fn remove_stale(path: &Path, name: &SockAddr) -> Result<(), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // A full backlog must not make us wait.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(name) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(BindError::UnixInUse { path: path.to_owned() }),
    }
}

/// Who listens on a port of this machine, as far as we may look.
fn holder(port: u16) -> Option<Holder> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find_map(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        if !targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str())) {
            return None;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Holder { pid, name: name.trim().escape_debug().to_string() })
    })
}

/// Inodes of the listening sockets of a port, from a table like /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&wanted) && row[3] == LISTEN)
        .map(|row| row[9].to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_port_in_use_is_refused_and_its_holder_is_named() {
        let socket = bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = local_address(&socket).unwrap();
        let error = bind(&ListenAddress::Tcp(address)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("tcp://{address} is in use by ")), "{text}");
        assert!(text.ends_with(&format!("(pid {})", std::process::id())), "{text}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_port_is_free_again_while_old_connections_linger() {
        use std::io::Read;
        let socket = bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = local_address(&socket).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let mut client = std::net::TcpStream::connect(address).unwrap();
        // The server closes first, so the lingering end is at this port.
        drop(listener.accept().unwrap());
        client.read_to_end(&mut Vec::new()).unwrap();
        drop(client);
        drop(listener);
        bind(&ListenAddress::Tcp(address)).unwrap();
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        drop(UnixListener::bind(&path).unwrap());
        let address = ListenAddress::Unix(path.clone());
        let socket = bind(&address).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&address), Err(BindError::UnixInUse { .. })));
        drop(socket);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&ListenAddress::Unix(path.clone())), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_path_that_is_too_long_or_leads_nowhere_says_what_to_do() {
        let error = bind(&ListenAddress::Unix(format!("/tmp/{}", "x".repeat(120)).into())).unwrap_err();
        assert!(error.hint().unwrap().contains("107"), "{error:?}");
        let error = bind(&ListenAddress::Unix("/nowhere/at/all.sock".into())).unwrap_err();
        assert_eq!(error.hint().unwrap(), "create the folder first");
    }
}
