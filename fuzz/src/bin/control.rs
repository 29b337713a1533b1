//! What a peer sends on the control socket: a request, or a refusal in a sentence.

#![no_main]

use herdwire::supervisor::control::{self, Failure, Request};
use herdwire_ipc::frame::{HEADER_BYTES, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(Ok(request)) = receive(bytes) {
        let again = control::to_frame(&request).expect("what fitted into a frame fits again");
        assert!(receive(&again).is_some_and(|again| again.is_ok()));
    }
});

/// What the supervisor does with the bytes of a connection; `None` where it would wait for more.
fn receive(bytes: &[u8]) -> Option<Result<Request, Failure>> {
    let header = Header::from_bytes(bytes)?;
    let length = match control::body_length(header) {
        Ok(length) => length as usize,
        Err(failure) => return Some(Err(failure)),
    };
    let body = bytes[HEADER_BYTES..].get(..length)?;
    Some(control::from_body(body))
}
