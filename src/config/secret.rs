//! How settings that hold secrets show themselves: never with the secret.

use std::fmt;

use super::spec::{Handshake, PathSettings, RedisSettings, StatusSettings};

impl RedisSettings {
    /// The URL without user and password, fit for logs and pages.
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return "redis".to_owned();
        };
        let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
        let address = address.split_once('?').map_or(address, |(address, _)| address);
        format!("{scheme}://{address}")
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("url", &self.redacted()).field("spool_bytes", &self.spool_bytes).finish()
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handshake::Open => "Open",
            Handshake::Token(_) => "Token(..)",
        })
    }
}

impl fmt::Debug for PathSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSettings")
            .field("path", &self.path)
            .field("herd", &self.herd)
            .field("channels", &self.channels)
            .field("handshake", &self.handshake)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StatusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusSettings")
            .field("listen", &self.listen)
            .field("token", &self.token.as_ref().map(|_| ".."))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("redis://user:p@ss@127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://:secret@h:1", "redis://h:1"),
            ("redis://h:1/?password=x", "redis://h:1/"),
            ("nonsense secret", "redis"),
        ] {
            let settings = RedisSettings { url: url.into(), spool_bytes: 1 };
            assert_eq!(settings.redacted(), shown);
            assert!(!format!("{settings:?}").contains("secret"));
        }
    }
}
