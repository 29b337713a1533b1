//! Places of control connections: how many there are, and who gives way when none is left.
//!
//! Owns the count and knows who is idle: who has not said yet what it wants, or does not take its answer. Does not read or
//! write anything itself (`control_server`).
//!
//! Invariants
//! - A connection that is idle keeps nobody out: when all places are taken, the one that has been idle longest is closed.
//! - Those that wait or watch, which may take any time, never hold all places: a `ping` always finds one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::control::{Failure, Request};

/// Connections served at once; the next ones wait in the socket's backlog.
const PLACES: usize = 512;
/// Of these, for requests that are not answered at once.
const PATIENT: usize = 448;
/// How long a connection may be idle whatever happens: a request may just be on its way.
const GRACE: Duration = Duration::from_millis(10);

/// All places. A clone is the same ones.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    patient: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

/// Who waits for its peer, by the order in which it began to.
#[derive(Default)]
struct Idle {
    last: u64,
    since: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One that is idle, until this is dropped.
struct Turn {
    number: u64,
    give_way: CancellationToken,
    idle: Arc<Mutex<Idle>>,
}

impl Places {
    /// All are free.
    pub fn new() -> Places {
        Places {
            free: Arc::new(Semaphore::new(PLACES)),
            patient: Arc::new(Semaphore::new(PATIENT)),
            idle: Arc::default(),
        }
    }

    /// A place for one more. Where none is free, whoever has been idle longest has to give way.
    pub async fn take(&self) -> OwnedSemaphorePermit {
        loop {
            let mut place = std::pin::pin!(Arc::clone(&self.free).acquire_owned());
            tokio::select! {
                biased;
                place = &mut place => return place.expect("nobody closes it"),
                () = std::future::ready(()) => {}
            }
            self.close_oldest();
            // Time for it to go, and for those that are too young yet to come of age.
            if let Ok(place) = tokio::time::timeout(GRACE, place).await {
                return place.expect("nobody closes it");
            }
        }
    }

    /// Has the one give way that has been idle longest, if any has been for long enough.
    pub fn close_oldest(&self) {
        let mut idle = lock(&self.idle);
        if idle.since.first_key_value().is_some_and(|(_, (since, _))| since.elapsed() >= GRACE) {
            let (_, (_, give_way)) = idle.since.pop_first().expect("it was just seen");
            give_way.cancel();
        }
    }

    /// Waits for something of the peer; `None` when others need the place more.
    pub async fn idle<T>(&self, peer: impl Future<Output = T>) -> Option<T> {
        let turn = self.begin();
        tokio::select! {
            biased;
            done = peer => Some(done),
            () = turn.give_way.cancelled() => None,
        }
    }

    /// What a request needs to hold while it is carried out, if anything.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn patience(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        if is_brief(request) {
            return Ok(None);
        }
        Arc::clone(&self.patient).try_acquire_owned().map(Some).map_err(|_| {
            Failure::new(format!("{PATIENT} others already wait for the supervisor"))
                .hint("end commands that wait or follow, or try again later")
        })
    }

    fn begin(&self) -> Turn {
        let give_way = CancellationToken::new();
        let mut idle = lock(&self.idle);
        idle.last += 1;
        let number = idle.last;
        idle.since.insert(number, (Instant::now(), give_way.clone()));
        Turn { number, give_way, idle: Arc::clone(&self.idle) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.idle).since.remove(&self.number);
    }
}

/// Whether it is answered at once, or ends everything.
fn is_brief(request: &Request) -> bool {
    matches!(request, Request::Ping | Request::Snapshot { .. } | Request::Journal { .. } | Request::Kill)
}

/// Nothing that holds it can leave it half changed.
fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_one_that_has_been_idle_longest_gives_way_to_the_next() {
        let places = Places::new();
        let mut idle = Vec::new();
        for number in 0..PLACES {
            let (place, places) = (places.take().await, places.clone());
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            idle.push(tokio::spawn(async move {
                let peer = async {
                    let _ = begun.send(());
                    pending::<()>().await;
                };
                assert_eq!(places.idle(peer).await, None);
                drop(place);
                number
            }));
            has_begun.await.unwrap();
        }
        drop(places.take().await);
        assert_eq!(idle.remove(0).await.unwrap(), 0);
        assert!(idle.iter().all(|other| !other.is_finished()), "one was enough");
        idle.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn who_has_what_it_waits_for_does_not_give_way() {
        let places = Places::new();
        assert_eq!(places.idle(async { 7 }).await, Some(7));
        assert!(lock(&places.idle).since.is_empty());
    }

    #[tokio::test]
    async fn those_that_wait_leave_places_to_those_that_do_not() {
        let places = Places::new();
        let watch = Request::Events { after: None };
        let waiting: Vec<_> = (0..PATIENT).map(|_| places.patience(&watch).unwrap().unwrap()).collect();
        assert!(places.patience(&watch).unwrap_err().what.contains("448"));
        assert!(places.patience(&Request::Ping).unwrap().is_none());
        drop(waiting);
        assert!(places.patience(&watch).is_ok());
    }
}
