//! The supervisor-wide sections `[redis]`, `[front]`, `[status]`: who set them, and what runs because of them.
//!
//! The first file that has a section owns it. A later file that says the same is welcome; one that differs is an
//! error that names both.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::control::Failure;
use super::core::Core;
use super::traffic::Routes;
use crate::bridge::Bridge;
use crate::config::spec::{FrontSettings, ListenAddress, RedisSettings, Settings, StatusSettings};
use crate::front::{self, Front};
use crate::keeper::name::{Kind, Name};
use crate::process::sealed;
use crate::relay::{Message, Origin, Relay, Topic};
use crate::status;

/// One section and the file that it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owned<T> {
    value: T,
    origin: PathBuf,
}

/// What lies sealed in the store, and on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    redis: Option<Owned<RedisSettings>>,
    front: Option<Owned<FrontSettings>>,
    status: Option<Owned<StatusSettings>>,
}

/// Whether sections that were kept can be read.
///
/// # Errors
/// They are of a release that this one does not understand.
pub fn understand(bytes: &[u8]) -> Result<(), herdwire_ipc::codec::CodecError> {
    herdwire_ipc::codec::decode::<Kept>(bytes).map(drop)
}

/// The sections in force and what runs because of them.
pub struct Sections {
    kept: Kept,
    pub arrivals: tokio::sync::mpsc::Sender<(Origin, Message)>,
    pub look: status::Look,
    bridge: Option<Bridge>,
    front: Option<Front>,
    status: Option<StatusServer>,
    /// Why the status page is not where it would be, if it is not.
    status_elsewhere: Option<String>,
    /// Tells a supervisor's messages from its predecessor's at the other hosts.
    incarnation: u64,
}

struct StatusServer {
    address: SocketAddr,
    stop: tokio_util::sync::CancellationToken,
}

impl Kept {
    /// These sections, and of the others those that are missing here.
    pub fn or(&self, others: &Kept) -> Kept {
        Kept {
            redis: self.redis.clone().or_else(|| others.redis.clone()),
            front: self.front.clone().or_else(|| others.front.clone()),
            status: self.status.clone().or_else(|| others.status.clone()),
        }
    }
}

impl Sections {
    pub fn new(
        arrivals: tokio::sync::mpsc::Sender<(Origin, Message)>,
        look: status::Look,
        incarnation: u64,
    ) -> Sections {
        Sections {
            kept: Kept::default(),
            arrivals,
            look,
            bridge: None,
            front: None,
            status: None,
            status_elsewhere: None,
            incarnation,
        }
    }

    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(|server| server.address)
    }

    /// Why it is there and not at its default address, as a sentence.
    pub fn status_elsewhere(&self) -> Option<String> {
        self.status_elsewhere.clone()
    }

    /// The sections in force.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Where the front listens, if there is one.
    pub fn front_address(&self) -> Option<SocketAddr> {
        self.kept.front.as_ref().map(|section| section.value.listen)
    }

    pub fn bridge(&self) -> Option<&Bridge> {
        self.bridge.as_ref()
    }

    pub fn front(&self) -> Option<&Front> {
        self.front.as_ref()
    }
}

impl Core {
    /// Takes the sections of a file over, or refuses the whole without having changed anything.
    pub(super) async fn apply_settings(&mut self, settings: Settings, origin: &Path) -> Result<(), Failure> {
        let mut kept = self.sections.kept.clone();
        let redis = merge("redis", &mut kept.redis, settings.redis, origin)?;
        let front = merge("front", &mut kept.front, settings.front, origin)?;
        let status = merge("status", &mut kept.status, settings.status, origin)?;
        if !(redis || front || status) {
            return Ok(());
        }
        let front_listener = match (front, &kept.front) {
            (true, Some(section)) => {
                let address = section.value.listen;
                match self.safekeeping.listener(&ListenAddress::Tcp(address)) {
                    Some(Ok(socket)) => Some(TcpListener::from(socket)),
                    _ => Some(front::bind(address).map_err(|error| refusal(&error, error.hint()))?),
                }
            }
            _ => None,
        };
        let status_listener = match (status, &kept.status) {
            (true, Some(section)) => {
                Some(status::bind(Some(&section.value)).map_err(|error| refusal(&error, error.hint()))?.0)
            }
            _ => None,
        };
        self.keep_settings(&kept)?;
        self.sections.kept = kept;
        if let Some(listener) = front_listener {
            self.store.keep(Name::new(Kind::Front, 0, 0), listener.as_fd());
            self.start_front(listener).await?;
        }
        if let Some(listener) = status_listener {
            self.sections.status_elsewhere = None;
            self.store.keep(Name::new(Kind::Status, 0, 0), listener.as_fd());
            self.start_status(listener);
        }
        if redis {
            self.start_bridge();
        }
        Ok(())
    }

    /// Takes the sections over that were in force before, each as its own file's.
    pub(super) async fn apply_kept(&mut self, kept: Kept) -> Result<(), Failure> {
        let Kept { redis, front, status } = kept;
        if let Some(Owned { value, origin }) = redis {
            self.apply_settings(Settings { redis: Some(value), ..Settings::default() }, &origin).await?;
        }
        if let Some(Owned { value, origin }) = front {
            self.apply_settings(Settings { front: Some(value), ..Settings::default() }, &origin).await?;
        }
        if let Some(Owned { value, origin }) = status {
            self.apply_settings(Settings { status: Some(value), ..Settings::default() }, &origin).await?;
        }
        Ok(())
    }

