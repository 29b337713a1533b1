//! Names of what lies in the keeper's store: a kind and numbers, of fixed length, without user text.
//!
//! The table of kinds, with who creates each and when it is dropped, stands in ARCHITECTURE.md.

use std::fmt;

use super::protocol::{NAME_BYTES, RawName};

macro_rules! kinds {
    ($($(#[$about:meta])* $kind:ident = $number:literal,)*) => {
        /// What a stored descriptor is. Numbers are frozen: a later version only adds some.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$about])* $kind = $number,)*
        }

        impl Kind {
            /// The kind of this number; `None` for one of a later version.
            pub fn from_number(number: u16) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The state memfd. `owner` 0.
    State = 1,
    /// The CLI's listening socket. `owner` 0.
    Control = 2,
    /// The status server's listening socket. `owner` 0.
    Status = 3,
    /// The front's listening socket. `owner` 0.
    Front = 4,
    /// A sealed memfd with an app's spec. `owner` app, `generation` revision.
    Spec = 5,
    /// A sealed memfd with the supervisor-wide settings. `owner` 0, `generation` revision.
    Settings = 6,
    /// A listening socket of an app. `owner` app, `part` place in its list. `owner` 0: one that a service manager has passed.
    Listener = 7,
    /// An instance's pidfd. `owner` instance, `generation` incarnation.
    Pidfd = 8,
    /// Read end of an instance's stdout. `owner` instance, `generation` incarnation.
    Out = 9,
    /// Read end of an instance's stderr. `owner` instance, `generation` incarnation.
    Err = 10,
    /// The supervisor's end of an instance's link. `owner` instance, `generation` incarnation.
    Link = 11,
    /// A participant's outbox. `owner` herd, `part` slot, `generation` incarnation.
    Outbox = 12,
    /// A participant's bell (eventfd). `owner` herd, `part` slot, `generation` incarnation.
    Bell = 13,
    /// A herd's directory. `owner` herd, `generation` counts supervisors that wrote one.
    Directory = 14,
    /// What `herdwire run` asked for: a sealed memfd with a start request. `owner` 0.
    Run = 15,
    /// The home's lock, held by keeper and supervisor both. `owner` 0.
    Lock = 16,
    /// The socket that instances notify (`NOTIFY_SOCKET`). `owner` 0.
    Notify = 17,
    /// Read end of an instance's notification pipe. `owner` instance, `generation` incarnation.
    Ready = 18,
    /// An app's program, for a roll-back. `owner` app, `generation` revision.
    Program = 19,
    /// What changed last, for those who watch: a memfd. `owner` 0.
    Journal = 20,
    /// The program that the keeper starts supervisors with (`part` 0), and the one before it that got ready (`part` 1).
    Supervisor = 21,
    /// A socket that is connected to the service manager. `owner` 0.
    Service = 22,
    /// What a stand-in has in hand, for the next one: a memfd. `owner` instance, `generation` incarnation.
    Stash = 23,
}

/// A name in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub kind: Kind,
    pub part: u16,
    pub owner: u32,
    pub generation: u32,
}

impl Name {
    /// A name with `part` 0.
    pub fn new(kind: Kind, owner: u32, generation: u32) -> Name {
        Name { kind, part: 0, owner, generation }
    }

    /// The name of one of several parts.
    pub fn part(kind: Kind, owner: u32, part: u16, generation: u32) -> Name {
        Name { kind, part, owner, generation }
    }

    /// The name as it travels.
    pub fn to_bytes(self) -> RawName {
        let mut bytes = [0; NAME_BYTES];
        bytes[0..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&self.part.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.owner.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// Reads a name; `None` for a kind of a later version.
    pub fn from_bytes(bytes: &RawName) -> Option<Name> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Some(Name {
            kind: Kind::from_number(u16::from_le_bytes([bytes[0], bytes[1]]))?,
            part: u16::from_le_bytes([bytes[2], bytes[3]]),
            owner: word(4),
            generation: word(8),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}/{}#{}", self.kind, self.owner, self.part, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_and_an_unknown_one_does_not() {
        for number in 1..=23 {
            let kind = Kind::from_number(number).unwrap();
            assert_eq!(kind as u16, number);
            let name = Name::part(kind, 70_000, 255, 3);
            assert_eq!(Name::from_bytes(&name.to_bytes()), Some(name));
        }
        let mut bytes = Name::new(Kind::State, 0, 0).to_bytes();
        bytes[0] = 99;
        assert_eq!(Name::from_bytes(&bytes), None);
    }

    #[test]
    fn the_keeper_knows_these_names() {
        use crate::keeper::protocol::{PIDFD, PROGRAM, PROGRAM_BEFORE, SERVICE};
        assert!(Name::new(Kind::Pidfd, 7, 3).to_bytes().starts_with(&PIDFD));
        assert_eq!(Name::new(Kind::Supervisor, 0, 0).to_bytes(), PROGRAM);
        assert_eq!(Name::part(Kind::Supervisor, 0, 1, 0).to_bytes(), PROGRAM_BEFORE);
        assert_eq!(Name::new(Kind::Service, 0, 0).to_bytes(), SERVICE);
    }
}
