//! How control messages become bytes. The only place that names the serialisation library.
//!
//! Used on the link, on the control socket and for sealed specs; never for payloads. The byte format is bincode's
//! standard configuration (little-endian, variable-length integers, enum variants by number), always under a limit:
//! without one, a nine-byte frame that announces a huge vector aborts the process.
//!
//! Invariants
//! - A decode allocates no more than [`LIMIT`] bytes and consumes its input to the last byte, or it is an error.
//! - No message type is recursive, so the depth of a decode is bounded by its type.

use serde::{Serialize, de::DeserializeOwned};

/// The most that one control message may take, encoded or decoded: 1 MiB.
pub const LIMIT: usize = 1 << 20;

/// Why a control message could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value cannot be represented within [`LIMIT`].
    #[error("message cannot be encoded: {0}")]
    Encode(String),
    /// The bytes are not a message of this type.
    #[error("message cannot be decoded: {0}")]
    Decode(String),
    /// The bytes hold a message and something after it.
    #[error("message is followed by {0} stray bytes")]
    Trailing(usize),
    /// The message is larger than [`LIMIT`].
    #[error("message takes more bytes than it may")]
    TooLarge,
}

/// The most that an answer may take which only a trusted peer sends: 64 MiB.
pub const LARGE_LIMIT: usize = 64 << 20;

fn configuration<const MOST: usize>() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MOST>()
}

/// Encodes one message.
///
/// # Errors
/// [`CodecError::TooLarge`] beyond [`LIMIT`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<T, LIMIT>(value)
}

/// As [`encode`], up to [`LARGE_LIMIT`].
///
/// # Errors
/// [`CodecError::TooLarge`] beyond it.
pub fn encode_large<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<T, LARGE_LIMIT>(value)
}

fn encode_within<T: Serialize, const MOST: usize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, configuration::<MOST>())
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    if bytes.len() > MOST {
        return Err(CodecError::TooLarge);
    }
    Ok(bytes)
}

/// Decodes exactly one message.
///
/// # Errors
/// Anything that is not one whole message of type `T` and nothing else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<T, LIMIT>(bytes)
}

/// As [`decode`], for what a trusted peer has encoded with [`encode_large`].
///
/// # Errors
/// The same.
pub fn decode_large<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<T, LARGE_LIMIT>(bytes)
}

fn decode_within<T: DeserializeOwned, const MOST: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, configuration::<MOST>())
        .map_err(|error| CodecError::Decode(error.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_went() {
        let message = (7u32, "orders".to_owned(), vec![1u8, 2, 3]);
        let bytes = encode(&message).unwrap();
        assert_eq!(decode::<(u32, String, Vec<u8>)>(&bytes).unwrap(), message);
    }

    #[test]
    fn a_length_that_promises_more_than_the_limit_is_refused_without_allocating_it() {
        let hostile = [0xfd, 0, 0, 0, 0, 0, 0x10, 0, 0];
        assert!(decode::<Vec<u8>>(&hostile).is_err());
    }

    #[test]
    fn bytes_after_the_message_are_an_error() {
        let mut bytes = encode(&1u8).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<u8>(&bytes), Err(CodecError::Trailing(1))));
    }
}
