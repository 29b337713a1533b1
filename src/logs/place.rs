//! Where an app's logs lie: where pm2's users look for them.

use std::path::{Path, PathBuf};

/// Bytes of an app's name that go into a file's name, which may have 255 in all.
const NAME_BYTES: usize = 200;

/// The two files of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub out: PathBuf,
    pub error: PathBuf,
}

/// `HOME/logs/NAME-out[-ID].log` and `HOME/logs/NAME-error[-ID].log`. As in pm2, whatever is not a letter, a digit, a
/// dot or a hyphen becomes a hyphen, so no name leads out of the folder.
pub fn paths(home: &Path, name: &str, id: Option<u32>) -> Paths {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    let name: String = name.chars().map(safe).take(NAME_BYTES).collect();
    let id = id.map(|id| format!("-{id}")).unwrap_or_default();
    let file = |kind: &str| home.join("logs").join(format!("{name}-{kind}{id}.log"));
    Paths { out: file("out"), error: file("error") }
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
    fn no_name_leads_out_of_the_folder() {
        for (name, file) in [("../x y_z", "..-x-y-z-out.log"), ("a\0/é", "a----out.log"), ("", "-out.log")] {
            assert_eq!(paths(Path::new("/h"), name, None).out, Path::new("/h/logs").join(file), "{name:?}");
        }
        assert!(paths(Path::new("/h"), &"x".repeat(1000), Some(u32::MAX)).error.file_name().unwrap().len() < 255);
    }
}
