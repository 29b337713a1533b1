//! Who is answered. Pure: looks at the head of a request and nothing else.
//!
//! Three dangers, three rules:
//! - *DNS rebinding*: a foreign page makes its own name point at loopback and reads us as its own site. On loopback
//!   only the names of loopback are accepted as `Host`.
//! - *Foreign sites*: a browser says where a request comes from (`Sec-Fetch-Site`, else `Origin`); others than the page
//!   itself are refused, except for following a link to the page.
//! - *Other people*: with a token set, whoever has not got it. `/healthz` is for probes and tells only that we live.
//!
//! Invariants
//! - Tokens are compared in constant time and appear in no answer, log or `Debug`.

use std::net::{IpAddr, SocketAddr};

use hyper::http::HeaderMap;
use hyper::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Uri, Version};
use subtle::ConstantTimeEq;

use super::bind::is_loopback;
use super::routes::Route;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What has to be known to let somebody in.
pub struct Guard {
    address: SocketAddr,
    token: Option<String>,
}

/// Why somebody is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    #[error("a request names its host once")]
    NoHost,
    #[error("this page is for this machine: open it as http://localhost or http://127.0.0.1 with its port")]
    ForeignHost,
    #[error("requests from other sites are not answered")]
    CrossSite,
    #[error("a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN`")]
    NoToken,
}

impl Guard {
    /// For a server at `address`, which asks for `token` if there is one. An empty token is none.
    pub fn new(address: SocketAddr, token: Option<String>) -> Guard {
        Guard { address, token: token.filter(|token| !token.is_empty()) }
    }

    /// Whether `request` to `route` may be answered.
    pub fn admit(&self, route: Route, request: &Parts) -> Result<(), Denial> {
        self.check_host(request)?;
        check_site(route, &request.headers)?;
        if route.is_public() || self.has_token(request) { Ok(()) } else { Err(Denial::NoToken) }
    }

    fn check_host(&self, request: &Parts) -> Result<(), Denial> {
        let mut hosts = request.headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Denial::ForeignHost)?,
            // Old probes speak HTTP/1.0 without a host; browsers never do.
            (None, _) if request.version == Version::HTTP_10 => return Ok(()),
            _ => return Err(Denial::NoHost),
        };
        let in_target = request.uri.authority().map(|authority| authority.as_str());
        if std::iter::once(host).chain(in_target).all(|host| self.is_ours(host)) {
            Ok(())
        } else {
            Err(Denial::ForeignHost)
        }
    }

    /// Beyond loopback we may have any name, and the token keeps strangers out.
    fn is_ours(&self, authority: &str) -> bool {
        !is_loopback(self.address) || is_name_of_loopback(authority) || authority == self.address.to_string()
    }

    fn has_token(&self, request: &Parts) -> bool {
        let Some(token) = &self.token else { return true };
        let is_it = |given: &[u8]| bool::from(given.ct_eq(token.as_bytes()));
        bearer(&request.headers).is_some_and(is_it) || in_query(&request.uri).is_some_and(|given| is_it(&given))
    }
}

/// `localhost`, or an address of loopback, with or without a port.
fn is_name_of_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty() => host,
        // `[::1]` has colons of its own.
        _ => authority,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Browsers that know `Sec-Fetch-Site` send it to loopback and over TLS; to other plain addresses they send at most
/// `Origin`. Programs send neither.
fn check_site(route: Route, headers: &HeaderMap) -> Result<(), Denial> {
    let follows_a_link = route == Route::Page && headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
    let is_own = match (headers.get(SEC_FETCH_SITE), headers.get(ORIGIN)) {
        (Some(site), _) => site == "same-origin" || site == "none" || follows_a_link,
        (None, Some(origin)) => is_origin_of(origin.as_bytes(), headers),
        (None, None) => true,
    };
    if is_own { Ok(()) } else { Err(Denial::CrossSite) }
}

fn is_origin_of(origin: &[u8], headers: &HeaderMap) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    authority.is_some() && authority == headers.get(HOST).map(|host| host.as_bytes())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_first_chunk::<7>()?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn in_query(uri: &Uri) -> Option<Vec<u8>> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token=")).map(percent_decoded)
}

/// `%41` is `A`; what only looks like an escape stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = if first == b'%' { behind.first_chunk::<2>().and_then(hex_pair) } else { None };
        decoded.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    decoded
}

