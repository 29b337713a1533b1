//! `run`: the same processes in the foreground, for containers.
//!
//! The file is resolved here, while errors can still be said; what comes of it goes to the keeper as a sealed memfd, and
//! this process becomes that keeper.

use std::os::fd::OwnedFd;
use std::path::Path;

use herdwire_ipc::codec;

use super::client::{Client, ClientError};
use super::error::CliError;
use super::start;
use crate::config::home::Home;
use crate::process::sealed;
use crate::supervisor::control::Request;

/// What the keeper in the foreground needs.
#[derive(Debug)]
pub struct Foreground {
    pub home: Home,
    /// A sealed memfd that holds one [`Request`] by the codec, without a header.
    pub request: OwnedFd,
    /// Listeners that a service manager has kept from an earlier start.
    pub passed: Vec<OwnedFd>,
    /// Whether it serves until it is told to end, instead of ending with its apps.
    pub serves: bool,
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
    Ok(Foreground { home: client.home().clone(), request, passed: Vec::new(), serves: false })
}

/// A request, as the keeper takes it.
pub fn seal(request: &Request) -> Result<OwnedFd, CliError> {
    let bytes = codec::encode(request).map_err(|_| ClientError::TooMuch)?;
    sealed::create("herdwire-run", &bytes)
        .map_err(|source| CliError::System { what: "hand the apps to the keeper", source })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_sealed_request_can_be_read_again() {
        let request = start::request(vec![crate::config::testing::spec("web")], Default::default(), "/f".into());
        let bytes = sealed::read(seal(&request).unwrap().as_fd()).unwrap();
        assert_eq!(codec::decode::<Request>(&bytes).unwrap(), request);
    }
}
