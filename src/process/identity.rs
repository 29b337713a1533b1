//! As whom an instance runs: found by name, taken on for good.
//!
//! Runs in the trampoline, where nothing else does: the name service may load modules, block, and open descriptors. Owns
//! nothing.
//!
//! Invariants
//! - Groups first, then the group, then the user: after that there is no right left to change the others.
//! - Once another user has been taken on, root cannot be had back, or the app does not start.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::socket::{UnixAddr, getsockname};
use nix::sys::stat::{self, FchmodatFlags::FollowSymlink, Mode};
use nix::unistd::{self, Gid, Group, Uid, User};

use super::go::{ExecFailure, Step};
use crate::config::spec::Bounds;

/// Who an instance is to be. What is `None` stays as the supervisor has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    uid: Option<Uid>,
    gid: Option<Gid>,
    groups: Option<Vec<Gid>>,
    /// Whether they were named, and are not just the user's own.
    groups_named: bool,
    /// What programs expect in their environment of the user they run as.
    variables: Vec<(&'static str, String)>,
}

/// Looks up what the bounds name. May block for as long as the name service does.
///
/// # Errors
/// A name that nobody has, or the name service's own.
pub fn find(bounds: &Bounds) -> Result<Identity, ExecFailure> {
    let mut identity = Identity::default();
    if let Some(name) = &bounds.user {
        let (uid, user) = find_user(name)?;
        identity.uid = Some(uid);
        if let Some(user) = user {
            identity.gid = Some(user.gid);
            identity.groups = Some(groups_of(&user)?);
            identity.variables = variables(user);
        }
    }
    if let Some(name) = &bounds.group {
        identity.gid = Some(find_group(name)?);
    }
    match (&bounds.user, identity.gid) {
        // A number that belongs to nobody has no group of its own, and ours may be root's.
        (Some(name), None) => return Err(ExecFailure::new(Step::Group, 0).about(name)),
        (Some(_), Some(gid)) if identity.groups.is_none() => identity.groups = Some(vec![gid]),
        _ => {}
    }
    if let Some(names) = &bounds.groups {
        identity.groups_named = true;
        identity.groups = Some(names.iter().map(|name| find_group(name)).collect::<Result<_, _>>()?);
    }
    Ok(identity)
}

impl Identity {
    /// The user's own variables: for an environment that has none of these names.
    pub fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// Lets the user open `/dev/stdout` and `/dev/stderr` where they are pipes, which belong to whoever made them. Best
    /// effort: writing to them needs no right.
    pub fn own_pipes(&self) {
        for stream in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            if stat::fstat(stream).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFIFO) {
                let _ = unistd::fchown(stream, self.uid, self.gid);
            }
        }
    }

    /// Makes the files of Unix listeners what they would be, had the app bound them itself: those of its user, with this
    /// mode. Best effort: it has the sockets anyway.
    pub fn own_sockets(&self, listeners: impl Iterator<Item = RawFd>, mode: u32) {
        for listener in listeners {
            if let Some(path) = socket_path(listener)
                && let Ok(file) = fcntl::open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
                // By descriptor: nobody can put something else in its place between the look and the change.
                && stat::fstat(&file).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFSOCK)
            {
                let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
                let _ = unistd::chown(by_descriptor.as_str(), self.uid, self.gid);
                let _ = stat::fchmodat(
                    fcntl::AT_FDCWD,
                    by_descriptor.as_str(),
                    Mode::from_bits_truncate(mode),
                    FollowSymlink,
                );
            }
        }
    }

    /// Becomes it.
    ///
    /// # Errors
    /// The right is missing; or it is not missing enough afterwards.
    pub fn assume(&self) -> Result<(), ExecFailure> {
        if self.is_ours() {
            return Ok(());
        }
        let attempt = || -> nix::Result<()> {
            if let Some(groups) = &self.groups {
                unistd::setgroups(groups)?;
            }
            if let Some(gid) = self.gid {
                unistd::setresgid(gid, gid, gid)?;
            }
            match self.uid {
                Some(uid) => unistd::setresuid(uid, uid, uid),
                None => Ok(()),
            }
        };
        attempt().map_err(|errno| ExecFailure::new(Step::Identity, errno as i32))?;
        match self.uid {
            Some(uid) if !uid.is_root() && unistd::setuid(Uid::from_raw(0)).is_ok() => {
                Err(ExecFailure::new(Step::Return, 0))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is nothing to change, which needs no right: a supervisor without any may run apps as itself.
    fn is_ours(&self) -> bool {
        let is_user = self.uid.is_none_or(|uid| uid == unistd::getuid() && uid == unistd::geteuid());
        let is_group = self.gid.is_none_or(|gid| gid == unistd::getgid() && gid == unistd::getegid());
        let sorted = |groups: &[Gid]| groups.iter().map(|gid| gid.as_raw()).collect::<std::collections::BTreeSet<_>>();
        let has_groups = self.groups.as_ref().is_none_or(|wanted| {
            // Without a right it has those that its login gave it, whatever the name service says today.
            let keeps_them = !self.groups_named && !unistd::geteuid().is_root();
            keeps_them || unistd::getgroups().is_ok_and(|held| sorted(&held) == sorted(wanted))
        });
        is_user && is_group && has_groups
    }
}

/// Where a Unix listener's file is.
fn socket_path(listener: RawFd) -> Option<PathBuf> {
    Some(getsockname::<UnixAddr>(listener).ok()?.path()?.to_owned())
}

/// By name first: there may be a user whose name is a number.
fn find_user(name: &str) -> Result<(Uid, Option<User>), ExecFailure> {
    let failed = |errno: Errno| ExecFailure::new(Step::User, errno as i32).about(name);
    if let Some(user) = nobody(User::from_name(name)).map_err(failed)? {
        return Ok((user.uid, Some(user)));
    }
    let uid = Uid::from_raw(number(name).ok_or_else(|| ExecFailure::new(Step::User, 0).about(name))?);
    Ok((uid, nobody(User::from_uid(uid)).map_err(failed)?))
}

fn find_group(name: &str) -> Result<Gid, ExecFailure> {
    let failed = |errno: Errno| ExecFailure::new(Step::Group, errno as i32).about(name);
    if let Some(group) = nobody(Group::from_name(name)).map_err(failed)? {
        return Ok(group.gid);
    }
    number(name).map(Gid::from_raw).ok_or_else(|| ExecFailure::new(Step::Group, 0).about(name))
}

fn groups_of(user: &User) -> Result<Vec<Gid>, ExecFailure> {
    let failed = |errno: Errno| ExecFailure::new(Step::Group, errno as i32).about(&user.name);
    let name = CString::new(user.name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
    unistd::getgrouplist(&name, user.gid).map_err(failed)
}

/// What the C library says, in several ways, of a name that nobody has.
fn nobody<T>(answer: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        answer => answer,
    }
}

/// A user's or group's number; the highest means "leave it" to the kernel.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|number| *number != u32::MAX)
}

fn variables(user: User) -> Vec<(&'static str, String)> {
    vec![
        ("HOME", user.dir.display().to_string()),
        ("LOGNAME", user.name.clone()),
        ("SHELL", user.shell.display().to_string()),
        ("USER", user.name),
    ]
}