fn hex_pair(pair: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9615";

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(Request::builder().uri(uri), |head, (name, value)| head.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn guard(address: &str, token: Option<&str>) -> Guard {
        Guard::new(address.parse().unwrap(), token.map(str::to_owned))
    }

    #[test]
    fn on_loopback_only_the_names_of_loopback_are_answered() {
        let guard = guard(LOOPBACK, None);
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9615", "127.0.0.9", "[::1]", "[::1]:80"] {
            assert_eq!(guard.admit(Route::Status, &head("/", &[("host", host)])), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9615", "localhost@evil", "", ":80"]
        {
            let denied = guard.admit(Route::Health, &head("/", &[("host", host)]));
            assert_eq!(denied, Err(Denial::ForeignHost), "{host}");
        }
    }

    #[test]
    fn a_foreign_name_in_the_request_line_is_refused_too() {
        let head = head("http://evil.example/", &[("host", "localhost")]);
        assert_eq!(guard(LOOPBACK, None).admit(Route::Page, &head), Err(Denial::ForeignHost));
    }

    #[test]
    fn no_host_or_two_are_refused_except_from_old_probes() {
        let guard = guard(LOOPBACK, None);
        let two = head("/", &[("host", "localhost"), ("host", "localhost")]);
        let mut none = head("/", &[]);
        assert_eq!(guard.admit(Route::Health, &two), Err(Denial::NoHost));
        assert_eq!(guard.admit(Route::Health, &none), Err(Denial::NoHost));
        none.version = Version::HTTP_10;
        assert_eq!(guard.admit(Route::Health, &none), Ok(()));
    }

    #[test]
    fn beyond_loopback_any_name_is_answered_and_the_token_asked_for() {
        let guard = guard("0.0.0.0:9615", Some("t"));
        assert_eq!(guard.admit(Route::Health, &head("/", &[("host", "box.example")])), Ok(()));
        assert_eq!(guard.admit(Route::Status, &head("/", &[("host", "box.example")])), Err(Denial::NoToken));
    }

    #[test]
    fn other_sites_are_refused_except_for_a_link_to_the_page() {
        let guard = guard(LOOPBACK, None);
        let from = |site, mode| head("/", &[("host", LOOPBACK), ("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        for site in ["cross-site", "same-site", "anything"] {
            assert_eq!(guard.admit(Route::Status, &from(site, "cors")), Err(Denial::CrossSite));
            assert_eq!(guard.admit(Route::Status, &from(site, "navigate")), Err(Denial::CrossSite));
            assert_eq!(guard.admit(Route::Page, &from(site, "no-cors")), Err(Denial::CrossSite));
            assert_eq!(guard.admit(Route::Page, &from(site, "navigate")), Ok(()));
        }
        assert_eq!(guard.admit(Route::Status, &from("same-origin", "cors")), Ok(()));
        assert_eq!(guard.admit(Route::Status, &from("none", "navigate")), Ok(()));
    }

    #[test]
    fn a_browser_that_tells_only_its_origin_is_held_to_that() {
        let guard = guard("0.0.0.0:9615", None);
        let from = |origin| head("/", &[("host", "box:9615"), ("origin", origin)]);
        assert_eq!(guard.admit(Route::Status, &from("http://box:9615")), Ok(()));
        for origin in ["http://box:9616", "http://evil", "null", ""] {
            assert_eq!(guard.admit(Route::Status, &from(origin)), Err(Denial::CrossSite), "{origin}");
        }
    }

    #[test]
    fn the_token_comes_as_bearer_or_in_the_query() {
        let guard = guard(LOOPBACK, Some("s3cret/ä"));
        let host = ("host", LOOPBACK);
        let admitted = |head: Parts| guard.admit(Route::Status, &head) == Ok(());
        assert!(admitted(head("/?a=1&token=s3cret%2f%C3%A4", &[host])));
        assert!(admitted(head("/", &[host, ("authorization", "Bearer s3cret/ä")])));
        assert!(admitted(head("/", &[host, ("authorization", "bearer  s3cret/ä ")])));
        for uri in ["/", "/?token=", "/?token=s3cret/", "/?xtoken=s3cret%2f%C3%A4", "/?token=%", "/?token=%zz"] {
            assert!(!admitted(head(uri, &[host])), "{uri}");
        }
        for value in ["Bearer", "Bearer ", "Basic s3cret/ä", "Bearer s3cret", "Bearer s3cret/ä2"] {
            assert!(!admitted(head("/", &[host, ("authorization", value)])), "{value}");
        }
    }

    #[test]
    fn health_and_the_files_of_the_page_need_no_token() {
        let guard = guard(LOOPBACK, Some("t"));
        let admitted = |route| guard.admit(route, &head("/", &[("host", LOOPBACK)])) == Ok(());
        assert!(admitted(Route::Health) && admitted(Route::Asset));
        assert!(![Route::Page, Route::Status, Route::Metrics, Route::Ready].into_iter().any(admitted));
    }
}
