//! The wire through real workers and a real supervisor.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::herdwire::{Herdwire, signal, until, worker};
use crate::puppets::{Me, Puppet, Stage};

/// A herd of one app whose workers have taken their places and hear the channel `news`.
struct Herd {
    herdwire: Herdwire,
    stage: Stage,
    puppets: Vec<Puppet>,
    me: Vec<Me>,
}

impl Herd {
    fn of(instances: u32) -> Herd {
        Herd::with(instances, "")
    }

    fn with(instances: u32, more: &str) -> Herd {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        herdwire.write("herdwire.toml", &Stage::app(&herdwire, "herd", instances, more));
        herdwire.ok(&["start"]);
        let mut puppets = stage.next_of(instances as usize);
        let me = puppets.iter_mut().map(Puppet::connects).collect();
        for puppet in &mut puppets {
            puppet.does("subscribe news");
        }
        Herd { herdwire, stage, puppets, me }
    }
}

#[test]
fn a_worker_learns_who_it_is() {
    let herd = Herd::of(2);
    let instances = herd.herdwire.instances("herd");
    for (index, me) in herd.me.iter().enumerate() {
        assert_eq!((me.herd.as_str(), me.app.as_str(), me.index), ("herd", "herd", index as u32));
        assert_eq!((u64::from(me.id), me.incarnation), (instances[index].id, 1));
    }
    assert_ne!(herd.me[0].slot, herd.me[1].slot);
}

#[test]
fn what_one_publishes_every_other_subscriber_hears_once_and_in_order() {
    let mut herd = Herd::of(3);
    for number in 0..100 {
        herd.puppets[0].does(&format!("publish news {number}"));
    }
    let id = herd.me[0].id;
    for puppet in &herd.puppets[1..] {
        for number in 0..100 {
            puppet.must_hear(&format!("heard news {id} {number}"));
        }
    }
    // The sender itself heard nothing: the next thing that reaches it is another's.
    herd.puppets[1].does("publish news back");
    herd.puppets[0].must_hear(&format!("heard news {} back", herd.me[1].id));
}

#[test]
fn a_channel_is_heard_by_its_subscribers_alone() {
    let mut herd = Herd::of(3);
    herd.puppets[1].does("subscribe secret");
    herd.puppets[0].does("publish secret one");
    herd.puppets[0].does("publish news two");
    let id = herd.me[0].id;
    herd.puppets[1].must_hear(&format!("heard secret {id} one"));
    herd.puppets[1].must_hear(&format!("heard news {id} two"));
    herd.puppets[2].must_hear(&format!("heard news {id} two"));
}

#[test]
fn a_message_to_one_instance_reaches_that_one_whether_it_subscribed_or_not() {
    let mut herd = Herd::of(3);
    let (from, to) = (herd.me[0].id, herd.me[2].id);
    herd.puppets[0].does(&format!("send {to} private for you"));
    herd.puppets[2].must_hear(&format!("heard-alone private {from} for you"));
    herd.puppets[0].does("publish news end");
    herd.puppets[1].must_hear(&format!("heard news {from} end"));
}

#[test]
fn a_message_to_an_instance_that_is_not_there_is_an_error() {
    let mut herd = Herd::of(1);
    herd.puppets[0].tell("send 99 private hello");
    assert!(herd.puppets[0].answer().unwrap_err().contains("99"));
}

#[test]
fn apps_of_one_herd_share_channels_and_strangers_hear_nothing() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    let app = |name: &str, more: &str| Stage::app(&herdwire, name, 1, more);
    let together = "herd = \"family\"";
    herdwire.write("herdwire.toml", &(app("a", together) + &app("b", together) + &app("stranger", "")));
    herdwire.ok(&["start"]);
    let mut puppets = stage.next_of(3);
    let me: Vec<Me> = puppets.iter_mut().map(Puppet::connects).collect();
    for puppet in &mut puppets {
        puppet.does("subscribe news");
    }
    puppets[0].does("publish news hello");
    puppets[1].must_hear(&format!("heard news {} hello", me[0].id));
    let stranger = me[2].id;
    puppets[0].tell(&format!("send {stranger} news hello"));
    assert!(puppets[0].answer().is_err());
    assert_eq!(puppets[2].does("peers"), "");
}

#[test]
fn an_app_that_waits_for_ready_is_online_only_when_it_says_so() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    let more = "wait_ready = true\nlisten_timeout = \"10m\"";
    herdwire.write("herdwire.toml", &Stage::app(&herdwire, "slow", 1, more));
    let start = herdwire.command(&["start"]).stdout(Stdio::null()).spawn();
    let mut start = start.unwrap();
    let mut puppet = stage.next();
    puppet.connects();
    assert_eq!(herdwire.instance("slow").status, "launching");
    assert!(start.try_wait().unwrap().is_none(), "`start` did not wait for it");
    puppet.does("ready");
    assert!(start.wait().unwrap().success());
    assert!(herdwire.instance("slow").is_online());
}

