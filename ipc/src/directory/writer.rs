//! Writing the directory: the supervisor's side, with a private copy of everything in it.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use super::reader::NotADirectory;
use super::{ChannelEntry, DirectoryReader, SlotEntry, SlotState, copies};
use crate::layout::directory as at;
use crate::layout::{LAYOUT_VERSIONS, MAX_CHANNELS, MAX_NAME, MAX_SLOTS};
use crate::map::OwnMap;
use crate::memory;
use crate::slots::{ChannelId, Slot, SlotSet};
use crate::sync::OwnWords;

/// Why a directory cannot be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The memory cannot be mapped or sealed.
    #[error("the directory cannot be mapped and sealed")]
    Io(#[from] io::Error),
    /// The predecessor's directory cannot be read.
    #[error("the old directory cannot be taken over")]
    Predecessor(#[from] NotADirectory),
    /// A name is empty or too long.
    #[error("a name must have 1 to {MAX_NAME} bytes, this one has {0}")]
    Name(usize),
    /// The herd has as many channels as it can.
    #[error("the herd has {MAX_CHANNELS} channels and can have no more")]
    Full,
    /// The layout is of another version.
    #[error("layout {0} is not among {first} to {last}", first = LAYOUT_VERSIONS.0, last = LAYOUT_VERSIONS.1)]
    Layout(u16),
}

/// A herd's directory as its one writer sees it. No change is announced before [`Directory::bump`], so that one
/// change of several entries is one change for its readers.
pub struct Directory {
    map: OwnMap,
    herd_name: String,
    epoch: u64,
    version: u64,
    names: HashMap<String, ChannelId>,
    channels: Vec<(String, ChannelEntry)>,
    slots: Vec<SlotEntry>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("herd", &self.herd_name).field("version", &self.version).finish()
    }
}

impl Directory {
    /// Makes the first directory of a herd in memory from [`memory::create_directory`] and seals it.
    ///
    /// # Errors
    /// The name is too long, the layout unknown, or the kernel refuses.
    pub fn create(fd: BorrowedFd<'_>, herd: u64, herd_name: &str, layout: u16) -> Result<Directory, DirectoryError> {
        Directory::start(fd, herd, herd_name, layout, 1, 1)
    }

    /// Makes the next directory of a herd from the one of a supervisor that is gone, and seals it. Channels keep their
    /// numbers, slots and subscribers are those of the old one, version and epoch go on.
    ///
    /// # Errors
    /// The old one is no directory, or the kernel refuses.
    pub fn succeed(fd: BorrowedFd<'_>, old: BorrowedFd<'_>) -> Result<Directory, DirectoryError> {
        let old = DirectoryReader::open_unsealed(old)?;
        let (name, version, epoch) = (old.herd_name(), old.version() + 1, old.epoch() + 1);
        let mut new = Directory::start(fd, old.herd(), &name, LAYOUT_VERSIONS.1, version, epoch)?;
        for id in old.channels() {
            let name = old.name(id).expect("`channels` yields those that have a name");
            let interned = new.intern(&name)?;
            debug_assert_eq!(interned, id, "numbers are given in order");
            new.channels[usize::from(id.0)].1 = old.entry_of(id).unwrap_or_default();
            new.write_channel(id);
        }
        for slot in 0..MAX_SLOTS as Slot {
            let entry = old.slot(slot);
            if entry != SlotEntry::default() {
                new.slots[usize::from(slot)] = entry;
                new.write_slot(slot);
            }
        }
        new.map.publish(at::VERSION, new.version);
        Ok(new)
    }

    fn start(
        fd: BorrowedFd<'_>,
        herd: u64,
        herd_name: &str,
        layout: u16,
        version: u64,
        epoch: u64,
    ) -> Result<Directory, DirectoryError> {
        if !(LAYOUT_VERSIONS.0..=LAYOUT_VERSIONS.1).contains(&layout) {
            return Err(DirectoryError::Layout(layout));
        }
        check_name(herd_name)?;
        let map = OwnMap::new(fd, at::BYTES)?;
        map.touch();
        memory::seal(fd)?;
        map.store(at::LAYOUT, u64::from(layout));
        map.store(at::HERD, herd);
        map.store(at::EPOCH, epoch);
        map.store(at::HERD_NAME_BYTES, herd_name.len() as u64);
        map.store_all(at::HERD_NAME, [], herd_name.as_bytes());
        map.store(at::VERSION, version);
        map.publish(at::MAGIC, at::MAGIC_VALUE);
        let slots = vec![SlotEntry::default(); MAX_SLOTS];
        let herd_name = herd_name.to_owned();
        Ok(Directory { map, herd_name, epoch, version, names: HashMap::new(), channels: Vec::new(), slots })
    }

