//! A file of 64-bit words that several processes have mapped at once.
#![allow(unsafe_code)] // A shared map is memory that others change; this is the one place that touches it.

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Words of a file, shared with everybody who maps it. What is stored is in the file at once, whatever becomes of the
/// process.
#[derive(Debug)]
pub(crate) struct Words {
    base: std::ptr::NonNull<AtomicU64>,
    count: NonZeroUsize,
}

// SAFETY: the map is plain memory that only atomics touch, and it stays until the one owner is dropped.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `count` words of a file; makes it, zeroed, where there is none.
    pub(crate) fn open(path: &Path, count: NonZeroUsize) -> io::Result<Words> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = NonZeroUsize::new(count.get() * size_of::<u64>()).expect("a multiple of what is not zero");
        if file.metadata()?.len() < bytes.get() as u64 {
            file.set_len(bytes.get() as u64)?;
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new map at an address of the kernel's choice; the file has that many bytes, and nobody shrinks it.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Words { base: base.cast(), count })
    }

    pub(crate) fn all(&self) -> &[AtomicU64] {
        // SAFETY: `base` maps `count` words, page-aligned, until `self` drops; other processes change them only through
        // atomics as well.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count.get()) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let bytes = self.count.get() * size_of::<u64>();
        // SAFETY: the map that `open` made, and nobody can hold a reference into it any more. It cannot fail.
        let _ = unsafe { munmap(self.base.cast(), bytes) };
    }
}
