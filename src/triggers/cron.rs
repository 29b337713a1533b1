//! `cron_restart`: when it is due next, and what a clock that jumped means.
//!
//! Pure: handed the wall clock in ms since 1970. The dialect is pm2's (croner's): five fields, or six with seconds first.
//! Zones follow their rules of summer time: a time that does not exist on a day is taken at the change, one that exists
//! twice fires once.
//!
//! Catching up: a time that is found to have passed less than [`GRACE`] ago (a busy or restarting supervisor) still counts;
//! an older one (a suspend, a stopped machine, a clock set forward) is skipped and said so.

use std::time::Duration;

use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::spec;

/// How late a time may be acted on.
pub const GRACE: Duration = Duration::from_secs(60);

/// Why a schedule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error("`{pattern}` is no cron pattern")]
    Pattern { pattern: String, source: croner::errors::CronError },
    #[error("there is no time zone `{zone}`")]
    Zone { zone: String, source: jiff::Error },
}

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: croner::Cron,
    zone: TimeZone,
}

impl Schedule {
    /// # Errors
    /// The pattern or the zone means nothing.
    pub fn new(cron: &spec::Cron) -> Result<Schedule, ScheduleError> {
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let pattern = parser
            .parse(&cron.pattern)
            .map_err(|source| ScheduleError::Pattern { pattern: cron.pattern.clone(), source })?;
        let zone = match &cron.zone {
            Some(zone) => TimeZone::get(zone).map_err(|source| ScheduleError::Zone { zone: zone.clone(), source })?,
            None => TimeZone::system(),
        };
        Ok(Schedule { cron: pattern, zone })
    }

    /// The first time after `wall_ms`, in ms since 1970; `None` when there is none any more.
    pub fn next_after(&self, wall_ms: u64) -> Option<u64> {
        const HOUR_MS: u64 = 3_600_000;
        // Where the clocks go back, a time that exists twice is taken as the first, which may have passed: then what comes
        // after the hours that are there twice is next. A zone may also leave out a whole day.
        (0..=26).find_map(|hours| {
            let from = i64::try_from(wall_ms.checked_add(hours * HOUR_MS)?).ok()?;
            let after = Timestamp::from_millisecond(from).ok()?.to_zoned(self.zone.clone());
            let next = self.cron.find_next_occurrence(&after, false).ok()?;
            let next = u64::try_from(next.timestamp().as_millisecond()).ok()?;
            (next > wall_ms).then_some(next)
        })
    }
}

/// What has become of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    NotYet,
    Due,
    /// It was missed by so much, and is left out.
    Missed(Duration),
}

/// A schedule in the course of time.
#[derive(Debug)]
pub struct Course {
    schedule: Schedule,
    next_ms: Option<u64>,
}

impl Course {
    /// Begins at `now_ms`. `since_ms` is when it was last acted on or could have been: what was due since, and no longer
    /// ago than [`GRACE`], is due now.
    pub fn new(schedule: Schedule, since_ms: Option<u64>, now_ms: u64) -> Course {
        let recent = now_ms.saturating_sub(GRACE.as_millis() as u64);
        let from = since_ms.map_or(now_ms, |since| since.clamp(recent, now_ms));
        let next_ms = schedule.next_after(from);
        Course { schedule, next_ms }
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// What is to be done at this moment; goes on to the next time.
    pub fn look(&mut self, now_ms: u64) -> Verdict {
        let Some(due) = self.next_ms.filter(|due| *due <= now_ms) else { return Verdict::NotYet };
        self.next_ms = self.schedule.next_after(now_ms);
        let late = Duration::from_millis(now_ms - due);
        if late < GRACE { Verdict::Due } else { Verdict::Missed(late) }
    }

    /// The clock was set: what lay ahead may not be the next time any more. A time that it jumped over is left to
    /// [`Course::look`].
    pub fn clock_was_set(&mut self, now_ms: u64) {
        if self.next_ms.is_none_or(|next| next > now_ms) {
            self.next_ms = self.schedule.next_after(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::new(&spec::Cron { pattern: pattern.into(), zone: Some(zone.into()) }).unwrap()
    }

    fn ms(text: &str) -> u64 {
        text.parse::<jiff::Zoned>().unwrap().timestamp().as_millisecond() as u64
    }

    #[test]
    fn a_pattern_is_read_in_its_zone() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        assert_eq!(schedule("0 3 * * *", "UTC").next_after(at), Some(ms("2026-01-16T03:00:00Z[UTC]")));
        assert_eq!(schedule("0 3 * * *", "Asia/Tokyo").next_after(at), Some(ms("2026-01-15T18:00:00Z[UTC]")));
    }

    #[test]
    fn six_fields_begin_with_seconds() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        assert_eq!(schedule("*/10 * * * * *", "UTC").next_after(at), Some(at + 10_000));
    }

    #[test]
    fn the_next_time_is_never_the_present_one() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        assert_eq!(schedule("0 * * * *", "UTC").next_after(at), Some(at + 3_600_000));
        assert_eq!(schedule("0 * * * *", "UTC").next_after(at - 1), Some(at));
    }