    fn keep_settings(&mut self, kept: &Kept) -> Result<(), Failure> {
        let failure = |error: &dyn std::fmt::Display| Failure::new("the settings cannot be kept").cause(error);
        let bytes = herdwire_ipc::codec::encode(kept).map_err(|error| failure(&error))?;
        let memory = sealed::create("herdwire-settings", &bytes).map_err(|error| failure(&error))?;
        let before = self.globals.settings_revision;
        self.globals.settings_revision += 1;
        self.store.keep(Name::new(Kind::Settings, 0, self.globals.settings_revision), memory.as_fd());
        self.commit_globals();
        self.store.forget(Name::new(Kind::Settings, 0, before));
        Ok(())
    }

    /// Takes over what a predecessor kept: its sections and its listening sockets.
    pub(super) async fn adopt_settings(
        &mut self,
        memory: Option<OwnedFd>,
        front: Option<OwnedFd>,
        status: Option<OwnedFd>,
    ) -> anyhow::Result<()> {
        if let Some(memory) = memory {
            self.sections.kept = herdwire_ipc::codec::decode(&sealed::read(memory.as_fd())?)?;
        }
        if self.sections.kept.redis.is_some() {
            self.start_bridge();
        }
        if let Some(section) = self.sections.kept.front.clone() {
            let listener = match front {
                Some(socket) => Ok(TcpListener::from(socket)),
                None => front::bind(section.value.listen),
            };
            match listener {
                Ok(listener) => {
                    self.store.keep(Name::new(Kind::Front, 0, 0), listener.as_fd());
                    if let Err(failure) = self.start_front(listener).await {
                        self.warn(failure.what);
                    }
                }
                Err(error) => self.warn(error.to_string()),
            }
        }
        self.adopt_status(status);
        Ok(())
    }

    fn adopt_status(&mut self, socket: Option<OwnedFd>) {
        if let Some(socket) = socket {
            return self.start_status(TcpListener::from(socket));
        }
        let settings = self.sections.kept.status.as_ref().map(|section| &section.value);
        match status::bind(settings) {
            Ok((listener, warning)) => {
                self.store.keep(Name::new(Kind::Status, 0, 0), listener.as_fd());
                self.start_status(listener);
                // Nothing that an operator has to mend: said once, and by `ping`.
                if let Some(warning) = &warning {
                    tracing::warn!("{warning}");
                    self.tell("supervisor.warning", None, None, warning);
                }
                self.sections.status_elsewhere = warning;
            }
            Err(error) => self.warn(format!("there is no status page: {error}")),
        }
    }

    async fn start_front(&mut self, listener: TcpListener) -> Result<(), Failure> {
        let section = self.sections.kept.front.clone().expect("a front is started for its section");
        let started = Front::start(
            section.value,
            listener,
            self.node,
            self.sections.arrivals.clone(),
            self.shutdown.child_token(),
        );
        let front = started.await.map_err(|error| Failure::new("the front cannot be started").cause(error))?;
        self.sections.front = Some(front);
        Ok(())
    }

    fn start_bridge(&mut self) {
        let section = self.sections.kept.redis.clone().expect("a bridge is started for its section");
        let bridge = Bridge::start(
            section.value,
            self.node,
            self.sections.incarnation,
            self.sections.arrivals.clone(),
            self.shutdown.child_token(),
        );
        self.sections.bridge = Some(bridge);
    }

    fn start_status(&mut self, listener: TcpListener) {
        if let Some(before) = self.sections.status.take() {
            before.stop.cancel();
        }
        let Ok(address) = listener.local_addr() else {
            return self.warn("the status server's own address cannot be told".to_owned());
        };
        let token = self.sections.kept.status.as_ref().and_then(|section| section.value.token.clone());
        let stop = self.shutdown.child_token();
        self.tasks.spawn(status::serve(listener, token, self.sections.look.clone(), stop.clone()));
        self.sections.status = Some(StatusServer { address, stop });
    }

    /// Builds the relay's rules anew from all apps and sections, and tells wire and bridge what to listen to.
    pub(super) async fn reroute(&mut self) {
        let mut relay = Relay::new(self.node);
        if self.sections.bridge.is_some() {
            for app in self.registry.apps.values() {
                for channel in &app.spec.bridge {
                    relay.bridge(Topic::new(&app.spec.herd, channel));
                }
            }
        }
        if let Some(section) = self.sections.kept.front.as_ref().filter(|_| self.sections.front.is_some()) {
            for path in &section.value.paths {
                for channel in &path.channels {
                    relay.show(Topic::new(&path.herd, channel));
                }
            }
        }
        if let Some(bridge) = &self.sections.bridge {
            bridge.set_topics(relay.bridged().cloned());
        }
        self.wire.hear(relay.heard().cloned().collect()).await;
        let routes =
            Routes { relay: Arc::new(relay), bridge: self.sections.bridge.clone(), front: self.sections.front.clone() };
        self.routes.send_replace(routes);
    }
}

/// Puts a file's section into its place; true when it is new.
fn merge<T: PartialEq>(
    name: &str,
    place: &mut Option<Owned<T>>,
    new: Option<T>,
    origin: &Path,
) -> Result<bool, Failure> {
    let Some(value) = new else { return Ok(false) };
    match place {
        None => {
            *place = Some(Owned { value, origin: origin.to_owned() });
            Ok(true)
        }
        Some(owned) if owned.value == value => Ok(false),
        Some(owned) => {
            let what = format!(
                "[{name}] of {} differs from that of {}, which is in force",
                origin.display(),
                owned.origin.display()
            );
            Err(Failure::new(what).hint("these sections belong to the supervisor as a whole: make them the same, or `herdwire kill` and start with the new ones"))
        }
    }
}

fn refusal(error: &dyn std::error::Error, hint: Option<String>) -> Failure {
    let failure = Failure::new(error.to_string());
    let failure = error.source().into_iter().fold(failure, |failure, cause| failure.cause(cause));
    hint.into_iter().fold(failure, Failure::hint)
}
