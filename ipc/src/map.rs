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

/// Mapped memory, unmapped on drop.
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
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with exactly this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.words * WORD) };
        debug_assert!(unmapped.is_ok(), "a mapping can always be unmapped whole");
    }
}

/// The words of a mapping, which it keeps mapped. Holds its own copy of where they are: what is looked at with every
/// message should not be looked up first.
#[derive(Clone)]
struct Mapped {
    base: NonNull<AtomicU64>,
    words: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: as for the mapping.
unsafe impl Send for Mapped {}
// SAFETY: as for the mapping.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(fd: BorrowedFd<'_>, bytes: u64, protection: ProtFlags) -> io::Result<Mapped> {
        let mapping = Arc::new(Mapping::new(fd, bytes, protection)?);
        Ok(Mapped { base: mapping.base, words: mapping.words, mapping })
    }

    #[inline]
    fn all(&self) -> &[AtomicU64] {
        // SAFETY: `base` maps `words` aligned words (both copied from the mapping by the only constructor) for as long as
        // `mapping` lives, of a file that `memory` has sealed against shrinking, so that an access cannot fault. The
        // owner stores at any time, hence atomics; a slice of them promises nothing about values.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// Eight words at a time: a loop over single atomic loads is not unrolled by the compiler.
    fn copy(&self, first: usize, into: &mut [u64]) {
        let Some(words) = self.all().get(first..).and_then(|rest| rest.get(..into.len())) else {
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

/// Somebody else's memory, read-only.
pub(crate) struct PeerMap(Mapped);

impl PeerMap {
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<PeerMap> {
        Ok(PeerMap(Mapped::new(fd, bytes, ProtFlags::PROT_READ)?))
    }

    /// One word to be looked at again and again; `None` outside the memory.
    pub(crate) fn word(&self, word: usize) -> Option<Word> {
        Some(Word { word: NonNull::from(self.0.all().get(word)?), _mapping: self.0.mapping.clone() })
    }
}

impl Words for PeerMap {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.all().get(word).map_or(0, |word| word.load(Relaxed))
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
pub(crate) struct OwnMap(Mapped);

impl OwnMap {
    /// Maps memory of which this process is to be the one writer. A fork does not get it, so that a child that
    /// touches it dies instead of writing into it as well.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<OwnMap> {
        let mapped = Mapped::new(fd, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // SAFETY: the range is exactly our new mapping, and the advice changes nothing in this process.
        unsafe { madvise(mapped.base.cast(), mapped.words * WORD, MmapAdvise::MADV_DONTFORK)? };
        Ok(OwnMap(mapped))
    }

    /// Touches every page, so that it is charged to the owner and not to the first reader.
    pub(crate) fn touch(&self) {
        for word in (0..self.0.words).step_by(PAGE_WORDS) {
            self.store(word, self.load(word));
        }
    }

    /// The same words, held in registers where many are written at once: behind a fence a compiler looks at
    /// everything anew that lies in memory.
    #[inline]
    pub(crate) fn view(&self) -> OwnView<'_> {
        OwnView { words: self.0.all() }
    }
}

impl Words for OwnMap {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.view().load(word)
    }

    #[inline]
    fn copy(&self, first: usize, into: &mut [u64]) {
        self.0.copy(first, into);
    }
}

impl OwnWords for OwnMap {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        self.view().store(word, value);
    }

    #[inline]
    fn publish(&self, word: usize, value: u64) {
        self.view().publish(word, value);
    }

    #[inline]
    fn store_all<const N: usize>(&self, first: usize, words: [u64; N], bytes: &[u8]) {
        self.view().store_all(first, words, bytes);
    }
}

/// Our own memory while a record is written.
#[derive(Clone, Copy)]
pub(crate) struct OwnView<'a> {
    words: &'a [AtomicU64],
}

impl Words for OwnView<'_> {
    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Relaxed))
    }
}

impl OwnWords for OwnView<'_> {
    #[inline]
    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Relaxed);
        }
    }

    #[inline]
    fn publish(&self, word: usize, value: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Release);
        }
    }

    // Always: it is most of a publish, and most of it is known where it is called.
    #[inline(always)]
    fn store_all<const N: usize>(&self, first: usize, words: [u64; N], bytes: &[u8]) {
        let count = N + bytes.len().div_ceil(WORD);
        let Some(room) = self.words.get(first..).and_then(|rest| rest.get(..count)) else { return };
        let Some((ahead, behind)) = room.split_first_chunk::<N>() else { return };
        for (word, value) in ahead.iter().zip(words) {
            word.store(value, Relaxed);
        }
        store_bytes(behind, bytes);
    }
}

/// Bytes as words, eight words at a time; the last word is padded with zeroes. As many as there is room for.
#[inline(always)]
fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    let (blocks, rest) = bytes.as_chunks::<{ BLOCK * WORD }>();
    let (places, _) = words.as_chunks::<BLOCK>();
    for (place, block) in places.iter().zip(blocks) {
        for (word, value) in place.iter().zip(block.as_chunks::<WORD>().0) {
            word.store(u64::from_le_bytes(*value), Relaxed);
        }
    }
    if !rest.is_empty() {
        store_rest(&words[blocks.len() * BLOCK..], rest);
    }
}

/// Less than a block.
#[inline]
fn store_rest(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    for (word, value) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*value), Relaxed);
    }
    if let Some(last) = words.get(whole.len()).filter(|_| !rest.is_empty()) {
        let mut value = [0; WORD];
        value[..rest.len()].copy_from_slice(rest);
        last.store(u64::from_le_bytes(value), Relaxed);
    }
}

/// The first `length` bytes of private words; all of them when there are not as many.
#[inline]
pub(crate) fn bytes_of(words: &[u64], length: usize) -> &[u8] {
    // SAFETY: `words` is a valid slice of plain integers, any byte of which may be read; the length is its own.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * WORD) };
    &bytes[..length.min(bytes.len())]
}
