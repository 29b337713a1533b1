//! What goes to a keeper by exec: all that a keeper is.
//!
//! There is one way to begin. Whoever becomes a keeper (a command that prepared a home, a keeper that is replaced in
//! place, a supervisor whose keeper has died) executes the role `__keeper` with every descriptor open that is to be kept,
//! and the number of a memfd that says which is which, in records of the protocol: `HELLO` first, then what there is.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::protocol::{Message, RECORD_BYTES, RawName, Words, verb};
use crate::process::{self, program};

/// What is being left to the next program of this process.
pub(super) struct Estate {
    text: File,
}

impl Estate {
    pub fn new(hello: Words) -> io::Result<Estate> {
        let mut estate = Estate { text: memfd_create(c"herdwire-estate", MFdFlags::empty())?.into() };
        estate.say(Message::new(hello))?;
        Ok(estate)
    }

    pub fn say(&mut self, message: Message) -> io::Result<()> {
        self.text.write_all(&message.to_record(&[]))
    }

    /// Leaves a descriptor of the store.
    pub fn leave(&mut self, name: RawName, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let number = self.hold_open(descriptor)?;
        self.say(Message { name, ..Message::new([verb::LEFT, number]) })
    }

    /// Keeps a descriptor open across the exec; its number.
    pub fn hold_open(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<u64> {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(descriptor.as_raw_fd() as u64)
    }

    /// Becomes the keeper in this binary.
    ///
    /// # Errors
    /// It cannot be executed. Everything is as it was.
    pub fn execute(self, binary: BorrowedFd<'_>) -> io::Result<Infallible> {
        let number = CString::new(self.text.as_raw_fd().to_string())?;
        let never = program::execute(binary, &[c"herdwire", c"__keeper", &number]);
        process::close_on_exec(3, u32::MAX)?;
        never
    }
}

/// What was left under this number. To be read once; the descriptors that it names are the reader's to take over.
pub(super) fn read(text: RawFd) -> io::Result<Vec<Message>> {
    let mut text = File::from(process::inherit(text)?);
    let mut bytes = Vec::new();
    text.rewind()?;
    text.read_to_end(&mut bytes)?;
    Ok(bytes.chunks(RECORD_BYTES).filter_map(Message::parse).map(|(message, _)| message).collect())
}
