//! Mappings of shared memory: the one door between foreign bytes and this process.
//!
//! A [`PeerMap`] is read-only, an [`OwnMap`] is the owner's. Both hand out words by value; no reference into shared
//! memory ever leaves this file. A [`Word`] is a place in a peer's memory that was checked once and is looked at often.
#![allow(unsafe_code)] // The one place that maps memory and looks at it.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use crate::memory;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::{AtomicU64, OwnWords, Words};

#[cfg(target_endian = "big")]
compile_error!("the layout is little-endian");

const WORD: usize = 8;
const PAGE_WORDS: usize = 4096 / WORD;
/// Words that are copied in one go.
const BLOCK: usize = 8;

/// Mapped words, unmapped on drop.
struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to no thread, and it is looked at through atomics alone.
unsafe impl Send for Mapping {}
// SAFETY: as above; every access is one atomic load or store.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, bytes: u64, protection: ProtFlags) -> io::Result<Mapping> {
        // A map that reaches beyond the file would fault on access.
        if memory::size(fd)? < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(bytes).ok().and_then(NonZeroUsize::new).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new shared mapping at an address that the kernel chooses; nothing else is affected.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Mapping { base: base.cast(), words: length.get() / WORD })
    }

    #[inline]
    fn word(&self, word: usize) -> Option<&AtomicU64> {
        if word >= self.words {
            return None;
        }
        // SAFETY: in bounds by the line above; `base` maps `words` aligned words until `self` drops (set once, by the
        // only constructor) of a file that `memory` has sealed against shrinking, so that an access cannot fault.
        // The owner stores at any time, hence an atomic.
        Some(unsafe { self.base.add(word).as_ref() })
    }

    #[inline]
    fn range(&self, first: usize, count: usize) -> Option<&[AtomicU64]> {
        if first > self.words || count > self.words - first {
            return None;
        }
        // SAFETY: as in `word`, for `count` words from `first` on; a slice of atomics promises nothing about values.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(first), count) })
    }

    /// Eight words at a time: a loop over single atomic loads is not unrolled by the compiler.
    #[inline]
    fn copy(&self, first: usize, into: &mut [u64]) {
        let Some(words) = self.range(first, into.len()) else {
            into.fill(0);
            return;
        };
        let (blocks, rest) = words.as_chunks::<BLOCK>();
        let (places, tail) = into.as_chunks_mut::<BLOCK>();
        for (place, block) in places.iter_mut().zip(blocks) {
            for (to, from) in place.iter_mut().zip(block) {
                *to = from.load(Relaxed);
            }
        }
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = from.load(Relaxed);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with exactly this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.words * WORD) };
        debug_assert!(unmapped.is_ok(), "a mapping can always be unmapped whole");
    }
}

/// Somebody else's memory, read-only.
pub(crate) struct PeerMap(Arc<Mapping>);

impl PeerMap {
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<PeerMap> {
        Ok(PeerMap(Arc::new(Mapping::new(fd, bytes, ProtFlags::PROT_READ)?)))
    }

    /// One word to be looked at again and again; `None` outside the memory.
    pub(crate) fn word(&self, word: usize) -> Option<Word> {
        Some(Word { word: NonNull::from(self.0.word(word)?), _mapping: self.0.clone() })
    }
}

impl Words for PeerMap {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.word(word).map_or(0, |word| word.load(Relaxed))
    }

    #[inline]
    fn copy(&self, first: usize, into: &mut [u64]) {
        self.0.copy(first, into);
    }
}

/// One word of somebody else's memory, found once: a look is a single load.
pub(crate) struct Word {
    word: NonNull<AtomicU64>,
    _mapping: Arc<Mapping>,
}

// SAFETY: as for the mapping, which it keeps alive; it is looked at through atomic loads alone.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    #[inline]
    pub(crate) fn load(&self) -> u64 {
        // SAFETY: `PeerMap::word`, the only constructor, took it from a reference into the mapping, which `_mapping`
        // keeps mapped for as long as `self` lives.
        unsafe { self.word.as_ref() }.load(Relaxed)
    }
}

/// Our own memory. Its owners within the process share it; each writes its own words.
#[derive(Clone)]
pub(crate) struct OwnMap(Arc<Mapping>);

impl OwnMap {
    /// Maps memory of which this process is to be the one writer. A fork does not get it, so that a child that
    /// touches it dies instead of writing into it as well.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<OwnMap> {
        let mapping = Mapping::new(fd, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // SAFETY: the range is exactly our new mapping, and the advice changes nothing in this process.
        unsafe { madvise(mapping.base.cast(), mapping.words * WORD, MmapAdvise::MADV_DONTFORK)? };
        Ok(OwnMap(Arc::new(mapping)))
    }

    /// Touches every page, so that it is charged to the owner and not to the first reader.
    pub(crate) fn touch(&self) {
        for word in (0..self.0.words).step_by(PAGE_WORDS) {
            self.store(word, self.load(word));
        }
    }
}

impl Words for OwnMap {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.word(word).map_or(0, |word| word.load(Relaxed))
    }

    #[inline]
    fn copy(&self, first: usize, into: &mut [u64]) {
        self.0.copy(first, into);
    }
}

impl OwnWords for OwnMap {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.0.word(word) {
            word.store(value, Relaxed);
        }
    }

    #[inline]
    fn publish(&self, word: usize, value: u64) {
        if let Some(word) = self.0.word(word) {
            word.store(value, Release);
        }
    }

    #[inline]
    fn store_all(&self, first: usize, words: &[u64], bytes: &[u8]) {
        let count = words.len() + bytes.len().div_ceil(WORD);
        let Some((ahead, behind)) = self.0.range(first, count).and_then(|all| all.split_at_checked(words.len())) else {
            return;
        };
        for (word, value) in ahead.iter().zip(words) {
            word.store(*value, Relaxed);
        }
        store_bytes(behind, bytes);
    }
}

/// Bytes as words, eight words at a time; the last word is padded with zeroes.
#[inline]
fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    let (blocks, rest) = bytes.as_chunks::<{ BLOCK * WORD }>();
    let (places, tail) = words.split_at(blocks.len() * BLOCK);
    for (place, block) in places.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        for (word, value) in place.iter().zip(block.as_chunks::<WORD>().0) {
            word.store(u64::from_le_bytes(*value), Relaxed);
        }
    }
    for (word, bytes) in tail.iter().zip(rest.chunks(WORD)) {
        let mut value = [0; WORD];
        value[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(value), Relaxed);
    }
}

/// The first `length` bytes of private words; all of them when there are not as many.
#[inline]
pub(crate) fn bytes_of(words: &[u64], length: usize) -> &[u8] {
    // SAFETY: `words` is a valid slice of plain integers, any byte of which may be read; the length is its own.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * WORD) };
    &bytes[..length.min(bytes.len())]
}
