//! When an app is restarted, and how it is stopped.

use std::time::Duration;

use nix::libc;

use super::bounds::needs;
use super::error::{At, ConfigError, Problem};
use super::file::AppFile;
use super::resolve::{bad, value};
use super::spec::{Backoff, Rules};

/// pm2's longest wait.
const LONGEST: Duration = Duration::from_secs(15);
/// pm2's time after which waits begin anew.
const RESET: Duration = Duration::from_secs(30);

/// Applies the defaults and checks.
pub(super) fn rules(app: &AppFile) -> Result<Rules, ConfigError> {
    let default = Rules::default();
    let wait_ready = wait_ready(app)?;
    if let (true, Some(At { value: Duration::ZERO, place })) = (wait_ready, &app.listen_timeout) {
        return Err(bad("listen_timeout", *place, "with `wait_ready` it cannot be 0".to_owned()));
    }
    if let Some(At { value: Duration::ZERO, place }) = &app.restart_window {
        return Err(bad("restart_window", *place, "in no time nothing counts: it cannot be 0".to_owned()));
    }
    Ok(Rules {
        autorestart: value(&app.autorestart, default.autorestart),
        max_restarts: value(&app.max_restarts, default.max_restarts),
        restart_window: value(&app.restart_window, default.restart_window),
        min_uptime: value(&app.min_uptime, default.min_uptime),
        restart_delay: value(&app.restart_delay, default.restart_delay),
        backoff: backoff(app)?,
        stop_exit_codes: exit_codes(app)?,
        kill_signal: kill_signal(app)?.unwrap_or(default.kill_signal),
        kill_timeout: value(&app.kill_timeout, default.kill_timeout),
        shutdown_with_message: value(&app.shutdown_with_message, default.shutdown_with_message),
        wait_ready,
        listen_timeout: value(&app.listen_timeout, default.listen_timeout),
    })
}

fn wait_ready(app: &AppFile) -> Result<bool, ConfigError> {
    match (app.health.waits(), &app.wait_ready) {
        (Some(other), Some(At { value: false, place })) => {
            Err(ConfigError::at(*place, Problem::Either { key: "wait_ready", other }))
        }
        (implied, said) => Ok(implied.is_some() || value(said, false)),
    }
}

fn backoff(app: &AppFile) -> Result<Option<Backoff>, ConfigError> {
    // 0 is pm2's way to say that there is none.
    let first = app.exp_backoff_restart_delay.as_ref().filter(|delay| !delay.value.is_zero());
    let Some(first) = first else {
        let idle = [("exp_backoff_max", &app.exp_backoff_max), ("exp_backoff_reset", &app.exp_backoff_reset)];
        return match idle.into_iter().find_map(|(key, at)| Some((key, at.as_ref()?.place))) {
            Some((key, place)) => Err(needs(key, place, "exp_backoff_restart_delay")),
            None => Ok(None),
        };
    };
    let longest = value(&app.exp_backoff_max, LONGEST.max(first.value));
    if let (true, Some(At { place, .. })) = (longest < first.value, &app.exp_backoff_max) {
        let reason = "is shorter than the first wait, `exp_backoff_restart_delay`".to_owned();
        return Err(bad("exp_backoff_max", *place, reason));
    }
    Ok(Some(Backoff { first: first.value, longest, reset: value(&app.exp_backoff_reset, RESET) }))
}

/// SIGKILL ends at once, which may be wanted. These two end nobody: every stop would take all of `kill_timeout`.
fn kill_signal(app: &AppFile) -> Result<Option<i32>, ConfigError> {
    let name = match &app.kill_signal {
        None => return Ok(None),
        Some(At { value: libc::SIGSTOP, .. }) => "SIGSTOP",
        Some(At { value: libc::SIGCONT, .. }) => "SIGCONT",
        Some(At { value, .. }) => return Ok(Some(*value)),
    };
    let place = app.kill_signal.as_ref().map_or(app.place, |at| at.place);
    let reason = format!("{name} cannot ask anybody to end");
    let hint = Some("a signal that it can hear, such as SIGINT or SIGTERM; SIGKILL ends it at once".to_owned());
    Err(ConfigError::at(place, Problem::Value { key: "kill_signal".into(), reason, hint }))
}

fn exit_codes(app: &AppFile) -> Result<Vec<i32>, ConfigError> {
    let mut codes = Vec::new();
    for At { value, place } in &app.stop_exit_codes {
        match value.parse::<u8>() {
            Ok(code) => codes.push(i32::from(code)),
            Err(_) => {
                let reason = format!("`{}` is not an exit code from 0 to 255", value.escape_debug());
                return Err(bad("stop_exit_codes", *place, reason));
            }
        }
    }
    codes.sort_unstable();
    codes.dedup();
    Ok(codes)
}
