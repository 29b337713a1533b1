//! `herdwire upgrade`, from the supervisor that is to be replaced.
//!
//! Owns what was asked and by whom until there is an answer, the standby on trial, and the freeze. Checks the program,
//! starts it beside us with copies of everything, and once it has said that it could take over stops taking on anything
//! new, finishes what is in the making, and leaves the loop. What happens once nothing of it runs any more stands in
//! [`super::departure`].
//!
//! Invariants
//! - One upgrade at a time; whoever asked is answered once, whatever becomes of it.
//! - Until the standby has proved itself nothing differs from any other day.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use herdwire_ipc::tokio::Watched;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};

use super::control::{Failure, Response};
use super::control_server::Asker;
use super::core::Core;
use super::registry::Process;
use crate::keeper::client::{Exit, ExitStatus};
use crate::keeper::trial::{self, Trial};

/// How long what is in the making may take to be made before a freeze.
const FREEZE_LIMIT: Duration = Duration::from_secs(1);
/// How long control connections may take to bring their request and take its answer.
const CONNECTIONS_LIMIT: Duration = Duration::from_millis(100);
/// How often a freeze is looked at while something is in the making.
pub(super) const FREEZE_LOOK: Duration = Duration::from_millis(5);
/// How long a standby may take to say that it could take over. It reads the state of a thousand instances on a busy
/// machine, and nobody waits for it.
const VALIDATION_LIMIT: Duration = Duration::from_secs(10);
/// How long the keeper leaves it to get ready.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(2);
/// The most of a standby's stderr that is kept.
const STDERR_BYTES: u64 = 64 << 10;
/// Lines of it that are shown.
const SHOWN_LINES: usize = 5;

/// An upgrade that was asked for and has no answer yet.
pub struct Upgrade {
    asker: Asker,
    program: PathBuf,
    /// What the standby says, from its beginning.
    stderr: File,
    began: Instant,
    pub(super) trial: Trial,
}

/// How far an upgrade came, and how the standby ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeFailure {
    stage: Stage,
    /// How it ended; `None` when it did not answer in time.
    status: Option<ExitStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It did not get as far as saying that it could take over.
    Validation,
    /// It did not wait for its turn.
    Freeze,
    /// It had its turn and did not get ready.
    Takeover,
}

impl UpgradeFailure {
    /// The standby ended so long after it was handed over to the keeper, which kills it when its time is over.
    pub(super) fn in_takeover(status: ExitStatus, after: Duration) -> UpgradeFailure {
        let is_killed = status == ExitStatus::Signal(nix::libc::SIGKILL) && after >= TAKEOVER_LIMIT;
        UpgradeFailure { stage: Stage::Takeover, status: (!is_killed).then_some(status) }
    }
}

/// A freeze that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Freezing {
    since: Instant,
}

impl Core {
    /// Tries a program as our successor.
    pub(super) fn begin_upgrade(&mut self, program: PathBuf, asker: Asker) {
        if let Err(failure) = self.may_upgrade() {
            return asker.answer(&Response::Failed(failure));
        }
        let program = if program.as_os_str().is_empty() { own_program() } else { program };
        let begun = check(&program).and_then(|opened| {
            let stderr = bounded_memory().map_err(|error| Failure::new("there is no memory for it").cause(error))?;
            tracing::info!("`{}` is tried as the next supervisor", program.display());
            let begin = |all: &_| Trial::begin(opened.as_fd(), stderr.as_fd(), self.hello, all);
            let begun = self.store.look(begin).and_then(|trial| Ok((Watched::new(trial.line()?)?, trial)));
            let not_started = |error| {
                let answer = Failure::new(format!("`{}` could not be started", program.display())).cause(error);
                answer.hint("nothing has changed: the supervisor before it serves, no instance was touched")
            };
            Ok((stderr, begun.map_err(not_started)?))
        });
        match begun {
            Ok((stderr, (line, trial))) => {
                tracing::info!("upgrade: standby {} started", trial.pid());
                self.standby = Some(line);
                self.upgrade = Some(Upgrade { asker, program, stderr, began: Instant::now(), trial });
            }
            Err(failure) => asker.answer(&Response::Failed(failure)),
        }
    }

    /// A standby that could take over has its turn. Of one that could not, the end will be told.
    pub(super) fn standby_spoke(&mut self, proved: bool) {
        self.standby = None;
        if proved && self.upgrade.is_some() {
            self.quiesce();
        }
    }

    fn may_upgrade(&self) -> Result<(), Failure> {
        if self.globals.ending {
            return Err(Failure::new("the supervisor is ending").hint("try again in a moment"));
        }
        if self.upgrade.is_some() || self.freezing.is_some() {
            return Err(Failure::new("an upgrade is under way").hint("try again in a moment"));
        }
        Ok(())
    }

