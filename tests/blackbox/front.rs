//! Browsers' sessions at the supervisor's front, and the workers behind it.

use std::net::SocketAddr;

use crate::herdwire::{Herdwire, until};
use crate::puppets::{Puppet, Stage};
use crate::sessions::Session;
use crate::status::get;

struct Site {
    herdwire: Herdwire,
    stage: Stage,
    address: SocketAddr,
    puppets: Vec<Puppet>,
}

impl Site {
    fn new(instances: u32) -> Site {
        let herdwire = Herdwire::new();
        let stage = Stage::new(&herdwire);
        let app = Stage::app(&herdwire, "herd", instances, "");
        std::fs::create_dir(herdwire.work().join("public")).unwrap();
        herdwire.write("public/index.html", "<h1>hello</h1>");
        herdwire.write("herdwire.toml", &(app + FRONT));
        herdwire.ok(&["start"]);
        let address = herdwire.snapshot()["front"]["address"].as_str().unwrap().parse().unwrap();
        let mut site = Site { puppets: stage.next_of(instances as usize), herdwire, stage, address };
        site.connect_puppets();
        site
    }

    fn connect_puppets(&mut self) {
        for puppet in &mut self.puppets {
            puppet.connects();
            puppet.does("subscribe chat");
        }
    }

    fn session(&self) -> Session {
        Session::open(self.address, "/chat", &[]).unwrap()
    }

    /// Says something in a session; which puppet heard it, and as whose.
    #[track_caller]
    fn say(&mut self, session: &mut Session, text: &str) -> (usize, String) {
        session.says(text);
        let mut found = None;
        until("a worker hears it", || {
            let heard = self.puppets.iter().enumerate().find_map(|(at, puppet)| Some((at, puppet.heard_so_far()?)));
            found = heard;
            found.is_some()
        });
        let (at, heard) = found.unwrap();
        let rest = heard.strip_prefix("heard-session chat ").unwrap_or_else(|| panic!("{heard}"));
        let (session, said) = rest.split_once(' ').unwrap();
        assert_eq!(said, text);
        (at, session.to_owned())
    }
}

const FRONT: &str = r#"
[front]
listen = "127.0.0.1:0"
files = "public"

[[front.path]]
path = "/chat"
herd = "herd"
channels = ["chat"]
handshake = "open"

[[front.path]]
path = "/private"
herd = "herd"
channels = ["chat"]
handshake = "token"
token = "a-long-secret"
"#;

#[test]
fn what_a_worker_publishes_reaches_every_session() {
    let mut site = Site::new(2);
    let mut sessions = [site.session(), site.session(), site.session()];
    site.puppets[0].does(r#"publish chat {"n":1}"#);
    site.puppets[1].does(r#"publish chat {"n":2}"#);
    for session in &mut sessions {
        let mut heard = [session.next().unwrap(), session.next().unwrap()];
        heard.sort();
        assert_eq!(heard, [r#"{"n":1}"#, r#"{"n":2}"#]);
    }
}

#[test]
fn what_a_browser_says_reaches_one_worker_which_can_answer_that_session_alone() {
    let mut site = Site::new(2);
    let (mut one, mut other) = (site.session(), site.session());
    let (at, session) = site.say(&mut one, r#"{"hello":1}"#);
    // From any worker, not only the one that heard it.
    site.puppets[1 - at].does(&format!(r#"session {session} chat {{"for":"you"}}"#));
    one.must_hear(r#"{"for":"you"}"#);
    site.puppets[at].does(r#"publish chat {"for":"all"}"#);
    other.must_hear(r#"{"for":"all"}"#);
    one.must_hear(r#"{"for":"all"}"#);
}

#[test]
fn a_ping_is_answered_by_the_front_itself() {
    let site = Site::new(1);
    let mut session = site.session();
    session.says(r#"{"type":"ping"}"#);
    assert!(session.next().unwrap().contains("\"pong\""));
}

#[test]
fn sessions_survive_a_restart_of_all_workers() {
    let mut site = Site::new(2);
    let mut session = site.session();
    let (_, before) = site.say(&mut session, r#"{"n":1}"#);
    site.herdwire.ok(&["restart", "herd"]);
    site.puppets = site.stage.next_of(2);
    site.connect_puppets();
    let (at, after) = site.say(&mut session, r#"{"n":2}"#);
    assert_eq!(before, after);
    site.puppets[at].does(r#"publish chat {"n":3}"#);
    session.must_hear(r#"{"n":3}"#);
}

#[test]
fn a_path_with_a_token_lets_in_whoever_brings_it_and_nobody_else() {
    let mut site = Site::new(1);
    let refused = |path: &str, headers: &[(&'static str, &str)]| Session::open(site.address, path, headers).err();
    assert_eq!(refused("/private", &[]), Some(401));
    assert_eq!(refused("/private?token=wrong", &[]), Some(401));
    assert_eq!(refused("/private", &[("authorization", "Bearer wrong")]), Some(401));
    assert_eq!(refused("/nowhere", &[]), Some(404));
    let mut by_query = Session::open(site.address, "/private?token=a-long-secret", &[]).unwrap();
    let header = [("authorization", "Bearer a-long-secret")];
    let mut by_header = Session::open(site.address, "/private", &header).unwrap();
    site.puppets[0].does(r#"publish chat {"n":1}"#);
    by_query.must_hear(r#"{"n":1}"#);
    by_header.must_hear(r#"{"n":1}"#);
    assert!(!site.herdwire.own_log().contains("a-long-secret"));
}

#[test]
fn a_message_that_is_too_large_ends_its_session_and_no_other() {
    let mut site = Site::new(1);
    let (mut loud, mut quiet) = (site.session(), site.session());
    loud.says(&format!("{:?}", "x".repeat(100 * 1024)));
    assert_eq!(loud.next(), None);
    site.puppets[0].does(r#"publish chat {"n":1}"#);
    quiet.must_hear(r#"{"n":1}"#);
}

#[test]
fn files_are_served_beside_the_paths() {
    let site = Site::new(1);
    let (code, head, body) = get(site.address, "/", "");
    assert_eq!((code, body.as_str()), (200, "<h1>hello</h1>"), "{head}");
    assert_eq!(get(site.address, "/../herdwire.toml", "").0, 404);
}

#[test]
fn the_front_is_where_it_was_after_the_supervisor_died() {
    let mut site = Site::new(1);
    site.herdwire.kill_supervisor();
    let mut session = site.session();
    let (at, _) = site.say(&mut session, r#"{"n":1}"#);
    site.puppets[at].does(r#"publish chat {"n":2}"#);
    session.must_hear(r#"{"n":2}"#);
}
