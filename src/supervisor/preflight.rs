//! What can be known to go wrong before a reload has touched anything, or a process is made.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, Group, User, access};

use super::control::Failure;
use super::core::Core;
use super::registry::Process;
use crate::config::spec::{AppSpec, Bounds};
use crate::process::env_file;

/// Descriptors in the store that an instance takes.
const PER_INSTANCE: u32 = 6;

/// Those that come into it once a process is made: its pidfd and two pipes.
const WHEN_MADE: u32 = 3;

/// Instances that one herd's wire has room for; the supervisor has a place of its own.
const PLACES: u32 = herdwire_ipc::layout::MAX_SLOTS as u32 - 1;

impl Core {
    /// Checks what a spec needs to run, and that there is room for `surge` more instances than now.
    pub(super) async fn preflight(&self, spec: &AppSpec, surge: u32) -> Result<(), Failure> {
        let failed = |what: String| Failure::new(format!("app `{}`: {what}", spec.name));
        check_program(&spec.command.program).map_err(failed)?;
        if !spec.cwd.is_dir() {
            return Err(failed(format!("its folder `{}` is not there", spec.cwd.display())));
        }
        env_file::read(&spec.env_files).map_err(|error| {
            let failure = failed(error.to_string());
            let failure = std::error::Error::source(&error).into_iter().fold(failure, Failure::cause);
            error.hint().into_iter().fold(failure, Failure::hint)
        })?;
        check_user(&spec.bounds).map_err(failed)?;
        let needed = self.stored() + surge * PER_INSTANCE + 1 + spec.listen.len() as u32;
        // The last tenth is for what runs already.
        if needed > self.store_limit / 10 * 9 {
            let what = format!("{surge} more instances need more descriptors than are left");
            return Err(failed(what).hint("lower `parallel`, or raise the limit on open files before the first start"));
        }
        let herds = self.wire.look().await;
        let seated = herds.iter().find(|herd| herd.name == spec.herd).map_or(0, |herd| herd.seats.len() as u32);
        if seated > 0 && seated + surge > PLACES {
            let what = format!("herd `{}` has room for {PLACES} instances, and {seated} are there", spec.herd);
            return Err(failed(what).hint("a reload starts new instances beside the old ones: scale down first"));
        }
        Ok(())
    }

    /// Why the store has no room for the process that is about to be made, if it has none. An instance that runs without
    /// being kept would be lost with the supervisor, and ours are as few as the store's.
    pub(super) fn lacks_room(&self) -> Option<String> {
        let made = self.registry.instances.values().filter(|entry| matches!(entry.process, Process::Making)).count();
        // It is among them itself.
        let on_its_way = (made as u32).saturating_sub(1) * WHEN_MADE;
        let (used, limit) = (self.stored() + on_its_way, self.store_limit);
        (used + PER_INSTANCE > limit).then(|| {
            format!(
                "the keeper's store is full: {used} of {limit} descriptors are taken, and a process needs {PER_INSTANCE}; \
                 the limit on open files before the first start decides how many there are"
            )
        })
    }
}

fn check_program(program: &Path) -> Result<(), String> {
    let shown = program.display();
    let metadata = std::fs::metadata(program).map_err(|error| format!("its program `{shown}`: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("its program `{shown}` is not a file"));
    }
    // Root may do everything but execute what nobody may.
    if metadata.permissions().mode() & 0o111 == 0 || access(program, AccessFlags::X_OK).is_err() {
        return Err(format!("its program `{shown}` is not executable"));
    }
    Ok(())
}

fn check_user(bounds: &Bounds) -> Result<(), String> {
    let is_number = |name: &str| name.parse::<u32>().is_ok();
    if let Some(user) = bounds.user.as_deref().filter(|user| !is_number(user))
        && !User::from_name(user).is_ok_and(|found| found.is_some())
    {
        return Err(format!("there is no user `{user}`"));
    }
    for group in bounds.group.iter().chain(bounds.groups.iter().flatten()).filter(|group| !is_number(group)) {
        if !Group::from_name(group).is_ok_and(|found| found.is_some()) {
            return Err(format!("there is no group `{group}`"));
        }
    }
    Ok(())
}
