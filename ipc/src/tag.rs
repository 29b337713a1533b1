//! What a payload is, so that a browser or another language can be given it in the right form.

use serde::{Deserialize, Serialize};

/// The content of a payload. The wire never looks inside; the tag travels with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Tag {
    /// Opaque bytes.
    Bytes = 0,
    /// UTF-8 text.
    Text = 1,
    /// One JSON value.
    Json = 2,
    /// One MessagePack value.
    Msgpack = 3,
}

impl Tag {
    /// The tag with this number, if there is one.
    #[inline]
    pub fn from_number(number: u8) -> Option<Tag> {
        match number {
            0 => Some(Tag::Bytes),
            1 => Some(Tag::Text),
            2 => Some(Tag::Json),
            3 => Some(Tag::Msgpack),
            _ => None,
        }
    }
}