#[test]
fn an_app_that_never_says_that_it_is_ready_has_failed() {
    let herdwire = Herdwire::new();
    let file = "[[app]]\nname = \"mute\"\nscript = \"sleep 1000\"\nwait_ready = true\nlisten_timeout = \"100ms\"\nmax_restarts = 2\n";
    herdwire.write("herdwire.toml", file);
    herdwire.run(&["start"]);
    let mute = herdwire.await_instance("mute", "was given up", |now| now.status == "errored");
    assert!(mute.own("reason").as_str().unwrap().contains("ready"), "{mute:?}");
}

#[test]
fn a_successor_takes_the_slot_and_reads_what_was_left_for_it() {
    let mut herd = Herd::of(2);
    let old = herd.me[1].clone();
    signal(herd.puppets[1].pid, Signal::SIGKILL);
    let mut successor = herd.stage.next();
    // Before it has taken its place: this waits in the ring.
    let id = herd.me[0].id;
    herd.puppets[0].does(&format!("send {} news for the next", old.id));
    herd.puppets[0].does("publish news for all");
    let me = successor.connects();
    assert_eq!((me.id, me.index, me.slot, me.incarnation), (old.id, old.index, old.slot, 2));
    successor.must_hear(&format!("heard-alone news {id} for the next"));
    successor.must_hear(&format!("heard news {id} for all"));
    // And it goes on hearing without subscribing anew.
    herd.puppets[0].does("publish news more");
    successor.must_hear(&format!("heard news {id} more"));
    successor.does("publish news answer");
    herd.puppets[0].must_hear(&format!("heard news {} answer", me.id));
}

#[test]
fn what_a_killed_worker_had_published_is_still_read() {
    let mut herd = Herd::of(2);
    let id = herd.me[0].id;
    signal(herd.puppets[1].pid, Signal::SIGSTOP);
    for number in 0..50 {
        herd.puppets[0].does(&format!("publish news {number}"));
    }
    signal(herd.puppets[0].pid, Signal::SIGKILL);
    let mut successor = herd.stage.next();
    successor.connects();
    successor.does("publish news next");
    signal(herd.puppets[1].pid, Signal::SIGCONT);
    for number in 0..50 {
        herd.puppets[1].must_hear(&format!("heard news {id} {number}"));
    }
    herd.puppets[1].must_hear(&format!("heard news {id} next"));
}

#[test]
fn a_worker_that_is_killed_again_and_again_disturbs_nobody() {
    let mut herd = Herd::of(3);
    let id = herd.me[0].id;
    for round in 0..8 {
        signal(herd.puppets[2].pid, Signal::SIGKILL);
        for number in 0..20 {
            herd.puppets[0].does(&format!("publish news {round}.{number}"));
            herd.puppets[1].must_hear(&format!("heard news {id} {round}.{number}"));
        }
        herd.puppets[2] = herd.stage.next();
        herd.puppets[2].connects();
    }
    assert_eq!(herd.herdwire.instances("herd")[0].restarts, 0);
    assert_eq!(herd.herdwire.instances("herd")[1].restarts, 0);
}

#[test]
fn a_dead_subscriber_holds_no_publisher_up() {
    let mut herd = Herd::with(2, "stall_timeout = \"10m\"\nautorestart = false");
    signal(herd.puppets[1].pid, Signal::SIGKILL);
    until("its death is known", || !herd.herdwire.instances("herd")[1].is_online());
    // Four times what the ring holds.
    herd.puppets[0].does("fill news 4194304");
}

#[test]
fn a_publisher_waits_for_a_slow_subscriber_and_loses_nothing() {
    let mut herd = Herd::with(2, "stall_timeout = \"10m\"");
    let id = herd.me[0].id;
    signal(herd.puppets[1].pid, Signal::SIGSTOP);
    herd.puppets[0].tell("fill news 4194304");
    herd.puppets[0].tell("publish news end");
    signal(herd.puppets[1].pid, Signal::SIGCONT);
    let piece = format!("heard news {id} {}", "x".repeat(1024));
    for _ in 0..4096 {
        assert!(herd.puppets[1].hears() == piece);
    }
    herd.puppets[1].must_hear(&format!("heard news {id} end"));
    assert_eq!([herd.puppets[0].answer(), herd.puppets[0].answer()], [Ok(String::new()), Ok(String::new())]);
}

#[test]
fn a_stop_asks_a_worker_to_finish_over_its_link_as_well() {
    let herdwire = Herdwire::new();
    let stage = Stage::new(&herdwire);
    // Deaf to the signal, so only the link can have told it.
    let deaf = format!("trap '' INT; exec {}", worker("puppet").display());
    let app = Stage::app(&herdwire, "deaf", 1, "kill_timeout = \"10m\"");
    herdwire.write(
        "herdwire.toml",
        &app.replace(&format!("{:?}", worker("puppet").display().to_string()), &format!("{deaf:?}")),
    );
    herdwire.ok(&["start"]);
    let mut puppet = stage.next();
    puppet.connects();
    let mut stop = herdwire.command(&["stop", "deaf"]).stdout(Stdio::null()).spawn().unwrap();
    puppet.must_hear("shutdown");
    puppet.tell("exit 0");
    assert!(stop.wait().unwrap().success());
}

