//! How the status server asks the supervisor what there is to see.
//!
//! A look is one question with one answer, within a time limit. A supervisor that is busy or gone makes the asker hear
//! "nothing", never wait for long.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::history::History;
use crate::snapshot::Snapshot;

/// Longest wait for an answer, the wait for a place in the queue of questions included.
const PATIENCE: Duration = Duration::from_secs(2);

/// A view of the supervisor. Clones see the same one.
#[derive(Debug, Clone)]
pub struct Look {
    /// Bounded by whoever made it. When it is full a question waits for its place, within [`PATIENCE`].
    questions: mpsc::Sender<oneshot::Sender<Snapshot>>,
    history: History,
}

impl Look {
    /// A view by the supervisor at the other end of `questions`, with the `history` that its sampler fills.
    pub fn new(questions: mpsc::Sender<oneshot::Sender<Snapshot>>, history: History) -> Look {
        Look { questions, history }
    }

    /// The picture at this moment; `None` when the supervisor does not answer within two seconds.
    /// Cancel safe: dropping the future gives up the answer.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.questions.send(reply).await.ok()?;
            answer.await.ok()
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// The last samples.
    pub fn history(&self) -> &History {
        &self.history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_is_gone_answers_nothing_at_once() {
        let (questions, answers) = mpsc::channel(1);
        drop(answers);
        assert_eq!(Look::new(questions, History::default()).snapshot().await, None);
    }

    #[tokio::test]
    async fn a_supervisor_that_drops_the_question_answers_nothing() {
        let (questions, mut answers) = mpsc::channel(1);
        let look = Look::new(questions, History::default());
        let (seen, _) = tokio::join!(look.snapshot(), async { drop(answers.recv().await) });
        assert_eq!(seen, None);
    }
}
