//! The sections of the supervisor as a whole: `[redis]`, `[front]`, `[status]`. Defaults and checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::error::{At, ConfigError, Place, Problem};
use super::file::{File, FrontFile, PathFile, RedisFile, Secret, StatusFile};
use super::resolve::{Surroundings, bad, channels, in_range};
use super::spec::{FrontSettings, Handshake, PathSettings, RedisSettings, Settings, StatusSettings};
use super::{address, names, script};

/// Where the status page is unless configured.
pub const DEFAULT_STATUS: &str = "127.0.0.1:9615";
/// Bytes of the longest path of the front.
const MAX_PATH: usize = 255;

/// Applies the defaults and checks the sections that are there.
pub(super) fn resolve(file: &File, surroundings: &Surroundings) -> Result<Settings, ConfigError> {
    Ok(Settings {
        redis: file.redis.as_ref().map(|redis| resolve_redis(redis, &surroundings.variables)).transpose()?,
        front: file.front.as_ref().map(|front| resolve_front(front, surroundings)).transpose()?,
        status: file.status.as_ref().map(|status| resolve_status(status, &surroundings.variables)).transpose()?,
    })
}

fn resolve_redis(redis: &RedisFile, env: &BTreeMap<String, String>) -> Result<RedisSettings, ConfigError> {
    let Some(At { value: url, place }) = secret(("url", &redis.url), ("url_env", &redis.url_env), env)? else {
        let hint = "for instance url = \"redis://127.0.0.1:6379/\", or url_env with the name of a variable";
        let missing = Problem::Missing { section: "[redis]".into(), key: "url", hint };
        return Err(ConfigError::at(redis.place, missing));
    };
    check_redis_url(&url).map_err(|reason| bad("url", place, reason))?;
    let spool_bytes = in_range(&redis.spool, "spool", 8 << 20, 64 << 10..=1 << 30)?;
    Ok(RedisSettings { url, spool_bytes })
}

/// Says what is wrong with a URL, without showing any of it: it may hold a password.
fn check_redis_url(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("is not a URL; write for instance redis://127.0.0.1:6379/".to_owned());
    };
    match scheme {
        "redis" | "valkey" if !rest.is_empty() => check_redis_address(rest),
        "redis+unix" | "unix" | "valkey+unix" if rest.starts_with('/') => Ok(()),
        "redis+unix" | "unix" | "valkey+unix" => Err("needs an absolute path: redis+unix:///run/redis.sock".to_owned()),
        "rediss" | "valkeys" => Err("TLS is not supported yet; use redis:// over a tunnel".to_owned()),
        "redis" | "valkey" => Err("has no host".to_owned()),
        _ => Err("has an unknown scheme; known are redis:// and redis+unix://".to_owned()),
    }
}

/// The part behind the scheme: `[USER:PASSWORD@]HOST[:PORT][/DATABASE][?...]`.
fn check_redis_address(rest: &str) -> Result<(), String> {
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let address = address.split_once('?').map_or(address, |(address, _)| address);
    let (host_and_port, database) = address.split_once('/').unwrap_or((address, ""));
    let (host, port) = match host_and_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').or((!port.is_empty()).then_some("none"))),
        None => host_and_port.split_once(':').map_or((host_and_port, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port != 0)) {
        return Err("has no port from 1 to 65535; write for instance redis://127.0.0.1:6379/".to_owned());
    }
    if !database.is_empty() && !database.parse::<u32>().is_ok_and(|number| number <= i32::MAX as u32) {
        return Err("has no number of a database behind its host; for the first write /0 or nothing".to_owned());
    }
    Ok(())
}

fn resolve_front(front: &FrontFile, surroundings: &Surroundings) -> Result<FrontSettings, ConfigError> {
    let Some(listen) = &front.listen else {
        let missing = Problem::Missing {
            section: "[front]".into(),
            key: "listen",
            hint: "for instance listen = \"127.0.0.1:8080\"",
        };
        return Err(ConfigError::at(front.place, missing));
    };
    let mut paths: Vec<PathSettings> = Vec::new();
    for written in &front.paths {
        let path = resolve_path(written, &surroundings.variables)?;
        if paths.iter().any(|earlier| earlier.path == path.path) {
            let place = written.path.as_ref().map_or(written.place, |path| path.place);
            return Err(ConfigError::at(place, Problem::TwicePath { path: path.path }));
        }
        paths.push(path);
    }
    Ok(FrontSettings {
        listen: tcp(listen)?,
        files: front.files.as_ref().map(|files| folder(files, surroundings)).transpose()?,
        max_connections: match &front.max_connections {
            Some(At { value: 0, place }) => {
                return Err(bad("max_connections", *place, "0 would let nobody in".to_owned()));
            }
            Some(At { value, .. }) => *value,
            None => 10_000,
        },
        origins: front.origins.iter().map(origin).collect::<Result<_, _>>()?,
        paths,
    })
}

fn tcp(At { value, place }: &At<String>) -> Result<SocketAddr, ConfigError> {
    address::tcp(value).map_err(|reason| bad("listen", *place, reason))
}

fn folder(files: &At<String>, surroundings: &Surroundings) -> Result<std::path::PathBuf, ConfigError> {
    let folder = script::absolute(&surroundings.folder, &files.value);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(bad("files", files.place, format!("`{}` is not a folder", folder.display())))
}

