//! A place of two copies, of which the newer whole one counts.
//!
//! A commit overwrites the *other* copy in three steps (invalidate, body, header with sequence and checksum), so that
//! a death between any two bytes leaves the last commit or the one before, never a mixture. Pure: bytes in, bytes out.

use super::record::BODY_BYTES;

/// Bytes of a copy: a header and a body. Divides a page, so that no copy lies in two.
pub(super) const COPY_BYTES: usize = 256;

/// Bytes of a place.
pub(super) const PLACE_BYTES: usize = 2 * COPY_BYTES;

/// `{checksum: u32, length: u16, present: u16, sequence: u64}`.
const HEADER_BYTES: usize = 16;

const _: () = assert!(HEADER_BYTES + BODY_BYTES == COPY_BYTES);

/// Which copy of a place counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Current {
    pub copy: usize,
    /// Counts the commits of this place, from 1; 0 before the first.
    pub sequence: u64,
}

impl Current {
    /// A place that was never committed. The first commit goes to copy 0 until it is whole.
    pub(super) const NONE: Current = Current { copy: 1, sequence: 0 };

    /// Where the next commit goes.
    pub(super) fn next(self) -> Current {
        Current { copy: 1 - self.copy, sequence: self.sequence + 1 }
    }
}

/// What lies in a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// Nothing was ever committed here as a whole.
    Never,
    /// The last commit: its fields, or `None` when it removed them.
    Committed(Current, Option<&'a [u8]>),
    /// Something was committed and neither copy can be trusted.
    Damaged,
}

/// One step of a commit: bytes for an offset within the place.
#[derive(Debug)]
pub(super) struct Step {
    pub offset: usize,
    pub bytes: Vec<u8>,
}

/// The steps of a commit, in order. `place` is the offset of the place in the file: a copy is valid in its own only.
pub(super) fn commit(place: u64, to: Current, body: Option<&[u8]>) -> [Step; 3] {
    let offset = to.copy * COPY_BYTES;
    let fields = body.unwrap_or_default();
    let mut header = [0; HEADER_BYTES];
    header[4..6].copy_from_slice(&(fields.len() as u16).to_le_bytes());
    header[6..8].copy_from_slice(&u16::from(body.is_some()).to_le_bytes());
    header[8..16].copy_from_slice(&to.sequence.to_le_bytes());
    let checksum = checksum(place, &header, fields);
    header[0..4].copy_from_slice(&checksum.to_le_bytes());
    [
        Step { offset, bytes: vec![0; HEADER_BYTES] },
        Step { offset: offset + HEADER_BYTES, bytes: fields.to_vec() },
        Step { offset, bytes: header.to_vec() },
    ]
}

/// Reads a place.
pub(super) fn read(place: u64, bytes: &[u8; PLACE_BYTES]) -> Found<'_> {
    let (copies, _) = bytes.as_chunks::<COPY_BYTES>();
    let newest =
        (0..2).filter_map(|copy| whole(place, copy, &copies[copy])).max_by_key(|(current, _)| current.sequence);
    match newest {
        Some((current, fields)) => Found::Committed(current, fields),
        // The second copy is first written when the first one is whole.
        None if copies[1].iter().all(|byte| *byte == 0) => Found::Never,
        None => Found::Damaged,
    }
}

/// What one copy holds, if it is whole.
fn whole(place: u64, copy: usize, bytes: &[u8; COPY_BYTES]) -> Option<(Current, Option<&[u8]>)> {
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let fields = body.get(..usize::from(half(4)))?;
    let sequence = header.last_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
    let told = header.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    if sequence == 0 || told != checksum(place, header, fields) {
        return None;
    }
    Some((Current { copy, sequence }, (half(6) != 0).then_some(fields)))
}

/// Over all but the checksum itself, and over the place, so that a copy of another place is not taken for this one's.
fn checksum(place: u64, header: &[u8; HEADER_BYTES], fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.to_le_bytes());
    hasher.update(&header[4..]);
    hasher.update(fields);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: u64 = 8192;

    fn apply(bytes: &mut [u8; PLACE_BYTES], steps: &[Step]) {
        for step in steps {
            bytes[step.offset..step.offset + step.bytes.len()].copy_from_slice(&step.bytes);
        }
    }

    /// A place with `bodies` committed one after the other.
    fn committed(bodies: &[Option<&[u8]>]) -> ([u8; PLACE_BYTES], Current) {
        let mut bytes = [0; PLACE_BYTES];
        let mut current = Current::NONE;
        for body in bodies {
            current = current.next();
            apply(&mut bytes, &commit(PLACE, current, *body));
        }
        (bytes, current)
    }

    /// Every image that a death in the middle of `steps` can leave.
    fn cuts(before: &[u8; PLACE_BYTES], steps: &[Step]) -> Vec<[u8; PLACE_BYTES]> {
        let mut image = *before;
        let mut images = vec![image];
        for step in steps {
            for (at, byte) in step.bytes.iter().enumerate() {
                image[step.offset + at] = *byte;
                images.push(image);
            }
        }
        images
    }

    fn fields<'a>(found: &Found<'a>) -> Option<&'a [u8]> {
        match found {
            Found::Never => None,
            Found::Committed(_, fields) => *fields,
            Found::Damaged => panic!("a death in a commit damages nothing"),
        }
    }

    #[test]
    fn a_commit_cut_at_any_byte_reads_as_the_old_or_the_new_one() {
        let values: [Option<&[u8]>; 4] = [Some(&[1; 200]), Some(&[2; 240]), None, Some(&[0; 17])];
        for history in 0..=values.len() - 1 {
            let (before, current) = committed(&values[..history]);
            let old = history.checked_sub(1).and_then(|last| values[last]);
            let new = values[history];
            let images = cuts(&before, &commit(PLACE, current.next(), new));
            for image in &images {
                let found = read(PLACE, image);
                assert!(fields(&found) == old || fields(&found) == new, "{found:?}");
            }
            assert_eq!(fields(&read(PLACE, &images[0])), old);
            assert_eq!(fields(&read(PLACE, images.last().unwrap())), new);
        }
    }

    #[test]
    fn a_flipped_bit_of_a_finished_commit_falls_back_to_the_one_before() {
        let (bytes, current) = committed(&[Some(&[1; 240]), Some(&[2; 240]), Some(&[3; 240])]);
        for bit in 0..COPY_BYTES * 8 {
            let mut image = bytes;
            image[current.copy * COPY_BYTES + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(fields(&read(PLACE, &image)), Some(&[2; 240][..]), "bit {bit}");
        }
    }

    #[test]
    fn a_place_of_which_both_copies_are_spoilt_is_damaged() {
        let (mut bytes, _) = committed(&[Some(b"one"), Some(b"two")]);
        bytes[HEADER_BYTES] ^= 1;
        bytes[COPY_BYTES + HEADER_BYTES] ^= 1;
        assert_eq!(read(PLACE, &bytes), Found::Damaged);
    }

    #[test]
    fn a_copy_counts_in_its_own_place_only() {
        let (bytes, _) = committed(&[Some(b"one")]);
        assert_eq!(read(PLACE + PLACE_BYTES as u64, &bytes), Found::Never);
    }
}
