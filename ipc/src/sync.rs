//! The only file that names atomics and fences: loom's when a model runs, the processor's otherwise.
//!
//! Shared memory is always real atomics ([`Words`] hides which); a fence, which orders them, has to be loom's in a
//! model. In-process flags (`changes`, `gone`) are outside the models and always real.
//!
//! Readers never `load(Acquire)` foreign memory: Rust promises only relaxed loads on read-only pages, so every
//! acquire is a relaxed load and a [`fence`].

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::fence;
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::{sync::atomic::fence, thread::yield_now};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

/// Memory as 64-bit words, numbered from 0. The door through which foreign bytes come in.
///
/// All accesses are relaxed and atomic per word; order comes from [`fence`].
pub(crate) trait Words {
    /// One word; 0 outside the memory, so that a wrong number can never read anything else.
    fn load(&self, word: usize) -> u64;
    /// Copies the words from `first` on into private memory; zeroes when any of them lies outside.
    fn copy(&self, first: usize, into: &mut [u64]) {
        for (index, word) in into.iter_mut().enumerate() {
            *word = self.load(first + index);
        }
    }
}

/// Memory that is ours alone to write.
pub(crate) trait OwnWords: Words {
    /// Stores one word, relaxed; ignored outside the memory.
    fn store(&self, word: usize, value: u64);
    /// Stores one word after everything before it: what a reader that sees it has seen as well.
    fn publish(&self, word: usize, value: u64);
    /// Stores words, and bytes as words behind them, from `first` on, relaxed, the last one padded with zeroes;
    /// ignored when they do not fit.
    fn store_all<const N: usize>(&self, first: usize, words: [u64; N], bytes: &[u8]) {
        for (index, value) in words.into_iter().enumerate() {
            self.store(first + index, value);
        }
        for (index, bytes) in bytes.chunks(8).enumerate() {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            self.store(first + N + index, u64::from_le_bytes(value));
        }
    }
}
