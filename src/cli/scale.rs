//! `scale`: more or fewer instances of an app.

use super::client::{ACT_LIMIT, Client};
use super::error::CliError;
use super::list;
use super::outlast::{Wish, outlast};
use super::output::Output;
use crate::supervisor::control::{Request, Response, ScaleTo};

/// Scales an app and shows its instances.
pub fn scale(client: &Client, app: &str, to: &str, out: &mut Output) -> Result<(), CliError> {
    let to = target(to)?;
    let before = list::fetch(client, false)?;
    let have = before.iter().flat_map(|before| &before.instances).filter(|one| one.app == app).count();
    let wish = Wish::Scaled { app, to: wanted(to, have) };
    let answer = client.ask(&Request::Scale { app: app.to_owned(), to }, ACT_LIMIT);
    match outlast(client, answer, &wish, before.as_ref(), ACT_LIMIT)? {
        Response::Done(snapshot) => list::table(snapshot.instances.iter().filter(|one| one.app == app), out),
        Response::Failed(failure) => Err(CliError::Refused(failure)),
        _ => Err(CliError::OddAnswer),
    }
}

/// How many instances that is of an app that has `have`.
fn wanted(to: ScaleTo, have: usize) -> usize {
    match to {
        ScaleTo::Exactly(number) => number as usize,
        ScaleTo::More(more) => have.saturating_add(more as usize),
        ScaleTo::Fewer(fewer) => have.saturating_sub(fewer as usize),
    }
}

/// `4`, `+2` or `-1`.
fn target(word: &str) -> Result<ScaleTo, CliError> {
    let (sign, digits) = match word.strip_prefix(['+', '-']) {
        Some(digits) => (word.chars().next(), digits),
        None => (None, word),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u32>().ok().filter(|_| is_number);
    let number = number.ok_or_else(|| {
        CliError::usage(format!("`{word}` is no number of instances"), "a number, or +N or -N for more or fewer")
    })?;
    Ok(match sign {
        Some('+') => ScaleTo::More(number),
        Some(_) => ScaleTo::Fewer(number),
        None => ScaleTo::Exactly(number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_and_with_a_sign_it_is_a_difference() {
        assert_eq!(target("4").unwrap(), ScaleTo::Exactly(4));
        assert_eq!(target("+2").unwrap(), ScaleTo::More(2));
        assert_eq!(target("-1").unwrap(), ScaleTo::Fewer(1));
        for wrong in ["", "+", "four", "+-1", "1.5", "99999999999"] {
            assert_eq!(target(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
