//! What an HTTP answer carries, and the plain answers that are used in several places.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::http::Progress;

/// Nothing, something short, or a file piece by piece.
pub enum Body {
    /// Sent at once; `None` once it is gone.
    Whole(Option<Bytes>),
    /// Comes from `files`, at most one piece ahead.
    Pieces { pieces: mpsc::Receiver<io::Result<Bytes>>, left: u64, progress: Progress },
}

impl Body {
    /// Without content.
    pub fn empty() -> Body {
        Body::Whole(None)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Pieces { left: 0, .. } => Poll::Ready(None),
            Body::Pieces { pieces, left, progress } => {
                progress.moved();
                // A file that became shorter must break the connection: its length is announced.
                let piece =
                    ready!(pieces.poll_recv(context)).unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
                Poll::Ready(Some(piece.map(|piece| {
                    *left = left.saturating_sub(piece.len() as u64);
                    Frame::data(piece)
                })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None) | Body::Pieces { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Pieces { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

/// An answer of one sentence.
pub fn sentence(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(Bytes::from(format!("{text}\n")))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
