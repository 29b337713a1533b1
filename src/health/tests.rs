//! The task on a real socket, with this process in the part of an instance.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use herdwire_ipc::seqpacket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::keeper::client::KeeperLink;
use crate::relay::NodeId;
use crate::wire;

const LIMIT: Duration = Duration::from_secs(20);
const FIRST: Incarnation = Incarnation(1);

/// A task, what it finds, the copy of its socket that a keeper would hold, and what has to live as long.
struct Stand {
    senses: Senses,
    news: mpsc::Receiver<News>,
    stored: OwnedFd,
    instance: UnixDatagram,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _keeper: OwnedFd,
}

impl Stand {
    fn new() -> Stand {
        Stand::on(NotifySocket::bind(NodeId(7)).unwrap())
    }

    fn on(socket: NotifySocket) -> Stand {
        let (ours, keeper) = seqpacket::pair().unwrap();
        let store = Store::new(KeeperLink::from_socket(ours).unwrap().sender());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let surroundings = wire::Surroundings {
            store: store.clone(),
            arrivals: mpsc::channel(1).0,
            notices: mpsc::channel(1).0,
            shutdown: shutdown.clone(),
        };
        let wire = Wire::start(surroundings, BTreeMap::new(), &tasks);
        let stored = socket.as_fd().try_clone_to_owned().unwrap();
        let around = Around { store, wire, tasks: tasks.clone(), shutdown: shutdown.clone() };
        let (senses, news) = Senses::start(socket, around).unwrap();
        let instance = UnixDatagram::unbound().unwrap();
        instance.connect_addr(&SocketAddr::from_abstract_name(&senses.variable()[1..]).unwrap()).unwrap();
        // A full queue is this one thread's to empty.
        instance.set_nonblocking(true).unwrap();
        Stand { senses, news, stored, instance, shutdown, tasks, _keeper: keeper }
    }

    async fn watch(&self, phase: Phase, health: HealthSpec) {
        let watched = Watched {
            instance: 1,
            incarnation: FIRST,
            pid: std::process::id(),
            inode: 0,
            group: None,
            main: None,
            user: None,
            marks: Vec::new(),
            health,
            surroundings: None,
            ready: None,
        };
        self.senses.watch(watched, phase).await;
        self.senses.serve().await;
    }

    async fn next(&mut self) -> Finding {
        timeout(LIMIT, self.news.recv()).await.expect("nothing is found").expect("the task lives").what
    }

    /// What waits in the socket first.
    fn waiting(&self) -> Option<Vec<u8>> {
        NotifySocket::peek(self.stored.as_fd()).ok().and_then(|datagram| datagram.bytes)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Stand) -> bool) {
        let looking = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        timeout(LIMIT, self.tasks.wait()).await.expect("every task ends");
    }
}

#[tokio::test]
async fn a_readiness_stays_in_the_socket_until_it_has_been_acted_on() {
    let mut stand = Stand::new();
    stand.watch(Phase::Launching, HealthSpec::default()).await;
    stand.instance.send(b"READY=1").unwrap();
    stand.instance.send(b"STATUS=later").unwrap();
    assert_eq!(stand.next().await, Finding::Ready);
    assert_eq!(stand.waiting().as_deref(), Some(&b"READY=1"[..]));
    stand.senses.heard(1, FIRST).await;
    stand.until("it is taken out, and so is the next", |stand| stand.waiting().is_none()).await;
    assert_eq!(stand.senses.board().view(1).status.as_deref(), Some("later"));
    stand.end().await;
}

#[tokio::test]
async fn a_successor_finds_the_readiness_that_its_predecessor_died_over() {
    let mut first = Stand::new();
    first.watch(Phase::Launching, HealthSpec::default()).await;
    first.instance.send(b"READY=1").unwrap();
    assert_eq!(first.next().await, Finding::Ready);
    let stored = first.stored.try_clone().unwrap();
    first.end().await;
    let mut second = Stand::on(NotifySocket::open(stored).unwrap());
    second.watch(Phase::Launching, HealthSpec::default()).await;
    assert_eq!(second.next().await, Finding::Ready);
    second.end().await;
}

#[tokio::test]
async fn nothing_is_read_before_all_that_were_inherited_are_known() {
    let mut stand = Stand::new();
    stand.instance.send(b"STOPPING=1").unwrap();
    tokio::task::yield_now().await;
    assert!(stand.waiting().is_some());
    stand.watch(Phase::Online, HealthSpec::default()).await;
    assert_eq!(stand.next().await, Finding::Quitting);
    assert_eq!(stand.senses.board().ignored(), 0);
    stand.end().await;
}

#[tokio::test]
async fn who_has_gone_is_a_stranger() {
    let stand = Stand::new();
    stand.watch(Phase::Online, HealthSpec::default()).await;
    stand.senses.gone(1, FIRST).await;
    stand.instance.send(b"STATUS=haunting").unwrap();
    stand.until("it is ignored", |stand| stand.senses.board().ignored() == 1).await;
    assert_eq!(stand.senses.board().view(1), HealthView::default());
    stand.end().await;
}

