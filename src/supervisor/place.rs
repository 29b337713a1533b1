//! The supervisor's place: its home and the control socket in it, its log, and the program of its keeper.
//!
//! Looked after on the beat, since an operator may do anything to a home. A socket that was removed is bound again; one
//! that was replaced by something else is left alone and told.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::adopt::{control_listener, file_identity};
use super::control_server;
use super::core::Core;
use super::departure::clear_marks;
use crate::keeper::name::{Kind, Name};

/// How long a supervisor has served before it counts on being the only one: whatever was there before it is gone by then.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How long until a keeper that is still another program is asked again to become ours.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

impl Core {
    /// Ends everything when our home is no longer to be found: nobody can ask for it any more.
    pub(super) async fn look_after_home(&mut self) {
        if !self.globals.ending && is_gone(self.home.path()) {
            tracing::error!("the home folder {} is gone: everything ends", self.home.path().display());
            self.end_all().await;
        }
    }

    /// Sees to it that the control socket can be found.
    pub(super) fn look_after_control(&mut self) {
        if self.freezing.is_some() || !self.home.path().is_dir() {
            // Without its home everything ends.
            return;
        }
        let path = self.home.control();
        match file_identity(&path) {
            found if found.is_some() && found == self.control_file => {}
            Some(_) => self.warn(format!(
                "{} is not our socket any more: remove it, and the supervisor makes its own again",
                path.display()
            )),
            None => {
                if let Err(error) = self.bind_control_again() {
                    self.warn(format!("{} is gone and cannot be made again: {error}", path.display()));
                }
            }
        }
    }

    fn bind_control_again(&mut self) -> io::Result<()> {
        let path = self.home.control();
        let socket = OwnedFd::from(control_server::bind(&path)?);
        self.store.keep(Name::new(Kind::Control, 0, 0), socket.as_fd());
        self.accept_from(socket)?;
        self.control_file = file_identity(&path);
        let of_it = path.display().to_string();
        self.warnings.retain(|warning| !warning.starts_with(&of_it));
        tracing::warn!("{of_it} was gone and is there again");
        Ok(())
    }

    /// Takes connections again after a freeze that came to nothing.
    pub(super) fn accept_again(&mut self) {
        let kept = self.store.copy(Name::new(Kind::Control, 0, 0)).ok_or(io::ErrorKind::NotFound.into());
        if let Err(error) = kept.and_then(|socket| self.accept_from(socket)) {
            tracing::error!("no control connection is taken any more: {error}");
        }
    }

    /// Takes connections from this socket and from no other.
    fn accept_from(&mut self, socket: OwnedFd) -> io::Result<()> {
        let listener = control_listener(socket)?;
        self.accepting.cancel();
        self.accepting = self.shutdown.child_token();
        let (desk, connections) = (self.desk.clone(), self.connections.clone());
        let (accepting, shutdown) = (self.accepting.clone(), self.shutdown.clone());
        self.tasks.spawn(control_server::serve(listener, desk, connections, accepting, shutdown));
        Ok(())
    }

    /// A standby has spoken to whoever asked for it; one that serves speaks into the keeper's log.
    pub(super) fn speak_into_the_log(&self) {
        let of_keeper = format!("/proc/{}/fd/2", self.keeper_pid);
        let opened = OpenOptions::new().append(true).custom_flags(nix::libc::O_NOCTTY).open(of_keeper);
        // A socket cannot be opened; then stdout is as good, which was always the keeper's.
        let log = opened.map(OwnedFd::from).or_else(|_| io::stdout().as_fd().try_clone_to_owned());
        if let Err(error) = log.and_then(|log| Ok(nix::unistd::dup2_stderr(log)?)) {
            tracing::warn!("this supervisor cannot speak into the keeper's log: {error}");
        }
    }

    /// What is left to do once whoever was there before is surely gone: its traces in the home go, and the keeper becomes
    /// the program that we are, if it is another one.
    pub(super) fn settle_in(&mut self) {
        if Instant::now() < self.settle_at {
            return;
        }
        if !self.is_settled {
            clear_marks(self.home.path());
        }
        // Asked again later: at that moment it may have had something on its way.
        (self.is_settled, self.settle_at) = (true, Instant::now() + RENEW_AGAIN);
        self.renew_keeper();
    }

    fn renew_keeper(&self) {
        let identity = |path: &str| std::fs::metadata(path).map(|exe: Metadata| (exe.dev(), exe.ino()));
        let of_keeper = identity(&format!("/proc/{}/exe", self.keeper_pid));
        let (Ok(theirs), Ok(ours)) = (of_keeper, identity("/proc/self/exe")) else { return };
        if theirs == ours {
            return;
        }
        let opened = File::options().read(true).custom_flags(nix::libc::O_PATH).open("/proc/self/exe");
        match opened.and_then(|program| self.keeper.sender().renew(program.as_fd())) {
            Ok(()) => tracing::info!("keeper {} becomes the program of this supervisor", self.keeper_pid),
            Err(error) => tracing::warn!("keeper {} stays the program that it is: {error}", self.keeper_pid),
        }
    }
}

/// Whether the folder that we work in is no longer to be found under its path.
fn is_gone(home: &Path) -> bool {
    match (std::fs::metadata(home), std::fs::metadata(".")) {
        (Ok(named), Ok(ours)) => (named.dev(), named.ino()) != (ours.dev(), ours.ino()),
        (Ok(_), Err(_)) => false,
        // Any other error (a network file system that is away) says nothing about the folder.
        (Err(error), _) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
