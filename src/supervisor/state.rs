//! What the supervisor has committed: all that its successor cannot see for itself.
//!
//! A memfd of fixed size, sealed against shrinking and growing, that lies in the store. Records are committed one by
//! one, each in a place of two copies (`state::copy`), so that a death at any moment leaves every record whole: as it
//! was, or as it is now. Sparse: a place that was never used costs no memory. What the records mean belongs to
//! `supervisor`; what their fields are stands in `state::record`.
//!
//! ```text
//! 0     magic "HWSTATE1"
//! 512   format: writer's version, oldest version that may read, sizes of the tables
//! 1024  globals
//! 4096  apps, then instances
//! ```
//!
//! Invariants
//! - A record that is not whole is never read as one; one of which neither copy is whole is reported, not invented.
//! - A reader that refuses has changed nothing.

mod copy;
mod record;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use copy::{Current, Found, PLACE_BYTES};
pub use record::{AppRecord, DEPLOYMENT_BYTES, Globals, InstanceRecord, LIFECYCLE_BYTES};
use record::{Body, Fields, Reading};

/// Version of what is written here.
pub const STATE_VERSION: u16 = 1;

/// The oldest version that may read what is written here: raised only when an older one would do harm.
pub const MIN_READER: u16 = 1;

/// The most apps. Few where inputs are tried by the thousand: each is a whole file.
pub const MAX_APPS: u32 = if cfg!(fuzzing) { 4 } else { 1024 };

/// The most instances, of all apps together.
pub const MAX_INSTANCES: u32 = if cfg!(fuzzing) { 8 } else { 8192 };

const MAGIC: [u8; 8] = *b"HWSTATE1";
const FORMAT_PLACE: u64 = 512;
const GLOBALS_PLACE: u64 = 1024;
const TABLES: u64 = 4096;

/// Places read at a time.
const BLOCK: usize = 128;

/// Why a state could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    #[error("the stored state is not one of Herdwire")]
    NotOurs,
    #[error("the stored state may be read from version {needed} of its format on, and this program knows {known}")]
    TooNew { needed: u16, known: u16 },
    #[error("no copy of the {what} in the stored state is whole")]
    NoValidCopy { what: &'static str },
    #[error("cannot read the stored state")]
    Read { source: io::Error },
}

impl StateError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            StateError::TooNew { .. } => Some("install the release that wrote it, or a later one".into()),
            StateError::NotOurs | StateError::NoValidCopy { .. } => {
                Some("the instances run on, and the next supervisor finds them by what the store holds".into())
            }
            StateError::Read { .. } => None,
        }
    }
}

/// Why something could not be committed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    #[error("there are {limit} {what} already, which is the most")]
    Full { what: &'static str, limit: u32 },
    #[error("cannot write the state")]
    Write { source: io::Error },
}

impl CommitError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            CommitError::Full { what, .. } => Some(format!("delete {what} that are not needed")),
            CommitError::Write { .. } => {
                Some("shared memory may be full: see `df /dev/shm` and the memory limits".into())
            }
        }
    }
}

/// All that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    pub globals: Globals,
    /// By id.
    pub apps: Vec<AppRecord>,
    /// By id.
    pub instances: Vec<InstanceRecord>,
    /// Records that are lost: neither copy was whole. No death of a writer causes this.
    pub damaged: u32,
}

/// The state: the one writer of its memfd.
#[derive(Debug)]
pub struct State {
    file: File,
    globals: Current,
    apps: Table,
    instances: Table,
}

