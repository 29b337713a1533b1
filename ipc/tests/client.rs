//! The blocking client against a supervisor made by hand: joining, channels, messages, and supervisors that come and go.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::supervisor::Supervisor;
use common::{Herd, eventually};
use herdwire_ipc::{ConnectError, Inbox, ReceiveError, RequestError, SendError, SessionId, SlotState, connect_over};

const LONG: Duration = Duration::from_secs(60);

fn text(inbox: &mut Inbox) -> String {
    inbox.next_timeout(LONG).unwrap().unwrap().text().unwrap().to_owned()
}

#[test]
fn workers_of_a_herd_join_subscribe_and_hear_each_other() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, mut inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).unwrap();
    assert_eq!((one.me().app.as_str(), one.me().herd.as_str(), one.me().instance), ("worker", "test", 101));
    assert_eq!((two.me().slot, two.me().index, two.me().incarnation), (2, 1, 1));
    let chat = two.subscribe("chat").unwrap();
    let same = one.channel("chat").unwrap();
    assert_eq!((chat.id(), chat.unaware()), (same.id(), &[][..]));
    one.publish(&same, "hello").unwrap();
    one.publish_json(&same, &serde_json::json!({ "line": 1 })).unwrap();
    let message = other.next_timeout(LONG).unwrap().unwrap();
    assert_eq!((message.channel(), message.from(), message.payload()), ("chat", Some(101), &b"hello"[..]));
    let message = other.next_timeout(LONG).unwrap().unwrap();
    assert_eq!(message.json::<serde_json::Value>().unwrap()["line"], 1);
    assert_eq!(inbox.next_timeout(Duration::ZERO), Err(ReceiveError::TimedOut), "one does not hear itself");
}

#[test]
fn one_instance_is_reached_by_its_id_and_a_browser_through_the_supervisor() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let (_two, mut other) = connect_over(supervisor.link(2)).unwrap();
    let jobs = one.channel("jobs").unwrap();
    let neighbours = one.peers();
    assert_eq!(neighbours.len(), 1);
    assert_eq!((neighbours[0].instance, neighbours[0].state), (102, SlotState::Running));
    one.send_to(102, &jobs, "for you").unwrap();
    let message = other.next_timeout(LONG).unwrap().unwrap();
    assert!(message.is_to_me_alone() && message.payload() == b"for you");
    assert!(matches!(one.send_to(7, &jobs, "x"), Err(SendError::NoSuchInstance(7))));
    let session = SessionId(0xfeed_0000_0000_0000_0000_0001);
    one.send_to_session(&jobs, session, "line").unwrap();
    eventually("the supervisor has it", || !supervisor.seen.lock().unwrap().messages.is_empty());
    let got = supervisor.seen.lock().unwrap().messages[0].clone();
    assert_eq!((got.from, got.session, &got.payload[..]), (1, Some(session.0), &b"line"[..]));
}

