//! `listen`: sockets that the supervisor holds and all instances of an app share.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::herdwire::{Herdwire, SOON, until, worker};

fn start_servers(herdwire: &Herdwire) -> SocketAddr {
    let server = worker("server");
    let config = format!(
        "[[app]]\nname = \"server\"\nscript = {:?}\ninstances = 2\nlisten = [\"tcp://127.0.0.1:0\"]\n",
        server.display()
    );
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    let told = herdwire.instances("server")[0].own("listen")[0].as_str().unwrap().to_owned();
    told.trim_start_matches("tcp://").parse().unwrap_or_else(|_| panic!("no address: {told}"))
}

/// One connection, one request, one answer: the server's process id.
pub fn ask(address: SocketAddr) -> std::io::Result<u32> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(SOON))?;
    connection.write_all(b"GET ")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    answer.parse().map_err(|_| std::io::Error::other(format!("no answer: `{answer}`")))
}

#[test]
fn instances_share_a_listener_which_is_descriptor_3() {
    let herdwire = Herdwire::new();
    let address = start_servers(&herdwire);
    let expected: BTreeSet<u32> = herdwire.instances("server").iter().map(|instance| instance.pid).collect();
    let mut seen = BTreeSet::new();
    until("both have answered", || {
        seen.insert(ask(address).unwrap());
        seen == expected
    });
}

#[test]
fn requests_during_a_restart_are_queued_and_not_refused() {
    let herdwire = Herdwire::new();
    let address = start_servers(&herdwire);
    let over = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let client = || {
            let mut answered = 0;
            while !over.load(Relaxed) {
                ask(address).expect("every request is answered");
                answered += 1;
            }
            answered
        };
        let clients = [scope.spawn(client), scope.spawn(client)];
        for _ in 0..3 {
            herdwire.ok(&["restart", "server"]);
        }
        over.store(true, Relaxed);
        clients.map(|client| client.join().unwrap()).iter().sum::<u32>()
    });
    assert!(answered > 0);
}

#[test]
fn a_listener_outlives_the_supervisor() {
    let herdwire = Herdwire::new();
    let address = start_servers(&herdwire);
    herdwire.kill_supervisor();
    ask(address).unwrap();
    herdwire.ok(&["restart", "server"]);
    let servers = herdwire.instances("server");
    let answered = ask(address).unwrap();
    assert!(servers.iter().any(|server| server.pid == answered), "{answered} is none of {servers:?}");
    assert_eq!(servers[0].own("listen")[0], format!("tcp://{address}"));
}

#[test]
fn what_waits_at_a_listener_is_served_after_restarts_and_the_supervisors_death() {
    const WAITING: usize = 200;
    let herdwire = Herdwire::new();
    let address = start_servers(&herdwire);
    herdwire.ok(&["stop", "server"]);
    let mut waiting: Vec<TcpStream> = (0..WAITING)
        .map(|_| {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(b"GET ").unwrap();
            connection
        })
        .collect();
    herdwire.kill_supervisor();
    herdwire.ok(&["restart", "server"]);
    for connection in &mut waiting {
        connection.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.parse::<u32>().unwrap_or_else(|_| panic!("no answer: `{answer}`"));
    }
}

#[test]
fn a_unix_listener_is_its_apps_users_as_if_it_had_bound_it_itself() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let herdwire = Herdwire::new();
    let path = herdwire.work().join("app.sock");
    let config = format!(
        "[[app]]\nname = \"app\"\nscript = \"sleep 1000\"\nuser = \"daemon\"\numask = \"007\"\nlisten = [\"unix://{}\"]\n",
        path.display()
    );
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    let user = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (user.uid.as_raw(), user.gid.as_raw(), 0o770));
}

#[test]
fn a_listener_is_closed_when_its_app_is_deleted() {
    let herdwire = Herdwire::new();
    let address = start_servers(&herdwire);
    herdwire.ok(&["delete", "server"]);
    until("the port is free", || TcpListener::bind(address).is_ok());
}
