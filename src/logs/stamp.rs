//! Stamps by day.js patterns, as pm2 writes them before lines.
//!
//! Owns the pattern's meaning: `YYYY YY MMMM MMM MM M DD D dddd ddd dd d HH H hh h A a mm m ss s SSS ZZ Z`, `[as it is]`;
//! anything else stands for itself. Times are local. The last stamp is kept, since most lines come in the same
//! millisecond as others.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// pm2's `time: true`.
pub const PLAIN: &str = "YYYY-MM-DDTHH:mm:ss";

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Every token, longer ones before their beginnings.
const TOKENS: [&str; 25] = [
    "YYYY", "YY", "MMMM", "MMM", "MM", "M", "DD", "D", "dddd", "ddd", "dd", "d", "HH", "H", "hh", "h", "mm", "m", "ss",
    "s", "SSS", "ZZ", "Z", "A", "a",
];

/// A pattern that was read once.
#[derive(Debug, Clone)]
pub struct Stamper {
    parts: Vec<Part>,
    zone: TimeZone,
    /// Milliseconds that look the same.
    step: u64,
    last: Option<(u64, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Token(&'static str),
    /// Universal time with milliseconds, as JavaScript's `toISOString`.
    Iso,
}

impl Stamper {
    /// Stamps by a pattern, in the system's time zone.
    pub fn new(pattern: &str) -> Stamper {
        Stamper::with_zone(pattern, TimeZone::system())
    }

    /// `2026-11-24T08:15:00.123Z`.
    pub fn iso() -> Stamper {
        Stamper { parts: vec![Part::Iso], zone: TimeZone::UTC, step: 1, last: None }
    }

    fn with_zone(pattern: &str, zone: TimeZone) -> Stamper {
        let parts = parse(pattern);
        let step = if parts.contains(&Part::Token("SSS")) { 1 } else { 1000 };
        Stamper { parts, zone, step, last: None }
    }

    /// The stamp of a time in ms since 1970.
    pub fn stamp(&mut self, ms: u64) -> &str {
        let key = ms / self.step;
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            let text = self.render(ms);
            self.last = Some((key, text));
        }
        self.last.as_ref().map(|(_, text)| text.as_str()).expect("it was just made")
    }

    fn render(&self, ms: u64) -> String {
        let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
        let local = time.to_zoned(self.zone.clone());
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(as_it_is) => text.push_str(as_it_is),
                Part::Token(token) => text.push_str(&value(token, &local)),
                Part::Iso => text.push_str(&local.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()),
            }
        }
        text
    }
}

