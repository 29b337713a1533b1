//! Listeners in the keeping of a service manager, for the time after keeper and supervisor have died together.
//!
//! systemd keeps descriptors for a unit (`FDSTORE=1`) and passes them to its next start; what waits in their backlogs
//! waits on. The supervisor hands over what is bound for its apps and the front, and takes back what is not bound any
//! more; the keeper takes no part. What comes back at a start lies in the store, under app 0, which there never is,
//! until the apps that come back have taken it.
//!
//! Invariants
//! - What is kept is what is bound, by address: told again from the beginning by every supervisor, which changes nothing.
//! - Nobody waits for the service manager: what it does not take now is told at the next look.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::fstat;

use super::core::{self, Core};
use super::registry::App;
use crate::config::spec::ListenAddress;
use crate::keeper::handle::Store;
use crate::keeper::name::{Kind, Name};
use crate::process::passed;

/// The app under whose number listeners lie that were passed: there is none of that number.
const NOBODY: u32 = 0;

/// What the service manager has of us, and what it has given back.
#[derive(Debug, Default)]
pub struct Safekeeping {
    /// `None` without a service manager.
    manager: Option<UnixDatagram>,
    /// What it was told to keep: name, and inode of the socket.
    kept: BTreeMap<String, u64>,
    /// What nobody has taken yet.
    passed: Vec<(Name, ListenAddress, OwnedFd)>,
}

impl Safekeeping {
    /// Finds the service manager, if there is one: the keeper's own socket to it lies in the store.
    pub fn of(store: &Store) -> Safekeeping {
        let manager = store.copy(Name::new(Kind::Service, 0, 0));
        Safekeeping { manager: manager.map(UnixDatagram::from), ..Safekeeping::default() }
    }

    /// A listener that was passed, if one is at this address and can still be reached there.
    pub fn listener(&self, address: &ListenAddress) -> Option<io::Result<OwnedFd>> {
        let (_, _, socket) = self.passed.iter().find(|(_, passed, _)| passed == address)?;
        let is_there = match address {
            ListenAddress::Tcp(_) => true,
            ListenAddress::Unix(path) => path.exists(),
        };
        is_there.then(|| socket.try_clone())
    }

    /// Brings what is kept in line with what is bound.
    fn look_after(&mut self, bound: &BTreeMap<String, (u64, &OwnedFd)>) {
        let Some(manager) = &self.manager else { return };
        for change in changes(&self.kept, bound) {
            let told = match &change {
                Change::Remove(name) => tell(manager, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), None),
                Change::Add(name) => {
                    // What listens is readable now and then; that is no reason to let go of it.
                    tell(manager, &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(bound[name].1))
                }
            };
            if let Err(error) = told {
                // At the next look: it may have a lot to do, or not be there.
                return tracing::debug!("the service manager does not hear what it is to keep: {error}");
            }
            match change {
                Change::Remove(name) => drop(self.kept.remove(&name)),
                Change::Add(name) => {
                    let inode = bound[&name].0;
                    self.kept.insert(name, inode);
                }
            }
        }
    }
}

/// One thing to tell the service manager.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Remove(String),
    Add(String),
}

/// What to tell: a socket that took another's place under a name is told as both.
fn changes<T>(kept: &BTreeMap<String, u64>, bound: &BTreeMap<String, (u64, T)>) -> Vec<Change> {
    let gone = kept.iter().filter(|(name, inode)| bound.get(*name).is_none_or(|(now, _)| now != *inode));
    let new = bound.iter().filter(|(name, (inode, _))| kept.get(*name) != Some(inode));
    let gone = gone.map(|(name, _)| Change::Remove(name.clone()));
    gone.chain(new.map(|(name, _)| Change::Add(name.clone()))).collect()
}

fn tell(manager: &UnixDatagram, text: &str, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let numbers: Vec<i32> = descriptor.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
    // The socket is the keeper's as well, which waits for nobody either.
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(manager.as_raw_fd(), &[IoSlice::new(text.as_bytes())], rights, flags, None)?;
    Ok(())
}

/// What is bound for an app, in whichever release.
fn bound_for(app: &App) -> impl Iterator<Item = (&ListenAddress, &OwnedFd)> {
    let others = app.others.iter().map(|release| (&release.spec, &release.listeners));
    let all = std::iter::once((&app.spec, &app.listeners)).chain(others);
    all.flat_map(|(spec, listeners)| spec.listen.iter().zip(listeners)).filter(|(address, _)| !is_chosen(address))
}

/// Whether the system is to choose the port: it will be another one the next time.
fn is_chosen(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

impl Core {
    /// Hands over what is bound, and takes back what is not any more.
    pub(super) fn look_after_safekeeping(&mut self) {
        if self.safekeeping.manager.is_none() {
            return;
        }
        let front = self.sections.front_address().map(ListenAddress::Tcp);
        let front = front.zip(self.store.copy(Name::new(Kind::Front, 0, 0)));
        let front = front.iter().map(|(address, socket)| (address, socket)).filter(|(address, _)| !is_chosen(address));
        let all = self.registry.apps.values().flat_map(bound_for).chain(front);
        let named = all.filter_map(|(address, socket)| {
            Some((passed::name_of(address), (fstat(socket.as_fd()).ok()?.st_ino, socket)))
        });
        self.safekeeping.look_after(&named.collect());
    }

    /// Listeners that the service manager has passed to this start, for the apps that come back.
    pub(super) fn adopt_passed(&mut self, descriptors: &mut BTreeMap<Name, OwnedFd>) {
        for (name, socket) in core::take_kinds(descriptors, &[Kind::Listener]) {
            match passed::address_of(&socket).zip(fstat(&socket).ok()) {
                Some((address, stat)) if name.owner == NOBODY => {
                    self.safekeeping.kept.insert(passed::name_of(&address), stat.st_ino);
                    self.safekeeping.passed.push((name, address, socket));
                }
                _ => self.store.forget(name),
            }
        }
    }

    /// Closes what nobody has taken; the service manager is told at the next look.
    pub(super) fn close_passed(&mut self) {
        let passed = std::mem::take(&mut self.safekeeping.passed);
        passed.into_iter().for_each(|(name, ..)| self.store.forget(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<T: Clone>(entries: &[(&str, T)]) -> BTreeMap<String, T> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn what_is_bound_and_not_kept_is_told_and_what_is_kept_and_not_bound_is_taken_back() {
        let kept = map(&[("stays", 1), ("goes", 2), ("another", 3)]);
        let bound = map(&[("stays", (1, ())), ("another", (4, ())), ("new", (5, ()))]);
        let (remove, add) = (|name: &str| Change::Remove(name.to_owned()), |name: &str| Change::Add(name.to_owned()));
        assert_eq!(changes(&kept, &bound), [remove("another"), remove("goes"), add("another"), add("new")]);
        assert_eq!(changes(&map(&[("stays", 1)]), &map(&[("stays", (1, ()))])), []);
    }
}
