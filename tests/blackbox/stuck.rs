//! A process that the kernel itself holds: not even SIGKILL ends it until what it waits for is over.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::herdwire::{Herdwire, is_alive, until};

/// A file system whose server takes every question and answers none. Gone when this is dropped, and with it the wait of
/// whoever has asked.
struct Hole {
    folder: PathBuf,
    /// `None` once it is over.
    server: Option<File>,
}

/// Answer to a file system's first message: protocol 7.31, without anything optional.
fn welcome(unique: [u8; 8]) -> Vec<u8> {
    let mut answer = vec![0; 80];
    answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
    answer[8..16].copy_from_slice(&unique);
    answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
    answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
    answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
    answer
}

impl Hole {
    /// `None` where there may be none.
    fn new(folder: &Path) -> Option<Hole> {
        let mut server = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        fcntl(&server, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let folder = folder.join("hole");
        fs::create_dir(&folder).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", &options, "hole"]).arg(&folder).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        fcntl(&server, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        if !mounted {
            return None;
        }
        let mut hole = Hole { folder, server: None };
        let mut first = [0; 8192];
        assert!(server.read(&mut first).unwrap() >= 16, "the kernel's first question");
        server.write_all(&welcome(first[8..16].try_into().unwrap())).unwrap();
        hole.server = Some(server);
        Some(hole)
    }

    /// Takes the next question, so that whoever asked cannot be let go any more.
    fn swallow(&mut self) {
        assert!(self.server.as_mut().unwrap().read(&mut [0; 8192]).unwrap() > 0);
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_process_that_the_kernel_holds_is_shown_keeps_its_place_and_holds_nobody_up() {
    let herdwire = Herdwire::new();
    let Some(mut hole) = Hole::new(&herdwire.work()) else {
        return eprintln!("skipped: no file system of our own here");
    };
    herdwire.ok(&["start", "sleep 1000", "-n", "bystander"]);
    let script = format!("exec cat '{}/file'", hole.folder.display());
    herdwire.ok(&["start", &script, "-n", "stuck", "--kill-timeout", "200ms"]);
    hole.swallow();
    let stuck = herdwire.instance("stuck");
    let mut stop = herdwire.command(&["stop", "stuck"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it was killed in vain", || state_of(stuck.pid) == Some('D'));
    // Others are served, and it is shown for what it is.
    let now = herdwire.instance("stuck");
    assert_eq!((now.pid, now.status.as_str()), (stuck.pid, "stopping"));
    herdwire.ok(&["restart", "bystander"]);
    herdwire.kill_supervisor();
    let now = herdwire.instance("stuck");
    assert_eq!((now.pid, now.status.as_str()), (stuck.pid, "stopping"), "its place is not given to another");
    assert!(herdwire.instance("bystander").is_online());
    drop(hole);
    let ended = herdwire.await_instance("stuck", "ended", |now| now.status == "stopped");
    assert!(!is_alive(stuck.pid));
    // It has outlasted its supervisor.
    assert!(stop.wait().unwrap().success());
    // The first of the two that it could not die of.
    assert_eq!(ended.own("last_exit")["Signal"], 2);
}
