//! What the supervisor runs, rebuilt from the names in the store where the committed state does not tell.
//!
//! A state that was refused, or of which records are lost, costs no running instance: its pidfd lies in the store under
//! its number and incarnation, its own environment says which app and place it has, and the app's spec lies in the
//! store as well. A pure rule: what was found comes in as values (`adopt` looks), what is to be adopted goes out as
//! the contents of a state.
//!
//! Invariants
//! - A pidfd under the number and incarnation of a record is that record's process, whatever pid stands in it: a
//!   descriptor in the store names one process for ever.
//! - A record that is there and agrees with the store is never changed.
//! - Whatever is named in the store gets no number that is given again.
//! - Nothing is started: what has no process is put into the list as stopped.

use std::collections::BTreeMap;

use super::state::{AppRecord, Contents, InstanceRecord};
use crate::lifecycle::{Incarnation, Instance, Time};

mod look;
pub mod open;

/// A spec that lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSpec {
    pub app: u32,
    pub revision: u32,
    pub name: String,
    /// How many instances it asks for.
    pub instances: u32,
}

/// A process whose pidfd lies in the store, by its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundProcess {
    pub instance: u32,
    pub incarnation: u32,
    /// `None` once it has been reaped.
    pub pid: Option<u32>,
    pub inode: u64,
    /// The process that its life is instead: number and inode.
    pub main: Option<(u32, u64)>,
    /// By the boot clock and by the wall clock, as far as can be told.
    pub since: Time,
    pub started_at_ms: u64,
    /// What its environment says it is, if it says so.
    pub identity: Option<Identity>,
}

/// Who a process is by its own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub app: String,
    pub index: u32,
    pub number: u32,
}

/// What was added to the contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rescued {
    pub apps: u32,
    /// Instances that have a process.
    pub running: u32,
    /// Instances that were put into the list as stopped.
    pub stopped: u32,
    /// Processes that cannot be told to belong to any app: instance and, unless reaped, pid.
    pub nobodys: Vec<(u32, Option<u32>)>,
}

impl Rescued {
    /// Whether there was nothing to do.
    pub fn is_nothing(&self) -> bool {
        *self == Rescued::default()
    }
}

/// Completes contents of which `lost` records are not there; `u32::MAX` when none is. With none lost, only what
/// contradicts the store is put right.
pub fn complete(
    contents: &mut Contents,
    lost: u32,
    specs: &[FoundSpec],
    processes: &[FoundProcess],
    now_ms: u64,
) -> Rescued {
    let mut rescued = Rescued::default();
    let newest = newest(specs);
    complete_apps(contents, lost, specs, &newest, processes, &mut rescued);
    give_lives(contents, processes, &mut rescued);
    for process in latest(processes).into_values() {
        match contents.instances.iter_mut().find(|known| known.id == process.instance) {
            // A commit before the last one: the process that runs is of a later incarnation.
            Some(known) if known.incarnation < process.incarnation => {
                *known = InstanceRecord { incarnation: process.incarnation, ..running(process, known) };
                rescued.running += 1;
            }
            Some(_) => {}
            None => match app_of(process, contents, &newest) {
                Some(app) => {
                    let alone = newest.get(&app).is_some_and(|spec| spec.instances == 1);
                    let record = InstanceRecord { alone, ..found(process, app, contents, now_ms) };
                    contents.instances.push(record);
                    rescued.running += 1;
                }
                None => rescued.nobodys.push((process.instance, process.pid)),
            },
        }
    }
    raise_numbers(contents, specs, processes);
    let stopped = lost.saturating_sub(rescued.apps).saturating_sub(rescued.running);
    add_stopped(contents, stopped, &newest, now_ms, &mut rescued);
    contents.instances.sort_by_key(|instance| instance.id);
    contents.apps.sort_by_key(|app| app.id);
    rescued
}

/// The last revision of each app.
fn newest(specs: &[FoundSpec]) -> BTreeMap<u32, &FoundSpec> {
    let mut newest: BTreeMap<u32, &FoundSpec> = BTreeMap::new();
    for spec in specs {
        let known = newest.entry(spec.app).or_insert(spec);
        if known.revision < spec.revision {
            *known = spec;
        }
    }
    newest
}

/// The last incarnation of each instance.
fn latest(processes: &[FoundProcess]) -> BTreeMap<u32, &FoundProcess> {
    let mut latest: BTreeMap<u32, &FoundProcess> = BTreeMap::new();
    for process in processes {
        let known = latest.entry(process.instance).or_insert(process);
        if known.incarnation < process.incarnation {
            *known = process;
        }
    }
    latest
}

fn complete_apps(
    contents: &mut Contents,
    lost: u32,
    specs: &[FoundSpec],
    newest: &BTreeMap<u32, &FoundSpec>,
    processes: &[FoundProcess],
    rescued: &mut Rescued,
) {
    for (id, spec) in newest {
        // An app is committed before its first instance, and removed after its last.
        let is_somebodys = || {
            let says_so = |process: &FoundProcess| process.identity.as_ref().is_some_and(|its| its.app == spec.name);
            let is_named_so = |app: &AppRecord| newest.get(&app.id).is_some_and(|other| other.name == spec.name);
            count(contents, *id) > 0 || processes.iter().any(says_so) && !contents.apps.iter().any(is_named_so)
        };
        let is_lost = lost > 0 || is_somebodys();
        match contents.apps.iter_mut().find(|app| app.id == *id) {
            Some(app) if specs.iter().all(|spec| (spec.app, spec.revision) != (app.id, app.revision)) => {
                app.revision = spec.revision;
                app.newest = app.newest.max(spec.revision);
                rescued.apps += 1;
            }
            Some(_) => {}
            None if is_lost => {
                contents.apps.push(AppRecord::new(*id, spec.revision));
                rescued.apps += 1;
            }
            // Left by a death between storing a spec and committing its app.
            None => {}
        }
    }
}