/// `https://HOST[:PORT]`, as browsers send it.
fn origin(At { value, place }: &At<String>) -> Result<String, ConfigError> {
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://")).unwrap_or_default();
    let plain = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte));
    if plain {
        return Ok(value.to_ascii_lowercase());
    }
    let reason = format!("`{value}` is not an origin; write for instance https://example.org, without a path");
    Err(bad("origins", *place, reason))
}

fn resolve_path(path: &PathFile, env: &BTreeMap<String, String>) -> Result<PathSettings, ConfigError> {
    let missing = |key, hint| {
        let section = "[[front.path]]".to_owned();
        ConfigError::at(path.place, Problem::Missing { section, key, hint })
    };
    let url_path = path.path.as_ref().ok_or_else(|| missing("path", "for instance path = \"/ws\""))?;
    check_path(&url_path.value).map_err(|reason| bad("path", url_path.place, reason))?;
    let herd = path.herd.as_ref().ok_or_else(|| missing("herd", "the name of an app, or of the herd it is in"))?;
    names::check_herd(&herd.value).map_err(|reason| {
        ConfigError::at(herd.place, Problem::BadName { name: herd.value.escape_debug().to_string(), reason })
    })?;
    let channels_hint = "what browsers may hear and speak on: channels = [\"chat\"]";
    let written = path.channels.as_ref().ok_or_else(|| missing("channels", channels_hint))?;
    if written.is_empty() {
        return Err(bad("channels", path.place, "a path without channels is of no use".to_owned()));
    }
    let max_message = in_range(&path.max_message, "max_message", 64 << 10, 1..=64 << 20)?;
    let queue_bytes = in_range(&path.queue, "queue", 1 << 20, 1 << 10..=1 << 30)?;
    Ok(PathSettings {
        path: url_path.value.clone(),
        herd: herd.value.clone(),
        channels: channels(written, "channels")?,
        handshake: handshake(path, env)?,
        max_message,
        queue_bytes,
    })
}

fn check_path(path: &str) -> Result<(), String> {
    let shown: String = path.chars().take(64).flat_map(char::escape_debug).collect();
    if !path.starts_with('/') {
        return Err(format!("`{shown}` does not begin with `/`"));
    }
    if path.len() > MAX_PATH {
        return Err(format!("`{shown}...` is longer than {MAX_PATH} bytes"));
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || "?#%{}*\\\"<>".contains(*c)) {
        Some(c) => Err(format!("`{shown}` contains `{}`, which a path here cannot", c.escape_debug())),
        None => Ok(()),
    }
}

fn handshake(path: &PathFile, env: &BTreeMap<String, String>) -> Result<Handshake, ConfigError> {
    let token = secret(("token", &path.token), ("token_env", &path.token_env), env)?;
    let Some(At { value: kind, place }) = &path.handshake else {
        let hint = "handshake = \"token\" with token_env, or handshake = \"open\" to let anybody in";
        let missing = || Problem::Missing { section: "[[front.path]]".into(), key: "handshake", hint };
        return token.map(|token| Handshake::Token(token.value)).ok_or_else(|| ConfigError::at(path.place, missing()));
    };
    match (kind.as_str(), token) {
        ("open", None) => Ok(Handshake::Open),
        ("token", Some(token)) => Ok(Handshake::Token(token.value)),
        ("open", Some(token)) => Err(bad("handshake", token.place, "an open path asks for no token".to_owned())),
        ("token", None) => {
            let (reason, hint) = ("no token is given".to_owned(), Some("set `token` or `token_env`".to_owned()));
            Err(ConfigError::at(*place, Problem::Value { key: "handshake".into(), reason, hint }))
        }
        _ => Err(bad("handshake", *place, format!("`{kind}` is neither `open` nor `token`"))),
    }
}

fn resolve_status(status: &StatusFile, env: &BTreeMap<String, String>) -> Result<StatusSettings, ConfigError> {
    let default = || At::new(DEFAULT_STATUS.to_owned(), Place::Whole);
    let written = status.listen.clone().unwrap_or_else(default);
    let listen = tcp(&written)?;
    let token = secret(("token", &status.token), ("token_env", &status.token_env), env)?.map(|token| token.value);
    if token.is_none() && !listen.ip().is_loopback() {
        return Err(ConfigError::at(written.place, Problem::OpenStatus { address: listen.to_string() }));
    }
    Ok(StatusSettings { listen, token })
}

/// A secret that stands in the file or in a variable that the file names; never empty.
fn secret(
    (key, here): (&'static str, &Option<Secret>),
    (env_key, variable): (&'static str, &Option<At<String>>),
    env: &BTreeMap<String, String>,
) -> Result<Option<At<String>>, ConfigError> {
    let found = match (here, variable) {
        (Some(_), Some(At { place, .. })) => {
            return Err(ConfigError::at(*place, Problem::Either { key: env_key, other: key }));
        }
        (Some(Secret(here)), None) => here.clone(),
        (None, Some(At { value: name, place })) => match env.get(name) {
            Some(value) => At::new(value.clone(), *place),
            None => return Err(ConfigError::at(*place, Problem::NoVariable { key: env_key, name: name.clone() })),
        },
        (None, None) => return Ok(None),
    };
    if found.value.is_empty() {
        return Err(bad(if here.is_some() { key } else { env_key }, found.place, "is empty".to_owned()));
    }
    Ok(Some(found))
}
