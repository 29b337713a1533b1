//! What is found in the store and in procfs, as values for the rule.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use herdwire_ipc::codec;

use super::{FoundProcess, FoundSpec, Identity, Rescued, complete};
use crate::config::spec::AppSpec;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::Time;
use crate::process::{Pidfd, sealed};
use crate::supervisor::state::Contents;
use crate::supervisor::{clock, main_process};

/// Completes what was read of the state, of which `lost` records are gone, by what the store holds. Costs next to
/// nothing where the two agree.
pub fn rescue(contents: &mut Contents, lost: u32, descriptors: &BTreeMap<Name, OwnedFd>) -> Rescued {
    raise_numbers(contents, descriptors.keys());
    let processes = unexplained(contents, descriptors);
    if lost == 0 && processes.is_empty() && all_apps_are_there(contents, descriptors) {
        return Rescued::default();
    }
    let of_kind = |kind: Kind| descriptors.iter().filter(move |(name, _)| name.kind == kind);
    let specs: Vec<FoundSpec> = of_kind(Kind::Spec).filter_map(|(name, memory)| spec(*name, memory)).collect();
    complete(contents, lost, &specs, &processes, clock::wall_ms())
}

/// No number that names something in the store is given again.
fn raise_numbers<'a>(contents: &mut Contents, names: impl Iterator<Item = &'a Name>) {
    let globals = &mut contents.globals;
    for name in names {
        match name.kind {
            Kind::Spec | Kind::Listener => globals.next_app = globals.next_app.max(name.owner.saturating_add(1)),
            Kind::Pidfd | Kind::Link => globals.next_instance = globals.next_instance.max(name.owner.saturating_add(1)),
            Kind::Settings => globals.settings_revision = globals.settings_revision.max(name.generation),
            _ => {}
        }
    }
}

/// Processes that no record knows, or whose record's life cannot be read.
fn unexplained(contents: &Contents, descriptors: &BTreeMap<Name, OwnedFd>) -> Vec<FoundProcess> {
    let known: BTreeMap<u32, _> = contents.instances.iter().map(|instance| (instance.id, instance)).collect();
    let is_explained = |name: &Name| {
        known.get(&name.owner).is_some_and(|known| {
            known.incarnation >= name.generation && crate::lifecycle::Instance::from_record(&known.lifecycle).is_some()
        })
    };
    let is_first = |name: &Name| name.kind == Kind::Pidfd && name.part == 0;
    let pidfds = descriptors.iter().filter(|(name, _)| is_first(name) && !is_explained(name));
    let main = |name: &Name| descriptors.get(&main_process::name(name.owner, name.generation));
    pidfds.filter_map(|(name, descriptor)| process(*name, descriptor, main(name))).collect()
}

fn all_apps_are_there(contents: &Contents, descriptors: &BTreeMap<Name, OwnedFd>) -> bool {
    let is_there = |id, revision| descriptors.contains_key(&Name::new(Kind::Spec, id, revision));
    let has_app = |id| contents.apps.iter().any(|app| app.id == id);
    contents.apps.iter().all(|app| is_there(app.id, app.revision))
        && contents.instances.iter().all(|instance| has_app(instance.app))
}

fn spec(name: Name, memory: &OwnedFd) -> Option<FoundSpec> {
    let bytes = sealed::read(memory.as_fd()).ok()?;
    let spec: AppSpec = codec::decode(&bytes).ok()?;
    Some(FoundSpec { app: name.owner, revision: name.generation, name: spec.name, instances: spec.instances })
}

fn process(name: Name, descriptor: &OwnedFd, main: Option<&OwnedFd>) -> Option<FoundProcess> {
    let pidfd = Pidfd::from_fd(descriptor.try_clone().ok()?);
    let pid = pidfd.pid();
    let main = main.and_then(|main| main.try_clone().ok()).map(Pidfd::from_fd);
    let lives = main.as_ref().unwrap_or(&pidfd);
    let (since, started_at_ms) = lives.started().map_or((clock::now(), 0), times);
    Some(FoundProcess {
        instance: name.owner,
        incarnation: name.generation,
        pid,
        inode: pidfd.inode().unwrap_or(0),
        main: main.as_ref().and_then(|main| Some((main.pid()?, main.inode().ok()?))),
        since,
        started_at_ms,
        // Read while the number was its own, if it still is.
        identity: lives.pid().and_then(identity).filter(|_| !lives.is_reaped()),
    })
}

/// Ticks since boot by both clocks.
fn times(ticks: u64) -> (Time, u64) {
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
    let (now, wall) = (clock::now(), clock::wall_ms());
    let since = Time((ticks * 1000 / a_second.unsigned_abs()).min(now.0));
    (since, wall.saturating_sub(now.0 - since.0))
}

fn identity(pid: u32) -> Option<Identity> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let mut entries = environment.split(|byte| *byte == 0);
        let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()
    };
    Some(Identity {
        app: value("HERDWIRE_NAME")?.to_owned(),
        index: value("HERDWIRE_INDEX")?.parse().ok()?,
        number: value("HERDWIRE_ID")?.parse().ok()?,
    })
}
