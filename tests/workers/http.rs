//! A web server for tests, as small as one that ends in good order can be: HTTP/1.1 with connections that stay, on the
//! inherited listener.
//!
//! On SIGINT, or when it is told over the link, it accepts no more, says `Connection: close` in every answer from then
//! on, and ends when nobody is connected any more or a second has passed without a request.
//!
//! Arguments: `VERSION` is what it answers, with its process id. Then, in any order: `wire` says hello and `ready()`;
//! `late` says hello and never that it is ready; `broken` ends at once with 3; `brittle` ends with 4 as soon as the file
//! `brittle` is in its folder; `deaf` ignores SIGINT; `silent` closes connections at the end without having said so.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Where the first listener is, by the protocol of systemd.
const FIRST_LISTENER: i32 = 3;
/// How often those that wait look whether it is time to end.
const TICK: u16 = 10;
/// How long a connection without a request is kept while everything ends.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Shared {
    draining: AtomicBool,
    silent: bool,
    connections: AtomicUsize,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("broken") {
        eprintln!("this release is broken");
        std::process::exit(3);
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    let interrupted = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let shared = Arc::new(Shared { silent: has("silent"), ..Shared::default() });
    if has("wire") || has("late") {
        join(has("wire"), Arc::clone(&shared));
    }
    let listener = inherited()?;
    listener.set_nonblocking(true)?;
    let answer = format!("{} {}", arguments[0], std::process::id());
    println!("{answer} listens on {}", listener.local_addr()?);
    while !shared.draining.load(SeqCst) {
        let mut waiting = [readable(&interrupted), readable(&listener)];
        poll(&mut waiting, PollTimeout::from(TICK))?;
        if !has("deaf") && interrupted.read_signal()?.is_some() {
            shared.draining.store(true, SeqCst);
        }
        if has("brittle") && std::path::Path::new("brittle").exists() {
            std::process::exit(4);
        }
        accept(&listener, &answer, &shared)?;
    }
    println!("{answer} finishes");
    drop(listener);
    while shared.connections.load(SeqCst) > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    println!("{answer} has finished");
    Ok(())
}

fn accept(listener: &TcpListener, answer: &str, shared: &Arc<Shared>) -> io::Result<()> {
    match listener.accept() {
        Ok((connection, _)) => {
            shared.connections.fetch_add(1, SeqCst);
            let (answer, shared) = (answer.to_owned(), Arc::clone(shared));
            thread::spawn(move || {
                // What went wrong with one connection is its client's to tell.
                let _ = serve(connection, &answer, &shared);
                shared.connections.fetch_sub(1, SeqCst);
            });
            Ok(())
        }
        // A sibling was quicker, or there was nobody.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn serve(mut connection: TcpStream, answer: &str, shared: &Shared) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    let mut since_drain = None;
    loop {
        let mut waiting = [readable(&connection)];
        if poll(&mut waiting, PollTimeout::from(TICK))? == 0 {
            if shared.draining.load(SeqCst) && since_drain.get_or_insert_with(Instant::now).elapsed() > LINGER {
                return Ok(());
            }
            continue;
        }
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if connection.read(&mut byte)? == 0 {
                return Ok(());
            }
            request.push(byte[0]);
        }
        let asked = request.windows(17).any(|part| part.eq_ignore_ascii_case(b"connection: close"));
        let last = asked || shared.draining.load(SeqCst);
        let close = if asked || last && !shared.silent { "Connection: close\r\n" } else { "" };
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n{answer}", answer.len());
        connection.write_all(response.as_bytes())?;
        if last {
            return Ok(());
        }
    }
}

/// Takes its place in the herd, and drains when it is told to finish.
fn join(is_ready: bool, shared: Arc<Shared>) {
    let (herd, mut inbox) = herdwire_ipc::connect().unwrap();
    if is_ready {
        herd.ready().unwrap();
    }
    thread::spawn(move || {
        while let Ok(Some(_)) = inbox.next() {}
        shared.draining.store(true, SeqCst);
        drop(herd);
    });
}

fn readable<F: AsFd>(descriptor: &F) -> PollFd<'_> {
    PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)
}

/// A listener of our own on the inherited socket.
fn inherited() -> io::Result<TcpListener> {
    assert_eq!(std::env::var("LISTEN_PID").as_deref(), Ok(std::process::id().to_string().as_str()), "LISTEN_PID");
    // SAFETY: only borrowed to be duplicated; a number that is no descriptor fails that call.
    let socket = unsafe { BorrowedFd::borrow_raw(FIRST_LISTENER) };
    Ok(socket.try_clone_to_owned()?.into())
}
