//! What can be wrong with what the user wrote, where it stands, and what to do about it.
//!
//! Invariant: no variant carries a value that may be a secret (environment values, tokens, URLs).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Place {
    /// Nowhere in particular: the file as a whole, or the command line.
    #[default]
    Whole,
    /// In a file, both counted from 1; the column in characters.
    At { line: u32, column: u32 },
    /// In an option of the command line.
    Flag(&'static str),
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct At<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> At<T> {
    /// A value that stands at `place`.
    pub fn new(value: T, place: Place) -> At<T> {
        At { value, place }
    }

    /// A value given by an option of the command line.
    pub fn flag(value: T, flag: &'static str) -> At<T> {
        At { value, place: Place::Flag(flag) }
    }
}

/// Why a configuration was refused.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as the user named it; `None` for the command line.
    pub file: Option<PathBuf>,
    /// Where in it.
    pub place: Place,
    /// What is wrong. Boxed: results that are fine should not carry its size about.
    pub problem: Box<Problem>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("is not a file")]
    NotAFile,
    #[error("is larger than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("is not UTF-8")]
    NotText,
    #[error("is not TOML: {0}")]
    Syntax(String),
    #[error("has neither an [[app]] nor settings")]
    Nothing,
    #[error("unknown key `{key}` in {section}")]
    UnknownKey { key: String, section: String, near: Option<String>, known: Vec<&'static str> },
    #[error("`{key}` must be {expected}, not {found}")]
    WrongType { key: String, expected: &'static str, found: &'static str },
    #[error("{section} needs `{key}`")]
    Missing { section: String, key: &'static str, hint: &'static str },
    #[error("`{key}`: {reason}")]
    Value { key: String, reason: String, hint: Option<String> },
    #[error("`{key}` holds a NUL byte")]
    Nul { key: String },
    #[error("`{key}` and `{other}` exclude each other")]
    Either { key: &'static str, other: &'static str },
    #[error("environment variable `{name}`, named by `{key}`, is not set")]
    NoVariable { key: &'static str, name: String },
    #[error("environment variable `{name}` belongs to Herdwire")]
    ReservedVariable { name: String },
    #[error("`{name}` cannot be a name: {reason}")]
    BadName { name: String, reason: &'static str },
    #[error("app `{name}` is defined twice")]
    TwiceNamed { name: String },
    #[error("app `{app}`: address `{address}` is already taken by {by}")]
    TwiceBound { app: String, address: String, by: String },
    #[error("app `{app}`: log file `{}` is already app `{by}`'s", file.display())]
    TwiceLogged { app: String, file: PathBuf, by: String },
    #[error("path `{path}` of the front is defined twice")]
    TwicePath { path: String },
    #[error("app `{app}`: script `{}` does not exist", script.display())]
    NoScript { app: String, script: PathBuf, searched_path: bool },
    #[error("app `{app}`: script `{}` {reason}", script.display())]
    BadScript { app: String, script: PathBuf, reason: &'static str },
    #[error("app `{app}`: no interpreter is known for `{}`, and it is not executable", script.display())]
    NoInterpreterKnown { app: String, script: PathBuf },
    #[error("app `{app}`: interpreter `{interpreter}` is not in PATH")]
    NoInterpreter { app: String, interpreter: String },
    #[error("app `{app}`: folder `{}` {reason}", folder.display())]
    BadFolder { app: String, folder: PathBuf, reason: &'static str },
    #[error("app `{app}`: {asked} instances are more than {limit}")]
    TooManyInstances { app: String, asked: u64, limit: u32 },
    #[error("[status] may not listen on `{address}` without a token")]
    OpenStatus { address: String },
}

impl ConfigError {
    /// An error at a place, whose file is filled in by whoever knows it.
    pub fn at(place: Place, problem: Problem) -> ConfigError {
        ConfigError { file: None, place, problem: Box::new(problem) }
    }

    /// An error of the configuration as a whole.
    pub fn whole(problem: Problem) -> ConfigError {
        ConfigError::at(Place::Whole, problem)
    }

    /// The same error, in this file.
    pub fn in_file(mut self, file: &Path) -> ConfigError {
        self.file = Some(file.to_owned());
        self
    }

    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match &*self.problem {
            Problem::UnknownKey { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Problem::UnknownKey { known, .. } => Some(format!("known keys are {}", known.join(", "))),
            Problem::Unreadable(source) if source.kind() == io::ErrorKind::NotFound => {
                Some("check the path, or run it from the folder that holds the file".into())
            }
            Problem::Nothing => Some("an app begins with a line `[[app]]` and needs `script`".into()),
            Problem::Missing { hint, .. } => Some((*hint).to_owned()),
            Problem::Value { hint, .. } => hint.clone(),
            Problem::Either { key, .. } => Some(format!("remove one of them, for instance `{key}`")),
            Problem::NoVariable { name, .. } => Some(format!("set it: {name}=... herdwire start ...")),
            Problem::ReservedVariable { .. } => Some("remove it: every instance gets it from Herdwire".into()),
            Problem::BadName { .. } => Some("give it another name with `name` or `--name`".into()),
            Problem::TwiceNamed { .. } => Some("one app may have many `instances`; two apps need two names".into()),
            Problem::TwiceBound { .. } => Some("give one of them another port".into()),
            Problem::TwiceLogged { .. } => Some("set `merge_logs` in both, or give one of them another file".into()),
            Problem::NoScript { searched_path: true, .. } => {
                Some("it is neither a file nor a program in PATH; a command line needs quotes around it".into())
            }
            Problem::NoScript { .. } => Some("a relative path counts from `cwd`, else from the file's folder".into()),
            Problem::NoInterpreterKnown { script, .. } => {
                Some(format!("`chmod +x {}`, or name the program with `interpreter`", script.display()))
            }
            Problem::NoInterpreter { .. } => Some("install it, or give its full path with `interpreter`".into()),
            Problem::TooManyInstances { .. } => Some("lower `instances`, or split the app in two".into()),
            Problem::OpenStatus { .. } => Some("set `token` or `token_env`, or listen on 127.0.0.1".into()),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            f.write_str(if self.place == Place::Whole { " " } else { ":" })?;
        }
        match self.place {
            Place::Whole => {}
            Place::At { line, column } => write!(f, "{line}:{column}: ")?,
            Place::Flag(flag) => write!(f, "{flag}: ")?,
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.problem)
    }
}
