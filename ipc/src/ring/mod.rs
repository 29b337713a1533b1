//! The protocols of a ring, over any memory: one writer, many readers at their own cursors, sleeping and waking.
//!
//! Pure but for the fences; the models explore exactly this code. What it works on is [`crate::sync::Words`]: a
//! mapping in the product, a vector of loom's atomics in a model.
//!
//! Invariants
//! - A record exists once `head` has passed it; a writer that dies at any instruction leaves its ring whole.
//! - A reader accepts no byte that the writer may have begun to overwrite.
//! - A reader sleeps only after it has announced it and looked once more; a writer looks at the announcement only
//!   after it has shown its head.

mod gate;
mod reader;
mod wake;
mod writer;

pub(crate) use gate::Held;
#[cfg(all(test, loom))]
pub(crate) use reader::Lap;
pub(crate) use reader::{RingReader, Taken};
pub(crate) use wake::{Sleeper, Waker, ask_for_room, show_cursor};
pub(crate) use writer::{Need, RingWriter};

#[cfg(all(test, loom))]
mod loom_models;
