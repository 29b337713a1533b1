//! The state that a supervisor begins with: the one that lies in the store, or one that is made anew of what can be found.
//!
//! Nothing is written into a state that was refused; what is made anew takes its place in the store once it is whole.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;

use super::{Rescued, look};
use crate::keeper::handle::Store;
use crate::keeper::name::{Kind, Name};
use crate::supervisor::state::{Contents, State, StateError};

/// The state as it was committed, with what the store knows better; and what an operator should know about it.
pub fn open(
    descriptors: &mut BTreeMap<Name, OwnedFd>,
    store: &Store,
) -> anyhow::Result<(State, Contents, Option<String>)> {
    let name = Name::new(Kind::State, 0, 0);
    let (mut contents, lost, refused) = match descriptors.remove(&name) {
        None => {
            let mut contents = Contents::default();
            contents.globals.next_app = 1;
            // Without a state there is no herd yet, unless its state did not fit into the store.
            let lost = if descriptors.keys().any(|name| name.kind == Kind::Pidfd) { u32::MAX } else { 0 };
            (contents, lost, None)
        }
        Some(memory) => match State::open(memory.try_clone()?) {
            Ok((mut state, mut contents)) => {
                let lost = contents.damaged;
                let rescued = look::rescue(&mut contents, lost, descriptors);
                if !rescued.is_nothing() {
                    rewrite(&mut state, &contents);
                }
                let warning = rescue_warning(lost, None, &rescued);
                return Ok((state, contents, warning));
            }
            Err(error) => match State::salvage(memory.as_fd()) {
                Some(contents) => (contents.clone(), contents.damaged, Some(error)),
                None => (Contents::default(), u32::MAX, Some(error)),
            },
        },
    };
    let rescued = look::rescue(&mut contents, lost, descriptors);
    let mut state = State::create().context("the state cannot be created")?;
    rewrite(&mut state, &contents);
    // Only now that it holds everything does it take the place of what was there.
    store.keep(name, state.as_fd());
    let warning = rescue_warning(lost, refused, &rescued);
    Ok((state, contents, warning))
}

/// Commits everything.
fn rewrite(state: &mut State, contents: &Contents) {
    let globals = state.commit_globals(&contents.globals);
    let apps = contents.apps.iter().map(|app| state.commit_app(app)).collect::<Vec<_>>();
    let instances = contents.instances.iter().map(|instance| state.commit_instance(instance)).collect::<Vec<_>>();
    for error in std::iter::once(globals).chain(apps).chain(instances).filter_map(Result::err) {
        tracing::error!("what was rebuilt is not committed: {error}");
    }
}

fn rescue_warning(lost: u32, refused: Option<StateError>, rescued: &Rescued) -> Option<String> {
    if lost == 0 && refused.is_none() && rescued.is_nothing() {
        return None;
    }
    let why = match refused {
        Some(error) => error.to_string(),
        None if lost > 0 => format!("{lost} records of the stored state are damaged"),
        None => "the stored state is not that of the last moment".to_owned(),
    };
    let Rescued { running, stopped, nobodys, .. } = rescued;
    let mut warning = format!("{why}: rebuilt from the store, {running} instances that run and {stopped} as stopped");
    for (instance, _) in nobodys.iter().filter(|(_, pid)| pid.is_none()) {
        warning += &format!("; instance {instance} has ended, and nothing else is known of it");
    }
    tracing::warn!("{warning}");
    Some(warning)
}
