//! What keeper and supervisor say to each other, what a keeper leaves, and names: whatever the bytes are, they are read
//! or refused, and what was read is written as it was understood.

#![no_main]

use herdwire::keeper::name::Name;
use herdwire::keeper::protocol::{Message, RECORD_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((message, names)) = Message::parse(bytes) {
        assert_eq!(message.to_record(names), bytes);
    }
    // As one keeper leaves them to the next: one behind the other.
    for record in bytes.chunks(RECORD_BYTES) {
        let read = Message::parse(record);
        assert_eq!(read.is_some(), record.len() == RECORD_BYTES);
        if let Some((message, names)) = read {
            assert_eq!((message.to_record(&[]), names.len()), (record.to_vec(), 0));
        }
    }
    if let Some(raw) = bytes.first_chunk()
        && let Some(name) = Name::from_bytes(raw)
    {
        assert_eq!(Name::from_bytes(&name.to_bytes()), Some(name));
    }
});
