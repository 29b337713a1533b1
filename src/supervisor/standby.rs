//! A supervisor that was started beside the one that serves: could it take over?
//!
//! Reads everything that adoption will read, and touches nothing: no socket is bound, nothing is stored, no byte of a
//! log is moved. Whatever it cannot read is a reason to refuse, since the one that serves has it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use herdwire_ipc::codec;

use super::state::{State, StateError};
use crate::config::spec::AppSpec;
use crate::keeper::name::{Kind, Name};
use crate::lifecycle::Instance;
use crate::process::sealed;

/// Why this program cannot take over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    #[error("there is no state to go on with")]
    NoState,
    #[error(transparent)]
    State(#[from] StateError),
    #[error("app {app}: its settings (revision {revision}) are not in the store")]
    NoSpec { app: u32, revision: u32 },
    #[error("app {app}: its settings cannot be understood by version {} of Herdwire", env!("CARGO_PKG_VERSION"))]
    Spec { app: u32, source: codec::CodecError },
    #[error("the supervisor's settings cannot be understood by version {} of Herdwire", env!("CARGO_PKG_VERSION"))]
    Settings { source: codec::CodecError },
    #[error("instance {instance}: its state cannot be understood by version {} of Herdwire", env!("CARGO_PKG_VERSION"))]
    Life { instance: u32 },
    #[error("what the keeper holds cannot be read")]
    Read(#[from] io::Error),
}

/// Reads all that adoption will read.
pub fn prove(descriptors: &BTreeMap<Name, OwnedFd>) -> Result<(), Unfit> {
    let memory = descriptors.get(&Name::new(Kind::State, 0, 0)).ok_or(Unfit::NoState)?;
    let (_, contents) = State::open(memory.try_clone()?)?;
    for app in &contents.apps {
        let (app, revision) = (app.id, app.revision);
        let memory = descriptors.get(&Name::new(Kind::Spec, app, revision)).ok_or(Unfit::NoSpec { app, revision })?;
        codec::decode::<AppSpec>(&sealed::read(memory.as_fd())?).map_err(|source| Unfit::Spec { app, source })?;
    }
    for instance in &contents.instances {
        let life = Instance::from_record(&instance.lifecycle);
        life.ok_or(Unfit::Life { instance: instance.id })?;
    }
    let settings = descriptors.iter().rfind(|(name, _)| name.kind == Kind::Settings);
    if let Some((_, memory)) = settings {
        let bytes = sealed::read(memory.as_fd())?;
        super::settings::understand(&bytes).map_err(|source| Unfit::Settings { source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing;
    use crate::supervisor::state::AppRecord;

    fn herd(revision: u32, spec: &[u8]) -> BTreeMap<Name, OwnedFd> {
        let mut state = State::create().unwrap();
        state.commit_app(&AppRecord::new(1, revision)).unwrap();
        let state = state.as_fd().try_clone_to_owned().unwrap();
        let spec = sealed::create("spec", spec).unwrap();
        BTreeMap::from([(Name::new(Kind::State, 0, 0), state), (Name::new(Kind::Spec, 1, 2), spec)])
    }

    fn proved(descriptors: &BTreeMap<Name, OwnedFd>) -> Result<(), String> {
        prove(descriptors).map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn a_standby_that_cannot_read_what_is_stored_says_what_it_is() {
        let good = codec::encode(&testing::spec("web")).unwrap();
        assert!(proved(&herd(1, &good)).unwrap_err().contains("app 1: its settings (revision 1) are not in the store"));
        assert!(proved(&herd(2, b"\xff\xff")).unwrap_err().contains("app 1: its settings cannot be understood"));
        assert!(proved(&BTreeMap::new()).unwrap_err().contains("no state"));
        assert_eq!(proved(&herd(2, &good)), Ok(()));
    }
}
