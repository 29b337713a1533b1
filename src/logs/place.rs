//! Where an app's logs lie: where pm2's users look for them.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::spec::{LogFile, LogMode, LogSpec};

/// Bytes of an app's name that go into a file's name, which may have 255 in all.
const NAME_BYTES: usize = 200;

/// Where what goes nowhere goes.
pub const NOWHERE: &str = "/dev/null";

/// The files of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub out: PathBuf,
    pub error: PathBuf,
    /// What has both.
    pub combined: Option<PathBuf>,
}

/// The files of an instance that users know by `number`, which may be `alone` in its app. A path that the user chose
/// gets the number before its ending where each instance has files of its own, as the default ones do.
pub fn placed(home: &Path, name: &str, number: u32, alone: bool, spec: &LogSpec) -> Paths {
    let own = (!alone && !spec.merge).then_some(number);
    let default = paths(home, name, own);
    let place = |file: &LogFile, default: PathBuf| match file {
        _ if spec.mode == LogMode::Off => PathBuf::from(NOWHERE),
        LogFile::Default => default,
        LogFile::Off => PathBuf::from(NOWHERE),
        LogFile::At(path) => numbered(path, own),
    };
    let combined = spec.combined.as_deref().filter(|_| spec.mode == LogMode::Pipe).map(|path| numbered(path, own));
    Paths { out: place(&spec.out, default.out), error: place(&spec.error, default.error), combined }
}

/// `app.log` of instance 3 is `app-3.log`. A device is nobody's own.
fn numbered(path: &Path, number: Option<u32>) -> PathBuf {
    let (Some(number), Some(stem), false) = (number, path.file_stem(), path.starts_with("/dev")) else {
        return path.to_owned();
    };
    let mut name = OsString::from(stem);
    name.push(format!("-{number}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

/// Whether nothing is kept of what is written there.
pub fn is_nowhere(path: &Path) -> bool {
    // /dev/null by any name.
    path == Path::new(NOWHERE) || std::fs::metadata(path).is_ok_and(|file| file.rdev() == libc::makedev(1, 3))
}

/// What `open(2)` is told about a link at this path: in a folder that is not ours alone somebody else may have put it
/// there, to have us write where they may not.
pub fn follow(path: &Path) -> libc::c_int {
    let us = nix::unistd::geteuid().as_raw();
    let is_ours = |folder: std::fs::Metadata| folder.uid() == us && folder.mode() & 0o022 == 0;
    // Devices have their links in /dev, which is root's.
    let is_trusted = |folder: std::fs::Metadata| is_ours(folder) || path.starts_with("/dev");
    let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
    if folder.is_none_or(is_trusted) { 0 } else { libc::O_NOFOLLOW }
}

/// `HOME/logs/NAME-out[-ID].log` and `HOME/logs/NAME-error[-ID].log`. As in pm2, whatever is not a letter, a digit, a
/// dot or a hyphen becomes a hyphen, so no name leads out of the folder.
pub fn paths(home: &Path, name: &str, id: Option<u32>) -> Paths {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    let name: String = name.chars().map(safe).take(NAME_BYTES).collect();
    let id = id.map(|id| format!("-{id}")).unwrap_or_default();
    let file = |kind: &str| home.join("logs").join(format!("{name}-{kind}{id}.log"));
    Paths { out: file("out"), error: file("error"), combined: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_lie_where_pm2_puts_them() {
        let paths = paths(Path::new("/h"), "api", Some(3));
        assert_eq!(paths.out, Path::new("/h/logs/api-out-3.log"));
        assert_eq!(paths.error, Path::new("/h/logs/api-error-3.log"));
        assert_eq!(super::paths(Path::new("/h"), "api", None).error, Path::new("/h/logs/api-error.log"));
    }

    #[test]
    fn a_link_is_followed_only_where_nobody_else_can_have_put_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("out.log");
        let allow = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o755);
        assert_eq!(follow(&log), 0);
        allow(0o777);
        assert_eq!(follow(&log), libc::O_NOFOLLOW);
        assert_eq!(follow(Path::new("/dev/stdout")), 0);
    }

    #[test]
    fn a_path_of_ones_own_gets_the_number_where_instances_do_not_share() {
        let spec = LogSpec {
            out: LogFile::At("/var/log/api.log".into()),
            error: LogFile::At("/dev/stderr".into()),
            combined: Some("/var/log/all".into()),
            ..LogSpec::default()
        };
        let placed = |instances: u32, spec: &LogSpec| super::placed(Path::new("/h"), "api", 3, instances == 1, spec);
        let of_two = placed(2, &spec);
        assert_eq!(
            (of_two.out.as_path(), of_two.error.as_path()),
            (Path::new("/var/log/api-3.log"), Path::new("/dev/stderr"))
        );
        assert_eq!(of_two.combined.as_deref(), Some(Path::new("/var/log/all-3")));
        assert_eq!(placed(1, &spec).out, Path::new("/var/log/api.log"));
        assert_eq!(placed(2, &LogSpec { merge: true, ..spec.clone() }).out, Path::new("/var/log/api.log"));
        assert_eq!(placed(2, &LogSpec::default()).error, Path::new("/h/logs/api-error-3.log"));
        let off = placed(2, &LogSpec { mode: LogMode::Off, ..spec });
        assert_eq!((off.out.as_path(), off.combined), (Path::new(NOWHERE), None));
        assert_eq!(placed(1, &LogSpec { out: LogFile::Off, ..LogSpec::default() }).out, Path::new(NOWHERE));
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for (name, file) in [("../x y_z", "..-x-y-z-out.log"), ("a\0/é", "a----out.log"), ("", "-out.log")] {
            assert_eq!(paths(Path::new("/h"), name, None).out, Path::new("/h/logs").join(file), "{name:?}");
        }
        assert!(paths(Path::new("/h"), &"x".repeat(1000), Some(u32::MAX)).error.file_name().unwrap().len() < 255);
    }
}
