//! The status server over real sockets.

mod metrics;
mod page;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::server::{Limits, serve_within};
use super::{History, Look, fixture, serve};
use crate::snapshot::{Snapshot, Status};

const PATIENCE: Duration = Duration::from_secs(60);

/// A status server and the supervisor that it asks.
struct Served {
    address: SocketAddr,
    /// What the supervisor answers from now on.
    shown: watch::Sender<Snapshot>,
    history: History,
    shutdown: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    supervisor: JoinHandle<()>,
}

impl Served {
    fn start(token: Option<&str>, snapshot: Snapshot) -> Served {
        Served::start_within(Limits::USUAL, 0, token, snapshot)
    }

    /// The supervisor leaves the first `unanswered` questions without an answer.
    fn start_within(limits: Limits, mut unanswered: u32, token: Option<&str>, snapshot: Snapshot) -> Served {
        let (questions, mut asked) = mpsc::channel::<oneshot::Sender<Snapshot>>(4);
        let (shown, showing) = watch::channel(snapshot);
        let supervisor = tokio::spawn(async move {
            while let Some(reply) = asked.recv().await {
                if unanswered > 0 {
                    unanswered -= 1;
                    continue;
                }
                // Whoever asked may have given up.
                let _ = reply.send(showing.borrow().clone());
            }
        });
        let port = std::env::var("HERDWIRE_LOOK_PORT").unwrap_or("0".into());
        let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
        let address = listener.local_addr().unwrap();
        let (history, shutdown) = (History::default(), CancellationToken::new());
        let look = Look::new(questions, history.clone());
        let token = token.map(str::to_owned);
        let server = tokio::spawn(serve_within(limits, listener, token, look, shutdown.clone()));
        Served { address, shown, history, shutdown, server, supervisor }
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        let host = self.address.to_string();
        let mut request = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in
            [("host", host.as_str())].iter().filter(|_| !headers.iter().any(|(name, _)| *name == "host")).chain(headers)
        {
            request += &format!("{name}: {value}\r\n");
        }
        Reply::read(self.raw(request + "\r\n").await)
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[]).await
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, request: String) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut reply)).await.unwrap().unwrap();
        reply
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.server).await.unwrap().unwrap().unwrap();
        timeout(PATIENCE, self.supervisor).await.unwrap().unwrap();
    }
}

