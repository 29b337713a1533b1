//! Where a stream's bytes go: into a file as they are, or through a spool into rendered logs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::Style;
use super::losing::GivenUp;
use super::place::{self, Paths};
use super::pump::{Kind, Shared, StreamKey};
use super::spool::{self, Spool};
use super::target::{Target, Took};
use super::written::Written;
use crate::config::spec::{LogFormat, LogSpec, Rotation};

/// Where what comes out of a pipe goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// Into one file, as it is.
    Raw { path: PathBuf, rotation: Rotation },
    /// Into one or several files, line by line.
    Rendered(Plan),
}

/// What is rendered and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The folder of spools and positions.
    pub folder: PathBuf,
    /// The logs, at least one.
    pub logs: Vec<PathBuf>,
    pub rotation: Rotation,
    pub style: Style,
}

impl Route {
    /// The way of one output of an instance that users know by `number`, whose files are `paths`.
    pub fn of(spec: &LogSpec, paths: &Paths, folder: PathBuf, app: &str, number: u32, kind: Kind) -> Route {
        let own = match kind {
            Kind::Out => &paths.out,
            Kind::Err => &paths.error,
        };
        let rotation = spec.rotation.clone();
        if spec.format == LogFormat::Raw && paths.combined.is_none() {
            return Route::Raw { path: own.clone(), rotation };
        }
        let mut logs: Vec<PathBuf> = [Some(own), paths.combined.as_ref()].into_iter().flatten().cloned().collect();
        logs.retain(|path| !place::is_nowhere(path));
        logs.dedup();
        if logs.is_empty() {
            return Route::Raw { path: own.clone(), rotation };
        }
        let style = Style::new(&spec.format, app, number, kind);
        Route::Rendered(Plan { folder, logs, rotation, style })
    }
}

/// The end of the way.
#[derive(Debug)]
pub enum Sink {
    File {
        target: Arc<Mutex<Target>>,
        /// Where its lines are in it.
        written: Written,
    },
    /// Opened when the first bytes come, and tried again while that fails.
    Spool { plan: Plan, spool: Option<Box<Spool>> },
}

impl Sink {
    /// A file that others may write to, too.
    pub fn to(target: Arc<Mutex<Target>>) -> Sink {
        Sink::File { target, written: Written::default() }
    }

    /// A spool that is not open yet.
    pub fn of(plan: Plan) -> Sink {
        Sink::Spool { plan, spool: None }
    }

    /// Opens what is to be written to.
    ///
    /// # Errors
    /// It cannot be.
    pub fn prepare(&mut self, stream: StreamKey, pipe: &OwnedFd, shared: &Shared) -> io::Result<()> {
        match self {
            Sink::File { target, .. } => lock(target).prepare(),
            Sink::Spool { plan, spool } => match opened(plan, spool, stream, pipe, shared)?.waits() {
                Some(number) => Err(io::Error::from_raw_os_error(number)),
                None => Ok(()),
            },
        }
    }

    /// Moves at most `most` bytes.
    ///
    /// # Errors
    /// A file takes nothing: what is in the pipe stays there.
    pub fn take(&mut self, stream: StreamKey, pipe: &OwnedFd, most: usize, shared: &Shared) -> io::Result<Took> {
        match self {
            Sink::File { target, written } => lock(target).take(stream, pipe.as_fd(), most, written),
            Sink::Spool { plan, spool } => opened(plan, spool, stream, pipe, shared)?.take(pipe.as_fd(), most),
        }
    }

    /// Gives up what has left the pipe and is no whole line.
    ///
    /// # Errors
    /// The file cannot be read or cut.
    pub fn give_up(&mut self, stream: StreamKey) -> io::Result<GivenUp> {
        match self {
            Sink::File { target, written } => {
                written.clear();
                lock(target).give_up(stream)
            }
            Sink::Spool { spool: Some(spool), .. } => spool.give_up(),
            Sink::Spool { spool: None, .. } => Ok(GivenUp::default()),
        }
    }

    /// Writes a line of our own.
    ///
    /// # Errors
    /// It takes nothing, or not now (`WouldBlock`).
    pub fn say(&mut self, line: &str, stream: StreamKey, pipe: &OwnedFd, shared: &Shared) -> io::Result<()> {
        match self {
            Sink::File { target, .. } => lock(target).say(line, stream),
            Sink::Spool { plan, spool } => opened(plan, spool, stream, pipe, shared)?.say(line),
        }
    }

    /// The stream writes no more.
    pub fn leave(&mut self, stream: StreamKey, ended: bool) {
        match self {
            Sink::File { target, .. } => lock(target).leave(stream, ended),
            Sink::Spool { spool, .. } => *spool = None,
        }
    }

    /// Has the files looked for at their paths.
    pub fn reopen(&self) {
        match self {
            Sink::File { target, .. } => lock(target).reopen(),
            Sink::Spool { spool, .. } => {
                spool.iter().flat_map(|spool| spool.logs()).for_each(|log| lock(log).reopen());
            }
        }
    }

    /// Why something waits to be written though nothing is in the pipe.
    pub fn waits(&self) -> Option<i32> {
        match self {
            Sink::File { .. } => None,
            Sink::Spool { spool, .. } => spool.as_ref().and_then(|spool| spool.waits()),
        }
    }

    /// Where the stream's lines are in that file.
    pub fn written(&self) -> Written {
        match self {
            Sink::File { written, .. } => written.clone(),
            Sink::Spool { spool, .. } => spool.as_ref().map(|spool| spool.written().clone()).unwrap_or_default(),
        }
    }

    /// The file that is meant when there is trouble, or when its last lines are asked for.
    pub fn path(&self) -> PathBuf {
        match self {
            Sink::File { target, .. } => lock(target).path().to_owned(),
            Sink::Spool { plan, .. } => plan.logs[0].clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The spool of a stream, opened if it is not yet.
fn opened<'s>(
    plan: &Plan,
    spool: &'s mut Option<Box<Spool>>,
    stream: StreamKey,
    pipe: &OwnedFd,
    shared: &Shared,
) -> io::Result<&'s mut Spool> {
    let new = match spool.take() {
        Some(open) => open,
        None => {
            let logs = plan.logs.iter().map(|path| shared.rendered(path, &plan.folder, &plan.rotation));
            let logs = logs.collect::<io::Result<Vec<_>>>()?;
            Box::new(Spool::open(&plan.folder, spool::id_of(stream, pipe), logs, plan.style.clone())?)
        }
    };
    Ok(spool.insert(new))
}
