//! From samples to the lines that are printed.

use std::collections::HashMap;

/// Samples by metric, one a round.
#[derive(Default)]
pub struct Figures {
    order: Vec<(String, &'static str)>,
    samples: HashMap<String, Vec<f64>>,
}

impl Figures {
    /// Adds a round's sample. Metrics are printed in the order of their first one.
    pub fn add(&mut self, metric: &str, unit: &'static str, value: f64) {
        if !self.samples.contains_key(metric) {
            self.order.push((metric.to_owned(), unit));
        }
        self.samples.entry(metric.to_owned()).or_default().push(value);
    }

    /// The median of `of` divided by `by`, round by round; `None` when one of them was not measured in every round.
    pub fn ratio(&self, of: &str, by: &str) -> Option<f64> {
        let (of, by) = (self.samples.get(of)?, self.samples.get(by)?);
        (of.len() == by.len()).then(|| median(of.iter().zip(by).map(|(of, by)| of / by).collect()))
    }

    /// The names of all metrics, in order.
    pub fn metrics(&self) -> impl Iterator<Item = String> {
        self.order.iter().map(|(metric, _)| metric.clone())
    }

    /// Prints all metrics.
    pub fn print(&self) {
        for (metric, unit) in &self.order {
            println!("{metric}: {} {unit}", rounded(median(self.samples[metric].clone())));
        }
    }

    /// Prints how `of` compares with `by` under the name `metric`, if both were measured.
    pub fn print_ratio(&self, metric: &str, of: &str, by: &str) {
        if let Some(ratio) = self.ratio(of, by) {
            println!("{metric}: {} x", rounded(ratio));
        }
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Three significant digits, without an exponent: more would pretend.
fn rounded(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    if digits >= 0 {
        return format!("{value:.*}", digits as usize);
    }
    let step = 10f64.powi(-digits);
    format!("{:.0}", (value / step).round() * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_its_rounds() {
        let mut figures = Figures::default();
        // A machine that is three times slower in the second round, and an outlier in the third.
        for (ours, peer) in [(20.0, 2.0), (60.0, 6.0), (500.0, 5.0)] {
            figures.add("ours", "us", ours);
            figures.add("peer", "us", peer);
        }
        assert_eq!(figures.ratio("ours", "peer"), Some(10.0));
        assert_eq!(figures.ratio("ours", "missing"), None);
    }

    #[test]
    fn figures_are_printed_with_three_significant_digits() {
        let shown: Vec<_> = [12_345_678.0, 123.4, 12.34, 1.234, 0.01234, 0.0].map(rounded).to_vec();
        assert_eq!(shown, ["12300000", "123", "12.3", "1.23", "0.0123", "0"]);
    }

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
