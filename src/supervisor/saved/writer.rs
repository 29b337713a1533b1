//! The task that writes documents, one at a time, the newest only.
//!
//! A document that comes while another is being written replaces the one that waits. A failure is kept for the
//! operator to see, and tried again every few seconds until it is written.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Document, files};

/// Until another try, after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Questions that may wait; one more is answered that it is too many.
const QUESTIONS: usize = 16;

/// The core's end of it.
pub struct Writer {
    newest: watch::Sender<Option<Arc<Document>>>,
    questions: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Writer {
    /// The task's future, and the end that it is driven by. It ends at shutdown.
    pub fn new(path: PathBuf, shutdown: CancellationToken) -> (Writer, impl Future<Output = ()> + Send + 'static) {
        let (newest, documents) = watch::channel(None);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let trouble = Arc::new(Mutex::new(None));
        let task = Task { path, documents, asked, trouble: Arc::clone(&trouble) };
        (Writer { newest, questions, trouble }, task.run(shutdown))
    }

    /// Writes this one, as soon as the one at hand is done.
    pub fn write(&self, document: Document) {
        self.newest.send_replace(Some(Arc::new(document)));
    }

    /// Answers once the newest is on the disk, or with why it is not.
    pub fn when_written(&self) -> oneshot::Receiver<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        if let Err(mpsc::error::TrySendError::Full(reply) | mpsc::error::TrySendError::Closed(reply)) =
            self.questions.try_send(reply)
        {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(Err("too many are asking at once".to_owned()));
        }
        answer
    }

    /// Why the newest is not on the disk, if it could not be written.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

struct Task {
    path: PathBuf,
    documents: watch::Receiver<Option<Arc<Document>>>,
    asked: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Task {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut last: Result<(), String> = Ok(());
        loop {
            let retry = last.is_err();
            tokio::select! {
                // A question after what it is about.
                biased;
                changed = self.documents.changed() => match changed {
                    Ok(()) => last = self.write().await,
                    Err(_) => return,
                },
                Some(reply) = self.asked.recv() => {
                    // Somebody waits for it: not in a few seconds, now.
                    if retry {
                        last = self.write().await;
                    }
                    // Whoever asked may have gone meanwhile.
                    let _ = reply.send(last.clone());
                }
                () = tokio::time::sleep(AGAIN), if retry => last = self.write().await,
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn write(&mut self) -> Result<(), String> {
        let Some(document) = self.documents.borrow_and_update().clone() else { return Ok(()) };
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || files::write(&path, &document)).await;
        let done = done.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| error.to_string()));
        *self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = done.clone().err();
        done
    }
}
