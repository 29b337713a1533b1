//! Control groups with real processes. Skipped where none can be had.

use super::*;

/// Groups of this test alone.
fn groups(test: &str) -> Option<Cgroups> {
    let found = Cgroups::find(&format!("test-{test}-{}", std::process::id()), &[]);
    if let Err(why) = &found {
        eprintln!("skipped: {why}");
    }
    found.ok()
}

/// An app that leaves its session, loses its parents, hides its environment, and says who it is.
const ESCAPE: &str = "setsid env -i sh -c 'sleep 60 & echo $!' & wait; exec sleep 60";

#[test]
fn what_leaves_its_session_and_forgets_its_environment_is_still_in_its_group() {
    let Some(groups) = groups("escape") else { return };
    let (group, refused) = groups.make(1, 1, &Bounds::default()).unwrap();
    assert!(refused.is_empty() && group.exists());
    let Spawned { pid, pidfd, out, go, .. } = Shell { group: Some(&group), ..shell(ESCAPE) }.spawn();
    go.release().unwrap();
    let runaway: u32 = read_line(&out).parse().unwrap();
    assert!(group.processes().contains(&runaway) && group.processes().contains(&pid));
    assert_eq!(group.remove(), Removal::Populated);
    assert!(group.end(SOON));
    assert!(!is_running(runaway) && !group.exists());
    assert_eq!(end_of(&pidfd).signal(), Some(libc::SIGKILL));
    assert_eq!(group.remove(), Removal::Missing);
    groups.close(SOON);
    assert!(!groups.folder().exists());
}

#[test]
fn a_group_is_empty_once_its_process_has_been_reaped() {
    let Some(groups) = groups("empty") else { return };
    let (group, _) = groups.make(1, 1, &Bounds::default()).unwrap();
    let ended = Shell { group: Some(&group), ..shell("exit 3") }.run();
    assert_eq!(ended.status.code(), Some(3));
    assert_eq!(group.remove(), Removal::Removed);
    groups.close(SOON);
}

#[test]
fn a_group_that_outgrows_every_search_ends_whole() {
    /// As many as the bomb may hold at once: the machine is not ours alone.
    const MOST: usize = 300;
    let Some(groups) = groups("bomb") else { return };
    let (group, _) = groups.make(1, 1, &Bounds::default()).unwrap();
    // Each starts two more in sessions of their own, as long as there is room for them.
    let folder = tempfile::tempdir().unwrap();
    let bomb = folder.path().join("bomb");
    let text = format!(
        "[ $(wc -l <{0}/cgroup.procs) -lt {MOST} ] && {{ setsid sh {1} & setsid sh {1} & }}; sleep 60\n",
        group.path().display(),
        bomb.display()
    );
    fs::write(&bomb, text).unwrap();
    let script = format!("sh {}", bomb.display());
    let Spawned { pidfd, out, err, go, .. } = Shell { group: Some(&group), ..shell(&script) }.spawn();
    go.release().unwrap();
    until("it has grown", || group.processes().len() >= MOST / 2);
    assert!(group.end(SOON));
    // Nobody holds the pipes any more: nothing is left.
    read_all(&out);
    read_all(&err);
    assert_eq!(end_of(&pidfd).signal(), Some(libc::SIGKILL));
    groups.close(SOON);
    assert!(!groups.folder().exists());
}

#[test]
fn groups_that_an_app_makes_below_its_own_go_with_it() {
    let Some(groups) = groups("nested") else { return };
    let (group, _) = groups.make(1, 1, &Bounds::default()).unwrap();
    let script = format!("mkdir -p {0}/a/b && echo 0 >{0}/a/b/cgroup.procs; exit 0", group.path().display());
    let ended = Shell { group: Some(&group), ..shell(&script) }.run();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert_eq!(group.remove(), Removal::Removed);
    groups.close(SOON);
}

#[test]
fn a_process_that_cannot_be_born_in_its_group_runs_without_and_leaves_none() {
    let Some(groups) = groups("missing") else { return };
    // Nobody has made it.
    let group = groups.group(9, 9);
    assert_eq!(Shell { group: Some(&group), ..shell("echo ran") }.run().out, "ran\n");
    assert!(!group.exists());
    // Beside one for threads a group can have no processes.
    let [(threads, _), (group, _)] =
        [10, 11].map(|incarnation| groups.make(9, incarnation, &Bounds::default()).unwrap());
    fs::write(threads.path().join("cgroup.type"), "threaded").unwrap();
    assert_eq!(Shell { group: Some(&group), ..shell("echo ran") }.run().out, "ran\n");
    assert!(!group.exists());
    assert_eq!(threads.remove(), Removal::Removed);
    groups.close(SOON);
}

#[test]
fn the_group_of_a_process_that_is_never_let_go_is_empty_when_it_has_ended() {
    let Some(groups) = groups("held") else { return };
    let (group, _) = groups.make(4, 2, &Bounds::default()).unwrap();
    let Spawned { pid, pidfd, go, .. } = Shell { group: Some(&group), ..shell("echo ran") }.spawn();
    assert_eq!(group.processes(), [pid], "from birth");
    assert_eq!(groups.all(), [(4, 2)]);
    drop(go);
    end_of(&pidfd);
    assert_eq!(group.remove(), Removal::Removed);
    groups.close(SOON);
}