    #[test]
    fn a_time_that_summer_time_leaves_out_and_one_that_it_repeats_fire_once() {
        let zone = "Europe/Berlin";
        let nightly = schedule("30 2 * * *", zone);
        // On 29 March 2026 the clock goes from 2:00 to 3:00.
        let mut at = ms("2026-03-28T12:00:00+01:00[Europe/Berlin]");
        let mut fired = Vec::new();
        while fired.len() < 3 {
            at = nightly.next_after(at).unwrap();
            fired.push(at);
        }
        assert_eq!(fired[2] - fired[1], 24 * 3_600_000);
        assert!(fired[0] >= ms("2026-03-29T00:00:00+01:00[Europe/Berlin]"));
        // On 25 October it goes back from 3:00 to 2:00.
        let first = nightly.next_after(ms("2026-10-24T12:00:00+02:00[Europe/Berlin]")).unwrap();
        let second = nightly.next_after(first).unwrap();
        assert!(second - first >= 24 * 3_600_000, "{} ms apart", second - first);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cron =
            |pattern: &str, zone: Option<&str>| spec::Cron { pattern: pattern.into(), zone: zone.map(Into::into) };
        assert!(Schedule::new(&cron("61 * * * *", None)).unwrap_err().to_string().contains("61 * * * *"));
        assert!(Schedule::new(&cron("* * * * *", Some("Mars/Olympus"))).unwrap_err().to_string().contains("Mars"));
    }

    #[test]
    fn a_time_fires_once_when_it_comes() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        let mut course = Course::new(schedule("0 * * * *", "UTC"), None, at - 10_000);
        assert_eq!(course.look(at - 1), Verdict::NotYet);
        assert_eq!(course.look(at + 20), Verdict::Due);
        assert_eq!(course.look(at + 21), Verdict::NotYet);
        assert_eq!(course.next_ms(), Some(at + 3_600_000));
    }

    #[test]
    fn a_time_that_was_slept_through_is_left_out() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        let mut course = Course::new(schedule("0 * * * *", "UTC"), None, at - 10_000);
        assert_eq!(course.look(at + 5 * 3_600_000 + 1), Verdict::Missed(Duration::from_millis(5 * 3_600_000 + 1)));
        assert_eq!(course.next_ms(), Some(at + 6 * 3_600_000));
    }

    #[test]
    fn a_clock_that_is_set_back_brings_the_next_time_nearer_and_fires_nothing() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        let mut course = Course::new(schedule("0 * * * *", "UTC"), None, at + 1);
        course.clock_was_set(at - 7_200_000 - 5);
        assert_eq!(course.next_ms(), Some(at - 7_200_000));
        assert_eq!(course.look(at - 7_200_000 - 4), Verdict::NotYet);
    }

    #[test]
    fn a_time_that_passed_while_nobody_looked_is_made_good_once() {
        let at = ms("2026-01-15T12:00:00Z[UTC]");
        // Its instances were started before it, so it was not acted on.
        let mut course = Course::new(schedule("0 * * * *", "UTC"), Some(at - 500_000), at + 300);
        assert_eq!(course.look(at + 300), Verdict::Due);
        // They were started after it: it was.
        let mut course = Course::new(schedule("0 * * * *", "UTC"), Some(at + 100), at + 300);
        assert_eq!(course.look(at + 300), Verdict::NotYet);
        // Too long ago.
        let course = Course::new(schedule("0 * * * *", "UTC"), Some(at - 500_000), at + 120_000);
        assert_eq!(course.next_ms(), Some(at + 3_600_000));
    }

    #[test]
    fn a_day_that_a_zone_left_out_is_passed_over() {
        // Apia went from the evening of 29 December 2011 to the morning of the 31st.
        let next = schedule("0 0 * * *", "Pacific/Apia").next_after(1_325_152_800_000);
        assert_eq!(next, Some(1_325_325_600_000));
    }

    proptest! {
        #[test]
        fn time_always_goes_on(minute in 0u32..60, hour in 0u32..24, at in 0u64..4_000_000_000_000) {
            for zone in ["UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"] {
                let next = schedule(&format!("{minute} {hour} * * *"), zone).next_after(at).unwrap();
                prop_assert!(next > at && next - at <= 50 * 3_600_000, "{zone}: {at} to {next}");
            }
        }
    }
}
