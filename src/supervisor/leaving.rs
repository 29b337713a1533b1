//! How an instance leaves: what is decided about it here, and nowhere else.
//!
//! There are two ways. One that served, and whose place is taken or not needed any more, finishes what it has begun
//! ([`Core::retire`]): it is told to over its link, or by its signal where it does not listen there. One that is to be
//! gone, because somebody asked for that or it never served, is stopped. When either takes too long is for `lifecycle`
//! to say.
//!
//! Invariants
//! - That it goes, and how, is one commit: a successor of this supervisor never finds one that is to be removed and
//!   serves on as if nothing were.
//! - It is told once, also across the death of a supervisor, except where that falls between the word and its commit:
//!   to many programs a second signal means that they are to drop everything.

use super::core::Core;
use super::registry::Process;
use crate::lifecycle::{Action, Event as Life, Incarnation, State, Then};

impl Core {
    /// Lets an instance finish what it has begun, for as long as `drain_timeout`, and removes it then. One that has no
    /// process is removed at once.
    pub(super) async fn retire(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get_mut(&id) else { return };
        entry.doomed = true;
        let before = entry.life;
        let drain_timeout = self.registry.spec_of(&self.registry.instances[&id]).reload.drain_timeout;
        self.live(id, Life::Drain(drain_timeout)).await;
        if self.registry.instances.get(&id).is_some_and(|entry| entry.life == before) {
            self.commit(id);
        }
    }

    /// Tells an instance what its lifecycle has decided.
    pub(super) async fn tell_to_leave(&mut self, id: u32, word: Action) {
        match word {
            Action::Drain(incarnation) => {
                // One that does not listen on its link would never learn of it, and whoever shuts down in good order does
                // so on the signal.
                if !self.wire.announce_drain(id, incarnation.0).await {
                    self.signal_to_leave(id, incarnation).await;
                }
            }
            Action::Ask(incarnation) => drop(self.wire.announce_drain(id, incarnation.0).await),
            Action::Signal(incarnation) => self.signal_to_leave(id, incarnation).await,
            Action::Spawn(_) | Action::Kill(_) => return,
        }
        if let Some(entry) = self.registry.instances.get_mut(&id) {
            entry.told = true;
        }
        self.commit(id);
    }

    /// Tells an instance that a predecessor of this supervisor may have died over telling.
    pub(super) async fn tell_to_leave_again(&mut self, id: u32) {
        let Some(entry) = self.registry.instances.get(&id) else { return };
        if entry.told || !matches!(entry.process, Process::Exists { .. }) {
            return;
        }
        let incarnation = entry.life.incarnation();
        let word = match entry.life.state() {
            State::Draining { .. } => Action::Drain(incarnation),
            // Its own decision: nobody has told it, and nobody is to.
            State::Stopping { then: Then::Ends { .. }, .. } => return,
            State::Stopping { .. } if self.registry.spec_of(entry).rules.shutdown_with_message => {
                Action::Ask(incarnation)
            }
            State::Stopping { .. } => Action::Signal(incarnation),
            _ => return,
        };
        self.tell_to_leave(id, word).await;
    }

    async fn signal_to_leave(&mut self, id: u32, incarnation: Incarnation) {
        self.wire.announce_shutdown(id, incarnation.0).await;
        let entry = &self.registry.instances[&id];
        let signal = self.registry.spec_of(entry).rules.kill_signal;
        // One that was stopped (SIGSTOP) has to go on to hear it.
        let signalled = entry.process.signal(signal).and_then(|()| entry.process.signal(libc::SIGCONT));
        if let Err(error) = signalled {
            // Gone by itself meanwhile: its exit is on its way.
            tracing::debug!("instance {id} cannot be signalled: {error}");
        }
    }
}
