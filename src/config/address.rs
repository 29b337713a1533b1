//! Addresses to listen on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::spec::ListenAddress;

/// Bytes of the longest path of a Unix socket.
pub const MAX_SOCKET_PATH: usize = 107;

/// Reads `tcp://HOST:PORT` (`tcp://` may be left out) or `unix:///PATH`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn listen(text: &str) -> Result<ListenAddress, String> {
    let Some(path) = text.strip_prefix("unix:") else { return tcp(text).map(ListenAddress::Tcp) };
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err(format!("`{text}` needs an absolute path: unix:///run/app.sock"));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "the path of `{text}` has {} bytes; a socket's path may have {MAX_SOCKET_PATH}",
            path.len()
        ));
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

/// Reads `HOST:PORT`, with or without `tcp://`. The host is an IP address or `localhost`: what a name stands for may
/// change, what is bound may not.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn tcp(text: &str) -> Result<SocketAddr, String> {
    let rest = text.strip_prefix("tcp://").unwrap_or(text);
    if let Ok(address) = rest.parse() {
        return Ok(address);
    }
    let such_as = "write for instance tcp://127.0.0.1:8080";
    if rest.contains("://") {
        return Err(format!("`{text}` has an unknown scheme; {such_as} or unix:///run/app.sock"));
    }
    let Some((host, port)) = rest.rsplit_once(':') else { return Err(format!("`{text}` has no port; {such_as}")) };
    let port: u16 = port.parse().map_err(|_| format!("`{text}` has no port from 0 to 65535; {such_as}"))?;
    match host {
        "localhost" => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        "" | "*" => Err(format!("`{text}` has no host; for all addresses write tcp://0.0.0.0:{port}")),
        _ => Err(format!("`{host}` in `{text}` is not an IP address; {such_as}")),
    }
}

/// An address as it is written.
pub fn display(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => format!("tcp://{address}"),
        ListenAddress::Unix(path) => format!("unix://{}", path.display()),
    }
}

/// Whether both cannot be bound at once. Port 0 is any free port and is in nobody's way.
pub fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let same_family = a.is_ipv4() == b.is_ipv4();
            let covers = a.ip() == b.ip() || (same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()));
            a.port() == b.port() && a.port() != 0 && covers
        }
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for (text, shown) in [
            ("tcp://127.0.0.1:8080", "tcp://127.0.0.1:8080"),
            ("0.0.0.0:0", "tcp://0.0.0.0:0"),
            ("localhost:80", "tcp://127.0.0.1:80"),
            ("tcp://[::1]:80", "tcp://[::1]:80"),
            ("unix:///run/a.sock", "unix:///run/a.sock"),
        ] {
            assert_eq!(listen(text).map(|address| display(&address)), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn a_bad_address_says_what_it_lacks() {
        for (text, says) in [
            ("8080", "`8080` has no port; write for instance tcp://127.0.0.1:8080"),
            ("tcp://:8080", "`tcp://:8080` has no host; for all addresses write tcp://0.0.0.0:8080"),
            (
                "tcp://1.2.3.4:99999",
                "`tcp://1.2.3.4:99999` has no port from 0 to 65535; write for instance tcp://127.0.0.1:8080",
            ),
            (
                "example.org:80",
                "`example.org` in `example.org:80` is not an IP address; write for instance tcp://127.0.0.1:8080",
            ),
            (
                "udp://1.2.3.4:1",
                "`udp://1.2.3.4:1` has an unknown scheme; write for instance tcp://127.0.0.1:8080 or unix:///run/app.sock",
            ),
            ("unix://run/a", "`unix://run/a` needs an absolute path: unix:///run/app.sock"),
        ] {
            assert_eq!(listen(text), Err(says.to_owned()));
        }
        assert!(listen(&format!("unix:///{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn all_addresses_of_a_port_include_each() {
        let address = |text| listen(text).unwrap();
        assert!(collide(&address("0.0.0.0:80"), &address("127.0.0.1:80")));
        assert!(!collide(&address("127.0.0.2:80"), &address("127.0.0.1:80")));
        assert!(!collide(&address("127.0.0.1:0"), &address("127.0.0.1:0")));
        assert!(collide(&address("unix:///a"), &address("unix:///a")));
    }
}
