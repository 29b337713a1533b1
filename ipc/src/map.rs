//! Mappings of shared memory: the one door between foreign bytes and this process.
//!
//! A [`PeerMap`] is read-only, an [`OwnMap`] is the owner's. Both hand out words by value; no reference into shared
//! memory ever leaves this file.
#![allow(unsafe_code)] // The one place that maps memory and looks at it.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use crate::memory;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::{AtomicU64, OwnWords, Words};

#[cfg(target_endian = "big")]
compile_error!("the layout is little-endian");

const WORD: usize = 8;
const PAGE_WORDS: usize = 4096 / WORD;

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
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with exactly this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.words * WORD) };
        debug_assert!(unmapped.is_ok(), "a mapping can always be unmapped whole");
    }
}

/// Somebody else's memory, read-only.
pub(crate) struct PeerMap(Mapping);

impl PeerMap {
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<PeerMap> {
        Ok(PeerMap(Mapping::new(fd, bytes, ProtFlags::PROT_READ)?))
    }
}

impl Words for PeerMap {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.word(word).map_or(0, |word| word.load(Relaxed))
    }

    #[inline]
    fn four(&self, first: usize) -> [u64; 4] {
        match self.0.range(first, 4) {
            Some([a, b, c, d]) => [a, b, c, d].map(|word| word.load(Relaxed)),
            _ => [0; 4],
        }
    }

    #[inline]
    fn append(&self, first: usize, count: usize, into: &mut Vec<u64>) {
        into.extend(self.0.range(first, count).unwrap_or(&[]).iter().map(|word| word.load(Relaxed)));
    }
}

/// Our own memory.
pub(crate) struct OwnMap(Mapping);

impl OwnMap {
    /// Maps memory of which this process is to be the one writer. A fork does not get it, so that a child that
    /// touches it dies instead of writing into it as well.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<OwnMap> {
        let mapping = Mapping::new(fd, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // SAFETY: the range is exactly our new mapping, and the advice changes nothing in this process.
        unsafe { madvise(mapping.base.cast(), mapping.words * WORD, MmapAdvise::MADV_DONTFORK)? };
        Ok(OwnMap(mapping))
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
    fn four(&self, first: usize) -> [u64; 4] {
        match self.0.range(first, 4) {
            Some([a, b, c, d]) => [a, b, c, d].map(|word| word.load(Relaxed)),
            _ => [0; 4],
        }
    }

    #[inline]
    fn append(&self, first: usize, count: usize, into: &mut Vec<u64>) {
        into.extend(self.0.range(first, count).unwrap_or(&[]).iter().map(|word| word.load(Relaxed)));
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
    fn store_four(&self, first: usize, values: [u64; 4]) {
        for (word, value) in self.0.range(first, 4).unwrap_or(&[]).iter().zip(values) {
            word.store(value, Relaxed);
        }
    }

    #[inline]
    fn store_bytes(&self, first: usize, bytes: &[u8]) {
        let Some(words) = self.0.range(first, bytes.len().div_ceil(WORD)) else { return };
        let (whole, rest) = bytes.as_chunks::<WORD>();
        for (word, value) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*value), Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_le_bytes(last), Relaxed);
        }
    }
}

/// The first `length` bytes of private words; all of them when there are not as many.
#[inline]
pub(crate) fn bytes_of(words: &[u64], length: usize) -> &[u8] {
    // SAFETY: `words` is a valid slice of plain integers, any byte of which may be read; the length is its own.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * WORD) };
    &bytes[..length.min(bytes.len())]
}
