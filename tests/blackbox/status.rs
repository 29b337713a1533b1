//! The status server: page, JSON, metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::herdwire::{Herdwire, SOON};

/// Status code, head and body of one GET.
pub fn get(address: SocketAddr, path: &str, header: &str) -> (u16, String, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n").unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, head.to_owned(), body.to_owned())
}

fn address(herdwire: &Herdwire) -> SocketAddr {
    herdwire.ping()["status"]["address"].as_str().expect("an address").parse().unwrap()
}

#[test]
fn the_page_the_json_and_the_metrics_tell_what_runs() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap", "-i", "2"]);
    let address = address(&herdwire);
    let (code, head, page) = get(address, "/", "");
    assert_eq!(code, 200);
    assert!(head.to_lowercase().contains("content-type: text/html") && page.contains("<html"), "{head}");

    let (code, _, body) = get(address, "/api/v1/status", "");
    let picture: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert!(body.contains(&herdwire.instances("nap")[0].pid.to_string()), "{picture:#}");
    // Whoever looks finds the beginning of a curve.
    assert!(picture["history"]["instances"]["0"]["memory_bytes"].is_array(), "{picture:#}");

    let (code, head, metrics) = get(address, "/metrics", "");
    assert_eq!(code, 200);
    assert!(head.contains("openmetrics"), "{head}");
    assert!(metrics.contains("nap") && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    assert_eq!(get(address, "/nothing", "").0, 404);
}

#[test]
fn the_status_server_is_where_it_was_after_the_supervisor_died() {
    let herdwire = Herdwire::new();
    herdwire.ok(&["start", "sleep 1000", "-n", "nap"]);
    let before = address(&herdwire);
    herdwire.kill_supervisor();
    assert_eq!(address(&herdwire), before);
    assert_eq!(get(before, "/healthz", "").0, 200);
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let herdwire = Herdwire::new();
    herdwire.write(
        "herdwire.toml",
        "[status]\nlisten = \"127.0.0.1:0\"\ntoken = \"a-long-secret\"\n[[app]]\nname = \"nap\"\nscript = \"sleep 1000\"\n",
    );
    herdwire.ok(&["start"]);
    let address = address(&herdwire);
    assert_eq!(get(address, "/api/v1/status", "").0, 401);
    assert_eq!(get(address, "/api/v1/status", "Authorization: Bearer wrong\r\n").0, 401);
    assert_eq!(get(address, "/api/v1/status", "Authorization: Bearer a-long-secret\r\n").0, 200);
    assert!(!herdwire.own_log().contains("a-long-secret"));
}
