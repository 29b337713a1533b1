//! What a verb can fail with, and how it is said: error, cause, hint.

use std::io;
use std::path::PathBuf;

use super::client::ClientError;
use crate::config::ConfigError;
use crate::config::home::HomeError;
use crate::supervisor::control::Failure;

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line cannot mean anything.
    #[error("{what}")]
    Usage { what: String, hint: Option<String> },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The supervisor said no.
    #[error("{}", .0.what)]
    Refused(Failure),
    #[error("no app or instance `{selector}`")]
    NoMatch { selector: String, near: Option<String> },
    #[error("{what}")]
    NotOnline { what: String, cause: Option<String>, logs: Vec<LogTail>, hint: String, code: u8 },
    /// A configuration that was refused by a verb that tells this apart from a failure.
    #[error(transparent)]
    Unusable(ConfigError),
    #[error("a supervisor is running in `{}` already", home.display())]
    AlreadyRunning { home: PathBuf },
    #[error("nothing runs, so there is nothing to save")]
    Empty,
    #[error(transparent)]
    Startup(#[from] super::startup::StartupError),
    #[error("the supervisor answered something else than was asked")]
    OddAnswer,
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
    #[error("cannot write")]
    Output(#[from] io::Error),
}

/// The end of a log that may tell why.
#[derive(Debug)]
pub struct LogTail {
    pub path: PathBuf,
    /// What they were written to, where they are one process's lines and not just the last ones of the file.
    pub output: Option<&'static str>,
    pub lines: Vec<String>,
}

impl CliError {
    /// A command line that cannot mean anything.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::Usage { what: what.into(), hint: Some(hint.into()) }
    }

    /// The same error, of a verb that exits with 2 while nothing has been touched.
    pub fn before_anything(self) -> CliError {
        match self {
            CliError::Config(error) => CliError::Unusable(error),
            error => error,
        }
    }

    /// 2 for a wrong command line, else 1, or what the failure says.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage { .. } => 2,
            CliError::Unusable(_) => 2,
            CliError::Refused(failure) => failure.code,
            CliError::NotOnline { code, .. } => *code,
            _ => 1,
        }
    }

    /// Whether whoever reads our output has gone.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The whole message, line by line.
    pub fn report(&self) -> String {
        let mut report = format!("error: {}\n", one_line(&self.to_string()));
        for cause in self.causes() {
            report += &format!("cause: {}\n", one_line(&cause));
        }
        if let CliError::NotOnline { logs, .. } = self {
            for LogTail { path, output, lines } in logs {
                match output {
                    Some(output) => report += &format!("its last lines on {output} (in {}):\n", path.display()),
                    None => report += &format!("last lines of {}:\n", path.display()),
                }
                lines.iter().for_each(|line| report += &format!("  {line}\n"));
            }
        }
        if let Some(hint) = self.hint() {
            report += &format!("hint:  {}\n", one_line(&hint));
        }
        report
    }

    fn causes(&self) -> Vec<String> {
        match self {
            CliError::Refused(failure) => failure.cause.iter().cloned().collect(),
            CliError::NotOnline { cause, .. } => cause.iter().cloned().collect(),
            _ => {
                let first = std::error::Error::source(self);
                std::iter::successors(first, |error| error.source()).map(ToString::to_string).collect()
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CliError::Usage { hint, .. } => hint.clone(),
            CliError::Config(error) | CliError::Unusable(error) => error.hint(),
            CliError::Home(error) => error.hint(),
            CliError::Client(error) => error.hint(),
            CliError::Refused(failure) => failure.hint.clone(),
            CliError::NoMatch { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            CliError::NoMatch { near: None, .. } => Some("`herdwire list` shows what there is".into()),
            CliError::NotOnline { hint, .. } => Some(hint.clone()),
            CliError::AlreadyRunning { .. } => {
                Some("`herdwire kill` ends it; or set HERDWIRE_HOME to another folder".into())
            }
            CliError::Empty => Some("`--force` saves an empty list, which forgets what was saved".into()),
            CliError::Startup(error) => error.hint(),
            CliError::OddAnswer | CliError::System { .. } | CliError::Output(_) => None,
        }
    }
}

/// Names and paths come from outside; one that holds a line break must not look like a line of ours.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_said_with_its_cause_and_what_to_do() {
        let failure = Failure::new("app `api`: cannot bind tcp://127.0.0.1:80").cause("in use").hint("take another");
        let error = CliError::Refused(failure);
        assert_eq!(
            error.report(),
            "error: app `api`: cannot bind tcp://127.0.0.1:80\ncause: in use\nhint:  take another\n"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_line_break_in_a_name_is_shown_as_such() {
        let error = CliError::NoMatch { selector: "a\nb".into(), near: None };
        assert_eq!(error.report(), "error: no app or instance `a\\nb`\nhint:  `herdwire list` shows what there is\n");
    }
}
