//! What instances have logged, line by line, held against what they say that they wrote.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use flood::account::{Account, Figure};
use measure::interrupt;
use serde_json::Value;

use crate::supervisor::index;

/// A line is in its file this long after it was written, at the latest.
const LIMIT: Duration = Duration::from_secs(10);

/// What became of all lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lines {
    pub written: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Lines that are not whole, or behind one that was written later.
    pub torn: u64,
}

/// Compares, as soon as nothing is missing any more or the wait for it is over.
pub fn settled(instances: &[Value], accounts: &[Account]) -> anyhow::Result<Lines> {
    let mut lines = Lines::default();
    interrupt::wait_for(LIMIT, || {
        lines = of_all(instances, accounts)?;
        Ok(lines.lost == 0)
    })?;
    Ok(lines)
}

fn of_all(instances: &[Value], accounts: &[Account]) -> anyhow::Result<Lines> {
    let mut sum = Lines::default();
    for instance in instances {
        let path = instance["pm2_env"]["pm_out_log_path"].as_str().unwrap_or_default();
        let text = std::fs::read(Path::new(path))?;
        let lines = of_one(&String::from_utf8_lossy(&text), accounts[index(instance)].figure(Figure::Lines));
        sum.written += lines.written;
        sum.lost += lines.lost;
        sum.doubled += lines.doubled;
        sum.torn += lines.torn;
    }
    Ok(sum)
}

fn of_one(text: &str, written: u64) -> Lines {
    let (mut seen, mut last) = (HashSet::new(), 0);
    let mut lines = Lines { written, ..Lines::default() };
    for line in text.lines() {
        let Some(number) = number(line).filter(|number| (1..=written).contains(number)) else {
            lines.torn += 1;
            continue;
        };
        if !seen.insert(number) {
            lines.doubled += 1;
        } else if number < last {
            lines.torn += 1;
        }
        last = last.max(number);
    }
    lines.lost = written - seen.len() as u64;
    lines
}

/// The number of a line that is whole.
fn number(line: &str) -> Option<u64> {
    let (number, rest) = line.strip_prefix("line ")?.split_once(" of incarnation ")?;
    rest.strip_suffix(" ends here")?.parse::<u32>().ok()?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(numbers: &[u64]) -> String {
        numbers.iter().map(|number| format!("line {number} of incarnation 2 ends here\n")).collect()
    }

    #[test]
    fn lines_that_are_all_there_once_are_no_fault() {
        assert_eq!(of_one(&text(&[1, 2, 3]), 3), Lines { written: 3, ..Lines::default() });
    }

    #[test]
    fn lost_doubled_and_misplaced_lines_are_each_counted() {
        let expected = Lines { written: 5, lost: 1, doubled: 1, torn: 1 };
        assert_eq!(of_one(&text(&[1, 3, 2, 3, 5]), 5), expected);
    }

    #[test]
    fn a_torn_line_is_torn_and_lost() {
        let torn = text(&[1]) + "line 2 of incline 3 of incarnation 2 ends here\n";
        assert_eq!(of_one(&torn, 3), Lines { written: 3, lost: 2, doubled: 0, torn: 1 });
    }
}
