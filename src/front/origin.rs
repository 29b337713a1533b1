//! Whether a page of some origin may open a WebSocket here.
//!
//! Browsers let any page connect anywhere and only say, in `Origin`, where the page came from; so the check is ours.
//! A client that sends no `Origin` is no browser, and is kept out by a token if at all.

/// Decides by the `Origin` and `Host` of the request and the configured list. With an empty list a page must come from
/// the host it connects to; with a list it must be among it. The names of loopback count as one.
pub fn allowed(origin: Option<&str>, host: Option<&str>, listed: &[String]) -> bool {
    let Some(origin) = origin else {
        return true;
    };
    let Some(page) = Site::of_origin(origin) else {
        // `null` (a sandboxed page, a local file) is nobody's origin unless it is listed as such.
        return listed.iter().any(|entry| entry == origin);
    };
    if listed.is_empty() {
        host.and_then(|host| Site::of_authority(page.scheme, host)).is_some_and(|here| here.is_same_host(&page))
    } else {
        listed.iter().filter_map(|entry| Site::of_origin(entry)).any(|entry| entry.is_same(&page))
    }
}

/// Scheme, host and port, the port filled in.
struct Site<'a> {
    scheme: &'a str,
    host: &'a str,
    port: u16,
}

impl<'a> Site<'a> {
    fn of_origin(origin: &'a str) -> Option<Site<'a>> {
        let (scheme, authority) = origin.split_once("://")?;
        Site::of_authority(scheme, authority.strip_suffix('/').unwrap_or(authority))
    }

    fn of_authority(scheme: &'a str, authority: &'a str) -> Option<Site<'a>> {
        let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        // The colons of an IPv6 address are inside its brackets.
        let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_brackets..].rfind(':') {
            Some(colon) => {
                let colon = after_brackets + colon;
                (&authority[..colon], authority[colon + 1..].parse().ok()?)
            }
            None => (authority, default),
        };
        let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
        plain.then_some(Site { scheme, host, port })
    }

    fn is_same(&self, other: &Site<'_>) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme) && self.is_same_host(other)
    }

    fn is_same_host(&self, other: &Site<'_>) -> bool {
        let same_name = self.host.eq_ignore_ascii_case(other.host);
        self.port == other.port && (same_name || (is_loopback(self.host) && is_loopback(other.host)))
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(origin: &str, host: &str) -> bool {
        allowed(Some(origin), Some(host), &[])
    }

    #[test]
    fn a_page_of_the_same_host_may_connect() {
        assert!(own("http://example.org", "example.org"));
        assert!(own("http://example.org:8080", "EXAMPLE.org:8080"));
        assert!(own("https://example.org", "example.org"));
        assert!(own("https://example.org", "example.org:443"));
        assert!(own("http://[::2]:80", "[::2]"));
    }

    #[test]
    fn a_page_of_another_host_or_port_may_not() {
        assert!(!own("http://evil.example", "example.org"));
        assert!(!own("http://example.org.evil.example", "example.org"));
        assert!(!own("http://example.org:81", "example.org"));
        assert!(!own("http://example.org@evil.example", "evil.example"));
        assert!(!own("null", "example.org"));
        assert!(!own("", "example.org"));
        assert!(!own("example.org", "example.org"));
        assert!(!own("http://example.org:port", "example.org"));
        assert!(!allowed(Some("http://example.org"), None, &[]));
    }

    #[test]
    fn the_names_of_loopback_are_one_host_but_ports_count() {
        assert!(own("http://localhost:3000", "127.0.0.1:3000"));
        assert!(own("http://[::1]:3000", "localhost:3000"));
        assert!(!own("http://localhost:3001", "127.0.0.1:3000"));
        assert!(!own("http://localhost.evil.example:3000", "localhost:3000"));
    }

    #[test]
    fn with_a_list_only_the_list_counts() {
        let listed = ["https://app.example.org".to_owned(), "http://localhost:5173/".to_owned()];
        assert!(allowed(Some("https://app.example.org"), Some("api.example.org"), &listed));
        assert!(allowed(Some("https://app.example.org:443"), Some("api.example.org"), &listed));
        assert!(allowed(Some("http://127.0.0.1:5173"), Some("api.example.org"), &listed));
        assert!(!allowed(Some("http://app.example.org"), Some("app.example.org"), &listed));
        assert!(!allowed(Some("https://api.example.org"), Some("api.example.org"), &listed));
        assert!(!allowed(Some("null"), Some("api.example.org"), &listed));
    }

    #[test]
    fn a_client_that_is_no_browser_has_no_origin() {
        assert!(allowed(None, Some("example.org"), &[]));
        assert!(allowed(None, None, &["https://app.example.org".to_owned()]));
    }
}
