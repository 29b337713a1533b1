//! The one word with which a run tells its workers what to do: a file that all of them have mapped.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::words::Words;

/// What workers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not yet: others are still on their way.
    Wait,
    /// Publish.
    Run,
    /// Publish nothing more; read what is left.
    Stop,
}

/// The file `control` of a run.
#[derive(Debug)]
pub struct Control {
    words: Words,
}

impl Control {
    /// Opens it; where there is none yet, the phase is [`Phase::Wait`].
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn open(folder: &Path) -> io::Result<Control> {
        Ok(Control { words: Words::open(&folder.join("control"), NonZeroUsize::MIN)? })
    }

    /// What is to be done now. Costs one load.
    pub fn phase(&self) -> Phase {
        match self.words.all()[0].load(Acquire) {
            0 => Phase::Wait,
            1 => Phase::Run,
            _ => Phase::Stop,
        }
    }

    /// Says what is to be done from now on.
    pub fn set(&self, phase: Phase) {
        let word = match phase {
            Phase::Wait => 0,
            Phase::Run => 1,
            Phase::Stop => 2,
        };
        self.words.all()[0].store(word, Release);
    }
}
