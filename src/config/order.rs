//! `depends_on`: which apps come before which.

use super::error::{At, ConfigError, Problem};
use super::file::AppFile;
use super::names;
use super::resolve::bad;
use super::spec::{AppSpec, Condition, Dependency};

/// Reads what was written of one app.
pub(super) fn resolve(app: &AppFile, name: &str) -> Result<Vec<Dependency>, ConfigError> {
    let mut before: Vec<Dependency> = Vec::new();
    for (At { value: other, place }, condition) in &app.depends_on {
        names::check_app(other).map_err(|reason| {
            ConfigError::at(*place, Problem::BadName { name: other.escape_debug().to_string(), reason })
        })?;
        if other == name {
            return Err(bad("depends_on", *place, format!("app `{name}` cannot come before itself")));
        }
        if before.iter().any(|known| known.app == *other) {
            return Err(bad("depends_on", *place, format!("app `{other}` is named twice")));
        }
        let condition = condition.as_ref().map_or(Ok(Condition::Ready), read_condition)?;
        before.push(Dependency { app: other.clone(), condition });
    }
    Ok(before)
}

fn read_condition(At { value, place }: &At<String>) -> Result<Condition, ConfigError> {
    match value.as_str() {
        "started" => Ok(Condition::Started),
        "ready" => Ok(Condition::Ready),
        "completed" => Ok(Condition::Completed),
        _ => {
            let reason = format!("`{}` is none of started, ready and completed", value.escape_debug());
            Err(bad("depends_on", *place, reason))
        }
    }
}

/// Refuses apps that wait for one another in a circle.
pub(super) fn check_cycles(files: &[AppFile], apps: &[AppSpec]) -> Result<(), ConfigError> {
    let at = |name: &str| apps.iter().position(|app| app.name == name);
    // Apps that are known to be in no circle: everything that they wait for has been looked at.
    let mut done = vec![false; apps.len()];
    for start in 0..apps.len() {
        // A way through the graph: app, and which of its dependencies is looked at next. No recursion over what users
        // write.
        let mut way = vec![(start, 0)];
        while let Some((here, next)) = way.last_mut() {
            let here = *here;
            let Some(dependency) = apps[here].depends_on.get(*next).filter(|_| !done[here]) else {
                done[here] = true;
                way.pop();
                continue;
            };
            *next += 1;
            let Some(there) = at(&dependency.app) else { continue };
            if let Some(begin) = way.iter().position(|(app, _)| *app == there) {
                let circle = way[begin..].iter().map(|(app, _)| *app).chain([there]);
                let circle: Vec<&str> = circle.map(|app| apps[app].name.as_str()).collect();
                let written = files[here].depends_on.iter().find(|(name, _)| name.value == dependency.app);
                let place = written.map_or(files[here].place, |(name, _)| name.place);
                let reason = format!("these wait for one another: {}", circle.join(" -> "));
                return Err(bad("depends_on", place, reason));
            }
            way.push((there, 0));
        }
    }
    Ok(())
}

/// What is probably not meant.
pub(super) fn warnings(apps: &[AppSpec]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (app, dependency) in apps.iter().flat_map(|app| app.depends_on.iter().map(move |one| (app, one))) {
        let (name, other) = (&app.name, &dependency.app);
        match apps.iter().find(|app| app.name == *other) {
            None => warnings.push(format!("app `{name}` waits for `{other}`, which is not here: it must run already")),
            Some(first) if dependency.condition == Condition::Completed && first.rules.autorestart => {
                warnings.push(format!(
                    "app `{name}` waits for app `{other}` to complete, which is started again whenever it ends: set its `autorestart` to false"
                ));
            }
            Some(_) => {}
        }
    }
    warnings
}