#[test]
fn messages_go_on_while_there_is_no_supervisor_and_after_it_came_back() {
    let mut herd = Herd::of(2);
    let id = herd.me[0].id;
    let exchange = |herd: &mut Herd, text: &str| {
        herd.puppets[0].does(&format!("publish news {text}"));
        herd.puppets[1].must_hear(&format!("heard news {id} {text}"));
    };
    let supervisor = herd.herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    exchange(&mut herd, "while it is stopped");
    signal(supervisor, Signal::SIGKILL);
    exchange(&mut herd, "while it is dead");
    until("the next one answers", || herd.herdwire.run(&["ping"]).status.success());
    exchange(&mut herd, "with the next one");
    // Asking works as well: a new channel, heard by a worker that knew the old supervisor.
    herd.puppets[1].does("subscribe late");
    herd.puppets[0].does("publish late hello");
    herd.puppets[1].must_hear(&format!("heard late {id} hello"));
}

#[test]
fn a_successor_that_is_born_after_the_supervisor_died_takes_its_place() {
    let mut herd = Herd::of(2);
    herd.herdwire.kill_supervisor();
    signal(herd.puppets[1].pid, Signal::SIGKILL);
    let mut successor = herd.stage.next();
    let me = successor.connects();
    assert_eq!((me.slot, me.incarnation), (herd.me[1].slot, 2));
    herd.puppets[0].does("publish news hello");
    successor.must_hear(&format!("heard news {} hello", herd.me[0].id));
    successor.does("publish news back");
    herd.puppets[0].must_hear(&format!("heard news {} back", me.id));
}

#[test]
fn a_subscription_that_waits_for_an_answer_is_answered_by_the_next_supervisor() {
    let mut herd = Herd::of(2);
    let supervisor = herd.herdwire.supervisor_pid();
    signal(supervisor, Signal::SIGSTOP);
    herd.puppets[1].tell("subscribe late");
    signal(supervisor, Signal::SIGKILL);
    assert_eq!(herd.puppets[1].answer(), Ok(String::new()));
    herd.puppets[0].does("publish late hello");
    herd.puppets[1].must_hear(&format!("heard late {} hello", herd.me[0].id));
}

#[test]
fn a_program_that_herdwire_did_not_start_is_told_so() {
    use std::os::unix::net::UnixListener;
    let herdwire = Herdwire::new();
    let path = herdwire.work().join("alone.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut alone = std::process::Command::new(crate::herdwire::worker("puppet"));
    alone.env("PUPPET_SOCKET", &path).env("HERDWIRE_INDEX", "0").env("HERDWIRE_NAME", "alone");
    let mut alone = alone.env_remove("HERDWIRE_LINK").spawn().unwrap();
    let mut puppet = Puppet::greet(listener.accept().unwrap().0);
    puppet.tell("connect");
    let error = puppet.answer().unwrap_err();
    assert!(error.contains("not started by Herdwire"), "{error}");
    puppet.tell("exit 0");
    alone.wait().unwrap();
}

#[test]
fn a_stopped_worker_keeps_its_siblings_waiting_once_and_not_at_every_step() {
    let mut herd = Herd::of(3);
    let instances = herd.herdwire.instances("herd");
    signal(instances[0].pid, Signal::SIGSTOP);
    let since = std::time::Instant::now();
    for number in 0..8 {
        herd.puppets[1].does(&format!("subscribe channel-{number}"));
    }
    // One second for the first; a full second for each would be eight.
    assert!(since.elapsed() < std::time::Duration::from_secs(6), "{:?}", since.elapsed());
    signal(instances[0].pid, Signal::SIGCONT);
}

#[test]
fn what_deleted_apps_had_on_the_wire_goes_with_them() {
    let herd = Herd::of(1);
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let (keeper, supervisor) = (herd.herdwire.keeper_pid(), herd.herdwire.supervisor_pid());
    let before = (descriptors(keeper), descriptors(supervisor));
    for round in 0..4 {
        let name = format!("guest-{round}");
        let file = format!("{name}.toml");
        herd.herdwire.write(&file, &Stage::app(&herd.herdwire, &name, 2, ""));
        herd.herdwire.ok(&["start", &file]);
        herd.stage.next_of(2).iter_mut().for_each(|puppet| drop(puppet.connects()));
        herd.herdwire.ok(&["delete", &name]);
    }
    until("their memory has gone", || {
        // A descriptor or two of a request in progress may be among them.
        descriptors(keeper) <= before.0 + 1 && descriptors(supervisor) <= before.1 + 2
    });
}
