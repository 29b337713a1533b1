//! What the supervisor does about logs: which pipe goes where, what the pump tells, emptying and reopening on request.
//!
//! Owns the decision, per instance; the files are the pump's (`crate::logs`).
//!
//! SIGUSR2 has the files looked for at their paths again, as it does to pm2: something has moved them.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use herdwire_ipc::tokio::Watched;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::control::{Failure, Response, Selector};
use super::core::Core;
use super::registry::Entry;
use crate::config::spec::{AppSpec, LogMode};
use crate::keeper::name::{Kind, Name};
use crate::logs::{self, Event, Kind as Stream, Route, StreamKey};
use crate::process::Output;

/// What would end or stop a supervisor by default and is none of its business: it ends when its keeper says so.
const WITHOUT_MEANING: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGALRM,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Takes SIGUSR2 out of the ordinary way of signals, so that it can be waited for, and with it those that have no meaning
/// here. To be called before any thread is started, since each has a mask of its own.
///
/// # Errors
/// No descriptor is left.
pub fn take_signal() -> io::Result<OwnedFd> {
    let taken = WITHOUT_MEANING.into_iter().chain([Signal::SIGUSR2]).collect::<SigSet>();
    taken.thread_block()?;
    let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok(signals.into())
}

/// Waits for the signal; those without a meaning are passed over. Cancel safe.
pub async fn heard(signals: &Watched) -> io::Result<()> {
    let read = |descriptor: BorrowedFd<'_>| {
        let mut one = [0; size_of::<libc::signalfd_siginfo>()];
        nix::unistd::read(descriptor, &mut one)?;
        // Its number comes first.
        Ok(i32::from_ne_bytes([one[0], one[1], one[2], one[3]]))
    };
    while signals.read(read).await? != Signal::SIGUSR2 as i32 {}
    Ok(())
}

impl Core {
    /// Has the pump take what comes out of a pipe that was just made to its instance's logs.
    pub(super) fn attach_log(&mut self, name: Name, pipe: OwnedFd) {
        let (key, route) = self.way_of_log(name);
        let trouble = self.pump.attach(key, pipe, route);
        self.note_log(key, trouble);
    }

    /// Has the pump go on with a stored pipe.
    pub(super) fn adopt_log(&self, name: Name, pipe: OwnedFd) {
        let (key, route) = self.way_of_log(name);
        self.pump.go_on(key, pipe, route);
    }

    fn way_of_log(&self, name: Name) -> (StreamKey, Route) {
        let entry = &self.registry.instances[&name.owner];
        let spec = self.registry.spec_of(entry);
        let paths = self.log_paths(entry);
        let (kind, path) = match name.kind {
            Kind::Err => (Stream::Err, &paths.error),
            _ => (Stream::Out, &paths.out),
        };
        let key = StreamKey { instance: name.owner, incarnation: name.generation, kind };
        self.show(path, kind, entry);
        (key, Route::of(&spec.logs, &paths, self.home.logs().join(".raw"), &spec.name, entry.number, kind))
    }

    /// Takes note of a log that cannot be opened.
    pub(super) fn note_log(&mut self, stream: StreamKey, trouble: Option<(PathBuf, io::Error)>) {
        if let Some((path, error)) = trouble {
            self.log(Event::Trouble { stream, path, error, drops: false });
        }
    }

    /// Shows a log in the foreground, in `herdwire run`.
    fn show(&self, path: &Path, kind: Stream, entry: &Entry) {
        if let Some(output) = self.foreground.as_ref().filter(|_| !logs::is_nowhere(path)) {
            let label = format!("{}:{}", self.registry.app_of(entry).spec.name, entry.number);
            output.follow(path.to_owned(), kind, label);
        }
    }

