//! Which file a URL path means, without asking the file system.
//!
//! Pure. What comes out is a relative path whose parts are plain names: joined to a folder it stays inside, but for
//! links, which `files` looks at.

use std::path::PathBuf;

use super::token::decode;

/// A file below the served folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Relative, of plain names only; empty for the folder itself.
    pub path: PathBuf,
    /// Whether the URL ended in `/` and so means a folder's `index.html`.
    pub folder: bool,
}

/// Reads a URL path. `None` if it cannot mean a file that is served: it climbs, it names a hidden file, it is odd.
pub fn wanted(url_path: &str) -> Option<Wanted> {
    let decoded = String::from_utf8(decode(url_path.as_bytes())).ok()?;
    let inner = decoded.strip_prefix('/')?;
    let folder = inner.is_empty() || inner.ends_with('/');
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Some(Wanted { path: PathBuf::new(), folder });
    }
    // After decoding, so that an encoded slash or dot hides nothing.
    let mut path = PathBuf::new();
    for name in inner.split('/') {
        if !is_plain(name) {
            return None;
        }
        path.push(name);
    }
    Some(Wanted { path, folder })
}

/// Not empty, not hidden (which covers `.` and `..`), no byte that another system takes for a separator.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['\\', ':']) && !name.chars().any(char::is_control)
}

/// The content type by the file's extension.
pub fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_found_below_the_folder() {
        for (url, path, folder) in [
            ("/", "", true),
            ("/app.js", "app.js", false),
            ("/a/b%20c/%C3%BC.txt", "a/b c/ü.txt", false),
            ("/a/", "a", true),
            ("/a", "a", false),
            ("/...a/x..", "", false),
        ] {
            let expected = (!url.contains("...")).then(|| Wanted { path: path.into(), folder });
            assert_eq!(wanted(url), expected, "{url}");
        }
    }

    #[test]
    fn nothing_climbs_out_and_nothing_hidden_is_found() {
        for url in [
            "/../etc/passwd",
            "/a/../../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/..%2fetc/passwd",
            "/a/%2e%2e%2f%2e%2e/x",
            "//etc/passwd",
            "/a//b",
            "/%2fetc/passwd",
            "/.env",
            "/.git/config",
            "/a/.hidden/b",
            "/a/./b",
            "/..\\x",
            "/a%00.html",
            "/a%0a",
            "/C:/x",
            "/%ff",
            "a.html",
            "*",
            "",
        ] {
            assert_eq!(wanted(url), None, "{url}");
        }
    }

    #[test]
    fn a_file_that_nobody_knows_is_bytes() {
        assert_eq!(content_type("index.html"), "text/html; charset=utf-8");
        assert_eq!(content_type("A.PNG"), "image/png");
        assert_eq!(content_type("Makefile"), "application/octet-stream");
        assert_eq!(content_type("x.unknown"), "application/octet-stream");
    }
}
