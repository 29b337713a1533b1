//! How a supervisor's process comes to be.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;

use herdwire_ipc::seqpacket;
use nix::libc;

use super::home::Home;
use super::{Program, SetupError, sys};

/// All that is needed to start a supervisor, made once: the program is the same for as long as the keeper lives,
/// whatever is installed meanwhile.
pub(super) struct Launcher {
    program: OwnedFd,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Launcher {
    /// Opens the program; its environment is ours, with the home's absolute path.
    pub fn new(program: Program, home: &Home) -> Result<Launcher, SetupError> {
        let opened = File::options().read(true).custom_flags(libc::O_PATH).open(&program.path);
        let descriptor = opened.and_then(sys::out_of_the_way);
        let kept = std::env::vars_os().filter(|(name, _)| name != "HERDWIRE_HOME");
        let home = ("HERDWIRE_HOME".into(), home.path().as_os_str().to_owned());
        // Neither part can hold a NUL: they came from C strings.
        let text = |(name, value): (OsString, OsString)| {
            CString::new([name.into_vec(), vec![b'='], value.into_vec()].concat()).ok()
        };
        Ok(Launcher {
            environment: kept.chain([home]).filter_map(text).collect(),
            program: descriptor.map_err(|source| SetupError::Program { program: program.path, source })?,
            arguments: program.arguments,
        })
    }

    /// Starts it; its pid and our end of the pair whose other end it has.
    pub fn start(&self) -> io::Result<(u32, OwnedFd)> {
        let (ours, theirs) = seqpacket::pair()?;
        let theirs = sys::out_of_the_way(theirs)?;
        let pid = sys::start(self.program.as_fd(), &self.arguments, &self.environment, theirs.as_fd())?;
        Ok((pid, ours))
    }
}