    /// There is a standby that could take over: nothing new is taken on from here.
    fn quiesce(&mut self) {
        tracing::info!("freezing for a successor");
        self.freezing = Some(Freezing { since: Instant::now() });
        self.accepting.cancel();
        let what = "the supervisor is being replaced and gives no more answers";
        let hint = "what was asked for goes on: `herdwire list` shows how far it is";
        self.answer_all(&Response::Failed(Failure::new(what).hint(hint)));
    }

    /// Whether there is nothing left to wait for.
    pub(super) fn may_freeze(&self) -> bool {
        let Some(Freezing { since }) = self.freezing else { return false };
        let waited = since.elapsed();
        let in_the_making = || {
            let makes = |entry: &super::registry::Entry| matches!(entry.process, Process::Making);
            self.registry.instances.values().any(makes)
        };
        let is_answered = self.connections.is_empty() || waited >= CONNECTIONS_LIMIT;
        waited >= FREEZE_LIMIT || (is_answered && !in_the_making())
    }

    /// Whether this is the end of the standby.
    pub(super) fn is_standby(&self, exit: &Exit) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.trial.is_end(exit))
    }

    /// The standby has ended before we were frozen.
    pub(super) fn standby_ended(&mut self, status: ExitStatus) {
        // The keeper's word of its end may overtake its own last one.
        let has_proved = |line: &Watched| trial::hear(line.get_ref().as_fd()).unwrap_or(false);
        let had_its_turn = self.freezing.is_some() || self.standby.as_ref().is_some_and(has_proved);
        let stage = if had_its_turn { Stage::Freeze } else { Stage::Validation };
        self.upgrade_failed(UpgradeFailure { stage, status: Some(status) });
    }

    /// It came to nothing, before we were frozen.
    fn upgrade_failed(&mut self, failure: UpgradeFailure) {
        self.standby = None;
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.failed(failure);
        }
        if self.freezing.take().is_some() {
            self.accept_again();
        }
    }

    /// Gives a standby up that does not say whether it could take over.
    pub(super) fn heed_upgrade(&mut self) {
        let is_late = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.began.elapsed() >= VALIDATION_LIMIT);
        if is_late && self.freezing.is_none() {
            self.upgrade_failed(UpgradeFailure { stage: Stage::Validation, status: None });
        }
    }
}

impl Upgrade {
    /// Answers that the standby serves.
    pub(super) fn succeeded(self) {
        let took_ms = self.began.elapsed().as_millis() as u64;
        self.asker.answer(&Response::Upgraded { from: env!("CARGO_PKG_VERSION").to_owned(), took_ms });
    }

    /// Answers why the standby does not serve.
    pub(super) fn failed(self, failure: UpgradeFailure) {
        let what = reason(&self.program, failure);
        tracing::warn!("no upgrade: {what}");
        let answer =
            Failure::new(what).hint("nothing has changed: the supervisor before it serves, no instance was touched");
        let said = last_lines(&self.stderr);
        let answer = if said.is_empty() { answer } else { answer.cause(said) };
        self.asker.answer(&Response::Failed(answer));
    }

    /// Answers that nothing is known.
    pub(super) fn gave_up(self, what: &str) {
        self.asker.answer(&Response::Failed(Failure::new(what).hint("`herdwire ping` tells which supervisor serves")));
    }
}

/// Whether a standby has said that it could take over. Cancel safe.
pub(super) async fn hear(standby: &Option<Watched>) -> bool {
    match standby {
        // A line that cannot be read says nothing good; the standby's end follows.
        Some(line) => line.read(trial::hear).await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// Where the program that we are is installed. Another may lie there by now, which is the point.
fn own_program() -> PathBuf {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(installed) => PathBuf::from(installed),
        None => path,
    }
}

/// Everything that can be said of a program without starting it; opens it for execution.
fn check(path: &Path) -> Result<File, Failure> {
    let refuse = |why: &str| Failure::new(format!("`{}` {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| refuse("cannot be used").cause(error))?;
    if !metadata.is_file() {
        return Err(refuse("is not a file"));
    }
    if metadata.permissions().mode() & 0o111 == 0 || access(path, AccessFlags::X_OK).is_err() {
        return Err(refuse("is not executable").hint(format!("`chmod +x {}`", path.display())));
    }
    let unreadable = |error: io::Error| refuse("cannot be read").cause(error);
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head)).map_err(unreadable)?;
    let mut own = Vec::new();
    File::open("/proc/self/exe")
        .and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut own))
        .map_err(unreadable)?;
    fits(&head, &own)
        .map_err(|why| refuse(why).hint("give the path of a `herdwire` that was built for this machine"))?;
    let opened = File::options().read(true).custom_flags(nix::libc::O_PATH).open(path).map_err(unreadable)?;
    // What was looked at is what is opened.
    let same = opened.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()));
    if same { Ok(opened) } else { Err(refuse("was replaced just now").hint("try again")) }
}

/// Bytes of a program's head that say for which machine it is.
const HEAD_BYTES: usize = 20;

