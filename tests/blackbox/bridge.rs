//! Two supervisors, two homes, one Redis: what is published on one host is heard on the other.

use std::time::{Duration, Instant};

use crate::herdwire::{Herdwire, SOON, poll, until};
use crate::puppets::{Me, Puppet, Stage};
use crate::redis::Redis;

/// One host: a herd of two workers that hear the bridged channel `news` and the local one `local`.
struct Host {
    herdwire: Herdwire,
    puppets: Vec<Puppet>,
    me: Vec<Me>,
}

impl Host {
    fn start(url: &str) -> Host {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let app = Stage::app(&herdwire, "pair", 2, "bridge = [\"news\"]");
        herdwire.write("herdwire.toml", &format!("{app}\n[redis]\nurl = {url:?}\n"));
        herdwire.ok(&["start"]);
        let mut puppets = stage.next_of(2);
        let me = puppets.iter_mut().map(Puppet::connects).collect();
        for puppet in &mut puppets {
            puppet.does("subscribe news");
            puppet.does("subscribe local");
        }
        Host { herdwire, puppets, me }
    }

    fn is_connected(&self) -> bool {
        self.herdwire.snapshot()["bridge"]["state"] == "Connected"
    }

    /// One message from one worker to its sibling.
    #[track_caller]
    fn talk(&mut self, text: &str) {
        self.puppets[0].does(&format!("publish local {text}"));
        self.puppets[1].must_hear(&format!("heard local {} {text}", self.me[0].id));
    }
}

#[test]
fn a_bridged_channel_crosses_both_ways_once_and_does_not_come_back() {
    let Some(redis) = Redis::start() else { return };
    let mut hosts = [Host::start(&redis.url()), Host::start(&redis.url())];
    until("both are connected", || hosts.iter().all(Host::is_connected));
    for (from, to) in [(0, 1), (1, 0)] {
        for number in 0..50 {
            hosts[from].puppets[0].does(&format!("publish news {from}.{number}"));
        }
        let id = hosts[from].me[0].id;
        for number in 0..50 {
            hosts[from].puppets[1].must_hear(&format!("heard news {id} {from}.{number}"));
            for puppet in &hosts[to].puppets {
                puppet.must_hear(&format!("heard news outside {from}.{number}"));
            }
        }
    }
    // Nothing came twice and nothing came back: the next thing that anybody hears is new.
    for (host, text) in [(0, "end of 0"), (1, "end of 1")] {
        hosts[host].puppets[1].does(&format!("publish news {text}"));
        hosts[host].puppets[0].must_hear(&format!("heard news {} {text}", hosts[host].me[1].id));
        for puppet in &hosts[1 - host].puppets {
            puppet.must_hear(&format!("heard news outside {text}"));
        }
    }
    hosts[0].talk("stays here");
    hosts[1].puppets[0].does("publish news last");
    hosts[1].puppets[1].must_hear(&format!("heard news {} last", hosts[1].me[0].id));
}

#[test]
fn redis_may_die_and_come_back() {
    let Some(mut redis) = Redis::start() else { return };
    let mut hosts = [Host::start(&redis.url()), Host::start(&redis.url())];
    until("both are connected", || hosts.iter().all(Host::is_connected));
    let mut longest = Duration::ZERO;
    let mut number = 0;
    let mut talk = |hosts: &mut [Host; 2]| {
        let since = Instant::now();
        hosts[0].puppets[0].does(&format!("publish news {number}"));
        hosts[0].puppets[1].must_hear(&format!("heard news {} {number}", hosts[0].me[0].id));
        longest = longest.max(since.elapsed());
        number += 1;
    };
    (0..20).for_each(|_| talk(&mut hosts));
    redis.kill();
    until("both know that it is gone", || {
        talk(&mut hosts);
        hosts.iter().all(|host| !host.is_connected())
    });
    (0..100).for_each(|_| talk(&mut hosts));
    let since = Instant::now();
    redis.restart();
    until("both are connected again", || {
        talk(&mut hosts);
        hosts.iter().all(Host::is_connected)
    });
    let back = since.elapsed();
    (0..20).for_each(|_| talk(&mut hosts));
    hosts[0].puppets[0].does("publish news end");
    assert!(longest < Duration::from_secs(1), "local traffic paused for {longest:?}");
    assert!(back < Duration::from_secs(5), "the bridge came back after {back:?}");
    // What was said meanwhile may be lost. Nothing comes twice or in another order.
    let mut last = None;
    loop {
        let heard = hosts[1].puppets[0].hears();
        let text = heard.strip_prefix("heard news outside ").unwrap_or_else(|| panic!("{heard}"));
        if text == "end" {
            break;
        }
        let number: i64 = text.parse().unwrap();
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        last = Some(number);
    }
    assert!(last >= Some(number - 1), "the last before the end was {last:?}");
}

#[test]
fn a_supervisor_that_dies_comes_back_to_the_bridge() {
    let Some(redis) = Redis::start() else { return };
    let mut hosts = [Host::start(&redis.url()), Host::start(&redis.url())];
    until("both are connected", || hosts.iter().all(Host::is_connected));
    hosts[0].herdwire.kill_supervisor();
    until("both are connected", || hosts.iter().all(Host::is_connected));
    hosts[0].puppets[0].does("publish news there");
    hosts[1].puppets[0].must_hear("heard news outside there");
    hosts[1].puppets[0].does("publish news back");
    hosts[0].puppets[0].must_hear("heard news outside back");
}

#[test]
fn a_wrong_password_is_said_in_a_sentence_and_the_herd_runs_without_the_bridge() {
    let Some(redis) = Redis::start_with_password("right") else { return };
    let mut host = Host::start(&redis.url_with_password("hunter2"));
    let waits = || {
        let state = host.herdwire.snapshot()["bridge"]["state"]["Waiting"].clone();
        state.as_str().map(str::to_owned).filter(|sentence| sentence.contains("password"))
    };
    let sentence = poll(SOON, waits);
    assert!(sentence.is_some(), "{:#}", host.herdwire.snapshot()["bridge"]);
    host.talk("all the same");
    assert!(host.herdwire.own_log().contains("password"), "{}", host.herdwire.own_log());
    let shown = host.herdwire.snapshot().to_string() + &host.herdwire.own_log() + &host.herdwire.ok(&["list"]);
    assert!(!shown.contains("hunter2"));
}
