//! Static files of one folder: the pages that speak to the front.
//!
//! Owns nothing but the folder's name. Which file a URL means is decided by `file_path`; here the file system is asked,
//! on threads that may block, a few at a time.
//!
//! Invariants
//! - No file outside the folder is opened, not by a link either, and none whose name or folder begins with a dot.
//! - A file is never in memory as a whole, unless it is smaller than one piece.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;

use super::body::{Body, sentence};
use super::file_path::{self, Wanted};
use super::http::{Gate, Progress};

/// Read and sent at once.
const PIECE: usize = 64 * 1024;
/// Threads that read files at the same time.
const READERS: usize = 8;

/// The served folder.
#[derive(Debug, Clone)]
pub struct Files {
    /// Canonical, so that what is found can be compared with it.
    root: Arc<Path>,
    readers: Arc<Semaphore>,
}

/// A file that was found, with its first piece.
struct Opened {
    file: File,
    first: Vec<u8>,
    length: u64,
    tag: String,
    content_type: &'static str,
}

/// What became of looking for a file.
enum Found {
    File(Opened),
    /// A folder that was named without the slash at its end.
    Folder,
    Nothing,
}

impl Files {
    /// Serves `folder`.
    ///
    /// # Errors
    /// If it is not there or is no folder.
    pub fn open(folder: &Path) -> io::Result<Files> {
        let root = folder.canonicalize()?;
        if !root.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Files { root: root.into(), readers: Arc::new(Semaphore::new(READERS)) })
    }

    /// Answers a request for `url_path`.
    pub async fn answer(
        &self,
        gate: &Gate,
        method: &Method,
        url_path: &str,
        headers: &HeaderMap,
        progress: Progress,
    ) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let mut response =
                sentence(StatusCode::METHOD_NOT_ALLOWED, "files can be read (GET, HEAD) and nothing else");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let Some(wanted) = file_path::wanted(url_path) else {
            return not_found();
        };
        match self.look(wanted).await {
            Ok(Found::File(opened)) => self.show(gate, opened, method, headers, progress),
            Ok(Found::Folder) => moved_to_folder(url_path),
            Ok(Found::Nothing) => not_found(),
            Err(error) => {
                tracing::warn!(path = url_path, %error, "front: a file cannot be read");
                sentence(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read")
            }
        }
    }

    async fn look(&self, wanted: Wanted) -> io::Result<Found> {
        let _reader = self.readers.acquire().await.map_err(io::Error::other)?;
        let root = self.root.clone();
        spawn_blocking(move || find(&root, &wanted)).await?
    }

    fn show(
        &self,
        gate: &Gate,
        opened: Opened,
        method: &Method,
        headers: &HeaderMap,
        progress: Progress,
    ) -> Response<Body> {
        let fresh = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|known| {
            known.split(',').any(|known| matches!(known.trim(), known if known == opened.tag || known == "*"))
        });
        let mut response = Response::new(Body::empty());
        let answer = response.headers_mut();
        // It may be kept but is asked for each time: a deploy shows at once and costs 304s until then.
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(tag) = HeaderValue::from_str(&opened.tag) {
            answer.insert(header::ETAG, tag);
        }
        if fresh {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(opened.content_type));
        answer.insert(header::CONTENT_LENGTH, HeaderValue::from(opened.length));
        if method == Method::GET {
            *response.body_mut() = self.body(gate, opened, progress);
        }
        response
    }

    fn body(&self, gate: &Gate, opened: Opened, progress: Progress) -> Body {
        if opened.length <= opened.first.len() as u64 {
            return Body::Whole(Some(opened.first.into()));
        }
        // One piece ahead; a client that reads slowly holds two.
        let (sender, pieces) = mpsc::channel(1);
        let left = opened.length;
        gate.spawn(send_pieces(opened, self.readers.clone(), sender));
        Body::Pieces { pieces, left, progress }
    }
}

/// Finds and opens a file. Blocks.
fn find(root: &Path, wanted: &Wanted) -> io::Result<Found> {
    let mut path = root.join(&wanted.path);
    if wanted.folder {
        path.push("index.html");
    }
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) => return absent(error),
    };
    // After all links are followed: what a link shows must be servable by itself.
    let Ok(inside) = path.strip_prefix(root) else {
        return Ok(Found::Nothing);
    };
    if inside.iter().any(|name| name.as_bytes().starts_with(b".")) {
        return Ok(Found::Nothing);
    }
    // A pipe must not make us wait for its other end; a link that was not there a moment ago is not followed.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) => return absent(error),
    };
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Ok(Found::Folder);
    }
    if !metadata.is_file() {
        return Ok(Found::Nothing);
    }
    let length = metadata.len();
    let mut opened = Opened {
        file,
        first: Vec::new(),
        length,
        tag: format!("\"{:x}-{:x}-{:x}\"", length, metadata.mtime(), metadata.mtime_nsec()),
        content_type: content_type(&path),
    };
    opened.first = read_piece(&mut opened.file, length)?;
    if opened.first.len() as u64 != length.min(PIECE as u64) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Found::File(opened))
}

/// What may be missing or forbidden is answered alike: a stranger need not know which.
fn absent(error: io::Error) -> io::Result<Found> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP | libc::ENAMETOOLONG | libc::ENXIO) => {
            Ok(Found::Nothing)
        }
        _ => Err(error),
    }
}

fn content_type(path: &Path) -> &'static str {
    file_path::content_type(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// Reads up to one piece. Blocks.
fn read_piece(file: &mut File, left: u64) -> io::Result<Vec<u8>> {
    let wanted = left.min(PIECE as u64);
    let mut piece = Vec::with_capacity(wanted as usize);
    file.take(wanted).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Reads a file ahead of its receiver; ends when all is sent, the file fails, or nobody receives.
async fn send_pieces(opened: Opened, readers: Arc<Semaphore>, sender: mpsc::Sender<io::Result<Bytes>>) {
    let Opened { mut file, first, length, .. } = opened;
    let mut left = length - first.len() as u64;
    let mut piece = first;
    loop {
        if sender.send(Ok(piece.into())).await.is_err() || left == 0 {
            return;
        }
        let Ok(_reader) = readers.acquire().await else {
            return;
        };
        let read = spawn_blocking(move || {
            let piece = read_piece(&mut file, left);
            (file, piece)
        });
        match read.await {
            Ok((again, Ok(next))) if !next.is_empty() => {
                file = again;
                left -= next.len() as u64;
                piece = next;
            }
            // Dropping the sender says that the file ended too early.
            Ok((_, Ok(_))) | Err(_) => return,
            Ok((_, Err(error))) => {
                // Whether anybody still receives makes no difference.
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
    }
}

fn not_found() -> Response<Body> {
    sentence(StatusCode::NOT_FOUND, "there is nothing at this address")
}

/// Relative links of a folder's page need the slash. The path is as it was asked for, hence still encoded.
fn moved_to_folder(url_path: &str) -> Response<Body> {
    let mut response = sentence(StatusCode::MOVED_PERMANENTLY, "this is a folder: its address ends in `/`");
    match HeaderValue::from_str(&format!("{url_path}/")) {
        Ok(target) => {
            response.headers_mut().insert(header::LOCATION, target);
            response
        }
        Err(_) => not_found(),
    }
}
