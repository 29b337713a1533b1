//! Watching an app's files: which folders, which changes, when they are over.
//!
//! Owns one thread for each app that asks for it (and the watching library's own). Ignored folders are left out *before* anything is
//! watched: a `node_modules` costs nothing. Folders are watched, not files, so a file that an editor replaces by a rename stays
//! watched. Symbolic links below a watched folder are not followed, so no loop of them matters.
//!
//! Never a cause: what lies in Herdwire's own home, and the app's own log files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::ignore::{Ignore, PatternError};
use super::settle::Settle;
use crate::config::spec::Watch;

/// Folders that one app may have watched. Each costs about a KiB of kernel memory.
const MOST_FOLDERS: usize = 8192;
/// Changes that wait for our thread; when there are more, something has changed for certain.
const QUEUE: usize = 1024;

/// Why something is not watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    #[error("`{path}` is not watched: too much else lies in it")]
    TooWide { path: PathBuf },
    #[error("`{path}` cannot be watched")]
    Root { path: PathBuf, source: io::Error },
    #[error("more than {MOST_FOLDERS} folders below `{path}` would have to be watched: the rest is not")]
    TooMany { path: PathBuf },
    #[error("`{path}` cannot be watched")]
    Refused { path: PathBuf, source: notify::Error },
    #[error("files cannot be watched")]
    Library(#[source] notify::Error),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("no thread is left to watch files")]
    Thread(#[source] io::Error),
}

impl WatchError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            WatchError::TooWide { .. } => Some("name the app's own folders in `watch`"),
            WatchError::TooMany { .. } => Some("name folders in `ignore_watch`, or fewer in `watch`"),
            WatchError::Refused { source, .. } if is_limit(source) => {
                Some("the kernel's limit is reached: raise fs.inotify.max_user_watches, or watch less")
            }
            WatchError::Library(_) => Some("the kernel's limit may be reached: raise fs.inotify.max_user_instances"),
            _ => None,
        }
    }

    /// As one sentence, cause and advice included.
    pub fn sentence(&self) -> String {
        let cause = std::error::Error::source(self).map(|cause| format!(": {cause}")).unwrap_or_default();
        let hint = self.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{self}{cause}{hint}")
    }
}

fn is_limit(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => true,
        notify::ErrorKind::Io(error) => error.raw_os_error() == Some(libc::ENOSPC),
        _ => false,
    }
}

/// What a watching thread tells.
#[derive(Debug)]
pub enum Seen {
    /// Files have changed and are quiet again; this one was the first.
    Changed { app: u32, path: PathBuf },
    /// Something is not watched: why, as a sentence.
    Trouble { app: u32, what: String },
}

/// What is watched for an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub watch: Watch,
    /// Folders that never count: Herdwire's home.
    pub home: PathBuf,
    /// Files that never count, with whatever has their name and more (rotated ones): the app's logs.
    pub logs: Vec<PathBuf>,
}

/// A watching thread. Dropped, it ends.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    queue: SyncSender<Glimpse>,
}

/// What the library's thread passes on.
enum Glimpse {
    Event(notify::Event),
    /// Wake up and look at `stop`.
    Nothing,
}

impl Watcher {
    /// Starts the thread; what it cannot watch it tells as trouble.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(app: u32, field: Field, seen: mpsc::Sender<Seen>) -> Result<Watcher, WatchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, glimpses) = sync_channel(QUEUE);
        let eye = Eye { app, stop: Arc::clone(&stop), missed: Arc::default(), seen, queue: queue.clone() };
        let thread = std::thread::Builder::new().name("watch".into()).stack_size(256 * 1024);
        thread.spawn(move || eye.run(field, &glimpses)).map_err(WatchError::Thread)?;
        Ok(Watcher { stop, queue })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Full: it is awake and looks at `stop`. Gone: that is what is wanted.
        let _ = self.queue.try_send(Glimpse::Nothing);
    }
}

/// The thread's own.
struct Eye {
    app: u32,
    stop: Arc<AtomicBool>,
    /// Whether changes found no room in the queue.
    missed: Arc<AtomicBool>,
    seen: mpsc::Sender<Seen>,
    queue: SyncSender<Glimpse>,
}