    /// The channel of this name, which gets a number if it has none yet.
    ///
    /// # Errors
    /// [`DirectoryError::Full`] or [`DirectoryError::Name`].
    pub fn intern(&mut self, name: &str) -> Result<ChannelId, DirectoryError> {
        if let Some(id) = self.channel(name) {
            return Ok(id);
        }
        check_name(name)?;
        if self.channels.len() >= MAX_CHANNELS {
            return Err(DirectoryError::Full);
        }
        let id = ChannelId(self.channels.len() as u16);
        self.names.insert(name.to_owned(), id);
        self.channels.push((name.to_owned(), ChannelEntry::default()));
        self.map.store(at::channel_name_bytes(id), name.len() as u64);
        self.map.store_all(at::channel_name(id), [], name.as_bytes());
        self.write_channel(id);
        Ok(id)
    }

    /// The channel of this name, if it has a number.
    pub fn channel(&self, name: &str) -> Option<ChannelId> {
        self.names.get(name).copied()
    }

    /// A channel's name.
    pub fn name(&self, id: ChannelId) -> Option<&str> {
        Some(self.channels.get(usize::from(id.0))?.0.as_str())
    }

    /// All channels, in the order of their numbers.
    pub fn channels(&self) -> impl Iterator<Item = (ChannelId, &str)> {
        self.channels.iter().enumerate().map(|(number, (name, _))| (ChannelId(number as u16), name.as_str()))
    }

    /// Lets `slot` hear a channel, or no more. False when nothing changed.
    pub fn set_subscribed(&mut self, channel: ChannelId, slot: Slot, subscribed: bool) -> bool {
        let Some((_, entry)) = self.channels.get_mut(usize::from(channel.0)) else { return false };
        if entry.subscribers.contains(slot) == subscribed || usize::from(slot) >= MAX_SLOTS {
            return false;
        }
        entry.subscribers.set(slot, subscribed);
        self.write_channel(channel);
        true
    }

    /// Who hears a channel.
    pub fn subscribers(&self, channel: ChannelId) -> SlotSet {
        self.channels.get(usize::from(channel.0)).map_or(SlotSet::EMPTY, |(_, entry)| entry.subscribers)
    }

    /// Says what a slot is. A slot that becomes free keeps no subscription: take those back before.
    pub fn set_slot(&mut self, slot: Slot, state: SlotState, incarnation: u32, instance: Option<u32>) {
        if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
            *entry = SlotEntry { state, incarnation, instance };
            self.write_slot(slot);
        }
    }

    /// What a slot is.
    pub fn slot(&self, slot: Slot) -> SlotEntry {
        self.slots.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// Announces what was changed since the last call; the version that includes it.
    pub fn bump(&mut self) -> u64 {
        self.version += 1;
        // Release: whoever sees the version sees the entries (readers fence after loading it).
        self.map.publish(at::VERSION, self.version);
        self.version
    }

    /// The version last announced.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The herd's name.
    pub fn herd_name(&self) -> &str {
        &self.herd_name
    }

    /// Which directory of the herd this is, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn write_channel(&mut self, id: ChannelId) {
        let words = self.channels[usize::from(id.0)].1.to_words();
        copies::commit(&self.map, at::channel(id), &words, |counter| at::channel_copy(id, counter));
    }

    fn write_slot(&mut self, slot: Slot) {
        let words = self.slots[usize::from(slot)].to_words();
        copies::commit(&self.map, at::slot(slot), &words, |counter| at::slot_copy(slot, counter));
    }
}

fn check_name(name: &str) -> Result<(), DirectoryError> {
    if (1..=MAX_NAME).contains(&name.len()) { Ok(()) } else { Err(DirectoryError::Name(name.len())) }
}