#[test]
fn many_messages_arrive_once_and_in_order_both_ways_though_each_worker_publishes_from_its_receiving_thread() {
    let supervisor = Supervisor::start(Herd::new());
    let workers: Vec<_> = [1, 2].map(|slot| connect_over(supervisor.link(slot)).unwrap()).into_iter().collect();
    for (herd, _) in &workers {
        herd.subscribe("flood").unwrap();
    }
    const TOTAL: u64 = 20_000;
    let threads: Vec<_> = workers
        .into_iter()
        .map(|(herd, mut inbox)| {
            std::thread::spawn(move || {
                let flood = herd.channel("flood").unwrap();
                for number in 0..TOTAL {
                    herd.publish(&flood, number.to_le_bytes()).unwrap();
                }
                for number in 0..TOTAL {
                    let message = inbox.next_timeout(LONG).unwrap().unwrap();
                    assert_eq!(message.payload(), number.to_le_bytes());
                }
                assert_eq!(inbox.lost(), []);
                (herd, inbox)
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_batch_is_received_like_single_messages() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).unwrap();
    let chat = two.subscribe("chat").unwrap();
    assert_eq!(one.publish_many(&chat, ["a", "b", "c"]).unwrap(), 3);
    let mut got = Vec::new();
    while got.len() < 3 {
        other.wait(Duration::from_secs(1));
        other.turn(|delivery| got.push(delivery.payload.to_vec()));
    }
    assert_eq!(got, [b"a", b"b", b"c"]);
}

#[test]
fn a_new_supervisor_is_asked_again_what_the_dead_one_had_not_answered() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).unwrap();
    let chat = two.subscribe("chat").unwrap();
    two.ready().unwrap();
    eventually("it is ready", || supervisor.seen.lock().unwrap().ready == [2]);
    supervisor.mute.store(true, Ordering::SeqCst);
    let asking = {
        let two = two.clone();
        std::thread::spawn(move || two.subscribe("late"))
    };
    one.publish(&chat, "while it dies").unwrap();
    let supervisor = supervisor.replace();
    let late = asking.join().unwrap().unwrap();
    assert_ne!(late.id(), chat.id());
    eventually("it is told again", || supervisor.seen.lock().unwrap().ready == [2]);
    one.publish(&chat, "after").unwrap();
    one.publish(&late, "late").unwrap();
    assert_eq!([text(&mut other), text(&mut other), text(&mut other)], ["while it dies", "after", "late"]);
    // The new supervisor reads on where the dead one stopped.
    one.send_to_session(&chat, SessionId(1), "to a browser").unwrap();
    eventually("slot 0 has it", || supervisor.seen.lock().unwrap().messages.len() == 1);
}

#[test]
fn without_any_supervisor_messages_go_on_and_requests_fail_clearly() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).unwrap();
    let chat = two.subscribe("chat").unwrap();
    supervisor.vanish();
    eventually("the link has ended", || !one.has_supervisor() && !two.has_supervisor());
    one.publish(&chat, "still here").unwrap();
    assert_eq!(text(&mut other), "still here");
    assert!(matches!(one.subscribe("more"), Err(RequestError::NoSupervisor)));
    assert!(matches!(one.ready(), Err(RequestError::NoSupervisor)));
}

#[test]
fn a_refusal_reaches_the_worker_in_the_supervisors_words() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let error = one.channel("forbidden").unwrap_err();
    assert_eq!(error.to_string(), "the supervisor refuses: this name is forbidden");
    supervisor.refuse("the herd is full");
    let link = supervisor.link(2);
    let error = connect_over(link).unwrap_err();
    assert!(matches!(error, ConnectError::Refused { ref reason } if reason == "the herd is full"));
}

#[test]
fn a_worker_that_is_asked_to_finish_reads_what_is_left_and_then_none() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, _inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, mut other) = connect_over(supervisor.link(2)).unwrap();
    let chat = two.subscribe("chat").unwrap();
    one.publish(&chat, "last").unwrap();
    supervisor.shut_down(2);
    eventually("it is told", || two.is_shutting_down());
    assert_eq!(text(&mut other), "last");
    assert_eq!(other.next(), Ok(None));
}

#[test]
fn the_last_handle_that_is_dropped_leaves_the_herd() {
    let supervisor = Supervisor::start(Herd::new());
    let (one, inbox) = connect_over(supervisor.link(1)).unwrap();
    let (two, _other) = connect_over(supervisor.link(2)).unwrap();
    drop(one);
    assert!(supervisor.seen.lock().unwrap().left.is_empty());
    drop(inbox);
    eventually("it has left", || supervisor.seen.lock().unwrap().left == [1]);
    eventually("the others know", || two.peers()[0].state == SlotState::Down);
}

#[test]
fn a_process_that_herdwire_did_not_start_is_told_so() {
    let error = herdwire_ipc::connect().unwrap_err();
    assert!(matches!(error, ConnectError::NotStartedByHerdwire) && error.hint().is_some());
}