impl State {
    /// A state in which nothing is committed but default globals.
    ///
    /// # Errors
    /// Those of creating a memfd and writing to it.
    pub fn create() -> io::Result<State> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"herdwire-state", flags)?);
        let format = Format::CURRENT;
        file.set_len(format.file_bytes())?;
        file.write_all_at(&MAGIC, 0)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        write_twice(&file, FORMAT_PLACE, Current::NONE, Some(&Body::of(&format)))?;
        let globals = write_twice(&file, GLOBALS_PLACE, Current::NONE, Some(&Body::of(&Globals::default())))?;
        let (apps, instances) = format.tables();
        Ok(State { file, globals, apps, instances })
    }

    /// Opens what a predecessor left. Reads only.
    ///
    /// # Errors
    /// It is not a state, is one that this version must not read, or its format or globals are spoilt.
    pub fn open(descriptor: OwnedFd) -> Result<(State, Contents), StateError> {
        let file = File::from(descriptor);
        let mut magic = [0; MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if magic == MAGIC => {}
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => return Err(StateError::Read { source }),
            _ => return Err(StateError::NotOurs),
        }
        let (format, _) = read_one::<Format>(&file, FORMAT_PLACE, "format")?;
        if format.min_reader > STATE_VERSION {
            return Err(StateError::TooNew { needed: format.min_reader, known: STATE_VERSION });
        }
        let length = file.metadata().map_err(|source| StateError::Read { source })?.len();
        if length != format.file_bytes() {
            return Err(StateError::NotOurs);
        }
        let (globals, current) = read_one::<Globals>(&file, GLOBALS_PLACE, "globals")?;
        let (mut apps, mut instances) = format.tables();
        let mut contents = Contents { globals, ..Contents::default() };
        contents.apps = apps.load(&file, |app: &AppRecord| app.id, &mut contents.damaged)?;
        contents.instances = instances.load(&file, |instance: &InstanceRecord| instance.id, &mut contents.damaged)?;
        Ok((State { file, globals: current, apps, instances }, contents))
    }

    /// What is still whole in a state that [`State::open`] has refused; `None` when it is not ours, or for later readers
    /// only. Reads only.
    pub fn salvage(descriptor: BorrowedFd<'_>) -> Option<Contents> {
        let mut contents = Contents::default();
        let file = File::from(descriptor.try_clone_to_owned().ok()?);
        let mut magic = [0; MAGIC.len()];
        let ours = file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
        let format = read_one::<Format>(&file, FORMAT_PLACE, "format").map(|(format, _)| format);
        // A format that is spoilt was most likely the usual one: a copy of another place is not taken for one of its own.
        let format = format.unwrap_or(Format::CURRENT);
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if !ours || format.min_reader > STATE_VERSION || length != format.file_bytes() {
            return None;
        }
        if let Ok((globals, _)) = read_one(&file, GLOBALS_PLACE, "globals") {
            contents.globals = globals;
        }
        let (mut apps, mut instances) = format.tables();
        let id = |app: &AppRecord| app.id;
        contents.apps = apps.load(&file, id, &mut contents.damaged).unwrap_or_default();
        let id = |instance: &InstanceRecord| instance.id;
        contents.instances = instances.load(&file, id, &mut contents.damaged).unwrap_or_default();
        Some(contents)
    }

    /// Commits the globals.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn commit_globals(&mut self, globals: &Globals) -> Result<(), CommitError> {
        let written = write(&self.file, GLOBALS_PLACE, self.globals, Some(&Body::of(globals)));
        self.globals = written.map_err(|source| CommitError::Write { source })?;
        Ok(())
    }

    /// Commits an app, new or changed, by its id.
    ///
    /// # Errors
    /// There are [`MAX_APPS`] others, or the kernel has no memory for it.
    pub fn commit_app(&mut self, app: &AppRecord) -> Result<(), CommitError> {
        self.apps.commit(&self.file, app.id, app)
    }

    /// Removes an app; nothing happens if there is none.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn remove_app(&mut self, id: u32) -> Result<(), CommitError> {
        self.apps.remove(&self.file, id)
    }

    /// Commits an instance, new or changed, by its id.
    ///
    /// # Errors
    /// There are [`MAX_INSTANCES`] others, or the kernel has no memory for it.
    pub fn commit_instance(&mut self, instance: &InstanceRecord) -> Result<(), CommitError> {
        self.instances.commit(&self.file, instance.id, instance)
    }

    /// Removes an instance; nothing happens if there is none.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn remove_instance(&mut self, id: u32) -> Result<(), CommitError> {
        self.instances.remove(&self.file, id)
    }
}

impl AsFd for State {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Who wrote the file, who may read it, and how large its tables are.
#[derive(Debug, Clone, Copy)]
struct Format {
    writer: u16,
    min_reader: u16,
    apps: u32,
    instances: u32,
}

impl Format {
    /// What this version writes.
    const CURRENT: Format =
        Format { writer: STATE_VERSION, min_reader: MIN_READER, apps: MAX_APPS, instances: MAX_INSTANCES };

    fn file_bytes(&self) -> u64 {
        TABLES + (u64::from(self.apps) + u64::from(self.instances)) * PLACE_BYTES as u64
    }

    fn tables(&self) -> (Table, Table) {
        let instances = TABLES + u64::from(self.apps) * PLACE_BYTES as u64;
        (Table::new("apps", TABLES, self.apps), Table::new("instances", instances, self.instances))
    }
}

impl Fields for Format {
    fn write(&self, body: &mut Body) {
        body.put(self.writer.to_le_bytes());
        body.put(self.min_reader.to_le_bytes());
        body.put(self.apps.to_le_bytes());
        body.put(self.instances.to_le_bytes());
    }

    fn read(body: &mut Reading<'_>) -> Format {
        Format {
            writer: u16::from_le_bytes(body.take()),
            min_reader: u16::from_le_bytes(body.take()),
            apps: body.u32(),
            instances: body.u32(),
        }
    }
}

/// The places of one kind of record. A place is given to an id at its first commit and is free again after its removal.
#[derive(Debug)]
struct Table {
    what: &'static str,
    start: u64,
    limit: u32,
    /// Of every place that was ever used.
    places: Vec<Current>,
    by_id: HashMap<u32, usize>,
    free: BTreeSet<usize>,
}

impl Table {
    fn new(what: &'static str, start: u64, limit: u32) -> Table {
        Table { what, start, limit, places: Vec::new(), by_id: HashMap::new(), free: BTreeSet::new() }
    }

