//! JSON as Node's `util.inspect` shows it: what programs expect that read pm2's `prettylist` with `grep` and `sed`.
//!
//! One key a line, strings in single quotes, keys without where they are names, what is small on one line, more than six
//! elements of a list in columns. Nothing is cut: Node leaves out what comes after a hundred elements and ten thousand
//! characters.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The width up to which things stand on one line.
const BREAK: usize = 80;
/// Levels that are put on one line if there is room.
const COMPACT: usize = 3;
/// Columns at most.
const COLUMNS: f64 = 15.0;
/// Shorter strings are never parted at their line breaks.
const SHORT: usize = 16;

/// The text of a value, its keys in the order of `rank`.
pub fn inspect<R: Ord>(value: &Value, rank: impl Fn(&str) -> R) -> String {
    Inspector { indent: 0, deepest: 0, rank }.value(value, 0)
}

struct Inspector<F> {
    indent: usize,
    /// The level of what was shown last.
    deepest: usize,
    rank: F,
}

impl<R: Ord, F: Fn(&str) -> R> Inspector<F> {
    fn value(&mut self, value: &Value, level: usize) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(yes) => yes.to_string(),
            // JavaScript has one kind of number.
            Value::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float:.0}"),
                _ => number.to_string(),
            },
            Value::String(text) => self.string(text),
            Value::Array(list) if list.is_empty() => "[]".to_owned(),
            Value::Object(map) if map.is_empty() => "{}".to_owned(),
            Value::Array(list) => self.list(list, level),
            Value::Object(map) => self.map(map, level),
        }
    }

    fn list(&mut self, list: &[Value], level: usize) -> String {
        self.deepest = level;
        let parts = self.within(|this| list.iter().map(|item| this.value(item, level + 1)).collect::<Vec<_>>());
        let count = parts.len();
        let are_numbers = list.iter().all(Value::is_number);
        let parts = if count > 6 { columns(parts, self.indent, are_numbers) } else { parts };
        // What was put into columns has its lines already.
        let whole = parts.len() == count;
        self.join(&parts, whole, ["[", "]"], level)
    }

    fn map(&mut self, map: &Map<String, Value>, level: usize) -> String {
        self.deepest = level;
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_by_key(|key| (self.rank)(key));
        let pair = |this: &mut Self, key: &String| format!("{}: {}", name(key), this.value(&map[key], level + 1));
        let parts = self.within(|this| keys.into_iter().map(|key| pair(this, key)).collect::<Vec<_>>());
        self.join(&parts, true, ["{", "}"], level)
    }

    fn within<T>(&mut self, show: impl FnOnce(&mut Self) -> T) -> T {
        self.indent += 2;
        let shown = show(self);
        self.indent -= 2;
        shown
    }

    /// Everything on one line, or each on its own.
    fn join(&self, parts: &[String], whole: bool, [open, close]: [&str; 2], level: usize) -> String {
        if whole && self.deepest - level < COMPACT {
            let length: usize = parts.iter().map(|part| width(part)).sum();
            let start = parts.len() + self.indent + open.len() + 10;
            let fits = length + 2 * parts.len() + start - parts.len() <= BREAK;
            if fits && !parts.iter().any(|part| part.contains('\n')) {
                return format!("{open} {} {close}", parts.join(", "));
            }
        }
        let line = format!("\n{}", " ".repeat(self.indent));
        format!("{open}{line}  {}{line}{close}", parts.join(&format!(",{line}  ")))
    }

    /// A string; a long one is parted behind its line breaks.
    fn string(&self, text: &str) -> String {
        let length = width(text);
        if length <= SHORT || length + self.indent + 4 <= BREAK {
            return quoted(text);
        }
        let lines: Vec<String> = text.split_inclusive('\n').map(quoted).collect();
        lines.join(&format!(" +\n{}", " ".repeat(self.indent + 2)))
    }
}

/// As JavaScript counts.
fn width(text: &str) -> usize {
    text.encode_utf16().count()
}

/// A key, in quotes unless it is a name.
fn name(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_name = key.chars().all(plain) && key.starts_with(|c: char| !c.is_ascii_digit());
    if is_name { key.to_owned() } else { quoted(key) }
}

