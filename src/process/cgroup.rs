//! Control groups: one for each process of an instance and all that descends from it, wherever that goes.
//!
//! Owns the folder `herdwire-NODE` below our own group on the unified hierarchy, and in it a leaf `ID-INCARNATION` for each
//! process. Knows no instance: who calls says when a leaf is made, killed and removed. Where no group can be had
//! (no unified hierarchy, none that we may write, a kernel before 5.14), `sweep` does what it can.
//!
//! Invariants
//! - A leaf outlives its making only when its process was born in it. So whether there is a leaf says whether the group
//!   knows everything that is left.
//! - A limit that cannot be set is told, and keeps nothing from starting.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::hierarchy;
use crate::config::spec::Bounds;

/// Where we and our keeper go when our own group has to be free of processes.
const SELF: &str = "self";
/// What the limits of [`Bounds`] need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where groups are made.
#[derive(Debug)]
pub struct Cgroups {
    /// Our own group, in which nothing is changed but what it hands down.
    base: PathBuf,
    folder: PathBuf,
    /// Who we are: processes that may be moved out of the way.
    ours: Vec<u32>,
    /// What leaves can be limited in, once somebody has asked.
    controllers: OnceLock<Vec<&'static str>>,
}

impl Cgroups {
    /// Looks where groups can be had for the home with this node's name, and makes their folder. `ours` are the numbers
    /// of keeper and supervisor.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub fn find(node: &str, ours: &[u32]) -> Result<Cgroups, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let own = hierarchy::own_group(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("there is no unified hierarchy")?;
        Cgroups::below(&own, node, ours)
    }

    fn below(own: &Path, node: &str, ours: &[u32]) -> Result<Cgroups, String> {
        let name = format!("herdwire-{node}");
        // A predecessor has moved our keeper, and so us.
        let base = match own.parent() {
            Some(folder) if own.ends_with(SELF) && folder.ends_with(&name) => folder.parent().unwrap_or(own),
            _ => own,
        };
        let folder = base.join(&name);
        // Who may not write here cannot have a process leave our group either.
        let procs = base.join("cgroup.procs");
        nix::unistd::access(&procs, nix::unistd::AccessFlags::W_OK)
            .map_err(|errno| format!("{} cannot be written: {errno}", procs.display()))?;
        create(&folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
        if !folder.join("cgroup.kill").exists() {
            // It was made to look, and holds nothing.
            let _ = fs::remove_dir(&folder);
            return Err("this kernel cannot kill a group".to_owned());
        }
        tidy(base, &folder);
        Ok(Cgroups { base: base.to_owned(), folder, ours: ours.to_vec(), controllers: OnceLock::new() })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The group of a process, whether it is there or not.
    pub fn group(&self, instance: u32, incarnation: u32) -> Group {
        Group { path: self.folder.join(format!("{instance}-{incarnation}")) }
    }

    /// Makes the group of a process that is about to be born, with the limits that can be had; and says which can not.
    ///
    /// # Errors
    /// It cannot be made: the instance has to do without.
    pub fn make(&self, instance: u32, incarnation: u32, bounds: &Bounds) -> io::Result<(Group, Vec<String>)> {
        let group = self.group(instance, incarnation);
        if let Err(error) = create(&group.path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // Somebody has tidied up.
            create(&self.folder)?;
            create(&group.path)?;
        }
        let limits = limits(bounds);
        if limits.is_empty() {
            return Ok((group, Vec::new()));
        }
        let controllers = self.controllers.get_or_init(|| self.delegate());
        let attempt = |limit: &LimitFile| {
            if !controllers.contains(&limit.controller) {
                let why = format!("the controller `{}` is not delegated to {}", limit.controller, self.base.display());
                return Err(io::Error::other(why));
            }
            fs::write(group.path.join(limit.file), &limit.value)
        };
        let refused = limits.iter().filter_map(|limit| Some((limit, attempt(limit).err()?)));
        let refused = refused.map(|(limit, why)| format!("`{}` has no effect: {why}", limit.key)).collect();
        Ok((group, refused))
    }

    /// Groups that are there, by instance and incarnation.
    pub fn all(&self) -> Vec<(u32, u32)> {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let parts = names.filter_map(|entry| {
            let name = entry.file_name();
            let (instance, incarnation) = name.to_str()?.split_once('-')?;
            Some((instance.parse().ok()?, incarnation.parse().ok()?))
        });
        parts.collect()
    }

    /// Ends what may be left, and removes the folder. When everything ends; blocks for `limit` at most.
    pub fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        for (instance, incarnation) in self.all() {
            // What cannot be killed stays for the next supervisor of this home.
            self.group(instance, incarnation).end(deadline.saturating_duration_since(Instant::now()));
        }
        // Somebody is still in it, such as ourselves: the next supervisor goes on with it.
        let _ = fs::remove_dir(&self.folder);
    }

    /// Has controllers handed down to the leaves as far as they are handed down to us; says which ones leaves have.
    fn delegate(&self) -> Vec<&'static str> {
        let available = words(&self.base.join("cgroup.controllers"));
        let wanted = || CONTROLLERS.into_iter().filter(|name| available.iter().any(|one| one == name));
        for name in wanted() {
            if let Err(error) = enable(&self.base, name)
                && error.raw_os_error() == Some(libc::EBUSY)
                && self.make_room()
            {
                // What it has not granted by now shows below.
                let _ = enable(&self.base, name);
            }
            let _ = enable(&self.folder, name);
        }
        let granted = words(&self.folder.join("cgroup.subtree_control"));
        wanted().filter(|name| granted.iter().any(|one| one == name)).collect()
    }

    /// A group that hands controllers down must hold no processes itself: moves ours into a leaf, if there are no others.
    fn make_room(&self) -> bool {
        /// For what is on its way out.
        const LOOKS: u32 = 10;
        const PAUSE: Duration = Duration::from_millis(10);
        for _ in 0..LOOKS {
            let here = words(&self.base.join("cgroup.procs"));
            if here.iter().all(|pid| pid.parse().is_ok_and(|pid: u32| self.ours.contains(&pid))) {
                let room = self.folder.join(SELF);
                let moved = |pid: &String| fs::write(room.join("cgroup.procs"), pid);
                return create(&room).and_then(|()| here.iter().try_for_each(moved)).is_ok();
            }
            std::thread::sleep(PAUSE);
        }
        false
    }
}

