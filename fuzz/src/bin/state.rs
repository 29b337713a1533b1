//! A state that somebody spoilt: it is refused with a reason, or read, and then it can be written on and read again.
//!
//! The input is the beginning of the file; the rest is as long as a state of this version is, and empty.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use herdwire::supervisor::state::State;
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};

static LENGTH: LazyLock<u64> = LazyLock::new(herdwire_fuzz::state_length);

fuzz_target!(|bytes: &[u8]| {
    let file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(*LENGTH).unwrap();
    let bytes = &bytes[..bytes.len().min(*LENGTH as usize)];
    file.write_all_at(bytes, 0).unwrap();
    let again = file.try_clone().unwrap();
    let Ok((mut state, contents)) = State::open(file.into()) else { return };
    state.commit_globals(&contents.globals).unwrap();
    contents.apps.iter().for_each(|app| state.commit_app(app).unwrap());
    contents.instances.iter().for_each(|instance| state.commit_instance(instance).unwrap());
    let (_, read_again) = State::open(again.into()).expect("a state that was written on can be read");
    assert_eq!(read_again.globals, contents.globals);
    assert_eq!(read_again.apps, contents.apps);
    assert_eq!(read_again.instances, contents.instances);
});