/// In the kind of quotes that it has none of, single ones if it has all.
fn quoted(text: &str) -> String {
    let quote = match () {
        () if !text.contains('\'') => '\'',
        () if !text.contains('"') => '"',
        () if !text.contains('`') && !text.contains("${") => '`',
        () => '\'',
    };
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push(quote);
    for c in text.chars() {
        match c {
            '\'' if quote == '\'' => shown.push_str("\\'"),
            '\\' => shown.push_str("\\\\"),
            '\u{8}' => shown.push_str("\\b"),
            '\t' => shown.push_str("\\t"),
            '\n' => shown.push_str("\\n"),
            '\u{c}' => shown.push_str("\\f"),
            '\r' => shown.push_str("\\r"),
            // A write to memory cannot fail.
            c if c.is_control() => drop(write!(shown, "\\x{:02X}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

/// Parts in as many columns as look square, numbers to the right; as they are where columns are no gain.
fn columns(parts: Vec<String>, indent: usize, are_numbers: bool) -> Vec<String> {
    const GAP: usize = 2;
    let widths: Vec<usize> = parts.iter().map(|part| width(part)).collect();
    let total: usize = widths.iter().map(|width| width + GAP).sum();
    let longest = widths.iter().copied().max().unwrap_or(0);
    let column = longest + GAP;
    if column * 3 + indent >= BREAK || (total as f64 / column as f64 <= 5.0 && longest > 6) {
        return parts;
    }
    // A character is two and a half times as high as it is wide.
    let bias = (column as f64 - total as f64 / parts.len() as f64).sqrt();
    let biased = (column as f64 - 3.0 - bias).max(1.0);
    let square = ((2.5 * biased * parts.len() as f64).sqrt() / biased).round();
    let room = ((BREAK - indent) / column) as f64;
    let count = square.min(room).min((COMPACT * 4) as f64).min(COLUMNS) as usize;
    if count <= 1 {
        return parts;
    }
    let of_column = |at: usize| widths.iter().skip(at).step_by(count).copied().max().unwrap_or(0) + GAP;
    let wide: Vec<usize> = (0..count).map(of_column).collect();
    let line = |(at, line): (usize, &[String])| {
        let mut text = String::new();
        for (column, part) in line.iter().enumerate() {
            let is_last = column + 1 == line.len();
            let own = widths[at * count + column];
            let cell = if is_last { part.clone() } else { format!("{part}, ") };
            let padding = " ".repeat((wide[column] - GAP).saturating_sub(own));
            match (are_numbers, is_last) {
                (true, _) => text += &format!("{padding}{cell}"),
                (false, false) => text += &format!("{cell}{padding}"),
                (false, true) => text += &cell,
            }
        }
        text
    };
    parts.chunks(count).enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: Value) -> String {
        inspect(&value, str::to_owned)
    }

    #[test]
    fn what_is_small_stands_on_one_line() {
        assert_eq!(shown(json!([])), "[]");
        assert_eq!(shown(json!([0, 1])), "[ 0, 1 ]");
        assert_eq!(shown(json!({"cpu": 0.0, "memory": 1.5, "ok": true})), "{ cpu: 0, memory: 1.5, ok: true }");
        assert_eq!(shown(json!([{"a": {"b": {"c": {}}}}])), "[\n  { a: { b: { c: {} } } }\n]");
    }

    #[test]
    fn strings_have_the_quotes_that_they_do_not_hold() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("it's \"x\"", "`it's \"x\"`"),
            ("'\"`", "'\\'\"`'"),
            ("a\nb\\\u{1b}", "'a\\nb\\\\\\x1B'"),
        ] {
            assert_eq!(shown(json!(text)), expected);
        }
        assert_eq!(shown(json!({"a-b": 1, "1a": 2, "_c": 3})), "{ '1a': 2, _c: 3, 'a-b': 1 }");
    }

    #[test]
    fn what_is_large_has_a_line_for_each_key() {
        let long = "x".repeat(120);
        let expected = format!("{{\n  a: '{long}',\n  b: [ 'c' ]\n}}");
        assert_eq!(shown(json!({"a": long, "b": ["c"]})), expected);
        let lines = format!("{}\n{}", "y".repeat(100), "z".repeat(100));
        let expected = format!("{{\n  a: '{}\\n' +\n    '{}'\n}}", "y".repeat(100), "z".repeat(100));
        assert_eq!(shown(json!({"a": lines})), expected);
    }

    #[test]
    fn many_elements_stand_in_columns() {
        let expected = "[\n  0, 1, 2, 3,\n  4, 5, 6\n]";
        assert_eq!(shown(json!([0, 1, 2, 3, 4, 5, 6])), expected);
        let expected = "[\n  0, 1, 200, 300,\n  4, 5,   6\n]";
        assert_eq!(shown(json!([0, 1, 200, 300, 4, 5, 6])), expected);
        let words = json!(["--port", "80", "a", "b", "c", "d", "e"]);
        assert_eq!(shown(words), "[ '--port', '80', 'a', 'b', 'c', 'd', 'e' ]");
    }
}
