//! Where a verb prints to: buffered, with colour where that is wanted.

use std::io::{self, IsTerminal, LineWriter, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, Color, ContentArrangement, ContentLineStyle, Table};

/// stdout, and whether it takes colour.
pub struct Output {
    writer: Box<dyn Write>,
    /// Whether a person looks at it.
    pub terminal: bool,
    /// Whether colour is wanted.
    pub colour: bool,
}

impl Output {
    /// The output of this process.
    pub fn stdout() -> Output {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        // stdout locks and flushes at each line by itself; a buffer of our own saves a system call a line.
        let writer: Box<dyn Write> =
            if terminal { Box::new(LineWriter::new(io::stdout())) } else { Box::new(io::BufWriter::new(io::stdout())) };
        Output { writer, terminal, colour: terminal && !plain }
    }

    /// An output into memory or a pipe, without colour.
    #[cfg(test)]
    pub fn plain(writer: Box<dyn Write>) -> Output {
        Output { writer, terminal: false, colour: false }
    }

    /// An empty table.
    pub fn table(&self) -> Table {
        let lines = ContentLineStyle::new('│', '│', '│');
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.header_lines(lines).content_lines(lines));
        // Without a terminal a table is as wide as what is in it, whoever asks.
        let arrangement = if self.terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        table
    }

    /// A cell of a table, coloured where that is wanted.
    pub fn cell(&self, text: impl ToString, colour: Color) -> Cell {
        if self.colour { Cell::new(text).fg(colour) } else { Cell::new(text) }
    }

    /// Prints a value as JSON, and a line break.
    pub fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        if self.terminal {
            serde_json::to_writer_pretty(&mut self.writer, value)?;
        } else {
            serde_json::to_writer(&mut self.writer, value)?;
        }
        writeln!(self.writer)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A duration as pm2 shows it: the largest unit alone.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}D", seconds / 86_400),
    }
}

/// Bytes as pm2 shows them.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", bytes as f64 / unit as f64),
        None => format!("{bytes}b"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_look_like_pm2s() {
        for (ms, shown) in [(0, "0s"), (59_999, "59s"), (60_000, "1m"), (7_200_000, "2h"), (200_000_000, "2D")] {
            assert_eq!(duration(ms), shown);
        }
        for (size, shown) in [(0, "0b"), (1 << 10, "1.0kb"), (57_252_249, "54.6mb"), (3 << 29, "1.5gb")] {
            assert_eq!(bytes(size), shown);
        }
    }
}
