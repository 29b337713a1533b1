//! WebSocket clients for tests that are not asynchronous themselves.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::herdwire::SOON;

/// One connection; every call has a limit.
pub struct Session {
    runtime: Runtime,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    /// Opens one, or says with which HTTP status it was refused.
    pub fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Session, u16> {
        Session::open_url(&format!("ws://{address}{path}"), headers)
    }

    /// The same for a whole URL.
    pub fn open_url(url: &str, headers: &[(&'static str, &str)]) -> Result<Session, u16> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let connected = runtime.block_on(async { timeout(SOON, connect_async(request)).await });
        match connected.expect("no answer to the handshake") {
            Ok((socket, _)) => Ok(Session { runtime, socket }),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    pub fn says(&mut self, text: &str) {
        let Session { runtime, socket } = self;
        runtime
            .block_on(async { timeout(SOON, socket.send(Message::text(text))).await })
            .expect("it takes too long")
            .unwrap();
    }

    /// The next text, or `None` when the connection has ended.
    #[track_caller]
    pub fn next(&mut self) -> Option<String> {
        let Session { runtime, socket } = self;
        let next = async {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                    Some(Ok(Message::Binary(bytes))) => return Some(String::from_utf8_lossy(&bytes).into_owned()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        };
        match runtime.block_on(async { timeout(SOON, next).await }) {
            Ok(next) => next,
            Err(_) => panic!("the session hears nothing"),
        }
    }

    /// The next text must be this.
    #[track_caller]
    pub fn must_hear(&mut self, expected: &str) {
        assert_eq!(self.next().as_deref(), Some(expected));
    }
}
