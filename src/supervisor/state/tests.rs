//! The state as its writer and its successor see it.

use super::*;

fn globals() -> Globals {
    Globals { exit_sequence: 1 << 50, next_app: 4, next_instance: 5, settings_revision: 7, ending: true }
}

fn app(id: u32) -> AppRecord {
    AppRecord { id, revision: 2, ..AppRecord::default() }
}

fn instance(id: u32) -> InstanceRecord {
    InstanceRecord {
        id,
        app: 2,
        index: 3,
        incarnation: 4,
        lifecycle: [5; LIFECYCLE_BYTES],
        pid: 6,
        pidfd_inode: 7,
        started_at_ms: 8,
        created_at_ms: 9,
        revision: 10,
        doomed: true,
        number: 41,
        role: 1,
        alone: true,
        main_pid: 42,
        main_inode: 43,
        told: true,
    }
}

/// What a successor finds.
fn reopened(state: &State) -> (State, Contents) {
    State::open(state.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

fn bytes_of(state: &State) -> Vec<u8> {
    let mut bytes = vec![0; state.file.metadata().unwrap().len() as usize];
    state.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_new_state_holds_nothing() {
    assert_eq!(reopened(&State::create().unwrap()).1, Contents::default());
}

#[test]
fn everything_that_was_committed_is_found_by_the_successor() {
    let mut state = State::create().unwrap();
    state.commit_globals(&globals()).unwrap();
    for id in [9, 3, 5] {
        state.commit_app(&app(id)).unwrap();
        state.commit_instance(&instance(id)).unwrap();
    }
    let plain = InstanceRecord { id: 4, ..InstanceRecord::default() };
    state.commit_instance(&plain).unwrap();
    state.remove_app(3).unwrap();
    state.remove_instance(9).unwrap();
    let expected = Contents {
        globals: globals(),
        apps: vec![app(5), app(9)],
        instances: vec![instance(3), plain, instance(5)],
        damaged: 0,
    };
    assert_eq!(reopened(&state).1, expected);
}

#[test]
fn a_successor_goes_on_where_its_predecessor_was() {
    let mut first = State::create().unwrap();
    for id in 0..300 {
        first.commit_instance(&instance(id)).unwrap();
    }
    for id in (0..300).step_by(2) {
        first.remove_instance(id).unwrap();
    }
    let (mut second, _) = reopened(&first);
    for id in 1000..1200 {
        second.commit_instance(&instance(id)).unwrap();
    }
    second.commit_instance(&InstanceRecord { revision: 99, ..instance(1) }).unwrap();
    let (third, contents) = reopened(&second);
    assert_eq!(contents.instances.len(), 350);
    assert_eq!(contents.instances[0].revision, 99);
    // 150 of the 200 new ones took places that were free.
    assert_eq!(third.instances.places.len(), 350);
}

#[test]
fn one_app_too_many_is_refused_and_a_removed_one_makes_room() {
    let mut state = State::create().unwrap();
    for id in 0..MAX_APPS {
        state.commit_app(&app(id)).unwrap();
    }
    let refused = state.commit_app(&app(MAX_APPS));
    assert!(matches!(refused, Err(CommitError::Full { what: "apps", limit: MAX_APPS })));
    state.commit_app(&AppRecord { revision: 77, ..app(8) }).unwrap();
    state.remove_app(7).unwrap();
    state.commit_app(&app(MAX_APPS)).unwrap();
    assert_eq!(reopened(&state).1.apps.len(), MAX_APPS as usize);
}

#[test]
fn a_foreign_file_is_refused() {
    let foreign = || memfd_create(c"foreign", MFdFlags::MFD_CLOEXEC).unwrap();
    assert!(matches!(State::open(foreign()), Err(StateError::NotOurs)));
    let file = File::from(foreign());
    file.write_all_at(&[0x5a; 8192], 0).unwrap();
    assert!(matches!(State::open(file.into()), Err(StateError::NotOurs)));
}

#[test]
fn a_state_of_another_size_than_it_says_is_refused() {
    let file = File::from(memfd_create(c"short", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all_at(&bytes_of(&State::create().unwrap())[..9000], 0).unwrap();
    assert!(matches!(State::open(file.into()), Err(StateError::NotOurs)));
}

#[test]
fn a_state_for_later_readers_only_is_refused_and_left_as_it_is() {
    let state = State::create().unwrap();
    let later = Format { writer: 9, min_reader: 9, apps: MAX_APPS, instances: MAX_INSTANCES };
    write(&state.file, FORMAT_PLACE, Current { copy: 0, sequence: 1 }, Some(&Body::of(&later))).unwrap();
    let before = bytes_of(&state);
    let refused = State::open(state.as_fd().try_clone_to_owned().unwrap());
    assert!(matches!(refused, Err(StateError::TooNew { needed: 9, known: STATE_VERSION })));
    assert!(bytes_of(&state) == before);
}

#[test]
fn a_lost_record_is_counted_and_the_others_are_found() {
    let mut state = State::create().unwrap();
    for id in [1, 2, 1, 2] {
        state.commit_app(&app(id)).unwrap();
    }
    state.file.write_all_at(&[0xff; PLACE_BYTES], TABLES).unwrap();
    let (mut next, contents) = reopened(&state);
    assert_eq!((contents.damaged, contents.apps), (1, vec![app(2)]));
    next.commit_app(&app(3)).unwrap();
    assert_eq!(next.apps.by_id[&3], 2, "a spoilt place is not used again");
}

#[test]
fn one_damaged_copy_loses_no_record_and_brings_none_back() {
    let mut state = State::create().unwrap();
    state.commit_app(&app(1)).unwrap();
    state.commit_app(&app(2)).unwrap();
    state.remove_app(2).unwrap();
    state.commit_app(&app(3)).unwrap();
    state.commit_app(&app(4)).unwrap();
    state.remove_app(4).unwrap();
    let whole = bytes_of(&state);
    for half in 0..6 {
        let at = TABLES + half * PLACE_BYTES as u64 / 2;
        state.file.write_all_at(&[0xff; PLACE_BYTES / 2], at).unwrap();
        let (_, contents) = reopened(&state);
        assert_eq!((contents.apps, contents.damaged), (vec![app(1), app(3)], 0), "copy {half}");
        state.file.write_all_at(&whole[at as usize..][..PLACE_BYTES / 2], at).unwrap();
    }
}

#[test]
fn spoilt_globals_are_an_error_and_not_a_guess() {
    let state = State::create().unwrap();
    state.file.write_all_at(&[0xff; PLACE_BYTES], GLOBALS_PLACE).unwrap();
    let refused = State::open(state.as_fd().try_clone_to_owned().unwrap());
    assert!(matches!(refused, Err(StateError::NoValidCopy { what: "globals" })));
}

#[test]
fn the_size_cannot_be_changed() {
    let state = State::create().unwrap();
    assert!(state.file.set_len(10).is_err());
    assert!(state.file.set_len(100_000_000).is_err());
}

#[test]
fn what_is_not_used_costs_no_memory() {
    use std::os::unix::fs::MetadataExt;
    let mut state = State::create().unwrap();
    state.commit_app(&app(1)).unwrap();
    state.commit_instance(&instance(1)).unwrap();
    reopened(&state);
    assert!(state.file.metadata().unwrap().blocks() * 512 <= 4 * 4096);
}

/// A state of three apps and three instances.
fn filled() -> State {
    let mut state = State::create().unwrap();
    state.commit_globals(&globals()).unwrap();
    for id in [1, 2, 3] {
        state.commit_app(&app(id)).unwrap();
        state.commit_instance(&instance(id)).unwrap();
    }
    state
}

#[test]
fn of_a_state_with_spoilt_globals_the_records_are_salvaged() {
    let state = filled();
    state.file.write_all_at(&[0xff; PLACE_BYTES], GLOBALS_PLACE).unwrap();
    let salvaged = State::salvage(state.as_fd()).unwrap();
    assert_eq!(salvaged.globals, Globals::default());
    assert_eq!((salvaged.apps.len(), salvaged.instances.len()), (3, 3));
}

#[test]
fn of_a_state_with_a_spoilt_format_everything_is_salvaged() {
    let state = filled();
    state.file.write_all_at(&[0; PLACE_BYTES], FORMAT_PLACE).unwrap();
    let salvaged = State::salvage(state.as_fd()).unwrap();
    assert_eq!((salvaged.globals, salvaged.apps.len(), salvaged.instances.len()), (globals(), 3, 3));
}

#[test]
fn nothing_is_salvaged_from_a_state_for_later_readers_or_of_somebody_else() {
    let state = filled();
    let later = Format { min_reader: 9, ..Format::CURRENT };
    write(&state.file, FORMAT_PLACE, Current { copy: 0, sequence: 1 }, Some(&Body::of(&later))).unwrap();
    assert_eq!(State::salvage(state.as_fd()), None);
    let state = filled();
    state.file.write_all_at(b"HWSTATEX", 0).unwrap();
    assert_eq!(State::salvage(state.as_fd()), None);
    assert_eq!(State::salvage(File::open("/dev/null").unwrap().as_fd()), None);
}

#[test]
fn whichever_byte_is_spoilt_a_state_is_refused_or_read_and_never_misread() {
    let state = filled();
    let whole = bytes_of(&state);
    let places = [0, FORMAT_PLACE, GLOBALS_PLACE, TABLES, TABLES + u64::from(MAX_APPS) * PLACE_BYTES as u64];
    // Bytes of every field; each look at a whole state takes its time.
    for at in places.into_iter().flat_map(|place| (place..place + PLACE_BYTES as u64).step_by(31)) {
        state.file.write_all_at(&[whole[at as usize] ^ 0x41], at).unwrap();
        let opened = State::open(state.as_fd().try_clone_to_owned().unwrap());
        let salvaged = |_| State::salvage(state.as_fd()).unwrap_or_default();
        let contents = opened.map_or_else(salvaged, |(_, contents)| contents);
        assert!(contents.apps.iter().all(|found| *found == app(found.id)), "byte {at}");
        assert!(contents.instances.iter().all(|found| *found == instance(found.id)), "byte {at}");
        assert!([globals(), Globals::default()].contains(&contents.globals), "byte {at}");
        state.file.write_all_at(&[whole[at as usize]], at).unwrap();
    }
}
