//! Files of variables (`env_file`), read when an instance is made so that what is in them is stored nowhere.
//!
//! The parser is pure. The format is what `.env` files and systemd's `EnvironmentFile` have in common: lines
//! `NAME=VALUE`, `export` before it if one likes, blanks around `=`, values in single quotes (as they are), in double
//! quotes (with `\n`, `\r`, `\t`, `\"`, `\\`, `\$` and `` \` ``; both kinds over several lines), or bare: then up to the end
//! of the line or a ` #`. Empty lines and those that begin with `#` or `;` say nothing. Nothing is expanded.
//!
//! Invariant: an error names file and line, never a value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::environment;
use crate::config::spec::EnvFile;

/// The most that a file may hold.
const LIMIT: u64 = 1 << 20;

/// Why a file of variables is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvFileError {
    #[error("cannot read the variables in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is not UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("{}, line {line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: &'static str },
    #[error("{}: `{name}` is set by Herdwire", path.display())]
    Reserved { path: PathBuf, name: String },
}

impl EnvFileError {
    /// What the operator can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            EnvFileError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create it, or mark it as optional (`-` before its path)".to_owned())
            }
            EnvFileError::Reserved { name, .. } => Some(format!("remove `{name}` from it")),
            _ => None,
        }
    }

    /// Whether it stays so until somebody changes the file, unlike a descriptor that was missing for a moment.
    pub fn is_lasting(&self) -> bool {
        match self {
            EnvFileError::Read { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
            ),
            _ => true,
        }
    }
}

/// The variables of all files, in order: a later one of the same name counts. Missing ones are left out where they may
/// be missing. Blocks for as long as the file system does.
///
/// # Errors
/// The first file that is of no use.
pub fn read(files: &[EnvFile]) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    for file in files {
        match read_one(&file.path) {
            Err(EnvFileError::Read { source, .. }) if file.optional && source.kind() == io::ErrorKind::NotFound => {}
            found => variables.extend(found?),
        }
    }
    Ok(variables)
}

fn read_one(path: &Path) -> Result<Vec<(String, String)>, EnvFileError> {
    let path = || path.to_owned();
    let failed = |source| EnvFileError::Read { path: path(), source };
    // A FIFO that nobody writes to must not hold us.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path()).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(EnvFileError::NotAFile { path: path() });
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(EnvFileError::TooLarge { path: path() });
    }
    let text = String::from_utf8(bytes).map_err(|_| EnvFileError::NotText { path: path() })?;
    let variables = parse(&text).map_err(|Fault { line, what }| EnvFileError::Line { path: path(), line, what })?;
    match variables.iter().find(|(name, _)| environment::is_reserved(name)) {
        Some((name, _)) => Err(EnvFileError::Reserved { path: path(), name: name.clone() }),
        None => Ok(variables),
    }
}

/// An environment with the variables of files over it, but for those that say who the instance is (`own`).
pub fn over(environment: Vec<(String, String)>, files: Vec<(String, String)>, own: &[String]) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> = environment.into_iter().collect();
    all.extend(files.into_iter().filter(|(name, _)| !own.contains(name)));
    all.into_iter().collect()
}

/// Where a text is no list of variables, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    pub what: &'static str,
}

/// The variables of a text, in its order.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    let mut variables = Vec::new();
    loop {
        rest = rest.trim_start();
        match rest.chars().next() {
            None => return Ok(variables),
            Some('#' | ';') => rest = rest.split_once('\n').map_or("", |(_, after)| after),
            Some(_) => {
                let (variable, after) = assignment(rest).map_err(|what| Fault { line: line_of(rest), what })?;
                variables.push(variable);
                rest = after;
            }
        }
    }
}

/// The assignment at the beginning of a text, and what follows its line.
fn assignment(text: &str) -> Result<((String, String), &str), &'static str> {
    let line = text.lines().next().unwrap_or_default();
    let (before, _) = line.split_once('=').ok_or("there is no `=` in it")?;
    let after = text[before.len() + 1..].trim_start_matches(BLANK);
    let name = before.trim();
    let name = name.strip_prefix("export").filter(|rest| rest.starts_with(BLANK)).map_or(name, str::trim);
    if !is_name(name) {
        return Err("what stands before `=` is no name of a variable");
    }
    let (value, after) = match after.chars().next() {
        Some('\'') => single_quoted(&after[1..])?,
        Some('"') => double_quoted(&after[1..])?,
        _ => return bare(after).map(|(value, after)| ((name.to_owned(), value), after)),
    };
    if value.contains('\0') {
        return Err(NUL);
    }
    let (left, after) = after.split_once('\n').unwrap_or((after, ""));
    match left.trim() {
        "" => Ok(((name.to_owned(), value), after)),
        comment if comment.starts_with('#') => Ok(((name.to_owned(), value), after)),
        _ => Err("something follows the closing quote"),
    }
}

const BLANK: [char; 2] = [' ', '\t'];
const NUL: &str = "its value contains a NUL byte";

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn bare(text: &str) -> Result<(String, &str), &'static str> {
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    let comment = line.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with(BLANK)));
    let value = line[..comment.map_or(line.len(), |(at, _)| at)].trim();
    if value.contains('\0') { Err(NUL) } else { Ok((value.to_owned(), after)) }
}

