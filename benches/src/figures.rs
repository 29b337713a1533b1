//! One figure a line: `metric: value unit`; a ratio is `metric_vs_peer: value x`.

use std::fmt::Display;

/// Prints one figure. An empty unit is left out.
pub fn print(metric: &str, value: impl Display, unit: &str) {
    match unit {
        "" => println!("{metric}: {value}"),
        unit => println!("{metric}: {value} {unit}"),
    }
}

/// Prints how many times `ours` is of `theirs`.
pub fn print_ratio(metric: &str, peer: &str, ours: f64, theirs: f64) {
    println!("{metric}_vs_{peer}: {:.2} x", ours / theirs);
}