    fn offset(&self, index: usize) -> u64 {
        self.start + (index * PLACE_BYTES) as u64
    }

    /// Reads all records, by id, and takes over their places.
    fn load<F: Fields>(&mut self, file: &File, id: fn(&F) -> u32, damaged: &mut u32) -> Result<Vec<F>, StateError> {
        let mut records = Vec::new();
        let mut block = vec![[0; PLACE_BYTES]; BLOCK];
        let limit = self.limit as usize;
        for first in (0..limit).step_by(BLOCK) {
            let block = &mut block[..BLOCK.min(limit - first)];
            let end = self.offset(first) + size_of_val(block) as u64;
            if next_data(file, self.offset(first)).is_some_and(|data| data >= end) {
                continue;
            }
            let read = file.read_exact_at(block.as_flattened_mut(), self.offset(first));
            read.map_err(|source| StateError::Read { source })?;
            for (index, bytes) in (first..).zip(block.iter()) {
                match copy::read(self.offset(index), bytes) {
                    Found::Never => {}
                    // Its place is not used again: whatever is wrong with it can spoil nothing else.
                    Found::Damaged => {
                        self.place(index);
                        self.free.remove(&index);
                        *damaged += 1;
                    }
                    Found::Committed(current, None) => *self.place(index) = current,
                    Found::Committed(current, Some(body)) => {
                        *self.place(index) = current;
                        let record = F::read(&mut Reading(body));
                        self.free.remove(&index);
                        self.by_id.insert(id(&record), index);
                        records.push(record);
                    }
                }
            }
        }
        records.sort_by_key(id);
        Ok(records)
    }

    /// The place of this index; those between the last one known and this one are free.
    fn place(&mut self, index: usize) -> &mut Current {
        self.free.extend(self.places.len()..=index);
        if self.places.len() <= index {
            self.places.resize(index + 1, Current::NONE);
        }
        &mut self.places[index]
    }

    fn commit(&mut self, file: &File, id: u32, fields: &impl Fields) -> Result<(), CommitError> {
        let (index, write): (_, Write) = match self.by_id.get(&id) {
            Some(index) => (*index, write),
            None => (self.free.first().copied().unwrap_or(self.places.len()), write_twice),
        };
        if index >= self.limit as usize {
            return Err(CommitError::Full { what: self.what, limit: self.limit });
        }
        self.write(file, index, Some(&Body::of(fields)), write)?;
        self.free.remove(&index);
        self.by_id.insert(id, index);
        Ok(())
    }

    fn remove(&mut self, file: &File, id: u32) -> Result<(), CommitError> {
        if let Some(index) = self.by_id.get(&id).copied() {
            self.write(file, index, None, write_twice)?;
            self.by_id.remove(&id);
            self.free.insert(index);
        }
        Ok(())
    }

    fn write(&mut self, file: &File, index: usize, body: Option<&Body>, write: Write) -> Result<(), CommitError> {
        let offset = self.offset(index);
        let place = self.place(index);
        *place = write(file, offset, *place, body).map_err(|source| CommitError::Write { source })?;
        Ok(())
    }
}

/// How a place is committed to.
type Write = fn(&File, u64, Current, Option<&Body>) -> io::Result<Current>;

/// Commits to both copies of a place, as is done when it is given to an id and when it is taken back. A copy that is
/// damaged later leaves the other of the same id: neither a place that looks as if nothing had ever been in it, nor what
/// had it before.
fn write_twice(file: &File, place: u64, current: Current, body: Option<&Body>) -> io::Result<Current> {
    write(file, place, write(file, place, current, body)?, body)
}

/// Commits to one place; answers what counts from now on.
fn write(file: &File, place: u64, current: Current, body: Option<&Body>) -> io::Result<Current> {
    let next = current.next();
    for step in copy::commit(place, next, body.map(Body::as_bytes)) {
        file.write_all_at(&step.bytes, place + step.offset as u64)?;
    }
    Ok(next)
}

/// Where the next byte that was ever written lies, from here on; `None` where that cannot be told. Most places were never
/// used: reading them costs more than all the others.
fn next_data(file: &File, from: u64) -> Option<u64> {
    match lseek(file, i64::try_from(from).ok()?, Whence::SeekData) {
        Ok(data) => u64::try_from(data).ok(),
        Err(Errno::ENXIO) => Some(u64::MAX),
        Err(_) => None,
    }
}

/// Reads a record that must be there.
fn read_one<F: Fields>(file: &File, place: u64, what: &'static str) -> Result<(F, Current), StateError> {
    let mut bytes = [0; PLACE_BYTES];
    file.read_exact_at(&mut bytes, place).map_err(|source| StateError::Read { source })?;
    match copy::read(place, &bytes) {
        Found::Committed(current, Some(body)) => Ok((F::read(&mut Reading(body)), current)),
        _ => Err(StateError::NoValidCopy { what }),
    }
}

#[cfg(test)]
mod tests;
