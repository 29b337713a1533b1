//! An entry in two copies with a counter: whole for every reader, whatever becomes of its writer.
//!
//! The counter's lowest bit names the current copy; 0 is no entry. An odd-even lock would leave a torn entry behind a
//! writer that dies in the middle, and readers that wait for ever.

use crate::sync::Ordering::{Acquire, Release};
use crate::sync::{OwnWords, Words, fence, yield_now};

/// How often an entry is read again when it changed meanwhile. Changes take microseconds and are rare.
const ATTEMPTS: usize = 1_000;

/// Writes the copy that is not current, then makes it the current one.
pub(crate) fn commit(own: &impl OwnWords, counter: usize, words: &[u64], copy: impl Fn(u64) -> usize) {
    let next = own.load(counter) + 1;
    // Release: before a copy is touched that was current two changes ago, every reader must be able to see that the
    // counter has moved on from it. Pairs with the second Acquire fence in `read`.
    fence(Release);
    for (index, word) in words.iter().enumerate() {
        own.store(copy(next) + index, *word);
    }
    // A Release store: pairs with the first Acquire fence in `read`.
    own.publish(counter, next);
}

/// The current copy of an entry; `None` when it has none yet, or never held still.
pub(crate) fn read<const N: usize>(from: &impl Words, counter: usize, copy: impl Fn(u64) -> usize) -> Option<[u64; N]> {
    let mut taken = [0; N];
    for _ in 0..ATTEMPTS {
        let before = from.load(counter);
        if before == 0 {
            return None;
        }
        // Acquire: pairs with the Release of the counter in `commit`; the copy is whole.
        fence(Acquire);
        from.copy(copy(before), &mut taken);
        // Acquire: pairs with the Release fence in `commit`. If any word was newer, the counter is seen to have moved.
        fence(Acquire);
        if from.load(counter) == before {
            return Some(taken);
        }
        yield_now();
    }
    None
}
