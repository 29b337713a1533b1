//! Keeping descriptors for the next supervisor, from any room.
//!
//! Owns a mirror: a copy of every descriptor that the keeper holds for us, by the same names. It is what is left when
//! the keeper dies, and what the supervisor then becomes the keeper with.
//!
//! A refusal comes later and by name ([`super::client::FromKeeper::StoreRefused`]); a failure to ask means that the
//! keeper is gone or stopped, which the supervisor's own loop learns and deals with. So a caller has nothing to do
//! about either, and the failure is logged here, once.
//!
//! Invariants
//! - The mirror holds what the store holds: whoever keeps or forgets here does both. What the store refused stays in the
//!   mirror until it is forgotten: a heir may have room for it.
//! - As large as the store at most, plus what was refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::KeeperSender;
use super::name::{Kind, Name};

/// Where descriptors are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    sender: KeeperSender,
    mirror: Arc<Mutex<BTreeMap<Name, OwnedFd>>>,
}

impl Store {
    /// A store that holds nothing yet.
    pub fn new(sender: KeeperSender) -> Store {
        Store { sender, mirror: Arc::default() }
    }

    /// A store that holds this much already.
    ///
    /// # Errors
    /// No descriptor is left for the copies.
    pub fn holding(sender: KeeperSender, held: &BTreeMap<Name, OwnedFd>) -> io::Result<Store> {
        let copies = held.iter().map(|(name, descriptor)| Ok((*name, descriptor.try_clone()?)));
        let mirror = copies.collect::<io::Result<_>>()?;
        Ok(Store { sender, mirror: Arc::new(Mutex::new(mirror)) })
    }

    /// Keeps a copy of `descriptor` under `name`; what lay there before is closed.
    pub fn keep(&self, name: Name, descriptor: BorrowedFd<'_>) {
        if let Err(error) = self.sender.store(name, descriptor) {
            tracing::error!("the keeper does not take {name}: {error}");
        }
        match descriptor.try_clone_to_owned() {
            Ok(copy) => drop(self.mirror().insert(name, copy)),
            Err(error) => tracing::error!("{name} will not survive the keeper, there is no copy of it: {error}"),
        }
    }

    /// Lets go of what lies under `name`, if anything does.
    pub fn forget(&self, name: Name) {
        if let Err(error) = self.sender.forget(name) {
            tracing::error!("the keeper does not let go of {name}: {error}");
        }
        drop(self.mirror().remove(&name));
    }

    /// Has the keeper start supervisors of the program that we are, which has just got ready. The one that it had so far is
    /// started when this one fails.
    ///
    /// # Errors
    /// It cannot be told which programs these are.
    pub fn keep_program(&self) -> io::Result<()> {
        let [now, before] = [0, 1].map(|part| Name::part(Kind::Supervisor, 0, part, 0));
        let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let own = File::options().read(true).custom_flags(nix::libc::O_PATH).open("/proc/self/exe")?;
        if let Some(kept) = self.copy(now).map(File::from) {
            if identity(&kept)? == identity(&own)? {
                return Ok(());
            }
            self.keep(before, kept.as_fd());
        }
        self.keep(now, own.as_fd());
        Ok(())
    }

    /// All that is kept, for a standby, by `look`.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<Name, OwnedFd>) -> T) -> T {
        look(&self.mirror())
    }

    /// A copy of what is kept under this name, if anything is.
    pub fn copy(&self, name: Name) -> Option<OwnedFd> {
        self.mirror().get(&name)?.try_clone().ok()
    }

    /// How many descriptors are kept.
    pub fn len(&self) -> usize {
        self.mirror().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that is kept, for when the keeper does not live any more. Nothing is here afterwards.
    pub fn take(&self) -> BTreeMap<Name, OwnedFd> {
        std::mem::take(&mut *self.mirror())
    }

    fn mirror(&self) -> MutexGuard<'_, BTreeMap<Name, OwnedFd>> {
        // Nothing panics while it holds the lock.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
