//! Signals by name or number.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The number of a signal written as `SIGTERM`, `term` or `15`.
///
/// # Errors
/// A sentence when there is none of that name.
pub fn number(text: &str) -> Result<i32, String> {
    let unknown = || format!("`{text}` is not a signal; write for instance SIGINT, SIGTERM or 15");
    if let Ok(number) = text.parse::<i32>() {
        // 32 and 33 belong to the C library.
        return if matches!(number, 1..=31 | 34..=64) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Signal::from_str(&name).map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, signal) in [("SIGINT", 2), ("term", 15), ("SigKill", 9), ("15", 15), ("64", 64)] {
            assert_eq!(number(text), Ok(signal));
        }
        for text in ["", "0", "65", "33", "-1", "SIG", "SIGNOPE", "SIGSIGINT"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
