//! A supervisor that cannot take over, in the way that the name of its file says.
//!
//! | name | what it does as a standby |
//! |---|---|
//! | `exits-0`, `exits-1` | exits with that code at once |
//! | `refuses` | says why on stderr, exits with code 78 |
//! | `crashes` | aborts at once |
//! | `hangs` | never answers |
//! | `leaves` | says that it could take over, and exits before its turn |
//! | `dies` | takes over, and is killed before it is ready |
//! | `sleeps` | takes over, and is never ready |

use std::time::Duration;

use herdwire::keeper::client::KeeperLink;

const SOON: Duration = Duration::from_secs(30);

fn main() {
    let program = std::env::current_exe().unwrap();
    match program.file_name().and_then(|name| name.to_str()).unwrap() {
        "exits-0" => {}
        "exits-1" => std::process::exit(1),
        "refuses" => {
            eprintln!("first line");
            eprintln!("the state is of a release that this one does not know");
            std::process::exit(78);
        }
        "crashes" => std::process::abort(),
        "hangs" => std::thread::sleep(Duration::from_secs(3600)),
        way @ ("leaves" | "dies" | "sleeps") => take_over(way),
        name => panic!("`{name}` is no way to fail"),
    }
}

fn take_over(way: &str) {
    let mut keeper = KeeperLink::adopt_inherited().unwrap();
    drop(keeper.inheritance(SOON).unwrap());
    keeper.ready().unwrap();
    if way == "leaves" {
        return;
    }
    let inheritance = keeper.inheritance(SOON).unwrap();
    eprintln!("took {} descriptors over", inheritance.descriptors.len());
    match way {
        "dies" => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
        _ => std::thread::sleep(Duration::from_secs(3600)),
    }
}
