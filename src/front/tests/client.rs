//! A client that does exactly what a test says, wrong things included. tungstenite plays the well-behaved one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Long enough for a machine that is busy with other things; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of what must happen soon.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it should have happened long ago")
}

/// Waits until a condition holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A frame as a client sends it, masked.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first_byte];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A text as a client sends it.
pub fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// An answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection on which every byte is the test's own.
pub struct Raw {
    stream: Arc<TcpStream>,
    unread: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Raw {
        Raw { stream: Arc::new(soon(TcpStream::connect(address)).await.unwrap()), unread: Vec::new() }
    }

    /// Connects with a receive buffer as small as the kernel allows, so that not reading is felt soon.
    pub async fn connect_narrow(address: SocketAddr) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Raw { stream: Arc::new(soon(socket.connect(address)).await.unwrap()), unread: Vec::new() }
    }

    /// Opens a WebSocket on `path`.
    pub async fn open(address: SocketAddr, path: &str) -> Raw {
        Raw::connect(address).await.opened(path).await
    }

    /// Makes the handshake on this connection.
    pub async fn opened(mut self, path: &str) -> Raw {
        self.send(handshake(path, "").as_bytes()).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        soon(write_all(&self.stream, bytes)).await.unwrap();
    }

    /// Sends while the test does other things; the task ends when all is sent.
    pub fn send_in_background(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let stream = self.stream.clone();
        tokio::spawn(async move { write_all(&stream, &bytes).await.unwrap() })
    }

    /// The next frame: its first byte and its payload. `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        soon(async {
            loop {
                if let Some(frame) = self.take_frame() {
                    return Some(frame);
                }
                if !self.read_more().await {
                    return None;
                }
            }
        })
        .await
    }

    /// The next frame that is no ping: on a slow machine one may come in between.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.frame().await {
                Some((0x89, _)) => {}
                other => return other,
            }
        }
    }

    /// Reads on to a close frame; its code, and that the connection ends after it.
    pub async fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.frame().await.expect("a close frame before the end");
            if first == 0x88 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                self.send_quietly(&frame(0x88, &payload)).await;
                assert_eq!(self.frame().await, None, "nothing comes after a close");
                return code;
            }
        }
    }

    /// Sends to a peer that may be gone.
    pub async fn send_quietly(&mut self, bytes: &[u8]) {
        let _ = soon(write_all(&self.stream, bytes)).await;
    }

    /// Everything up to the end of the connection, as an HTTP answer.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        soon(async { while self.read_more().await {} }).await;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head, body: std::mem::take(&mut self.unread) }
    }

    /// Whether the other side ends the connection without another byte.
    pub async fn ended(&mut self) -> bool {
        !soon(self.read_more()).await
    }

    /// Waits for the first bytes of an answer, without taking them.
    pub async fn wait_readable(&self) {
        soon(self.stream.readable()).await.unwrap();
    }

    /// Breaks the connection with a reset instead of an end.
    pub fn reset(self) {
        socket2::SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    async fn head(&mut self) -> String {
        soon(async {
            loop {
                if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                    let rest = self.unread.split_off(end + 4);
                    return String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
                }
                assert!(self.read_more().await, "the connection ended inside a head: {:?}", self.unread);
            }
        })
        .await
    }

    /// A reset counts as an end.
    async fn read_more(&mut self) -> bool {
        loop {
            if self.stream.readable().await.is_err() {
                return false;
            }
            match self.stream.try_read_buf(&mut self.unread) {
                Ok(read) => return read > 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, ..] = self.unread[..] else {
            return None;
        };
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (length, header) = match second {
            126 => (u16::from_be_bytes(self.unread.get(2..4)?.try_into().unwrap()).into(), 4),
            127 => (u64::from_be_bytes(self.unread.get(2..10)?.try_into().unwrap()) as usize, 10),
            short => (usize::from(short), 2),
        };
        let payload = self.unread.get(header..header + length)?.to_vec();
        self.unread.drain(..header + length);
        Some((first, payload))
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A request that asks for an upgrade, with `more` headers.
pub fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// Sends one request on a connection of its own and reads the answer.
pub async fn request(address: SocketAddr, request: &str) -> Answer {
    let mut raw = Raw::connect(address).await;
    raw.send(request.as_bytes()).await;
    raw.answer().await
}

/// Reads a file as a browser would.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

/// A well-behaved client.
pub async fn browser(address: SocketAddr, path: &str) -> WebSocketStream<TcpStream> {
    let stream = soon(TcpStream::connect(address)).await.unwrap();
    let url = format!("ws://{address}{path}");
    soon(tokio_tungstenite::client_async(url, stream)).await.unwrap().0
}

/// The next message of a well-behaved client that is no ping: on a slow machine one may come in between.
pub async fn heard(browser: &mut WebSocketStream<TcpStream>) -> Message {
    loop {
        match soon(browser.next()).await.expect("a message before the end").unwrap() {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}
