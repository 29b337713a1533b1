//! HTTP clients that never stop asking, and count what goes wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use crate::herdwire::SOON;

/// Clients of one address, half of which keep their connections for as long as the server lets them.
pub struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What came of all requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// Requests without a whole answer, with the reason.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts so many clients of either kind.
    pub fn on(address: SocketAddr, clients: usize) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let client = |keeps: bool| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || ask_on(address, keeps, &over))
        };
        let clients = (0..clients * 2).map(|at| client(at % 2 == 0)).collect();
        Load { over, clients }
    }

    /// Ends it; every request that was begun is answered or has failed.
    pub fn end(self) -> Tally {
        self.over.store(true, Relaxed);
        let mut total = Tally::default();
        for client in self.clients {
            let tally = client.join().unwrap();
            total.answered += tally.answered;
            total.failed.extend(tally.failed);
        }
        total
    }
}

fn ask_on(address: SocketAddr, keeps: bool, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    while !over.load(Relaxed) {
        match ask_over(&mut kept, address, keeps) {
            Ok(_) => tally.answered += 1,
            Err(error) => {
                kept = None;
                tally.failed.push(format!("{} connection: {error}", if keeps { "kept" } else { "fresh" }));
            }
        }
    }
    tally
}

/// One request on a connection of its own; the body of the answer.
pub fn ask(address: SocketAddr) -> io::Result<String> {
    ask_over(&mut None, address, false)
}

fn ask_over(kept: &mut Option<BufReader<TcpStream>>, address: SocketAddr, keeps: bool) -> io::Result<String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    let close = if keeps { "" } else { "Connection: close\r\n" };
    connection.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: test\r\n{close}\r\n").as_bytes())?;
    let (mut length, mut last, mut line) = (0, !keeps, String::new());
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        last |= header == "connection: close";
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    if !last {
        *kept = Some(connection);
    }
    String::from_utf8(body).map_err(io::Error::other)
}
