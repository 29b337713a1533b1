//! What a datagram on `NOTIFY_SOCKET` says: systemd's `sd_notify` protocol, as far as it means something here.
//!
//! Pure: bytes in, what was said out. What is unknown (`FDSTORE`, `ERRNO`, `RELOADING`, `BARRIER` and whatever comes) says
//! nothing; the descriptors that travel with some of them are closed by whoever received the datagram, which is all
//! that `BARRIER=1` asks for.

use std::time::Duration;

/// Characters of a `STATUS` that are kept.
pub const STATUS_CHARACTERS: usize = 200;

/// The shortest time between two signs of life that may be asked for: a watchdog must not become a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// One assignment that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`.
    Stopping,
    /// `STATUS=text`, bounded and made fit for a terminal. Empty takes an earlier one back.
    Status(String),
    /// `WATCHDOG=1`.
    Alive,
    /// `WATCHDOG=trigger`: it finds itself broken.
    Broken,
    /// `WATCHDOG_USEC=n`: the most time between two signs of life from now on; `None` for 0, none are asked for.
    Interval(Option<Duration>),
    /// `EXTEND_TIMEOUT_USEC=n`.
    Extend(Duration),
    /// `MAINPID=n`.
    MainPid(u32),
}

/// Reads a datagram, in its order.
pub fn parse(datagram: &[u8]) -> Vec<Said> {
    datagram.split(|byte| *byte == b'\n').filter_map(assignment).collect()
}

fn assignment(line: &[u8]) -> Option<Said> {
    let text = String::from_utf8_lossy(line);
    let (name, value) = text.split_once('=')?;
    match (name, value) {
        ("READY", "1") => Some(Said::Ready),
        ("STOPPING", "1") => Some(Said::Stopping),
        ("STATUS", text) => Some(Said::Status(presentable(text))),
        ("WATCHDOG", "1") => Some(Said::Alive),
        ("WATCHDOG", "trigger") => Some(Said::Broken),
        ("WATCHDOG_USEC", value) => {
            let interval = microseconds(value)?;
            Some(Said::Interval((!interval.is_zero()).then(|| interval.max(SHORTEST_INTERVAL))))
        }
        ("EXTEND_TIMEOUT_USEC", value) => microseconds(value).map(Said::Extend),
        ("MAINPID", value) => value.parse().ok().filter(|pid| *pid > 1).map(Said::MainPid),
        _ => None,
    }
}

fn microseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

/// At most [`STATUS_CHARACTERS`], with what would move a cursor or turn the direction of writing made visible.
fn presentable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.trim().chars().take(STATUS_CHARACTERS) {
        match character {
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            character if character.is_control() => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_datagram_may_say_several_things_and_keeps_their_order() {
        let said = parse(b"READY=1\nSTATUS=serving 3 ports\nMAINPID=4711\nWATCHDOG=1\n");
        assert_eq!(said, [Said::Ready, Said::Status("serving 3 ports".into()), Said::MainPid(4711), Said::Alive]);
    }

    #[test]
    fn times_come_in_microseconds() {
        assert_eq!(parse(b"EXTEND_TIMEOUT_USEC=1500000"), [Said::Extend(Duration::from_millis(1500))]);
        assert_eq!(parse(b"WATCHDOG_USEC=2000000"), [Said::Interval(Some(Duration::from_secs(2)))]);
        assert_eq!(parse(b"WATCHDOG_USEC=0"), [Said::Interval(None)]);
    }

    #[test]
    fn an_interval_that_would_be_a_busy_loop_is_lengthened() {
        assert_eq!(parse(b"WATCHDOG_USEC=1"), [Said::Interval(Some(Duration::from_millis(100)))]);
    }

    #[test]
    fn what_is_unknown_or_malformed_says_nothing() {
        let noise = b"READY=yes\nREADY\nFDSTORE=1\nFDNAME=x\nERRNO=2\nBARRIER=1\nMAINPID=0\nMAINPID=1\nMAINPID=-5\nWATCHDOG=2\n=\n\n\xff\xfe=1";
        assert_eq!(parse(noise), []);
    }

    #[test]
    fn a_status_cannot_move_the_cursor_and_is_bounded() {
        let [Said::Status(shown)] = &parse(b"STATUS=\x1b[2J\x07ok\t")[..] else { panic!() };
        assert_eq!(shown, "\\u{1b}[2J\\u{7}ok");
        let [Said::Status(shown)] = &parse(format!("STATUS={}", "é".repeat(5000)).as_bytes())[..] else { panic!() };
        assert_eq!(shown.chars().count(), STATUS_CHARACTERS);
    }

    proptest! {
        #[test]
        fn no_datagram_upsets_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            for said in parse(&bytes) {
                if let Said::Status(text) = said {
                    prop_assert!(!text.chars().any(char::is_control));
                }
            }
        }
    }
}