impl Eye {
    fn run(self, field: Field, glimpses: &Receiver<Glimpse>) {
        let mut scene = match Scene::new(field, self.handler()) {
            Ok(scene) => scene,
            Err(error) => return self.trouble(&error),
        };
        for error in scene.open() {
            self.trouble(&error);
        }
        let mut settle = Settle::new(scene.field.watch.settle);
        while !self.stop.load(Relaxed) && !self.seen.is_closed() {
            let glimpse = match settle.due() {
                Some(due) => glimpses.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => glimpses.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match glimpse {
                Ok(Glimpse::Event(event)) => {
                    if let Some(path) = scene.take(&event) {
                        settle.changed(path, Instant::now());
                    }
                    scene.troubles.drain(..).for_each(|error| self.trouble(&error));
                }
                Ok(Glimpse::Nothing) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.missed.swap(false, Relaxed) {
                settle.changed(PathBuf::from("(more than could be looked at)"), Instant::now());
            }
            if let Some(path) = settle.over(Instant::now())
                && self.seen.blocking_send(Seen::Changed { app: self.app, path }).is_err()
            {
                return;
            }
        }
    }

    /// Runs in the library's thread, which must not wait for ours: ours may be asking it for another watch.
    fn handler(&self) -> impl Fn(notify::Result<notify::Event>) + Send + 'static {
        let (queue, missed) = (self.queue.clone(), Arc::clone(&self.missed));
        move |event| match event {
            Ok(event) if event.need_rescan() => missed.store(true, Relaxed),
            Ok(event) if is_change(event.kind) => {
                if let Err(TrySendError::Full(_)) = queue.try_send(Glimpse::Event(event)) {
                    missed.store(true, Relaxed);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("watching files: {error}"),
        }
    }

    fn trouble(&self, error: &WatchError) {
        // Nobody listens any more: then nobody needs to know.
        let _ = self.seen.blocking_send(Seen::Trouble { app: self.app, what: error.sentence() });
    }
}

/// Reading is no change; a new time stamp (`touch`) is.
fn is_change(kind: EventKind) -> bool {
    matches!(kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
}

/// What is watched, and which of it counts.
struct Scene {
    field: Field,
    roots: Vec<Root>,
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    troubles: Vec<WatchError>,
}

/// One of the paths that the settings name.
struct Root {
    folder: PathBuf,
    /// Only this file in it.
    only: Option<OsString>,
    ignore: Ignore,
}

impl Root {
    fn open(path: &Path, patterns: &[String]) -> Result<Root, WatchError> {
        let unusable = |source| WatchError::Root { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(unusable)?;
        let home = std::env::var_os("HOME").map(PathBuf::from).and_then(|home| home.canonicalize().ok());
        if real == Path::new("/") || home.is_some_and(|home| home.starts_with(&real)) {
            return Err(WatchError::TooWide { path: path.to_owned() });
        }
        let (folder, only) = match (real.is_dir(), real.parent(), real.file_name()) {
            (false, Some(folder), Some(name)) => (folder.to_owned(), Some(name.to_owned())),
            _ => (real, None),
        };
        let ignore = Ignore::new(patterns, &folder)?;
        Ok(Root { folder, only, ignore })
    }

    /// Whether a path is what this root watches.
    fn covers(&self, path: &Path) -> bool {
        match (path.strip_prefix(&self.folder), &self.only) {
            (Ok(below), Some(only)) => below.as_os_str() == only,
            (Ok(below), None) => !below.as_os_str().is_empty() && !self.ignore.hides(below),
            (Err(_), _) => false,
        }
    }
}

impl Scene {
    fn new(
        field: Field,
        handler: impl Fn(notify::Result<notify::Event>) + Send + 'static,
    ) -> Result<Scene, WatchError> {
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(handler, config).map_err(WatchError::Library)?;
        Ok(Scene { field, roots: Vec::new(), watcher, folders: BTreeSet::new(), troubles: Vec::new() })
    }

    /// Watches all that the settings name; says what cannot be.
    fn open(&mut self) -> Vec<WatchError> {
        for path in self.field.watch.paths.clone() {
            match Root::open(&path, &self.field.watch.ignore) {
                Ok(root) => {
                    let (folder, whole) = (root.folder.clone(), root.only.is_none());
                    self.roots.push(root);
                    self.add(&folder, whole);
                }
                Err(error) => self.troubles.push(error),
            }
        }
        std::mem::take(&mut self.troubles)
    }

    /// Watches a folder, and those below it that count.
    fn add(&mut self, top: &Path, below: bool) {
        let mut open = vec![top.to_owned()];
        while let Some(folder) = open.pop() {
            if self.folders.len() >= MOST_FOLDERS {
                return self.troubles.push(WatchError::TooMany { path: top.to_owned() });
            }
            if !self.folders.contains(&folder) {
                match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.folders.insert(folder.clone())),
                    // Gone meanwhile.
                    Err(_) if !folder.exists() => continue,
                    Err(source) => return self.troubles.push(WatchError::Refused { path: folder, source }),
                }
            }
            if below {
                let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
                // Not followed: a link is no folder.
                let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                open.extend(folders.map(|entry| entry.path()).filter(|path| self.counts(path)));
            }
        }
    }

    /// Whether a change of this path is one of the app's.
    fn counts(&self, path: &Path) -> bool {
        let is_log = self.field.logs.iter().any(|log| {
            let names = path.file_name().zip(log.file_name());
            path.parent() == log.parent()
                && names.is_some_and(|(name, log)| name.as_encoded_bytes().starts_with(log.as_encoded_bytes()))
        });
        !path.starts_with(&self.field.home) && !is_log && self.roots.iter().any(|root| root.covers(path))
    }

    /// Keeps up with folders that come and go; returns the path that has changed, if one that counts has.
    fn take(&mut self, event: &notify::Event) -> Option<PathBuf> {
        let changed: Vec<&PathBuf> = event.paths.iter().filter(|path| self.counts(path)).collect();
        let first = changed.first().map(|path| (*path).clone())?;
        for path in changed {
            let left =
                matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
            let is_folder = || fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
            if left {
                self.leave(path);
            } else if !self.folders.contains(path) && is_folder() {
                self.add(path, true);
            }
        }
        Some(first)
    }

    /// A folder went, with all below it: whatever comes under its name is another one.
    fn leave(&mut self, path: &Path) {
        let gone: Vec<PathBuf> = self.folders.iter().filter(|folder| folder.starts_with(path)).cloned().collect();
        for folder in gone {
            self.folders.remove(&folder);
            // Gone with its folder, as a rule.
            let _ = self.watcher.unwatch(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Place {
        folder: tempfile::TempDir,
        root: PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::Builder::new().prefix("hw-watch-").tempdir_in("/tmp").unwrap();
            let root = folder.path().canonicalize().unwrap().join("app");
            fs::create_dir(&root).unwrap();
            Place { folder, root }
        }

        fn field(&self, ignore: &[&str]) -> Field {
            let watch = Watch {
                paths: vec![self.root.clone()],
                ignore: ignore.iter().map(|pattern| (*pattern).to_owned()).collect(),
                settle: Duration::from_millis(60),
            };
            Field { watch, home: self.root.join("home"), logs: vec![self.root.join("out.log")] }
        }

        fn scene(&self, ignore: &[&str]) -> (Scene, Receiver<notify::Event>) {
            let (tell, events) = sync_channel(1000);
            let handler = move |event: notify::Result<notify::Event>| drop(tell.send(event.unwrap()));
            let mut scene = Scene::new(self.field(ignore), handler).unwrap();
            assert!(scene.open().is_empty());
            (scene, events)
        }
    }

    /// The next change that counts.
    fn next(scene: &mut Scene, events: &Receiver<notify::Event>) -> PathBuf {
        loop {
            let event = events.recv_timeout(LIMIT).expect("no change was seen");
            if is_change(event.kind)
                && let Some(path) = scene.take(&event)
            {
                return path;
            }
        }
    }

    #[test]
    fn ignored_folders_are_not_even_watched() {
        let place = Place::new();
        for folder in ["src/deep", "node_modules/left-pad", ".git/objects"] {
            fs::create_dir_all(place.root.join(folder)).unwrap();
        }
        let (scene, _events) = place.scene(&["**/.*", "node_modules"]);
        let watched: Vec<_> =
            scene.folders.iter().map(|path| path.strip_prefix(&place.root).unwrap().to_owned()).collect();
        assert_eq!(watched, ["", "src", "src/deep"].map(PathBuf::from));
    }

    #[test]
    fn a_folder_that_comes_later_is_watched_too() {
        let place = Place::new();
        let (mut scene, events) = place.scene(&[]);
        fs::create_dir(place.root.join("new")).unwrap();
        assert_eq!(next(&mut scene, &events), place.root.join("new"));
        fs::write(place.root.join("new/file"), "x").unwrap();
        while next(&mut scene, &events) != place.root.join("new/file") {}
    }

    #[test]
    fn a_file_that_is_replaced_stays_watched() {
        let place = Place::new();
        let file = place.root.join("config.json");
        fs::write(&file, "1").unwrap();
        let mut field = place.field(&[]);
        field.watch.paths = vec![file.clone()];
        let (tell, events) = sync_channel(1000);
        let mut scene = Scene::new(field, move |event| drop(tell.send(event.unwrap()))).unwrap();
        assert!(scene.open().is_empty());
        for content in ["2", "3"] {
            fs::write(place.root.join("other"), content).unwrap();
            fs::write(place.folder.path().join("fresh"), content).unwrap();
            fs::rename(place.folder.path().join("fresh"), &file).unwrap();
            assert_eq!(next(&mut scene, &events), file);
        }
    }

    #[test]
    fn links_are_not_followed_so_that_a_loop_of_them_has_an_end() {
        let place = Place::new();
        fs::create_dir(place.root.join("a")).unwrap();
        symlink(&place.root, place.root.join("a/up")).unwrap();
        symlink("/", place.root.join("everything")).unwrap();
        let (scene, _events) = place.scene(&[]);
        assert_eq!(scene.folders.len(), 2);
    }

    #[test]
    fn the_apps_own_logs_and_the_home_are_no_causes() {
        let place = Place::new();
        let (scene, _events) = place.scene(&[]);
        assert!(!scene.counts(&place.root.join("out.log")));
        assert!(!scene.counts(&place.root.join("out.log.1.gz")));
        assert!(scene.counts(&place.root.join("main.js")));
        assert!(!scene.counts(&place.root.join("home/logs/x")));
    }

    #[test]
    fn the_whole_system_and_the_home_folder_are_refused_with_advice() {
        let place = Place::new();
        let mut field = place.field(&[]);
        field.watch.paths = vec!["/".into(), place.root.join("missing")];
        let mut scene = Scene::new(field, |_| {}).unwrap();
        let said: Vec<String> = scene.open().iter().map(WatchError::sentence).collect();
        assert!(said[0].contains("`/` is not watched") && said[0].contains("`watch`"), "{said:?}");
        assert!(said[1].contains("missing") && said[1].contains("No such file"), "{said:?}");
        assert!(scene.folders.is_empty());
    }

    #[test]
    fn a_burst_of_changes_is_told_once_and_names_a_path() {
        let place = Place::new();
        let (tell, mut seen) = mpsc::channel(8);
        let watcher = Watcher::start(3, place.field(&["ignored"]), tell).unwrap();
        // It may not be watching yet: change until it has seen one.
        let deadline = Instant::now() + LIMIT;
        let first = loop {
            fs::write(place.root.join("ignored"), "x").unwrap();
            fs::write(place.root.join("main.js"), "x").unwrap();
            match seen.try_recv() {
                Ok(seen) => break seen,
                Err(_) => assert!(Instant::now() < deadline, "no change was seen"),
            }
            std::thread::yield_now();
        };
        assert!(matches!(&first, Seen::Changed { app: 3, path } if *path == place.root.join("main.js")), "{first:?}");
        drop(watcher);
        // Its thread ends, and with it the last sender.
        while seen.blocking_recv().is_some() {}
    }
}
