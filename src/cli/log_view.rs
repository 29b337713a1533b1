//! What a line of a log looks like on the screen: pm2's shapes.
//!
//! NUL bytes are left out but where bytes are shown as they are; whatever else an app writes to a terminal it may.

use std::io::{self, Write};

use super::arguments::LogsOptions;
use super::list;
use super::logs::Source;
use super::output::Output;
use crate::config::spec::LogFormat;
use crate::logs::{Kind, Line, PLAIN, Stamper, Style};

/// How lines are shown.
#[derive(Debug, Clone)]
pub enum View {
    /// As they are.
    Raw,
    /// `ID|NAME | LINE`, after a stamp if there is a pattern.
    Plain(Option<String>),
    /// One object a line.
    Json(Option<String>),
    /// `timestamp=... app=... id=N type=out message=...`.
    Pairs(Option<String>),
}

impl View {
    /// The view that is asked for.
    pub fn of(options: &LogsOptions) -> View {
        let stamp = options.timestamp.clone();
        match options {
            LogsOptions { json: true, .. } => View::Json(stamp),
            LogsOptions { format: true, .. } => View::Pairs(stamp),
            LogsOptions { raw: true, .. } => View::Raw,
            _ => View::Plain(stamp),
        }
    }

    /// Whether it says before a log which one it is.
    pub fn has_headers(&self) -> bool {
        matches!(self, View::Plain(_))
    }

    /// Whether it shows when a line was written.
    pub fn is_timed(&self) -> bool {
        !matches!(self, View::Raw | View::Plain(None))
    }
}

/// Prints the lines of one log.
pub struct Printer {
    shape: Shape,
    name: String,
    id: String,
    error: bool,
}

enum Shape {
    Raw,
    Plain { width: usize, stamper: Option<Stamper> },
    Json(Style),
    Pairs(Stamper),
}

impl Printer {
    /// Prints lines of this log; names are padded to `width`.
    pub fn new(view: &View, source: &Source, width: usize) -> Printer {
        let kind = if source.error { Kind::Err } else { Kind::Out };
        let shape = match view {
            View::Raw => Shape::Raw,
            View::Plain(stamp) => Shape::Plain { width, stamper: stamp.as_deref().map(Stamper::new) },
            View::Json(stamp) => {
                let format = LogFormat::Json(stamp.clone());
                Shape::Json(Style::new(&format, &source.app, source.id.unwrap_or(0), kind))
            }
            View::Pairs(stamp) => Shape::Pairs(Stamper::new(stamp.as_deref().unwrap_or(PLAIN))),
        };
        let id = source.id.map(|id| id.to_string()).unwrap_or_default();
        Printer { shape, name: list::printable(&source.app), id, error: source.error }
    }

    /// Prints a line, or a piece of a very long one.
    pub fn line(&mut self, line: &Line, out: &mut Output) -> io::Result<()> {
        self.print(line, line.ended, out)
    }

    /// Prints the last line of a log, which has no newline.
    pub fn last(&mut self, line: &Line, out: &mut Output) -> io::Result<()> {
        self.print(line, true, out)
    }

    fn print(&mut self, line: &Line, ends: bool, out: &mut Output) -> io::Result<()> {
        let Printer { name, id, error, .. } = self;
        match &mut self.shape {
            Shape::Raw => {
                out.write_all(&line.bytes)?;
                return if ends { out.write_all(b"\n") } else { Ok(()) };
            }
            Shape::Plain { width, stamper } => {
                if let (Some(stamper), Some(time)) = (stamper, line.time) {
                    write!(out, "{} ", stamper.stamp(time))?;
                }
                let (begin, end) = match (out.colour, *error) {
                    (false, _) => ("", ""),
                    (true, false) => ("\x1b[32m", "\x1b[0m"),
                    (true, true) => ("\x1b[31m", "\x1b[0m"),
                };
                write!(out, "{begin}{id}|{name:width$} |{end} ", width = *width)?;
            }
            Shape::Json(style) => {
                let mut text = Vec::new();
                style.line(&line.bytes, line.time.unwrap_or(0), ends, &mut text);
                return out.write_all(&text);
            }
            Shape::Pairs(stamper) => {
                let kind = if *error { "error" } else { "out" };
                let stamp = line.time.map(|time| stamper.stamp(time).to_owned()).unwrap_or_default();
                write!(out, "timestamp={stamp} app={name} id={id} type={kind} message=")?;
            }
        }
        for part in line.bytes.split(|byte| *byte == 0) {
            out.write_all(part)?;
        }
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn shown(view: &View, bytes: &[u8]) -> String {
        let source = Source { id: Some(3), app: "web".into(), path: "/l/web-out-3.log".into(), error: false };
        let (mut out, text) = testing::output();
        let line = Line { file: 0, bytes: bytes.to_vec(), ended: true, time: Some(1_772_699_829_042) };
        Printer::new(view, &source, 6).line(&line, &mut out).unwrap();
        text.take()
    }

    #[test]
    fn lines_look_like_pm2s_or_are_as_they_were() {
        assert_eq!(shown(&View::Plain(None), b"hello"), "3|web    | hello\n");
        assert_eq!(shown(&View::Plain(Some("SSS".into())), b"hello"), "042 3|web    | hello\n");
        assert_eq!(shown(&View::Raw, b"hel\0lo"), "hel\0lo\n");
        assert_eq!(shown(&View::Plain(None), b"hel\0lo"), "3|web    | hello\n");
        let pairs = shown(&View::Pairs(Some("SSS".into())), b"hello");
        assert_eq!(pairs, "timestamp=042 app=web id=3 type=out message=hello\n");
    }

    #[test]
    fn as_json_a_line_has_pm2s_keys() {
        let value: serde_json::Value = serde_json::from_str(&shown(&View::Json(None), b"hello")).unwrap();
        let expected = serde_json::json!({
            "message": "hello\n", "timestamp": "2026-03-05T08:37:09.042Z", "type": "out", "process_id": 3,
            "app_name": "web",
        });
        assert_eq!(value, expected);
    }
}