/// Whether a program's head is that of a program for the machine of `own`.
fn fits(head: &[u8], own: &[u8]) -> Result<(), &'static str> {
    const MAGIC: &[u8] = b"\x7fELF";
    if head.starts_with(b"#!") {
        return Err("is a script, and not the program itself");
    }
    if !head.starts_with(MAGIC) || head.len() < HEAD_BYTES {
        return Err("is no program");
    }
    // Class and byte order; the machine.
    let machine = |head: &[u8]| (head[4..6].to_vec(), head[18..20].to_vec());
    if own.len() >= HEAD_BYTES && machine(head) != machine(own) {
        return Err("is a program for another kind of machine");
    }
    Ok(())
}

/// Memory that takes so many bytes and no more, whoever writes to it.
fn bounded_memory() -> io::Result<File> {
    let file = File::from(memfd_create(c"herdwire-standby", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(STDERR_BYTES)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
    Ok(file)
}

/// The last lines of what was said, as one.
fn last_lines(said: &File) -> String {
    let mut bytes = vec![0; STDERR_BYTES as usize];
    let read = said.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    let text = text.trim_end_matches('\0');
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join(" | ")
}

/// What went wrong, in words.
fn reason(program: &Path, UpgradeFailure { stage, status }: UpgradeFailure) -> String {
    let program = program.display();
    let ended = match status {
        Some(ExitStatus::Code(code)) => Some(format!("exit code {code}")),
        Some(ExitStatus::Signal(signal)) => Some(format!("signal {signal}")),
        None => None,
    };
    match (stage, ended) {
        (Stage::Validation, _) if status == Some(ExitStatus::Code(REFUSES)) => {
            format!("`{program}` cannot take over from this supervisor (exit code {REFUSES})")
        }
        (Stage::Validation, Some(ended)) => {
            format!("`{program}` ended before it said that it can take over ({ended})")
        }
        (Stage::Validation, None) => format!("`{program}` did not say in time that it can take over"),
        (Stage::Freeze, Some(ended)) => format!("`{program}` ended when its turn came ({ended})"),
        (Stage::Freeze, None) => format!("`{program}` did not wait for its turn"),
        (Stage::Takeover, Some(ended)) => {
            format!("`{program}` ended while it took over ({ended}): the supervisor before it is started again")
        }
        (Stage::Takeover, None) => {
            format!("`{program}` took over and was not ready in time: the supervisor before it is started again")
        }
    }
}

/// What a standby exits with that cannot read what it is given.
const REFUSES: i32 = super::UNUSABLE as i32;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The head of a 64-bit little-endian program for this machine number.
    fn head(machine: u8) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([machine, 0]);
        head
    }

    #[test]
    fn a_program_of_another_machine_a_script_and_a_text_are_refused() {
        assert_eq!(fits(&head(62), &head(62)), Ok(()));
        assert!(fits(&head(183), &head(62)).unwrap_err().contains("another kind of machine"));
        assert!(fits(b"#!/bin/sh\n", &head(62)).unwrap_err().contains("script"));
        assert_eq!(fits(b"hello", &head(62)), Err("is no program"));
        assert_eq!(fits(b"\x7fELF", &head(62)), Err("is no program"));
        assert_eq!(fits(b"", &head(62)), Err("is no program"));
    }

    #[test]
    fn what_cannot_be_a_program_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| check(path).unwrap_err();
        assert!(refused(&folder.path().join("none")).cause.unwrap().contains("No such file"));
        assert!(refused(folder.path()).what.ends_with("is not a file"));
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        assert!(refused(&plain).what.ends_with("is not executable"));
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(&plain).what.ends_with("is no program"));
        assert!(check(Path::new("/proc/self/exe")).is_ok());
    }

    #[test]
    fn of_what_a_standby_says_the_last_lines_are_shown_and_it_cannot_fill_the_memory() {
        let mut said = bounded_memory().unwrap();
        said.write_all(b"1\n2\n\n3\n4\n5\n  6\n").unwrap();
        assert_eq!(last_lines(&said), "2 | 3 | 4 | 5 | 6");
        let flood = vec![b'x'; 1 << 20];
        assert!(said.write_all(&flood).is_err());
        assert_eq!(said.metadata().unwrap().len(), STDERR_BYTES);
        assert_eq!(last_lines(&bounded_memory().unwrap()), "");
    }

    #[test]
    fn every_failure_is_said_in_words() {
        let words = |stage, status| reason(Path::new("/b"), UpgradeFailure { stage, status });
        assert!(words(Stage::Validation, Some(ExitStatus::Code(78))).contains("cannot take over"));
        assert!(words(Stage::Validation, Some(ExitStatus::Signal(11))).contains("(signal 11)"));
        assert!(words(Stage::Validation, None).contains("did not say in time"));
        assert!(words(Stage::Takeover, None).contains("not ready in time"));
    }
}
