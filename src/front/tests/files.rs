//! Static files: what is served, and above all what is not.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::client::{Raw, get, request, soon};
use super::stand::{Plan, Stand};

/// A folder with pages, next to a file that is nobody's business.
async fn site() -> (tempfile::TempDir, Stand) {
    let dir = tempfile::tempdir().unwrap();
    let public = dir.path().join("public");
    fs::create_dir_all(public.join("sub")).unwrap();
    fs::create_dir_all(public.join(".git")).unwrap();
    fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    fs::write(public.join("index.html"), "<h1>front</h1>").unwrap();
    fs::write(public.join("app.js"), "1").unwrap();
    fs::write(public.join("sub/index.html"), "sub").unwrap();
    fs::write(public.join("empty.css"), "").unwrap();
    fs::write(public.join(".env"), "secret").unwrap();
    fs::write(public.join(".git/config"), "secret").unwrap();
    fs::write(public.join("large.bin"), large()).unwrap();
    symlink(dir.path().join("secret.txt"), public.join("out.txt")).unwrap();
    symlink(dir.path(), public.join("up")).unwrap();
    symlink(public.join(".env"), public.join("env.txt")).unwrap();
    symlink(public.join("app.js"), public.join("alias.js")).unwrap();
    nix::unistd::mkfifo(&public.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut plan = Plan::new();
    plan.settings.files = Some(public);
    let stand = plan.start().await;
    (dir, stand)
}

fn large() -> Vec<u8> {
    (0..1_000_003u32).map(|number| (number % 251) as u8).collect()
}

#[tokio::test]
async fn files_are_served_with_their_type_and_folders_with_their_index() {
    let (_dir, stand) = site().await;
    for (path, content_type, body) in [
        ("/", "text/html; charset=utf-8", "<h1>front</h1>"),
        ("/index.html?v=1", "text/html; charset=utf-8", "<h1>front</h1>"),
        ("/app.js", "text/javascript; charset=utf-8", "1"),
        ("/alias.js", "text/javascript; charset=utf-8", "1"),
        ("/sub/", "text/html; charset=utf-8", "sub"),
        ("/empty.css", "text/css; charset=utf-8", ""),
    ] {
        let answer = get(stand.address(), path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, body), "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
    }
    let answer = get(stand.address(), "/sub").await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("/sub/")));
}

#[tokio::test]
async fn nothing_outside_the_folder_and_nothing_hidden_is_served() {
    let (_dir, stand) = site().await;
    for path in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/../../secret.txt",
        "/sub/%2e%2e%2f%2e%2e%2fsecret.txt",
        "//secret.txt",
        "/up/secret.txt",
        "/up/public/app.js/../../secret.txt",
        "/out.txt",
        "/env.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/pipe",
        "/sub/none",
        "/app.js/",
        "/app.js/x",
        "/index.html%00.js",
    ] {
        let answer = get(stand.address(), path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("secret"), "{path}");
    }
    // Whatever hyper makes of an absolute form or none: it is not the file.
    for target in ["http://x/../secret.txt", "*", "secret.txt"] {
        let answer =
            request(stand.address(), &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(matches!(answer.status, 400 | 404), "{target}");
        assert!(!answer.text().contains("secret"));
    }
}

#[tokio::test]
async fn a_large_file_comes_whole_and_its_head_alone_when_asked() {
    let (_dir, stand) = site().await;
    let answer = get(stand.address(), "/large.bin").await;
    assert_eq!(answer.header("content-length"), Some("1000003"));
    assert!(answer.body == large());
    let answer = request(stand.address(), "HEAD /large.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1000003")));
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn a_browser_that_has_the_file_already_is_told_so_until_it_changes() {
    let (dir, stand) = site().await;
    let tag = get(stand.address(), "/app.js").await.header("etag").unwrap().to_owned();
    let again = format!("GET /app.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIf-None-Match: \"x\", {tag}\r\n\r\n");
    let answer = request(stand.address(), &again).await;
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    fs::write(dir.path().join("public/app.js"), "22").unwrap();
    assert_eq!(request(stand.address(), &again).await.text(), "22");
}

#[tokio::test]
async fn files_are_read_only() {
    let (_dir, stand) = site().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = request(
            stand.address(),
            &format!("{method} /app.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        )
        .await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    }
}

#[tokio::test]
async fn a_file_that_shrinks_under_way_breaks_the_connection_instead_of_pretending() {
    let (dir, stand) = site().await;
    let path = dir.path().join("public/huge.bin");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut raw = Raw::connect_narrow(stand.address()).await;
    raw.send(b"GET /huge.bin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    // Not a byte is read before the file is cut: what is under way is far less than the whole.
    raw.wait_readable().await;
    file.set_len(100_000).unwrap();
    assert!(raw.answer().await.body.len() < 64 << 20);
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_of_a_file_is_dropped() {
    let (dir, mut stand) = site().await;
    let mut plan = Plan::new();
    plan.settings.files = Some(dir.path().join("public"));
    plan.settings.max_connections = 1;
    plan.limits.http_stall = Duration::from_secs(2);
    stand.stop().await;
    stand = plan.start().await;
    fs::File::create(dir.path().join("public/huge.bin")).unwrap().set_len(64 << 20).unwrap();
    let mut raw = Raw::connect_narrow(stand.address()).await;
    raw.send(b"GET /huge.bin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    raw.wait_readable().await;
    soon(async { while get(stand.address(), "/app.js").await.status == 503 {} }).await;
}
