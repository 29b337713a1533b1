//! Reading the directory: whole entries or none, whatever the writer is doing.

use std::os::fd::BorrowedFd;

use super::{ChannelEntry, SlotEntry, copies};
use crate::layout::directory as at;
use crate::layout::{LAYOUT_VERSIONS, MAX_CHANNELS, MAX_NAME, MAX_SLOTS};
use crate::map::{PeerMap, Word, bytes_of};
use crate::memory::{self, MemoryError};
use crate::slots::{ChannelId, Slot};
use crate::sync::Ordering::Acquire;
use crate::sync::{Words, fence};

/// Why memory is not a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotADirectory {
    /// Its seals or size are wrong.
    #[error("the directory's memory is not what it must be")]
    Memory(#[from] MemoryError),
    /// It cannot be mapped.
    #[error("the directory cannot be mapped")]
    Map(#[from] std::io::Error),
    /// It does not start like one.
    #[error("the memory is not a herd's directory")]
    Magic,
    /// Its layout is of another version.
    #[error("the directory has layout {0}, this client knows {first} to {last}", first = LAYOUT_VERSIONS.0, last = LAYOUT_VERSIONS.1)]
    Layout(u64),
}

/// A herd's directory as everybody but the supervisor sees it.
pub struct DirectoryReader {
    map: PeerMap,
}

impl std::fmt::Debug for DirectoryReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectoryReader").field("herd", &self.herd()).field("version", &self.version()).finish()
    }
}

impl DirectoryReader {
    /// Maps a directory read-only.
    ///
    /// # Errors
    /// It is not sealed, has another size or is no directory of a known layout.
    pub fn open(fd: BorrowedFd<'_>) -> Result<DirectoryReader, NotADirectory> {
        memory::verify_size(fd, at::BYTES)?;
        DirectoryReader::open_unsealed(fd)
    }

    pub(super) fn open_unsealed(fd: BorrowedFd<'_>) -> Result<DirectoryReader, NotADirectory> {
        let reader = DirectoryReader { map: PeerMap::new(fd, at::BYTES)? };
        if reader.map.load(at::MAGIC) != at::MAGIC_VALUE {
            return Err(NotADirectory::Magic);
        }
        let layout = reader.map.load(at::LAYOUT);
        if !(u64::from(LAYOUT_VERSIONS.0)..=u64::from(LAYOUT_VERSIONS.1)).contains(&layout) {
            return Err(NotADirectory::Layout(layout));
        }
        fence(Acquire);
        Ok(reader)
    }

    /// Moves after every change. One load, no order: what changed is read in order by the other methods.
    #[inline]
    pub fn version(&self) -> u64 {
        self.map.load(at::VERSION)
    }

    /// The word of the version, for whoever looks at it with every message.
    pub(crate) fn version_word(&self) -> Word {
        self.map.word(at::VERSION).expect("the mapping has the size of a directory")
    }

    /// The herd's number in its supervisor.
    pub fn herd(&self) -> u64 {
        self.map.load(at::HERD)
    }

    /// Which directory of the herd this is, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.map.load(at::EPOCH)
    }

    /// The herd's name.
    pub fn herd_name(&self) -> String {
        self.text(at::HERD_NAME, self.map.load(at::HERD_NAME_BYTES))
    }

    /// A slot's entry.
    pub fn slot(&self, slot: Slot) -> SlotEntry {
        if usize::from(slot) >= MAX_SLOTS {
            return SlotEntry::default();
        }
        let words = copies::read(&self.map, at::slot(slot), |counter| at::slot_copy(slot, counter));
        words.map(SlotEntry::from_words).unwrap_or_default()
    }

    /// A channel's entry; `None` when there is no such channel.
    pub fn entry_of(&self, id: ChannelId) -> Option<ChannelEntry> {
        if usize::from(id.0) >= MAX_CHANNELS {
            return None;
        }
        let words = copies::read(&self.map, at::channel(id), |counter| at::channel_copy(id, counter))?;
        Some(ChannelEntry::from_words(words))
    }

    /// A channel's name; `None` when there is no such channel.
    pub fn name(&self, id: ChannelId) -> Option<String> {
        if usize::from(id.0) >= MAX_CHANNELS || self.map.load(at::channel(id)) == 0 {
            return None;
        }
        // The name is written before the counter leaves 0, and never again.
        fence(Acquire);
        Some(self.text(at::channel_name(id), self.map.load(at::channel_name_bytes(id))))
    }

    /// The channel of this name. Walks the directory.
    pub fn channel(&self, name: &str) -> Option<ChannelId> {
        self.channels().find(|id| self.name(*id).as_deref() == Some(name))
    }

    /// All channels, in the order of their numbers.
    pub fn channels(&self) -> impl Iterator<Item = ChannelId> {
        (0..MAX_CHANNELS as u16).map(ChannelId).take_while(|id| self.map.load(at::channel(*id)) != 0)
    }

    fn text(&self, word: usize, bytes: u64) -> String {
        let bytes = bytes.min(MAX_NAME as u64) as usize;
        let mut words = vec![0; bytes.div_ceil(8)];
        self.map.copy(word, &mut words);
        String::from_utf8_lossy(bytes_of(&words, bytes)).into_owned()
    }
}
