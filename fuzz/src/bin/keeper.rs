//! What keeper and supervisor say to each other, what a keeper leaves, and names: whatever the bytes are, they are read
//! or refused, and what was read is written as it was understood.

#![no_main]

use herdwire::keeper::name::Name;
use herdwire::keeper::protocol::{FromKeeper, Legacy, ToKeeper, split_off};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(message) = ToKeeper::parse(bytes) {
        assert_eq!(ToKeeper::parse(message.to_record().as_bytes()), Some(message));
    }
    match FromKeeper::parse(bytes) {
        // More names than a record may hold: no keeper sends them, and none could be written again.
        Some(FromKeeper::Descriptors(names)) if names.len() > 200 => {}
        Some(message) => assert_eq!(FromKeeper::parse(message.to_record().as_bytes()), Some(message)),
        None => {}
    }
    let mut rest = bytes;
    while let Some((record, behind)) = split_off(rest) {
        assert!(behind.len() < rest.len());
        if let Some(legacy) = Legacy::parse(record) {
            assert_eq!(Legacy::parse(legacy.to_record().as_bytes()), Some(legacy));
        }
        rest = behind;
    }
    if let Some(raw) = bytes.first_chunk()
        && let Some(name) = Name::from_bytes(raw)
    {
        assert_eq!(Name::from_bytes(&name.to_bytes()), Some(name));
    }
});