/// What became of a group that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was empty and is gone.
    Removed,
    /// Something runs in it.
    Populated,
    /// There was none.
    Missing,
}

/// One process and all that descends from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder, for a process to be born in.
    pub(super) fn open(&self) -> io::Result<File> {
        File::options().read(true).custom_flags(libc::O_DIRECTORY).open(&self.path)
    }

    /// Whether it is there: then everything that descends from its process is in it.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// SIGKILLs everything in it, also what is being forked meanwhile. Does not wait for it.
    ///
    /// # Errors
    /// `NotFound` where there is no group.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// The processes in it, without those of groups below.
    pub fn processes(&self) -> Vec<u32> {
        words(&self.path.join("cgroup.procs")).iter().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Whether a table like /proc/PID/cgroup names it, or a group below it. The folder's name is unique to a home, wherever the hierarchy is seen
    /// from.
    pub fn is_among(&self, groups: &str) -> bool {
        let Some((folder, leaf)) = self.path.parent().and_then(Path::file_name).zip(self.path.file_name()) else {
            return false;
        };
        let ours = format!("/{}/{}/", folder.to_string_lossy(), leaf.to_string_lossy());
        let unified = groups.lines().filter_map(|line| line.strip_prefix("0::"));
        unified.into_iter().any(|group| format!("{group}/").contains(&ours))
    }

    /// How often the kernel has killed something in it because memory was short. `None` where memory is not controlled.
    pub fn oom_kills(&self) -> Option<u64> {
        let events = fs::read_to_string(self.path.join("memory.events")).ok()?;
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// Removes it if nothing runs in it; groups that its processes made below it as well.
    pub fn remove(&self) -> Removal {
        match fs::remove_dir(&self.path) {
            Ok(()) => Removal::Removed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Removal::Missing,
            Err(_) if self.is_populated() => Removal::Populated,
            Err(_) => {
                remove_below(&self.path, 0);
                match fs::remove_dir(&self.path) {
                    Ok(()) => Removal::Removed,
                    Err(_) => Removal::Populated,
                }
            }
        }
    }

    /// SIGKILLs everything in it and removes it. `false` when something is still left after `limit`. Blocks for as long.
    pub fn end(&self, limit: Duration) -> bool {
        const PAUSE: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + limit;
        loop {
            // There may be none any more.
            let _ = self.kill();
            self.wait_empty(deadline);
            match self.remove() {
                Removal::Removed | Removal::Missing => return true,
                Removal::Populated if Instant::now() >= deadline => return false,
                // A group below that is on its way out; or it has been joined again.
                Removal::Populated => std::thread::sleep(PAUSE),
            }
        }
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|events| says_populated(&events))
    }

    fn wait_empty(&self, deadline: Instant) {
        let Ok(mut events) = File::open(self.path.join("cgroup.events")) else { return };
        loop {
            let mut text = String::new();
            // Reading it arms the poll for the next change.
            let read = events.seek(SeekFrom::Start(0)).and_then(|_| events.read_to_string(&mut text));
            let left = deadline.saturating_duration_since(Instant::now());
            if read.is_err() || !says_populated(&text) || left.is_zero() {
                return;
            }
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            // An interrupted or failed poll only asks again, until the deadline.
            let _ = nix::poll::poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
        }
    }
}

