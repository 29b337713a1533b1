//! What is not watched. Pure: paths are relative to the watched folder.
//!
//! A pattern without a slash means the name at any depth; one with a slash counts from the watched folder. Whatever lies below
//! an ignored folder is ignored. What is ignored without a word of the user's is for `config`.

use std::path::{Component, Path};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no pattern of files")]
pub struct PatternError {
    pattern: String,
    source: globset::Error,
}

/// A set of patterns.
#[derive(Debug, Clone)]
pub struct Ignore {
    set: GlobSet,
}

impl Ignore {
    /// The patterns of a setting for one watched folder. Absolute patterns count as from that folder.
    ///
    /// # Errors
    /// The first pattern that means nothing.
    pub fn new(patterns: &[String], root: &Path) -> Result<Ignore, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(&anchored(pattern, root)).literal_separator(true).build();
            set.add(glob.map_err(|source| PatternError { pattern: pattern.clone(), source })?);
        }
        let set = set.build().map_err(|source| PatternError { pattern: patterns.join(", "), source })?;
        Ok(Ignore { set })
    }

    /// Whether a path is ignored, by itself or because it lies below what is.
    pub fn hides(&self, path: &Path) -> bool {
        let normal = path.components().all(|part| matches!(part, Component::Normal(_)));
        normal && path.ancestors().filter(|part| !part.as_os_str().is_empty()).any(|part| self.set.is_match(part))
    }
}

/// A pattern as it is matched against the path below the watched folder.
fn anchored(pattern: &str, root: &Path) -> String {
    let below = root.to_str().and_then(|root| pattern.strip_prefix(root)).filter(|rest| rest.starts_with('/'));
    let is_anchored = below.is_some() || pattern.trim_end_matches('/').contains('/');
    let mut pattern = below.unwrap_or(pattern);
    while let Some(rest) = pattern.strip_prefix("./").or_else(|| pattern.strip_prefix('/')) {
        pattern = rest;
    }
    // All that is below a folder goes with it, so that what stands in it says no more than itself.
    for all in ["/**/*", "/**", "/*", "/"] {
        pattern = pattern.strip_suffix(all).filter(|rest| !rest.is_empty()).unwrap_or(pattern);
    }
    if is_anchored { pattern.to_owned() } else { format!("**/{pattern}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Ignore::new(&patterns, Path::new("/srv/app")).unwrap().hides(Path::new(path))
    }

    #[test]
    fn the_usual_patterns_leave_out_hidden_files_and_modules_of_node() {
        let usual = ["**/.*", "**/.*/**", "**/node_modules", "**/node_modules/**"];
        for path in [".git/HEAD", "a/.cache", "node_modules/x/y.js", "a/b/node_modules", ".env"] {
            assert!(hidden(&usual, path), "{path}");
        }
        for path in ["src/main.js", "node_modules.js", "a.b", "my_node_modules/x"] {
            assert!(!hidden(&usual, path), "{path}");
        }
        assert!(!hidden(&[], ".git/HEAD"));
    }

    #[test]
    fn a_name_means_it_at_any_depth_and_all_below_it() {
        for path in ["logs", "logs/a", "x/logs/y/z"] {
            assert!(hidden(&["logs"], path), "{path}");
        }
        assert!(!hidden(&["logs"], "logs.txt"));
    }

    #[test]
    fn a_path_counts_from_the_watched_folder() {
        for pattern in [
            "public/img",
            "./public/img",
            "/public/img",
            "public/img/",
            "public/img/*",
            "public/img/**",
            "/srv/app/public/img",
        ] {
            assert!(hidden(&[pattern], "public/img/a.png"), "{pattern}");
            assert!(!hidden(&[pattern], "x/public/img/a.png"), "{pattern}");
        }
    }

    #[test]
    fn stars_do_not_cross_folders_and_double_stars_do() {
        assert!(hidden(&["*.log"], "a/b/x.log"));
        assert!(hidden(&["a/*.log"], "a/x.log"));
        assert!(!hidden(&["a/*.log"], "a/b/x.log"));
        assert!(hidden(&["a/**/x.log"], "a/b/c/x.log"));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let error = Ignore::new(&["[".to_owned()], Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("`[`"), "{error}");
    }
}
