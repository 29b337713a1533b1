//! Rescue by values.

use super::*;
use crate::lifecycle::State as Life;

const NOW_MS: u64 = 5_000_000;
/// Nothing of the state could be read.
const ALL: u32 = u32::MAX;

fn spec(app: u32, revision: u32, name: &str, instances: u32) -> FoundSpec {
    FoundSpec { app, revision, name: name.to_owned(), instances }
}

fn process(instance: u32, incarnation: u32, identity: Option<(&str, u32)>) -> FoundProcess {
    FoundProcess {
        instance,
        incarnation,
        pid: Some(1000 + instance),
        inode: 77 + u64::from(instance),
        main: None,
        since: Time(9),
        started_at_ms: 4_000_000,
        identity: identity.map(|(app, index)| Identity { app: app.to_owned(), index, number: instance }),
    }
}

fn record(id: u32, app: u32, index: u32, incarnation: u32) -> InstanceRecord {
    InstanceRecord { id, app, index, incarnation, number: id, pid: 1, pidfd_inode: 2, ..InstanceRecord::default() }
}

/// App 1 in its first revision, and these instances.
fn known(instances: Vec<InstanceRecord>) -> Contents {
    Contents { apps: vec![AppRecord::new(1, 1)], instances, ..Contents::default() }
}

fn life(record: &InstanceRecord) -> Instance {
    Instance::from_record(&record.lifecycle).unwrap()
}

#[test]
fn without_any_state_what_runs_is_found_with_its_app_index_and_incarnation() {
    let mut contents = Contents::default();
    let specs = [spec(1, 2, "web", 2), spec(4, 1, "api", 1)];
    let processes = [process(3, 5, Some(("web", 1))), process(7, 1, Some(("api", 0))), process(2, 1, Some(("web", 0)))];
    let rescued = complete(&mut contents, ALL, &specs, &processes, NOW_MS);
    assert_eq!((rescued.apps, rescued.running, rescued.stopped), (2, 3, 0));
    assert_eq!(contents.apps, [AppRecord::new(1, 2), AppRecord::new(4, 1)]);
    let found: Vec<_> = contents.instances.iter().map(|one| (one.id, one.app, one.index, one.incarnation)).collect();
    assert_eq!(found, [(2, 1, 0, 1), (3, 1, 1, 5), (7, 4, 0, 1)]);
    let third = &contents.instances[1];
    assert_eq!((third.pid, third.pidfd_inode, third.started_at_ms, third.revision), (1003, 80, 4_000_000, 2));
    assert_eq!((life(third).state(), life(third).incarnation()), (Life::Online { since: Time(9) }, Incarnation(5)));
    assert_eq!((contents.globals.next_app, contents.globals.next_instance), (5, 8));
}

#[test]
fn the_process_that_its_life_is_comes_back_with_it() {
    let mut contents = known(vec![]);
    let daemon = FoundProcess { pid: None, main: Some((50, 51)), ..process(3, 1, Some(("web", 0))) };
    complete(&mut contents, ALL, &[spec(1, 1, "web", 1)], &[daemon], NOW_MS);
    let found = &contents.instances[0];
    assert_eq!((found.pid, found.pidfd_inode, found.main_pid, found.main_inode), (0, 80, 50, 51));
}

#[test]
fn what_has_no_process_is_listed_as_stopped_and_is_not_started() {
    let mut contents = Contents::default();
    let specs = [spec(1, 1, "web", 3)];
    let rescued = complete(&mut contents, ALL, &specs, &[process(5, 1, Some(("web", 1)))], NOW_MS);
    assert_eq!((rescued.running, rescued.stopped), (1, 2));
    let found: Vec<_> = contents.instances.iter().map(|one| (one.id, one.index)).collect();
    assert_eq!(found, [(5, 1), (6, 0), (7, 2)]);
    assert_eq!(life(&contents.instances[1]).state(), Life::Stopped);
    assert_ne!(life(&contents.instances[1]), Instance::new(), "an instance that never ran would be started");
}

