//! The last samples of every instance and channel, for the page's sparklines.
//!
//! Filled once per sampling interval from a snapshot, read by the API. Samples are numbered, so that a page asks only
//! for those it has not seen.
//!
//! Invariants
//! - A series holds at most [`CAPACITY`] samples, and there are at most [`MAX_SERIES`] of a kind; what a snapshot no
//!   longer names is forgotten with it. A snapshot with more gets no history for the rest, and still shows its figures.
//! - All series end with the same, latest sample; a younger one is only shorter.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::snapshot::Snapshot;

/// Samples kept of each series: two minutes at one each second.
pub const CAPACITY: usize = 120;

/// Instances, and channels, that have a history: 4 MiB of samples at most.
const MAX_SERIES: usize = 4096;

/// Bounded memory of samples. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Samples>>);

#[derive(Debug, Default)]
struct Samples {
    /// Samples taken so far; the number of the latest.
    count: u64,
    at_ms: u64,
    /// By instance id.
    instances: BTreeMap<u32, VecDeque<InstanceSample>>,
    /// By herd, then channel.
    channels: BTreeMap<String, BTreeMap<String, VecDeque<f64>>>,
}

#[derive(Debug, Clone, Copy)]
struct InstanceSample {
    /// `None` where nothing ran: a gap, not a zero.
    usage: Option<(f32, u64)>,
}

/// Part of a history, as the API shows it. The last value of every list is the sample numbered `count`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extract {
    /// Number of the latest sample; ask for what came later with `?since=`.
    pub count: u64,
    /// Wall-clock time of the latest sample, in ms since 1970.
    pub at_ms: u64,
    /// Samples that a series has at most.
    pub capacity: usize,
    /// Whether this is all there is, rather than only what came after `since`.
    pub whole: bool,
    /// By instance id.
    pub instances: BTreeMap<u32, InstanceSeries>,
    /// Published per second, by herd, then channel.
    pub channels: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

/// What one instance used; `null` where it did not run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceSeries {
    pub cpu_percent: Vec<Option<f32>>,
    pub memory_bytes: Vec<Option<u64>>,
}

impl History {
    /// Takes the figures of `snapshot` as the sample of the moment `at_ms` (wall clock, ms since 1970).
    pub fn record(&self, at_ms: u64, snapshot: &Snapshot) {
        let mut samples = self.samples();
        samples.count += 1;
        samples.at_ms = at_ms;
        samples.record_instances(snapshot);
        samples.record_channels(snapshot);
    }

    /// The samples after number `since`, or all where that is `None` or no longer fits what is kept.
    pub fn extract(&self, since: Option<u64>) -> Extract {
        let samples = self.samples();
        let wanted = since
            .and_then(|since| samples.count.checked_sub(since))
            .and_then(|new| usize::try_from(new).ok())
            .filter(|new| *new < CAPACITY);
        let take = wanted.unwrap_or(CAPACITY);
        Extract {
            count: samples.count,
            at_ms: samples.at_ms,
            capacity: CAPACITY,
            whole: wanted.is_none(),
            instances: samples.instances.iter().map(|(id, series)| (*id, instance_series(series, take))).collect(),
            channels: samples.channels.iter().map(|(herd, of)| (herd.clone(), channel_series(of, take))).collect(),
        }
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        // Whoever panicked left at worst a series that is one sample short; that is no reason to stop showing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Samples {
    fn record_instances(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.instances);
        for instance in snapshot.instances.iter().take(MAX_SERIES) {
            let mut series = before.remove(&instance.id).unwrap_or_default();
            let usage = instance.pid.map(|_| (instance.cpu_percent, instance.memory_bytes));
            push(&mut series, InstanceSample { usage });
            self.instances.insert(instance.id, series);
        }
    }

    fn record_channels(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.channels);
        let all = snapshot.herds.iter().flat_map(|herd| herd.channels.iter().map(move |channel| (herd, channel)));
        for (herd, channel) in all.take(MAX_SERIES) {
            let known = before.get_mut(&herd.name).and_then(|of| of.remove(&channel.name));
            let mut series = known.unwrap_or_default();
            push(&mut series, channel.rate);
            self.channels.entry(herd.name.clone()).or_default().insert(channel.name.clone(), series);
        }
    }
}

fn push<T>(series: &mut VecDeque<T>, sample: T) {
    if series.len() == CAPACITY {
        series.pop_front();
    }
    series.push_back(sample);
}

fn latest<T: Copy>(series: &VecDeque<T>, take: usize) -> impl Iterator<Item = T> + '_ {
    series.iter().skip(series.len().saturating_sub(take)).copied()
}

fn instance_series(series: &VecDeque<InstanceSample>, take: usize) -> InstanceSeries {
    let (cpu_percent, memory_bytes) = latest(series, take)
        .map(|sample| (sample.usage.map(|(cpu, _)| tenth(cpu)), sample.usage.map(|(_, memory)| memory)))
        .unzip();
    InstanceSeries { cpu_percent, memory_bytes }
}

fn channel_series(of: &BTreeMap<String, VecDeque<f64>>, take: usize) -> BTreeMap<String, Vec<f64>> {
    let rounded = |series: &VecDeque<f64>| latest(series, take).map(|rate| (rate * 10.0).round() / 10.0).collect();
    of.iter().map(|(name, series)| (name.clone(), rounded(series))).collect()
}

/// A tenth of a percent is more than a sparkline shows, and much shorter to write.
fn tenth(percent: f32) -> f32 {
    (percent * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixture;

    fn recorded(samples: u64) -> History {
        let history = History::default();
        let mut snapshot = fixture::busy();
        for at in 0..samples {
            snapshot.instances[0].cpu_percent = at as f32;
            history.record(at * 1000, &snapshot);
        }
        history
    }

    #[test]
    fn a_series_keeps_the_latest_samples_and_no_more_than_its_capacity() {
        let extract = recorded(300).extract(None);
        let series = &extract.instances[&0].cpu_percent;
        assert_eq!((series.len(), series[0], series[119]), (CAPACITY, Some(180.0), Some(299.0)));
        assert_eq!((extract.count, extract.at_ms, extract.whole), (300, 299_000, true));
    }

    #[test]
    fn whoever_has_seen_a_sample_gets_only_later_ones() {
        let extract = recorded(300).extract(Some(297));
        assert_eq!(extract.instances[&0].cpu_percent, [Some(297.0), Some(298.0), Some(299.0)]);
        assert!(!extract.whole);
        assert!(recorded(300).extract(Some(300)).instances[&0].cpu_percent.is_empty());
    }

    #[test]
    fn a_number_that_is_too_old_or_from_the_future_gets_everything() {
        for since in [0, 180, 301, u64::MAX] {
            let extract = recorded(300).extract(Some(since));
            assert!(extract.whole, "{since}");
            assert_eq!(extract.instances[&0].cpu_percent.len(), CAPACITY);
        }
    }

    #[test]
    fn what_does_not_run_is_a_gap_and_not_a_zero() {
        let history = History::default();
        let mut snapshot = fixture::busy();
        history.record(0, &snapshot);
        snapshot.instances[0].pid = None;
        history.record(1, &snapshot);
        assert_eq!(history.extract(None).instances[&0].memory_bytes[1], None);
    }

    #[test]
    fn what_a_snapshot_no_longer_names_is_forgotten() {
        let history = recorded(1);
        let mut snapshot = fixture::busy();
        snapshot.instances.remove(0);
        snapshot.herds.clear();
        history.record(2000, &snapshot);
        let extract = history.extract(None);
        assert!(!extract.instances.contains_key(&0));
        assert!(extract.channels.is_empty());
    }
}
