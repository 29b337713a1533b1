//! Promises, and which of them were broken.

/// Collects broken promises, as sentences.
#[derive(Debug, Default)]
pub struct Promises {
    broken: Vec<String>,
}

impl Promises {
    /// Something that must be so.
    pub fn holds(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(otherwise());
        }
    }

    /// A figure that must be 0.
    pub fn is_zero(&mut self, metric: &str, value: u64) {
        self.holds(value == 0, || format!("{metric} is {value} and should be 0"));
    }

    /// What was broken.
    pub fn broken(self) -> Vec<String> {
        self.broken
    }
}
