//! What may be called what: apps, herds and channels.

/// Bytes of the longest name of an app or a herd.
pub const MAX_NAME: usize = 64;
/// Bytes of the longest name of a channel.
pub const MAX_CHANNEL: usize = 255;

/// Says why `name` cannot name an app; `Ok` when it can. A name must not be mistaken for an id, an option, a folder or
/// `all`.
pub fn check_app(name: &str) -> Result<(), &'static str> {
    check_herd(name)?;
    if name == "all" {
        return Err("`all` stands for every app");
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a number stands for an id");
    }
    Ok(())
}

/// Says why `name` cannot name a herd.
pub fn check_herd(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > MAX_NAME {
        return Err("it is longer than 64 bytes");
    }
    if name.contains('/') {
        return Err("it contains `/`");
    }
    if name.chars().any(char::is_control) {
        return Err("it contains a control character");
    }
    if name.starts_with('-') {
        return Err("it begins with `-`");
    }
    if name.trim() != name || name == "." || name == ".." {
        return Err("it is a dot or has blanks at an end");
    }
    Ok(())
}

/// Says why `name` cannot name a channel.
pub fn check_channel(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("a channel's name is empty".to_owned()),
        1..=MAX_CHANNEL => Ok(()),
        bytes => Err(format!("a channel's name has {bytes} bytes; {MAX_CHANNEL} is the most")),
    }
}

/// A name for an app that runs a command line: the line itself where it can be one, as in pm2.
pub fn from_command_line(line: &str) -> String {
    let mut name: String = line.trim().chars().map(|c| if c == '/' || c.is_control() { '-' } else { c }).collect();
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.truncate(end);
    name.trim_start_matches('-').trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_be_taken_for_something_else() {
        for name in ["web", "web 2", "Café", "1web", "a.b", "web:all"] {
            assert_eq!(check_app(name), Ok(()), "{name}");
        }
        for name in ["", "all", "0", "17", "a/b", "../x", "..", "a\nb", "-n", " a", "a\0"] {
            assert!(check_app(name).is_err(), "{name:?}");
        }
        assert!(check_app(&"x".repeat(65)).is_err());
        assert_eq!(check_herd("all"), Ok(()));
    }

    #[test]
    fn a_command_line_names_itself() {
        assert_eq!(from_command_line("sleep 10"), "sleep 10");
        assert_eq!(from_command_line("/bin/sleep 10"), "bin-sleep 10");
        let long = from_command_line(&"é ".repeat(60));
        assert!(long.len() <= MAX_NAME);
        assert_eq!(check_app(&long), Ok(()));
    }
}
