//! Keeping descriptors for the next supervisor, from any room.
//!
//! A refusal comes later and by name ([`super::client::FromKeeper::StoreRefused`]); a failure to ask means that the
//! keeper is gone or stopped, which the supervisor's own loop learns and deals with. So a caller has nothing to do
//! about either, and the failure is logged here, once.

use std::os::fd::BorrowedFd;

use super::client::KeeperSender;
use super::name::Name;

/// Where descriptors are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(KeeperSender);

impl Store {
    pub fn new(sender: KeeperSender) -> Store {
        Store(sender)
    }

    /// Keeps a copy of `descriptor` under `name`; what lay there before is closed.
    pub fn keep(&self, name: Name, descriptor: BorrowedFd<'_>) {
        if let Err(error) = self.0.store(name, descriptor) {
            tracing::error!("the keeper does not take {name}: {error}");
        }
    }

    /// Lets go of what lies under `name`, if anything does.
    pub fn forget(&self, name: Name) {
        if let Err(error) = self.0.forget(name) {
            tracing::error!("the keeper does not let go of {name}: {error}");
        }
    }
}