fn single_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let (value, after) = text.split_once('\'').ok_or("its closing quote is missing")?;
    Ok((value.to_owned(), after))
}

fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(escaped @ ('"' | '\\' | '$' | '`')) => value.push(escaped),
                // Something else's escape: its business.
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("its closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|fault| panic!("{text:?}: {fault:?}"))
    }

    fn value(text: &str) -> String {
        let [(name, value)] = &parsed(text)[..] else { panic!("{text:?} is not one variable") };
        assert_eq!(name, "A");
        value.clone()
    }

    #[test]
    fn lines_are_assignments_comments_or_empty() {
        let text = "\u{feff}# first\r\n; second\n\nA=1\r\nexport B=two words  \n  C = x # why\nD=\nE.f-g=a=b\nexport=1";
        let expected = [("A", "1"), ("B", "two words"), ("C", "x"), ("D", ""), ("E.f-g", "a=b"), ("export", "1")];
        assert_eq!(parsed(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_bare_value_ends_at_a_comment_and_keeps_everything_else() {
        assert_eq!(value("A=a#b"), "a#b");
        assert_eq!(value("A=a #b"), "a");
        assert_eq!(value("A=#b"), "");
        assert_eq!(value(r"A=C:\dir\new $HOME `x` it's"), r"C:\dir\new $HOME `x` it's");
    }

    #[test]
    fn quotes_keep_blanks_and_lines_together() {
        assert_eq!(value("A=' a # b\n\\n$x ' # why"), " a # b\n\\n$x ");
        assert_eq!(value("A=\" a # b\nc\\n\\t\\\"\\\\\\$\\`\\d\""), " a # b\nc\n\t\"\\$`\\d");
        assert_eq!(parsed("A='1\n2'\nB=3").len(), 2);
    }

    #[test]
    fn what_is_not_understood_is_told_by_its_line_and_without_the_value() {
        for (text, line) in [
            ("A=1\n\nsecret", 3),
            ("1A=secret", 1),
            ("A B=secret", 1),
            ("=secret", 1),
            ("A='x\ny'\nB='secret", 3),
            ("A=\"secret\\", 1),
            ("A='x' secret", 1),
            ("A=se\0cret", 1),
            ("A='se\0cret'", 1),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.line, line, "{text:?}: {fault:?}");
            assert!(!fault.what.contains("secret"), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(?s)[A-C=#;'\"\\\\ \t\r\n\u{0}a-c\u{e9}]{0,40}") {
            if let Ok(variables) = parse(&text) {
                prop_assert!(variables.iter().all(|(name, value)| is_name(name) && !value.contains('\0')));
            }
        }

        #[test]
        fn a_value_in_single_quotes_is_as_it_is(kept in "[^'\u{0}]{0,40}") {
            prop_assert_eq!(value(&format!("A='{kept}'")), kept);
        }

        #[test]
        fn a_value_survives_double_quotes(kept in "[^\u{0}]{0,40}") {
            let escaped = kept.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(value(&format!("A=\"{escaped}\"")), kept);
        }
    }

    fn file(folder: &Path, name: &str, text: &[u8]) -> EnvFile {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        EnvFile { path, optional: false }
    }

    #[test]
    fn files_are_read_in_order_and_missing_ones_only_where_they_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (file(folder.path(), "a", b"A=1\nB=1"), file(folder.path(), "b", b"B=2"));
        let absent = |optional| EnvFile { path: folder.path().join("absent"), optional };
        let found = read(&[first, absent(true), second]).unwrap();
        assert_eq!(found.iter().map(|(name, value)| format!("{name}{value}")).collect::<String>(), "A1B1B2");
        let error = read(&[absent(false)]).unwrap_err();
        assert!(error.to_string().contains("absent") && error.hint().is_some(), "{error}");
    }

    #[test]
    fn files_win_over_the_environment_and_not_over_who_the_instance_is() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let environment = pairs(&[("A", "1"), ("name", "web"), ("Z", "1")]);
        let files = pairs(&[("A", "2"), ("name", "other"), ("B", "2"), ("A", "3")]);
        let expected = pairs(&[("A", "3"), ("B", "2"), ("Z", "1"), ("name", "web")]);
        assert_eq!(over(environment, files, &["name".to_owned()]), expected);
    }

    #[test]
    fn only_a_small_regular_file_of_text_without_reserved_names_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo, "/dev/zero".into(), folder.path().to_owned()] {
            assert!(matches!(read(&[EnvFile { path, optional: true }]), Err(EnvFileError::NotAFile { .. })));
        }
        let attempt = |text: &[u8]| read(&[file(folder.path(), "x", text)]).unwrap_err();
        assert!(matches!(attempt(&vec![b'\n'; (1 << 20) + 1]), EnvFileError::TooLarge { .. }));
        assert!(matches!(attempt(b"A=\xff"), EnvFileError::NotText { .. }));
        let error = attempt(b"HERDWIRE_LINK=secret");
        assert!(error.to_string().contains("HERDWIRE_LINK") && !format!("{error:?}").contains("secret"), "{error}");
        let error = attempt(b"A=1\nsecret");
        assert!(error.to_string().contains("line 2") && !format!("{error:?}").contains("secret"), "{error}");
    }
}
