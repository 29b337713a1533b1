//! What runs, written down: for a restart of the machine, and for the death of keeper and supervisor together.
//!
//! This is the copy on disk. While a herd runs nobody reads it: state record and store are the truth. Here is what it
//! says ([`Document`]) and how that becomes text; [`files`] has its place in the home, [`writer`] the task that writes;
//! when it is written and what is done with it is in `saving` and `resurrect`.
//!
//! Text: one line that names the format, its version, length and checksum, then JSON that people can read. A later
//! release adds keys that an earlier one does not read; what an earlier one did not write has a default.
//!
//! Secrets: environments and the settings' URLs and tokens are in it as they are in force, since nothing else would
//! bring the apps back as they were; that is why it is 0600 in a 0700 home. What is in an `env_file` is not in it.

pub mod files;
pub mod writer;

use serde::{Deserialize, Serialize};

use super::settings::Kept;
use crate::config::spec::AppSpec;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Bytes of the largest document.
pub const MAX_BYTES: u64 = 64 << 20;
/// The first word of the first line.
const FORMAT: &str = "herdwire-saved";

/// What ran, as it was written down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// The release that wrote it, for people.
    pub herdwire: String,
    /// Wall-clock time, in ms since 1970, for people.
    pub written_at_ms: u64,
    /// The machine's start at which it was written.
    pub boot: String,
    /// The home that it belongs to, and that home's number.
    pub home: String,
    pub node: String,
    pub end: End,
    pub settings: Kept,
    pub apps: Vec<SavedApp>,
}

/// Whether the supervisor that wrote it came to an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It was running.
    #[default]
    None,
    /// It was told to end everything.
    Begun,
    /// It has ended everything.
    Done,
}

/// One app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedApp {
    pub spec: AppSpec,
    #[serde(default)]
    pub instances: Vec<SavedInstance>,
    /// It did not run: `resurrect` has not brought it back yet.
    #[serde(default)]
    pub waiting: bool,
}

/// One instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInstance {
    /// The number that users know it by.
    pub number: u32,
    /// Counts within the app.
    pub index: u32,
    /// Whether it is to run.
    #[serde(default = "yes")]
    pub running: bool,
    /// The exit code of one that had ended by itself and was not to be started again.
    #[serde(default)]
    pub ended: Option<i32>,
}

fn yes() -> bool {
    true
}

/// Why a text is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadText {
    #[error("it is empty")]
    Empty,
    #[error("it does not begin with a line of `{FORMAT}`")]
    NoHeader,
    #[error("it is of version {0}, this release reads version {VERSION}")]
    Version(u32),
    #[error("it is not whole: {found} bytes of {announced}")]
    Length { announced: u64, found: u64 },
    #[error("its checksum is wrong: it was damaged or edited")]
    Checksum,
    #[error("it cannot be understood: {0}")]
    Content(String),
}

impl Document {
    /// Its text.
    ///
    /// # Errors
    /// A path in it is not UTF-8, which JSON cannot say.
    pub fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut body = serde_json::to_vec_pretty(self)?;
        body.push(b'\n');
        let crc = crc32fast::hash(&body);
        let mut text = format!("{FORMAT} {VERSION} bytes={} crc32={crc:08x}\n", body.len()).into_bytes();
        text.extend(body);
        Ok(text)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It is not one whole document of this version, byte for byte as it was written.
    pub fn from_text(text: &[u8]) -> Result<Document, BadText> {
        if text.is_empty() {
            return Err(BadText::Empty);
        }
        let end = text.iter().take(128).position(|byte| *byte == b'\n').ok_or(BadText::NoHeader)?;
        let (line, body) = (&text[..end], &text[end + 1..]);
        let words: Vec<&str> = std::str::from_utf8(line).map_err(|_| BadText::NoHeader)?.split(' ').collect();
        let [FORMAT, version, rest @ ..] = words.as_slice() else { return Err(BadText::NoHeader) };
        let version: u32 = version.parse().map_err(|_| BadText::NoHeader)?;
        if version != VERSION {
            return Err(BadText::Version(version));
        }
        let [bytes, crc] = rest else { return Err(BadText::NoHeader) };
        let announced: u64 =
            bytes.strip_prefix("bytes=").and_then(|bytes| bytes.parse().ok()).ok_or(BadText::NoHeader)?;
        let crc = crc.strip_prefix("crc32=").and_then(|crc| u32::from_str_radix(crc, 16).ok());
        let found = body.len() as u64;
        if announced != found {
            return Err(BadText::Length { announced, found });
        }
        if crc32fast::hash(body) != crc.ok_or(BadText::NoHeader)? {
            return Err(BadText::Checksum);
        }
        // The message names a place; what stands there may be a secret, and it does not quote it.
        serde_json::from_slice(body).map_err(|error| {
            BadText::Content(format!("{} at line {}, column {}", kind(&error), error.line() + 1, error.column()))
        })
    }
}

fn kind(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Data => "a value of the wrong kind",
        _ => "no JSON",
    }
}

/// What a first supervisor makes of what was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Everything waits for `resurrect`.
    Waits,
    /// Keeper and supervisor died while apps ran: what is left of those is ended, then they are started again.
    Restore,
    /// They died while everything was about to end: what is left is ended, and nothing started.
    Clear,
}

/// The present, against which a document is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    pub boot: String,
    pub home: String,
    pub node: String,
}

impl Document {
    /// What is to be done about it by a supervisor that inherited nothing.
    pub fn aftermath(&self, here: &Here) -> Aftermath {
        // Copied from elsewhere, or of a machine that has started anew since: nothing of it runs here.
        let of_here = self.boot == here.boot && self.home == here.home && self.node == here.node;
        match self.end {
            _ if !of_here => Aftermath::Waits,
            End::None => Aftermath::Restore,
            End::Begun => Aftermath::Clear,
            End::Done => Aftermath::Waits,
        }
    }
}

#[cfg(test)]
mod tests;