fn parse(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    for piece in Pieces(pattern) {
        match piece {
            Piece::AsItIs(inner) => text.push_str(inner),
            Piece::Other(other) => text.push(other),
            Piece::Token(token) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Token(token));
            }
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// What is probably not meant in a pattern, as the end of a sentence that begins with it.
pub fn oddity(pattern: &str) -> Option<String> {
    const SUCH_AS: &str = "what stands for a time is such as YYYY-MM-DD HH:mm:ss.SSS";
    let pieces = || Pieces(pattern);
    let mut after_percent = pieces().zip(pieces().skip(1)).filter(|(first, _)| *first == Piece::Other('%'));
    if after_percent.any(|(_, next)| matches!(next, Piece::Token(_) | Piece::Other('a'..='z' | 'A'..='Z'))) {
        return Some(format!("is written as for strftime: {SUCH_AS}"));
    }
    if !pieces().any(|piece| matches!(piece, Piece::Token(_))) {
        return Some(format!("has no time in it: {SUCH_AS}"));
    }
    let mut strange: Vec<char> = Vec::new();
    for piece in pieces() {
        // The letter between date and time in ISO 8601.
        if let Piece::Other(letter) = piece
            && letter.is_alphabetic()
            && letter != 'T'
            && !strange.contains(&letter)
        {
            strange.push(letter);
        }
    }
    let letters: Vec<String> = strange.iter().map(|letter| format!("`{letter}`")).collect();
    (!letters.is_empty()).then(|| {
        format!("has {} in it, which mean nothing: {SUCH_AS}, and words belong in brackets, [so]", letters.join(", "))
    })
}

/// What a pattern consists of, from its start.
struct Pieces<'p>(&'p str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'p> {
    Token(&'static str),
    /// In brackets.
    AsItIs(&'p str),
    Other(char),
}

impl<'p> Iterator for Pieces<'p> {
    type Item = Piece<'p>;

    fn next(&mut self) -> Option<Piece<'p>> {
        let first = self.0.chars().next()?;
        let escaped = self.0.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        let (piece, rest) = if let Some((inner, after)) = escaped.filter(|(inner, _)| !inner.is_empty()) {
            (Piece::AsItIs(inner), after)
        } else if let Some(token) = TOKENS.iter().find(|token| self.0.starts_with(**token)) {
            (Piece::Token(token), &self.0[token.len()..])
        } else {
            (Piece::Other(first), &self.0[first.len_utf8()..])
        };
        self.0 = rest;
        Some(piece)
    }
}

fn value(token: &str, time: &Zoned) -> String {
    let month = MONTHS[usize::from(time.month().unsigned_abs().clamp(1, 12)) - 1];
    let weekday = usize::from(time.weekday().to_sunday_zero_offset().unsigned_abs());
    let (hour, twelve) = (time.hour(), (time.hour() + 11) % 12 + 1);
    match token {
        "YYYY" => format!("{:04}", time.year()),
        "YY" => format!("{:02}", time.year().rem_euclid(100)),
        "MMMM" => month.to_owned(),
        "MMM" => month[..3].to_owned(),
        "MM" => format!("{:02}", time.month()),
        "M" => time.month().to_string(),
        "DD" => format!("{:02}", time.day()),
        "D" => time.day().to_string(),
        "dddd" => DAYS[weekday].to_owned(),
        "ddd" => DAYS[weekday][..3].to_owned(),
        "dd" => DAYS[weekday][..2].to_owned(),
        "d" => weekday.to_string(),
        "HH" => format!("{hour:02}"),
        "H" => hour.to_string(),
        "hh" => format!("{twelve:02}"),
        "h" => twelve.to_string(),
        "mm" => format!("{:02}", time.minute()),
        "m" => time.minute().to_string(),
        "ss" => format!("{:02}", time.second()),
        "s" => time.second().to_string(),
        "SSS" => format!("{:03}", time.millisecond()),
        "Z" => offset(time, ":"),
        "ZZ" => offset(time, ""),
        "A" => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        "a" => if hour < 12 { "am" } else { "pm" }.to_owned(),
        _ => String::new(),
    }
}

fn offset(time: &Zoned, between: &str) -> String {
    let seconds = time.offset().seconds();
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}{between}{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

    /// 2026-03-05 14:07:09.042 at +05:30, a Thursday.
    const MS: u64 = 1_772_699_829_042;

    fn stamp(pattern: &str) -> String {
        let zone = TimeZone::fixed(Offset::from_seconds(19_800).unwrap());
        Stamper::with_zone(pattern, zone).stamp(MS).to_owned()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_day_js() {
        assert_eq!(stamp(PLAIN), "2026-03-05T14:07:09");
        assert_eq!(stamp("YYYY-MM-DD HH:mm:ss.SSS Z"), "2026-03-05 14:07:09.042 +05:30");
        assert_eq!(stamp("YY M D d H h m s ZZ"), "26 3 5 4 14 2 7 9 +0530");
        assert_eq!(stamp("dddd, D MMMM YYYY hh:mm A"), "Thursday, 5 March 2026 02:07 PM");
        assert_eq!(stamp("ddd dd MMM a"), "Thu Th Mar pm");
    }

    #[test]
    fn what_is_no_token_and_what_is_in_brackets_stands_for_itself() {
        assert_eq!(stamp("[YYYY] T|é| []YYYY"), "YYYY T|é| []2026");
        assert_eq!(stamp(""), "");
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_odd() {
        for fine in [PLAIN, "YYYY-MM-DD HH:mm:ss.SSS Z", "[at] h:mm A", "DD/MM/YY", "YYYYMMDDTHHmmssZZ"] {
            assert_eq!(oddity(fine), None, "{fine}");
        }
        let odd = |pattern: &str, why: &str| assert!(oddity(pattern).unwrap().contains(why), "{pattern}");
        odd("%Y-%m-%d", "strftime");
        odd("[now]", "no time");
        odd("", "no time");
        odd("nonsense", "`n`, `o`, `e`");
    }

    #[test]
    fn a_stamp_is_made_anew_when_the_time_has_changed_enough_to_show() {
        let mut stamper = Stamper::with_zone("ss", TimeZone::UTC);
        assert_eq!([0, 999, 1000, 59_999].map(|ms| stamper.stamp(ms).to_owned()), ["00", "00", "01", "59"]);
        assert_eq!(Stamper::iso().stamp(MS), "2026-03-05T08:37:09.042Z");
        let mut millis = Stamper::with_zone("SSS", TimeZone::UTC);
        assert_eq!([1, 2, 1002].map(|ms| millis.stamp(ms).to_owned()), ["001", "002", "002"]);
    }
}