/// A record whose life is in words of another release stands where its process does.
fn give_lives(contents: &mut Contents, processes: &[FoundProcess], rescued: &mut Rescued) {
    for known in &mut contents.instances {
        if Instance::from_record(&known.lifecycle).is_some() {
            continue;
        }
        let its = |process: &&FoundProcess| (process.instance, process.incarnation) == (known.id, known.incarnation);
        match processes.iter().find(its) {
            Some(process) => {
                *known = running(process, known);
                rescued.running += 1;
            }
            None => {
                known.lifecycle = Instance::stopped_before().to_record();
                rescued.stopped += 1;
            }
        }
    }
}

/// The app of a process: what it says itself; else the only one that lacks an instance.
fn app_of(process: &FoundProcess, contents: &Contents, newest: &BTreeMap<u32, &FoundSpec>) -> Option<u32> {
    let is_known = |id: &u32| contents.apps.iter().any(|app| app.id == *id);
    if let Some(identity) = &process.identity {
        let named = newest.iter().find(|(id, spec)| is_known(id) && spec.name == identity.app);
        return named.map(|(id, _)| *id);
    }
    let mut lacking = newest.iter().filter(|(id, spec)| is_known(id) && count(contents, **id) < spec.instances);
    let only = lacking.next()?;
    lacking.next().is_none().then_some(*only.0)
}

fn count(contents: &Contents, app: u32) -> u32 {
    contents.instances.iter().filter(|instance| instance.app == app).count() as u32
}

/// A record of what runs, with the rest as it was known.
fn running(process: &FoundProcess, known: &InstanceRecord) -> InstanceRecord {
    InstanceRecord {
        lifecycle: Instance::found(Incarnation(process.incarnation), process.since).to_record(),
        pid: process.pid.unwrap_or(0),
        pidfd_inode: process.inode,
        started_at_ms: process.started_at_ms,
        main_pid: process.main.map_or(0, |(pid, _)| pid),
        main_inode: process.main.map_or(0, |(_, inode)| inode),
        ..*known
    }
}

fn found(process: &FoundProcess, app: u32, contents: &Contents, now_ms: u64) -> InstanceRecord {
    let identity = process.identity.as_ref();
    let known = InstanceRecord {
        id: process.instance,
        app,
        index: identity.map_or_else(|| free_index(contents, app), |identity| identity.index),
        incarnation: process.incarnation,
        // It was not made later than this.
        created_at_ms: if process.started_at_ms > 0 { process.started_at_ms } else { now_ms },
        revision: revision(contents, app),
        number: identity.map_or(process.instance, |identity| identity.number),
        ..InstanceRecord::default()
    };
    running(process, &known)
}

fn revision(contents: &Contents, app: u32) -> u32 {
    contents.apps.iter().find(|known| known.id == app).map_or(0, |known| known.revision)
}

fn free_index(contents: &Contents, app: u32) -> u32 {
    let taken = |index: &u32| contents.instances.iter().any(|known| known.app == app && known.index == *index);
    (0..).find(|index| !taken(index)).expect("there are fewer instances than numbers")
}

/// No number that is in use, or was when the state was lost, is given again.
fn raise_numbers(contents: &mut Contents, specs: &[FoundSpec], processes: &[FoundProcess]) {
    let apps = specs.iter().map(|spec| spec.app).chain(contents.apps.iter().map(|app| app.id));
    let next_app = apps.max().map_or(1, |last| last + 1);
    let named = processes.iter().map(|process| process.instance);
    let known = contents.instances.iter().flat_map(|instance| [instance.id, instance.number]);
    let next_instance = named.chain(known).max().map_or(0, |last| last + 1);
    let globals = &mut contents.globals;
    globals.next_app = globals.next_app.max(next_app);
    globals.next_instance = globals.next_instance.max(next_instance);
}

/// Puts instances that had no process back into the list, up to as many as their apps ask for.
fn add_stopped(
    contents: &mut Contents,
    most: u32,
    newest: &BTreeMap<u32, &FoundSpec>,
    now_ms: u64,
    rescued: &mut Rescued,
) {
    let apps: Vec<AppRecord> = contents.apps.clone();
    for app in apps {
        let Some(spec) = newest.get(&app.id) else { continue };
        while count(contents, app.id) < spec.instances && rescued.stopped < most {
            let id = contents.globals.next_instance;
            contents.globals.next_instance += 1;
            contents.instances.push(InstanceRecord {
                id,
                app: app.id,
                index: free_index(contents, app.id),
                // One that has never run would be started by its app's `autostart`.
                incarnation: 1,
                lifecycle: Instance::stopped_before().to_record(),
                created_at_ms: now_ms,
                revision: app.revision,
                number: id,
                alone: spec.instances == 1,
                ..InstanceRecord::default()
            });
            rescued.stopped += 1;
        }
    }
}

#[cfg(test)]
mod tests;
