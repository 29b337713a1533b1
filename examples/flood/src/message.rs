//! One message: who published it, its number, a filling made from that number, and a checksum over the whole.

/// The least size of a message.
pub const MIN_SIZE: usize = 24;

/// Who a message is from, and which of its messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The publisher's index in its app.
    pub publisher: u32,
    /// Which process of it.
    pub incarnation: u32,
    /// Counts the publisher's messages from 1, on and on over its incarnations.
    pub sequence: u64,
}

/// Writes a message over all of `buffer`, which has at least [`MIN_SIZE`] bytes.
pub fn write(buffer: &mut [u8], stamp: Stamp) {
    buffer[8..12].copy_from_slice(&stamp.publisher.to_le_bytes());
    buffer[12..16].copy_from_slice(&stamp.incarnation.to_le_bytes());
    buffer[16..24].copy_from_slice(&stamp.sequence.to_le_bytes());
    let mut filling = stamp.sequence ^ u64::from(stamp.publisher) << 48;
    for chunk in buffer[MIN_SIZE..].chunks_mut(8) {
        filling = filling.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        chunk.copy_from_slice(&filling.to_le_bytes()[..chunk.len()]);
    }
    let sum = checksum(&buffer[8..]);
    buffer[..8].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a message; `None` if it is not whole or not what was written.
pub fn read(bytes: &[u8], size: usize) -> Option<Stamp> {
    if bytes.len() != size || size < MIN_SIZE || checksum(&bytes[8..]) != word(&bytes[..8]) {
        return None;
    }
    let half = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(Stamp { publisher: half(8), incarnation: half(12), sequence: word(&bytes[16..24]) })
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// A sum that any changed, moved or missing bit changes: fast, and not meant against people.
fn checksum(bytes: &[u8]) -> u64 {
    let start = 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
    bytes.chunks(8).fold(start, |sum, chunk| {
        let mixed = (sum ^ word(chunk)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { publisher: 3, incarnation: 7, sequence: 1 << 40 };

    #[test]
    fn what_is_written_is_read() {
        for size in [24, 25, 31, 64, 1024] {
            let mut buffer = vec![0; size];
            write(&mut buffer, STAMP);
            assert_eq!(read(&buffer, size), Some(STAMP), "{size}");
        }
    }

    #[test]
    fn every_single_changed_bit_is_seen() {
        let mut buffer = vec![0; 67];
        write(&mut buffer, STAMP);
        for bit in 0..buffer.len() * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&buffer, 67), None, "bit {bit}");
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_message_of_another_size_is_not_whole() {
        let mut buffer = vec![0; 64];
        write(&mut buffer, STAMP);
        assert_eq!(read(&buffer[..56], 64), None);
        assert_eq!(read(&buffer[..56], 56), None);
        assert_eq!(read(&[], 64), None);
    }
}