struct Reply {
    code: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(bytes: Vec<u8>) -> Reply {
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { code, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[tokio::test]
async fn every_route_answers_with_its_kind_and_the_same_guards() {
    let served = Served::start(None, fixture::busy());
    for (target, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/assets/page.js", "text/javascript; charset=utf-8"),
        ("/assets/page.css", "text/css; charset=utf-8"),
        ("/assets/mark.svg", "image/svg+xml"),
        ("/api/v1/status", "application/json"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
    ] {
        let reply = served.get(target).await;
        assert_eq!((reply.code, reply.header("content-type")), (200, Some(kind)), "{target}");
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"), "{target}");
        assert!(!reply.header("content-security-policy").unwrap().contains("unsafe"), "{target}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{target}");
    }
    served.stop().await;
}

#[tokio::test]
async fn head_says_what_get_would_and_sends_no_body() {
    let served = Served::start(None, fixture::busy());
    for target in ["/", "/api/v1/status", "/metrics", "/healthz", "/nothing"] {
        let (get, head) = (served.get(target).await, served.ask("HEAD", target, &[]).await);
        assert_eq!((head.code, head.body.as_str()), (get.code, ""), "{target}");
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{target}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{target}");
    }
    served.stop().await;
}

#[tokio::test]
async fn other_methods_are_told_which_are_allowed_and_other_paths_are_not_found() {
    let served = Served::start(None, fixture::busy());
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let reply = served.ask(method, "/api/v1/status", &[]).await;
        assert_eq!((reply.code, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    for target in [
        "/nothing",
        "/api/v1/status/",
        "/assets/",
        "/assets/../page.html",
        "/assets/..%2fmod.rs",
        "//",
        "/assets/page.html",
    ] {
        assert_eq!(served.get(target).await.code, 404, "{target}");
    }
    served.stop().await;
}

#[tokio::test]
async fn with_a_token_only_health_and_the_files_of_the_page_are_open() {
    let served = Served::start(Some("open sesame"), fixture::busy());
    for target in ["/", "/api/v1/status", "/metrics", "/readyz", "/api/v1/status?token=wrong"] {
        let reply = served.get(target).await;
        assert_eq!((reply.code, reply.header("www-authenticate")), (401, Some("Bearer")), "{target}");
        assert!(!reply.body.contains("open sesame") && !reply.body.contains("market"), "{target}");
    }
    for target in ["/healthz", "/assets/page.js", "/?token=open%20sesame", "/metrics?token=open%20sesame"] {
        assert_eq!(served.get(target).await.code, 200, "{target}");
    }
    let bearer = [("authorization", "Bearer open sesame")];
    assert_eq!(served.ask("GET", "/api/v1/status", &bearer).await.code, 200);
    served.stop().await;
}

#[tokio::test]
async fn foreign_hosts_and_foreign_sites_are_refused_with_a_sentence() {
    let served = Served::start(None, fixture::busy());
    for headers in
        [[("host", "evil.example:9615")], [("sec-fetch-site", "cross-site")], [("origin", "http://evil.example")]]
    {
        let reply = served.ask("GET", "/api/v1/status", &headers).await;
        assert_eq!(reply.code, 403, "{headers:?}");
        assert!(!reply.body.contains("market"), "{headers:?}");
    }
    assert_eq!(served.ask("GET", "/api/v1/status", &[("host", "localhost")]).await.code, 200);
    served.stop().await;
}

#[tokio::test]
async fn the_json_is_the_snapshot_and_the_samples_since() {
    let snapshot = fixture::busy();
    let served = Served::start(None, snapshot.clone());
    for at in 0..5 {
        served.history.record(at, &snapshot);
    }
    let json = served.get("/api/v1/status").await.json();
    let (mut fields, history) = (json.clone(), &json["history"]);
    fields.as_object_mut().unwrap().remove("history");
    assert_eq!(serde_json::from_value::<Snapshot>(fields).unwrap(), snapshot);
    assert_eq!((&history["count"], &history["whole"]), (&Value::from(5), &Value::from(true)));
    assert_eq!(history["instances"]["0"]["cpu_percent"].as_array().unwrap().len(), 5);
    assert_eq!(history["instances"]["7"]["memory_bytes"][0], Value::Null);
    assert_eq!(history["channels"]["market"]["ticks"].as_array().unwrap().len(), 5);
    let later = served.get("/api/v1/status?since=4").await.json();
    assert_eq!(later["history"]["instances"]["0"]["cpu_percent"].as_array().unwrap().len(), 1);
    served.stop().await;
}

#[tokio::test]
async fn ready_means_that_every_instance_that_is_wanted_is_online() {
    let mut snapshot = fixture::busy();
    let served = Served::start(None, snapshot.clone());
    let reply = served.get("/readyz").await;
    assert_eq!(reply.code, 503);
    assert!(reply.body.contains("thumbnailer (instance 7) is errored"), "{}", reply.body);
    served.stop().await;
    snapshot.instances.retain(|instance| matches!(instance.status, Status::Online | Status::Stopped));
    let served = Served::start(None, snapshot);
    assert_eq!(served.get("/readyz").await.code, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_supervisor_that_does_not_answer_is_reported_within_the_time_limit() {
    let (questions, asked) = mpsc::channel::<oneshot::Sender<Snapshot>>(1);
    let served = Served::start(None, fixture::empty());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Served {
        address: listener.local_addr().unwrap(),
        server: tokio::spawn(serve(listener, None, Look::new(questions, History::default()), served.shutdown.clone())),
        ..served
    };
    let begin = Instant::now();
    for target in ["/healthz", "/api/v1/status"] {
        let reply = silent.get(target).await;
        assert_eq!(reply.code, 503, "{target}");
        assert!(reply.body.contains("does not answer"), "{target}");
    }
    assert!(begin.elapsed() >= Duration::from_secs(2), "it was given its time");
    drop(asked);
    silent.stop().await;
}

#[tokio::test]
async fn a_head_that_is_broken_or_too_large_is_refused_and_others_are_answered() {
    let served = Served::start(None, fixture::empty());
    for (request, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(64 << 10)), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(64 << 10)), 431),
    ] {
        let reply = String::from_utf8(served.raw(request).await).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {code}")), "{reply}");
    }
    assert_eq!(served.get("/healthz").await.code, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let served = Served::start(None, fixture::empty());
    let reply = served.ask("GET", "/healthz", &[("content-length", "1000000000")]).await;
    assert_eq!(reply.code, 200);
    served.stop().await;
}

async fn connected(served: &Served, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream
}

async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset ends a connection just as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    rest
}

#[tokio::test]
async fn a_connection_that_never_finishes_its_head_is_closed() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::USUAL };
    let served = Served::start_within(limits, 0, None, fixture::empty());
    for sent in ["", "GET / HTTP/1.1\r\nhost: loc", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        closed(&mut connected(&served, sent).await).await;
    }
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_place() {
    let limits =
        Limits { connections: 1, life: Duration::from_millis(50), grace: Duration::from_millis(50), ..Limits::USUAL };
    let served = Served::start_within(limits, 0, None, fixture::busy());
    // Far more than the buffers of both ends take.
    let deaf = connected(&served, &"GET /assets/view.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2000)).await;
    assert_eq!(served.get("/healthz").await.code, 200);
    drop(deaf);
    served.stop().await;
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_waits_for_one() {
    let served = Served::start_within(Limits { connections: 2, ..Limits::USUAL }, 0, None, fixture::empty());
    let (first, _second) = (connected(&served, "").await, connected(&served, "").await);
    let mut third = connected(&served, "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    timeout(Duration::from_millis(100), third.readable()).await.unwrap_err();
    drop(first);
    assert!(closed(&mut third).await.starts_with(b"HTTP/1.1 200"));
    served.stop().await;
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_frees_the_address() {
    let served = Served::start(None, fixture::empty());
    let address = served.address;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    idle.readable().await.unwrap();
    served.stop().await;
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200"));
    // A process that another test is just starting holds a copy of every descriptor until its exec.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = std::net::TcpListener::bind(address) {
        assert!(Instant::now() < deadline, "{error}");
        tokio::task::yield_now().await;
    }
}