    /// What a process of an instance gets as stdout and stderr: pipes, or its files where nothing stands in between.
    ///
    /// # Errors
    /// A file of its own cannot be opened.
    pub(super) fn outputs(&self, entry: &Entry, spec: &AppSpec) -> io::Result<[Output; 2]> {
        let paths = self.log_paths(entry);
        for path in [Some(&paths.out), Some(&paths.error), paths.combined.as_ref()].into_iter().flatten() {
            make_folder_of(path, self.home.path());
        }
        let open = |path: &Path, kind: Stream| -> io::Result<Output> {
            let is_piped = spec.logs.mode == LogMode::Pipe && (!logs::is_nowhere(path) || paths.combined.is_some());
            if is_piped {
                return Ok(Output::Pipe);
            }
            let file = logs::open_for_instance(path, &spec.logs.rotation)?;
            self.show(path, kind, entry);
            Ok(Output::File(file))
        };
        Ok([open(&paths.out, Stream::Out)?, open(&paths.error, Stream::Err)?])
    }

    /// Removes what a keeper and a supervisor that both died had not rendered. Once everything is attached.
    pub(super) fn forget_stray_spools(&self) {
        let strays = self.pump.remove_stray_spools(&self.home.logs().join(".raw"));
        if strays > 0 {
            tracing::info!(
                "{strays} files of instances that are gone were removed from {}",
                self.home.logs().display()
            );
        }
    }

    /// The files of an instance.
    pub(super) fn log_paths(&self, entry: &Entry) -> logs::Paths {
        let spec = self.registry.spec_of(entry);
        logs::placed(self.home.path(), &spec.name, entry.number, entry.alone, &spec.logs)
    }

    /// Acts on what the pump tells.
    pub(super) fn log(&mut self, event: Event) {
        match event {
            Event::Closed(key) => {
                let kind = match key.kind {
                    Stream::Out => Kind::Out,
                    Stream::Err => Kind::Err,
                };
                self.store.forget(Name::new(kind, key.instance, key.incarnation));
            }
            Event::Trouble { stream, path, error, drops } => {
                let sentence = self.log_faults.note(stream, &path, &error, drops);
                tracing::warn!("{sentence}");
                self.tell_of(stream.instance, "log.trouble", sentence);
            }
            Event::Recovered(stream) => {
                if let Some(path) = self.log_faults.over(stream) {
                    tracing::info!("the log {} is written again", path.display());
                    self.tell_of(stream.instance, "log.recovered", format!("{} is written again", path.display()));
                }
            }
            Event::Lost { stream, path, lost } => {
                self.warn(format!(
                    "{} lines ({} bytes) of instance {} are missing in {}, which could not be written for too long",
                    lost.lines,
                    lost.bytes,
                    stream.instance,
                    path.display()
                ));
            }
        }
    }

    /// Has the files of some instances looked for at their paths again.
    pub(super) async fn reopen_logs(&mut self, select: &Selector) -> Result<Response, Failure> {
        let ids = self.find(select)?;
        self.pump.reopen(|instance| ids.contains(&instance));
        Ok(Response::Done(Box::new(self.snapshot(false).await)))
    }

    /// The same for all, by signal.
    pub(super) fn reopen_all_logs(&self) {
        tracing::info!("logs are opened anew");
        self.pump.reopen(|_| true);
    }

    /// Empties the files of some instances.
    pub(super) async fn flush_logs(&mut self, select: &Selector) -> Result<Response, Failure> {
        let ids = self.find(select)?;
        for entry in ids.iter().filter_map(|id| self.registry.instances.get(id)) {
            let paths = self.log_paths(entry);
            self.pump.flush(&paths).map_err(|error| {
                let name = &self.registry.app_of(entry).spec.name;
                Failure::new(format!("the logs of {name}:{} cannot be emptied", entry.number)).cause(error)
            })?;
        }
        Ok(Response::Done(Box::new(self.snapshot(false).await)))
    }
}

/// Creates the folders above a log that the user has placed somewhere. Those of the home are not made again: it may have
/// been removed.
fn make_folder_of(log: &Path, home: &Path) {
    let folder = log.parent().filter(|folder| !log.starts_with(home) && !folder.exists());
    if let Some(folder) = folder
        && let Err(error) = DirBuilder::new().recursive(true).mode(0o755).create(folder)
    {
        // The log itself will be told not to be writable.
        tracing::debug!("the folder {} cannot be created: {error}", folder.display());
    }
}
