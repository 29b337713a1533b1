//! `run`: the same processes in the foreground, for containers.
//!
//! The file is resolved here, while errors can still be said; what comes of it goes to the keeper as a sealed memfd, and
//! this process becomes that keeper.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use herdwire_ipc::codec;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::client::{Client, ClientError};
use super::error::CliError;
use super::start;
use crate::config::home::Home;
use crate::supervisor::control::Request;

/// What the keeper in the foreground needs.
#[derive(Debug)]
pub struct Foreground {
    pub home: Home,
    /// A sealed memfd that holds one [`Request::Start`] by the codec, without a header.
    pub request: OwnedFd,
}

/// Resolves the file and prepares the hand-over.
pub fn prepare(client: &Client, file: &Path) -> Result<Foreground, CliError> {
    let loaded = start::load(file, &start::surroundings()?)?;
    client.home().create()?;
    if client.connect()?.is_some() {
        return Err(CliError::AlreadyRunning { home: client.home().path().to_owned() });
    }
    let resolved = loaded.resolved;
    let request = seal(&start::request(resolved.apps, resolved.settings, loaded.origin))?;
    Ok(Foreground { home: client.home().clone(), request })
}

fn seal(request: &Request) -> Result<OwnedFd, CliError> {
    let bytes = codec::encode(request).map_err(|_| ClientError::TooMuch)?;
    sealed(&bytes).map_err(|source| CliError::System { what: "hand the apps to the keeper", source })
}

fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(c"herdwire-run", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_sealed_request_can_be_read_and_not_changed() {
        let request = start::request(vec![crate::config::testing::spec("web")], Default::default(), "/f".into());
        let mut file = File::from(seal(&request).unwrap());
        assert!(file.write_all(b"x").is_err());
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(codec::decode::<Request>(&bytes).unwrap(), request);
    }
}