#[tokio::test]
async fn news_of_an_earlier_process_change_nothing() {
    let mut stand = Stand::new();
    stand.watch(Phase::Launching, HealthSpec::default()).await;
    stand.senses.moved(1, Incarnation(9), Phase::Leaving).await;
    stand.senses.gone(1, Incarnation(9)).await;
    stand.instance.send(b"READY=1").unwrap();
    assert_eq!(stand.next().await, Finding::Ready);
    stand.end().await;
}

#[tokio::test]
async fn a_flood_is_told_once_for_each_kind_and_stops_nobody() {
    let mut stand = Stand::new();
    stand.watch(Phase::Online, HealthSpec::default()).await;
    for round in 0..2000u32 {
        let text = format!("EXTEND_TIMEOUT_USEC={round}\nSTATUS={round}\nSTOPPING=1");
        while stand.instance.send(text.as_bytes()).is_err() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
    }
    stand.until("all was read", |stand| stand.waiting().is_none()).await;
    stand.until("the last is noted", |stand| stand.senses.board().view(1).status.as_deref() == Some("1999")).await;
    // What was not taken meanwhile is there once, and the latest of it.
    let mut told = 0;
    let mut last = None;
    while let Ok(Some(news)) = timeout(Duration::from_millis(100), stand.news.recv()).await {
        told += 1;
        if let Finding::Extended(by) = news.what {
            last = Some(by);
        }
    }
    assert!(told <= 64 + 2 + 2, "{told} were kept");
    assert_eq!(last, Some(Duration::from_micros(1999)));
    stand.end().await;
}

#[tokio::test]
async fn whoever_says_that_it_is_ending_and_needs_time_for_it_gets_the_time_for_that() {
    for text in ["STOPPING=1\nEXTEND_TIMEOUT_USEC=9000000", "EXTEND_TIMEOUT_USEC=9000000\nSTOPPING=1"] {
        let mut stand = Stand::new();
        stand.watch(Phase::Online, HealthSpec::default()).await;
        stand.instance.send(text.as_bytes()).unwrap();
        assert_eq!(stand.next().await, Finding::Quitting);
        assert_eq!(stand.next().await, Finding::Extended(Duration::from_secs(9)));
        stand.end().await;
    }
}

#[tokio::test]
async fn what_a_process_called_its_main_one_is_known_also_from_what_nobody_has_read() {
    let mut stand = Stand::new();
    stand.watch(Phase::Launching, HealthSpec::default()).await;
    assert_eq!(stand.senses.last_words(1, FIRST).await, None);
    stand.instance.send(b"READY=1").unwrap();
    assert_eq!(stand.next().await, Finding::Ready);
    // The readiness is held, and what follows waits behind it.
    stand.instance.send(b"MAINPID=4711").unwrap();
    let claim = Claim { pid: 4711, user: Some(nix::unistd::getuid().as_raw()) };
    assert_eq!(stand.senses.last_words(1, FIRST).await, Some(claim));
    assert_eq!(stand.senses.last_words(1, Incarnation(9)).await, None);
    assert_eq!(stand.waiting().as_deref(), Some(&b"READY=1"[..]));
    stand.senses.heard(1, FIRST).await;
    assert_eq!(stand.next().await, Finding::Main(claim));
    assert_eq!(stand.senses.last_words(1, FIRST).await, Some(claim));
    stand.end().await;
}

#[tokio::test]
async fn a_process_that_is_leaving_is_not_judged_by_its_silence() {
    let mut stand = Stand::new();
    let health = HealthSpec { watchdog: Some(Duration::from_millis(100)), ..HealthSpec::default() };
    stand.watch(Phase::Online, health.clone()).await;
    stand.senses.moved(1, FIRST, Phase::Leaving).await;
    // Nor by an interval that it asks for now.
    stand.instance.send(b"WATCHDOG_USEC=100000").unwrap();
    assert!(timeout(Duration::from_millis(500), stand.news.recv()).await.is_err());
    stand.senses.moved(1, FIRST, Phase::Online).await;
    assert!(matches!(stand.next().await, Finding::Unwell(Ailment::Watchdog, _)));
    stand.end().await;
}

#[tokio::test]
async fn a_silent_process_is_found_and_one_that_speaks_is_not() {
    let mut stand = Stand::new();
    let health = HealthSpec { watchdog: Some(Duration::from_millis(200)), ..HealthSpec::default() };
    stand.watch(Phase::Online, health).await;
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_millis(700) {
        // A full queue holds signs of life enough.
        let _ = stand.instance.send(b"WATCHDOG=1");
        let found = timeout(Duration::from_millis(20), stand.news.recv()).await;
        assert!(found.is_err(), "{found:?}");
    }
    assert!(matches!(stand.next().await, Finding::Unwell(Ailment::Watchdog, _)));
    stand.end().await;
}