/// One limit of [`Bounds`] as the kernel takes it.
struct LimitFile {
    key: &'static str,
    controller: &'static str,
    file: &'static str,
    value: String,
}

fn limits(bounds: &Bounds) -> Vec<LimitFile> {
    /// Microseconds in which a percentage is counted: the kernel's own default.
    const PERIOD: u64 = 100_000;
    let file = |key, controller, file, value| LimitFile { key, controller, file, value };
    let memory = bounds.memory_max.map(|max| file("memory_max", "memory", "memory.max", max.to_string()));
    let tasks = bounds.tasks_max.map(|max| file("tasks_max", "pids", "pids.max", max.to_string()));
    let cpu = bounds.cpu_max.map(|percent| {
        let quota = u64::from(percent) * PERIOD / 100;
        file("cpu_max", "cpu", "cpu.max", format!("{quota} {PERIOD}"))
    });
    [memory, tasks, cpu].into_iter().flatten().collect()
}

fn create(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn enable(group: &Path, controller: &str) -> io::Result<()> {
    fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
}

/// Removes what homes have left whose keeper and supervisor died at once and never came back: folders in which nothing
/// runs and nothing has been made for a long time.
fn tidy(base: &Path, ours: &Path) {
    const LONG: Duration = Duration::from_secs(3600);
    let is_left = |folder: &Path| {
        let made = fs::metadata(folder).and_then(|found| found.modified());
        let is_old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= LONG));
        let events = fs::read_to_string(folder.join("cgroup.events"));
        is_old && events.is_ok_and(|events| !says_populated(&events))
    };
    let folders = fs::read_dir(base).into_iter().flatten().flatten();
    let others = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("herdwire-"));
    for folder in others.map(|entry| entry.path()).filter(|folder| folder != ours && is_left(folder)) {
        remove_below(&folder, 0);
        // Somebody else was quicker, or is in it now.
        let _ = fs::remove_dir(folder);
    }
}

/// Bottom up. Groups of a group's own may nest; nobody needs more than these.
fn remove_below(group: &Path, depth: u32) {
    const DEPTH: u32 = 16;
    if depth == DEPTH {
        return;
    }
    let folders = fs::read_dir(group).into_iter().flatten().flatten();
    for folder in folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&folder.path(), depth + 1);
        // Whatever stays keeps its parent, which is told.
        let _ = fs::remove_dir(folder.path());
    }
}

fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn says_populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a group, as far as files can.
    fn pretended(controllers: &str, procs: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(folder.path().join("cgroup.procs"), procs).unwrap();
        let ours = folder.path().join("herdwire-x");
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("cgroup.kill"), "").unwrap();
        folder
    }

    fn limited() -> Bounds {
        Bounds { memory_max: Some(1 << 20), tasks_max: Some(7), cpu_max: Some(150), ..Bounds::default() }
    }

    #[test]
    fn a_limit_whose_controller_is_not_delegated_is_told_and_keeps_nothing_from_starting() {
        let base = pretended("", "");
        let groups = Cgroups::below(base.path(), "x", &[]).unwrap();
        let (group, refused) = groups.make(1, 2, &limited()).unwrap();
        assert!(group.exists());
        let told: Vec<&str> =
            refused.iter().filter_map(|refused| refused.split_once(" has no effect").map(|w| w.0)).collect();
        assert_eq!(told, ["`memory_max`", "`tasks_max`", "`cpu_max`"]);
        assert!(groups.make(1, 3, &Bounds::default()).unwrap().1.is_empty());
        let mut all = groups.all();
        all.sort_unstable();
        assert_eq!(all, [(1, 2), (1, 3)]);
    }

    #[test]
    fn a_process_is_in_a_group_or_below_it_wherever_the_hierarchy_is_seen_from() {
        let group = Group { path: "/sys/fs/cgroup/app.slice/herdwire-x/3-1".into() };
        for inside in ["0::/app.slice/herdwire-x/3-1", "1:cpu:/\n0::/herdwire-x/3-1\n", "0::/../herdwire-x/3-1/below"] {
            assert!(group.is_among(inside), "{inside}");
        }
        for outside in
            ["", "0::/", "0::/herdwire-x/3-12", "0::/herdwire-x/13-1", "0::/herdwire-y/3-1", "1:cpu:/herdwire-x/3-1"]
        {
            assert!(!group.is_among(outside), "{outside}");
        }
    }

    #[test]
    fn limits_are_written_where_their_controllers_are_delegated() {
        let base = pretended("cpu memory pids\n", "");
        let groups = Cgroups::below(base.path(), "x", &[]).unwrap();
        // The kernel answers with what it granted.
        groups.controllers.set(vec!["memory", "pids", "cpu"]).unwrap();
        let (group, refused) = groups.make(1, 2, &limited()).unwrap();
        assert_eq!(refused, Vec::<String>::new());
        let read = |name: &str| fs::read_to_string(group.path().join(name)).unwrap();
        assert_eq!(
            (read("memory.max"), read("pids.max"), read("cpu.max")),
            ("1048576".into(), "7".into(), "150000 100000".into())
        );
    }

    #[test]
    fn a_supervisor_whose_predecessor_moved_it_finds_the_same_folder() {
        let base = pretended("", "");
        let first = Cgroups::below(base.path(), "x", &[]).unwrap();
        fs::create_dir(first.folder().join(SELF)).unwrap();
        let second = Cgroups::below(&first.folder().join(SELF), "x", &[]).unwrap();
        assert_eq!(second.folder(), first.folder());
    }

    #[test]
    fn only_our_own_processes_are_moved_out_of_the_way() {
        let base = pretended("", "7\n8\n");
        let room = base.path().join("herdwire-x").join(SELF);
        assert!(!Cgroups::below(base.path(), "x", &[7]).unwrap().make_room());
        assert!(!room.exists());
        assert!(Cgroups::below(base.path(), "x", &[7, 8]).unwrap().make_room());
        assert_eq!(fs::read_to_string(room.join("cgroup.procs")).unwrap(), "8");
    }

    #[test]
    fn what_homes_have_left_is_removed_once_it_is_old_and_nothing_runs_in_it() {
        let base = pretended("", "");
        let hour = Duration::from_secs(3601);
        for (name, events, age) in [
            ("herdwire-old", "populated 0\n", hour),
            ("herdwire-busy", "populated 1\n", hour),
            ("herdwire-young", "populated 0\n", Duration::ZERO),
            ("stranger", "populated 0\n", hour),
        ] {
            let folder = base.path().join(name);
            fs::create_dir_all(folder.join("1-1")).unwrap();
            fs::write(folder.join("cgroup.events"), events).unwrap();
            let made = std::time::SystemTime::now() - age;
            File::open(&folder).unwrap().set_modified(made).unwrap();
        }
        Cgroups::below(base.path(), "x", &[]).unwrap();
        // A pretended folder itself stays, since its files do not go with it.
        let has = |name: &str| base.path().join(name).join("1-1").exists();
        let names = ["herdwire-old", "herdwire-busy", "herdwire-young", "stranger"];
        assert_eq!(names.map(has), [false, true, true, true]);
    }

    #[test]
    fn without_a_group_there_is_a_reason() {
        let empty = tempfile::tempdir().unwrap();
        assert!(Cgroups::below(empty.path(), "x", &[]).unwrap_err().contains("cannot be written"));
        fs::write(empty.path().join("cgroup.procs"), "").unwrap();
        assert!(Cgroups::below(empty.path(), "x", &[]).unwrap_err().contains("cannot kill"));
        assert!(!empty.path().join("herdwire-x").exists());
    }

    #[test]
    fn kills_for_want_of_memory_are_counted_where_memory_is_controlled() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group { path: folder.path().to_owned() };
        assert_eq!(group.oom_kills(), None);
        fs::write(folder.path().join("memory.events"), "low 0\noom 4\noom_kill 3\noom_group_kill 0\n").unwrap();
        assert_eq!(group.oom_kills(), Some(3));
    }
}