#[test]
fn a_state_that_agrees_with_the_store_is_left_as_it_is() {
    let mut contents = known(vec![record(3, 1, 0, 4)]);
    contents.apps[0].revision = 2;
    contents.globals.next_app = 9;
    contents.globals.next_instance = 11;
    let before = contents.clone();
    let specs = [spec(1, 2, "web", 3), spec(2, 1, "half", 1)];
    let processes = [process(3, 4, Some(("web", 0)))];
    assert!(complete(&mut contents, 0, &specs, &processes, NOW_MS).is_nothing());
    assert_eq!(contents, before, "neither one that was deleted by hand nor a spec without an app comes back");
}

#[test]
fn a_process_of_a_later_incarnation_than_its_record_is_the_one_that_counts() {
    let mut contents = known(vec![record(3, 1, 0, 4)]);
    complete(&mut contents, 0, &[spec(1, 1, "web", 1)], &[process(3, 4, None), process(3, 5, None)], NOW_MS);
    let found = &contents.instances[0];
    assert_eq!((found.incarnation, found.pid, found.index, life(found).incarnation()), (5, 1003, 0, Incarnation(5)));
}

#[test]
fn an_app_whose_record_names_a_spec_that_is_gone_runs_with_the_one_that_is_there() {
    let mut contents = known(Vec::new());
    complete(&mut contents, 0, &[spec(1, 2, "web", 1)], &[], NOW_MS);
    assert_eq!(contents.apps, [AppRecord::new(1, 2)]);
}

#[test]
fn an_app_that_something_belongs_to_was_lost_even_if_no_record_is_known_to_be() {
    let specs = [spec(1, 1, "web", 1), spec(2, 1, "api", 1), spec(3, 1, "half", 1)];
    let mut contents = Contents { instances: vec![record(0, 1, 0, 1)], ..Contents::default() };
    let rescued = complete(&mut contents, 0, &specs, &[process(1, 1, Some(("api", 0)))], NOW_MS);
    assert_eq!(contents.apps, [AppRecord::new(1, 1), AppRecord::new(2, 1)]);
    assert_eq!((rescued.apps, rescued.running, rescued.stopped), (2, 1, 0));
}

#[test]
fn no_more_records_come_back_than_were_lost() {
    let mut contents = known(vec![record(0, 1, 0, 1)]);
    let specs = [spec(1, 1, "web", 4)];
    let rescued = complete(&mut contents, 1, &specs, &[process(0, 1, Some(("web", 0)))], NOW_MS);
    assert_eq!((rescued.running, rescued.stopped, contents.instances.len()), (0, 1, 2));
}

#[test]
fn a_process_that_does_not_say_whose_it_is_belongs_to_the_only_app_that_lacks_one() {
    let specs = [spec(1, 1, "web", 1), spec(2, 1, "api", 1)];
    let mut contents = Contents::default();
    let processes = [process(0, 1, Some(("web", 0))), process(1, 1, None)];
    complete(&mut contents, ALL, &specs, &processes, NOW_MS);
    assert_eq!(contents.instances.iter().map(|one| (one.id, one.app)).collect::<Vec<_>>(), [(0, 1), (1, 2)]);
    // With two that lack one, nothing is guessed.
    let mut contents = Contents::default();
    let rescued = complete(&mut contents, ALL, &specs, &[process(1, 1, None)], NOW_MS);
    assert_eq!(rescued.nobodys, [(1, Some(1001))]);
    assert_eq!(contents.globals.next_instance, 4, "its number is not given again");
}

#[test]
fn a_process_of_an_app_that_is_not_there_is_nobodys() {
    let mut contents = Contents::default();
    let rescued = complete(&mut contents, ALL, &[spec(1, 1, "web", 1)], &[process(6, 1, Some(("gone", 0)))], NOW_MS);
    assert_eq!(rescued.nobodys, [(6, Some(1006))]);
}

#[test]
fn a_life_in_words_of_another_release_costs_no_process() {
    let strange = [99; super::super::state::LIFECYCLE_BYTES];
    let mut contents = known([0, 1].map(|id| InstanceRecord { lifecycle: strange, ..record(id, 1, id, 4) }).to_vec());
    complete(&mut contents, 0, &[spec(1, 1, "web", 2)], &[process(0, 4, None)], NOW_MS);
    let lives: Vec<Life> = contents.instances.iter().map(|one| life(one).state()).collect();
    assert_eq!(lives, [Life::Online { since: Time(9) }, Life::Stopped]);
}
