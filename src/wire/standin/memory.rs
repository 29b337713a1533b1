//! Memory that outlives its supervisor: a memfd that is mapped whole.
//!
//! Owns the mapping and nothing else; what stands where is [`super::stash`]'s.
#![allow(unsafe_code)] // The one place of this room that maps memory.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Release, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Mapped bytes, unmapped on drop.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread, and `&mut self` is needed to write.
unsafe impl Send for Memory {}

/// Makes memory of so many bytes, all of them 0, that can never change its size. Costs what is written to.
pub(super) fn create(label: &std::ffi::CStr, bytes: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(label, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, bytes as i64)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    Ok(fd)
}

impl Memory {
    /// Maps the whole of what [`create`] has made. Of all that have it one alone may map it: who stands in now.
    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Memory> {
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::other("the memory could shrink"));
        }
        let bytes = usize::try_from(fstat(fd.as_fd())?.st_size).unwrap_or(0);
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: a new shared mapping at an address that the kernel chooses; nothing else is affected.
        let base =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)? };
        let memory = Memory { base: base.cast(), bytes };
        // SAFETY: the range is exactly our new mapping, and the advice changes nothing in this process.
        unsafe { madvise(memory.base.cast(), bytes, MmapAdvise::MADV_DONTFORK)? };
        Ok(memory)
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `base` maps `bytes` bytes until `self` drops, of a file that cannot shrink; nobody else maps it
        // (the keeper has its descriptor and never looks), so nobody writes while this borrow of `self` lasts.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// All of it, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }

    /// Stores one word after everything that was written before: a death before it finds the old word, a death after
    /// it the new one with all that belongs to it.
    pub(super) fn commit(&mut self, offset: usize, word: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes, "a committed word is aligned and within");
        // SAFETY: in bounds and aligned by the line above (a mapping begins at a page), and ours alone.
        let place = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) };
        // Release: nothing that was written before it in the program is written after it.
        place.store(word.to_le(), Release);
        // Nor is anything that is written after it written before.
        compiler_fence(SeqCst);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with exactly this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping can always be unmapped whole");
    }
}
