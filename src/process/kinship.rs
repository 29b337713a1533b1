//! Whose process a process is.
//!
//! By its control group or its session, which no process gets into from outside; failing that by the variables that an
//! instance's processes inherit, which anybody could give to a process of his own. Who asks decides what the
//! second is worth: nothing, unless the process runs as the instance does.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::sweep::Process;
use super::{Group, Pidfd};

/// What tells the processes of one incarnation of an instance from all others.
#[derive(Debug, Clone, Default)]
pub struct Kinship {
    /// Its control group, if it has one.
    pub group: Option<Group>,
    /// Processes that are its own in any case: the one that was started, and its main process. Each with the inode of its
    /// pidfd, 0 where the kernel gives none.
    pub leaders: Vec<(u32, u64)>,
    /// Entries of the environment (`KEY=VALUE`) that together only its processes have.
    pub marks: Vec<String>,
}

/// How it is known that a process belongs to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    /// The kernel says so.
    Proven,
    /// It says so itself, by its environment.
    Claimed,
}

/// What can be seen of a process; read once, however many instances it may belong to.
#[derive(Debug)]
pub struct Traits {
    pid: u32,
    session: u32,
    groups: String,
    environment: OnceCell<Vec<u8>>,
}

impl Traits {
    /// Looks at the process with this number; `None` when there is none.
    pub fn of(pid: u32) -> Option<Traits> {
        let session = Process::read(pid)?.session;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Some(Traits { pid, session, groups, environment: OnceCell::new() })
    }

    /// Whether it was started with all of these variables.
    fn has(&self, marks: &[String]) -> bool {
        let read = || fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        !marks.is_empty() && holds(self.environment.get_or_init(read), marks)
    }
}

impl Kinship {
    /// Whether a process belongs to the instance, and how that is known.
    pub fn with(&self, other: &Traits) -> Option<Kin> {
        let its_own = |(leader, _): &&(u32, u64)| *leader == other.pid || *leader == other.session;
        let is_proven = self.leaders.iter().find(its_own).is_some_and(|(leader, inode)| is_still(*leader, *inode))
            || self.group.as_ref().is_some_and(|group| group.is_among(&other.groups));
        match is_proven {
            true => Some(Kin::Proven),
            false => other.has(&self.marks).then_some(Kin::Claimed),
        }
    }
}

/// Whether a number has not been given to another process. As long as a session has members its number is not given away,
/// also when its leader is gone.
fn is_still(pid: u32, inode: u64) -> bool {
    let now = Pidfd::open(pid).and_then(|pidfd| pidfd.inode());
    inode == 0 || now.is_ok_and(|now| now == inode) || Process::read(pid).is_none()
}

/// Whether a process was started with all of these variables.
pub(super) fn has_marks(pid: u32, marks: &[String]) -> bool {
    !marks.is_empty() && fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| holds(&environment, marks))
}

fn holds(environment: &[u8], marks: &[String]) -> bool {
    let entries: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
    marks.iter().all(|mark| entries.contains(mark.as_bytes()))
}

/// Whom a process runs as; `None` once it has been reaped.
pub fn user_of(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn new(change: impl FnOnce(&mut Command)) -> Sleeper {
            let mut command = Command::new("/bin/sleep");
            command.arg("1000").env_clear();
            change(&mut command);
            Sleeper(command.spawn().unwrap())
        }

        fn pid(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn kin(kinship: &Kinship, pid: u32) -> Option<Kin> {
        kinship.with(&Traits::of(pid)?)
    }

    fn inode(pid: u32) -> u64 {
        Pidfd::open(pid).unwrap().inode().unwrap()
    }

    #[test]
    fn whoever_is_of_the_leaders_session_belongs_to_it_and_a_stranger_does_not() {
        let (ours, stranger) = (
            Sleeper::new(|_| {}),
            Sleeper::new(|command| {
                command.process_group(0);
            }),
        );
        let session = Process::read(ours.pid()).unwrap().session;
        let kinship = Kinship { leaders: vec![(session, 0)], ..Kinship::default() };
        assert_eq!(kin(&kinship, ours.pid()), Some(Kin::Proven));
        let other = Kinship { leaders: vec![(stranger.pid(), inode(stranger.pid()))], ..Kinship::default() };
        assert_eq!((kin(&other, stranger.pid()), kin(&other, ours.pid())), (Some(Kin::Proven), None));
    }

    #[test]
    fn a_number_that_was_given_to_another_process_proves_nothing() {
        let later = Sleeper::new(|_| {});
        let kinship = Kinship { leaders: vec![(later.pid(), inode(later.pid()) + 1)], ..Kinship::default() };
        assert_eq!(kin(&kinship, later.pid()), None);
    }

    #[test]
    fn what_was_inherited_is_a_claim_and_only_all_of_it() {
        let marked = Sleeper::new(|command| {
            command.env("A", "1").env("B", "2");
        });
        let marks = |marks: &[&str]| Kinship {
            marks: marks.iter().map(|mark| mark.to_string()).collect(),
            ..Kinship::default()
        };
        let look = |all: &[&str]| kin(&marks(all), marked.pid());
        // The child may not have executed its program yet.
        while user_of(marked.pid()).is_some() && look(&["A=1"]).is_none() {
            std::thread::yield_now();
        }
        assert_eq!(look(&["A=1", "B=2"]), Some(Kin::Claimed));
        assert_eq!((look(&["A=1", "B=3"]), look(&[])), (None, None));
        assert_eq!(user_of(marked.pid()), user_of(std::process::id()));
    }
}
