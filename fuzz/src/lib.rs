//! What targets and seeds share.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use herdwire::supervisor::state::State;

/// The file in which a state lies.
pub fn memory(state: &State) -> File {
    state.as_fd().try_clone_to_owned().expect("a descriptor can be duplicated").into()
}

/// How long the file of a state is.
pub fn state_length() -> u64 {
    let state = State::create().expect("a memfd can be made");
    memory(&state).metadata().expect("a memfd has a length").len()
}

/// Writes one seed.
pub fn seed(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder).expect("the corpus is a folder");
    std::fs::write(folder.join(name), bytes).expect("a seed can be written");
}
