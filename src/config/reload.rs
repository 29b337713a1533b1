//! `[app.reload]`: how a new release takes over.

use std::time::Duration;

use super::bounds::within;
use super::error::{At, ConfigError};
use super::section::Section;
use super::spec::ReloadSpec;

/// What somebody wrote.
#[derive(Debug, Default)]
pub struct ReloadFile {
    pub min_ready: Option<At<Duration>>,
    pub drain_timeout: Option<At<Duration>>,
    pub parallel: Option<At<u32>>,
    pub max_failures: Option<At<u32>>,
    pub rollback: Option<At<bool>>,
    pub probation: Option<At<Duration>>,
}

impl ReloadFile {
    /// Reads `[app.reload]`.
    pub(super) fn read(app: &mut Section<'_>) -> Result<ReloadFile, ConfigError> {
        let Some(mut section) = app.within("reload", "[app.reload]")? else { return Ok(ReloadFile::default()) };
        let reload = ReloadFile {
            min_ready: section.duration("min_ready")?,
            drain_timeout: section.duration("drain_timeout")?,
            parallel: section.number("parallel")?,
            max_failures: section.number("max_failures")?,
            rollback: section.boolean("rollback")?,
            probation: section.duration("probation")?,
        };
        section.finish()?;
        Ok(reload)
    }

    /// Applies the defaults and checks.
    pub(super) fn resolve(&self) -> Result<ReloadSpec, ConfigError> {
        within(&self.parallel, "reload.parallel", 1..=super::MAX_INSTANCES)?;
        let default = ReloadSpec::default();
        let time = |written: &Option<At<Duration>>, default| written.as_ref().map_or(default, |at| at.value);
        Ok(ReloadSpec {
            min_ready: time(&self.min_ready, default.min_ready),
            drain_timeout: time(&self.drain_timeout, default.drain_timeout),
            parallel: self.parallel.as_ref().map_or(default.parallel, |at| at.value),
            max_failures: self.max_failures.as_ref().map_or(default.max_failures, |at| at.value),
            rollback: self.rollback.as_ref().map_or(default.rollback, |at| at.value),
            probation: time(&self.probation, default.probation),
        })
    }
}
