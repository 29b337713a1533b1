//! The fixed header in front of every control message, and the hello that opens a link.
//!
//! Both are written by hand and frozen: versioning must never depend on the serialisation library. All integers are
//! little-endian.
//!
//! ```text
//! offset  size  header (16 bytes)            hello (24 bytes, the first frame of a link, never encoded otherwise)
//! 0       2     kind                         "HWLK"
//! 2       2     flags (0)                    ..4
//! 4       4     length of the body           u16 link version, lowest .. 6; u16 highest .. 8
//! 8       8     sequence or request id       u16 layout version, lowest .. 10; u16 highest .. 12
//! 16      ..    body                         u32 flags .. 16; u64 reserved (0) .. 24
//! ```

/// Bytes of [`Header`] on the wire.
pub const HEADER_BYTES: usize = 16;

/// What precedes the body of every control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body is. Unknown kinds are skipped by the receiver.
    pub kind: u16,
    /// Bytes of the body that follows.
    pub length: u32,
    /// A sequence number or the id of a request; 0 where neither applies.
    pub id: u64,
}

impl Header {
    /// The header as it stands on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` when there are fewer than [`HEADER_BYTES`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        Some(Header {
            kind: u16::from_le_bytes([bytes[0], bytes[1]]),
            length: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            id: u64::from_le_bytes([
                bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
            ]),
        })
    }
}

/// Puts a header in front of a body.
pub fn compose(kind: u16, id: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies are bounded by codec::LARGE_LIMIT");
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&Header { kind, length, id }.to_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Splits a whole frame (one record of a SOCK_SEQPACKET socket) into header and body; `None` unless the header's
/// length is exactly that of the rest.
pub fn split(frame: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::from_bytes(frame)?;
    let body = &frame[HEADER_BYTES..];
    (body.len() == header.length as usize).then_some((header, body))
}

/// Bytes of [`Hello`] on the wire.
pub const HELLO_BYTES: usize = 24;
const HELLO_MAGIC: [u8; 4] = *b"HWLK";

/// The first frame of a link: which versions the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version of the link protocol.
    pub link: (u16, u16),
    /// Lowest and highest version of the memory layout.
    pub layout: (u16, u16),
}

impl Hello {
    /// The hello as it stands on the wire.
    pub fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[0..4].copy_from_slice(&HELLO_MAGIC);
        for (at, version) in [(4, self.link.0), (6, self.link.1), (8, self.layout.0), (10, self.layout.1)] {
            bytes[at..at + 2].copy_from_slice(&version.to_le_bytes());
        }
        bytes
    }

    /// Reads a hello; `None` when the bytes are not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Hello> {
        if bytes.len() < HELLO_BYTES || bytes[0..4] != HELLO_MAGIC {
            return None;
        }
        let version = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(Hello { link: (version(4), version(6)), layout: (version(8), version(10)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_header_and_hello_are_frozen() {
        let header = Header { kind: 0x0102, length: 3, id: 0x1122 };
        assert_eq!(header.to_bytes(), [2, 1, 0, 0, 3, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        let hello = Hello { link: (1, 2), layout: (3, 4) };
        assert_eq!(hello.to_bytes()[..12], *b"HWLK\x01\0\x02\0\x03\0\x04\0");
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
    }

    #[test]
    fn a_frame_whose_length_is_wrong_is_none() {
        let mut frame = compose(1, 2, b"abc");
        assert!(split(&frame).is_some());
        frame.push(0);
        assert_eq!(split(&frame), None);
        assert_eq!(split(&frame[..10]), None);
    }
}
