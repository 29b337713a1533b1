//! Durations and sizes as people write them.
//!
//! A plain number is milliseconds or bytes, as in pm2. A unit follows the number (`1600ms`, `1.5s`, `64KiB`, `1M`);
//! in sizes K, M and G always count in 1024. A result never overflows: beyond the limits below it is an error.

use std::time::Duration;

/// The longest duration: a year.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);
/// The largest size: a tebibyte.
pub const MAX_SIZE: u64 = 1 << 40;

/// Digits that a number may have, the fraction's included: all of them fit a `u64`.
const MAX_DIGITS: usize = 18;

/// Reads a duration.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = Number::split(text, "a duration", "1600ms, 3s or 2m")?;
    let nanos: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return Err(format!("`{text}` has an unknown unit `{unit}`; known are ms, s, m, h and d")),
    };
    let nanos = number.times(nanos);
    if nanos > MAX_DURATION.as_nanos() {
        return Err(format!("`{text}` is longer than a year"));
    }
    // Below a year, hence far below 2^64 nanoseconds.
    Ok(Duration::from_nanos(nanos as u64))
}

/// Reads a size in bytes.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = Number::split(text, "a size", "65536, 64KiB or 1M")?;
    let bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("`{text}` has an unknown unit `{unit}`; known are B, KiB, MiB and GiB (or K, M, G)")),
    };
    let bytes = number.times(bytes);
    if bytes > u128::from(MAX_SIZE) {
        return Err(format!("`{text}` is more than 1024 GiB"));
    }
    Ok(bytes as u64)
}

/// A number with a fraction, exact.
struct Number {
    digits: u64,
    /// The number is `digits / 10^scale`.
    scale: u32,
}

impl Number {
    /// Parts a number from its unit.
    fn split<'t>(text: &'t str, what: &str, such_as: &str) -> Result<(Number, &'t str), String> {
        let text = text.trim();
        if text.starts_with('-') {
            return Err(format!("`{text}` is negative"));
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let plain = !whole.is_empty() && !fraction.contains('.') && (number.contains('.') != fraction.is_empty());
        if !plain {
            return Err(format!("`{text}` is not {what}; write for instance {such_as}"));
        }
        if whole.len() + fraction.len() > MAX_DIGITS {
            return Err(format!("`{text}` has too many digits"));
        }
        let digits = format!("{whole}{fraction}").parse().map_err(|_| format!("`{text}` is not {what}"))?;
        Ok((Number { digits, scale: fraction.len() as u32 }, unit.trim()))
    }

    /// The number times `unit`, rounded down. Both are below 2^64.
    fn times(&self, unit: u64) -> u128 {
        u128::from(self.digits) * u128::from(unit) / 10u128.pow(self.scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        for (text, millis) in [
            ("1600", 1600),
            ("1600ms", 1600),
            ("3s", 3000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            (" 5 s ", 5000),
            ("0", 0),
            ("3S", 3000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn sizes_count_in_1024() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("64kb", 65_536),
            ("1M", 1 << 20),
            ("1.5MiB", 3 << 19),
            ("1G", 1 << 30),
            ("10b", 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_neither_says_so() {
        for (text, says) in [
            ("", "`` is not a duration; write for instance 1600ms, 3s or 2m"),
            ("soon", "`soon` is not a duration; write for instance 1600ms, 3s or 2m"),
            ("3 parsecs", "`3 parsecs` has an unknown unit `parsecs`; known are ms, s, m, h and d"),
            ("-1", "`-1` is negative"),
            ("1e400", "`1e400` has an unknown unit `e400`; known are ms, s, m, h and d"),
            ("1.2.3s", "`1.2.3s` is not a duration; write for instance 1600ms, 3s or 2m"),
            ("1.s", "`1.s` is not a duration; write for instance 1600ms, 3s or 2m"),
            ("400d", "`400d` is longer than a year"),
            ("1234567890123456789s", "`1234567890123456789s` has too many digits"),
        ] {
            assert_eq!(duration(text), Err(says.to_owned()));
        }
        assert_eq!(
            size("3 cows"),
            Err("`3 cows` has an unknown unit `cows`; known are B, KiB, MiB and GiB (or K, M, G)".into())
        );
        assert_eq!(size("2048G"), Err("`2048G` is more than 1024 GiB".into()));
        assert_eq!(size("١K"), Err("`١K` is not a size; write for instance 65536, 64KiB or 1M".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in ".*") {
            let _ = (duration(&text), size(&text));
        }

        #[test]
        fn near_numbers_do_not_panic(text in "[0-9.]{0,24} ?[a-zA-Zµ]{0,4}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
