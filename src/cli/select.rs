//! Which instances a word on the command line means: `all`, a name, or an id.

use super::error::CliError;
use crate::config::suggest;
use crate::snapshot::{InstanceView, Snapshot};
use crate::supervisor::control::Selector;

/// What the supervisor is told.
pub fn selector(words: &[String]) -> Selector {
    match words {
        [word] => one(word),
        words => Selector::Several(words.iter().map(|word| one(word)).collect()),
    }
}

fn one(word: &str) -> Selector {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    match word.parse() {
        _ if word == "all" => Selector::All,
        Ok(id) if digits => Selector::Id(id),
        _ => Selector::Name(word.to_owned()),
    }
}

/// The instances that `words` mean, in their order, each once.
///
/// # Errors
/// A word that means none, unless it is `all`.
pub fn find<'s>(words: &[String], snapshot: &'s Snapshot) -> Result<Vec<&'s InstanceView>, CliError> {
    let mut found: Vec<&InstanceView> = Vec::new();
    for word in words {
        let selector = one(word);
        let matching: Vec<_> = matching(word, &selector, snapshot);
        if matching.is_empty() && selector != Selector::All {
            return Err(no_match(word, snapshot));
        }
        found.extend(
            matching
                .into_iter()
                .filter(|instance| !found.iter().any(|other| other.id == instance.id))
                .collect::<Vec<_>>(),
        );
    }
    Ok(found)
}

/// The numbers of the instances that `words` mean, as far as they mean any.
pub fn numbers(words: &[String], snapshot: &Snapshot) -> Vec<u32> {
    let instances = words.iter().flat_map(|word| matching(word, &one(word), snapshot));
    let mut numbers: Vec<u32> = instances.map(|instance| instance.id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Whether `word` means anything.
pub fn means_any(word: &str, snapshot: &Snapshot) -> bool {
    !matching(word, &one(word), snapshot).is_empty()
}

fn matching<'s>(word: &str, selector: &Selector, snapshot: &'s Snapshot) -> Vec<&'s InstanceView> {
    let of = |wanted: &dyn Fn(&InstanceView) -> bool| snapshot.instances.iter().filter(|one| wanted(one)).collect();
    let by_name: Vec<_> = of(&|instance| *selector == Selector::All || instance.app == word);
    match selector {
        Selector::Id(id) if by_name.is_empty() => of(&|instance| instance.id == *id),
        _ => by_name,
    }
}

fn no_match(word: &str, snapshot: &Snapshot) -> CliError {
    let near = suggest::nearest(word, snapshot.instances.iter().map(|instance| instance.app.as_str()));
    CliError::NoMatch { selector: word.to_owned(), near: near.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::snapshot;

    fn ids(words: &[&str]) -> Vec<u32> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        find(&words, &snapshot()).unwrap().iter().map(|instance| instance.id).collect()
    }

    #[test]
    fn a_word_is_all_or_a_name_or_an_id() {
        assert_eq!(selector(&["all".into()]), Selector::All);
        assert_eq!(selector(&["7".into()]), Selector::Id(7));
        assert_eq!(selector(&["+7".into()]), Selector::Name("+7".into()));
        assert_eq!(selector(&["99999999999".into()]), Selector::Name("99999999999".into()));
        let both = Selector::Several(vec![Selector::Name("web".into()), Selector::Id(0)]);
        assert_eq!(selector(&["web".into(), "0".into()]), both);
    }

    #[test]
    fn instances_are_found_once_in_the_order_asked() {
        assert_eq!(ids(&["2", "web"]), [2, 0, 1]);
        assert_eq!(ids(&["web", "1"]), [0, 1]);
        assert_eq!(ids(&["all"]), [0, 1, 2]);
    }

    #[test]
    fn what_there_is_not_is_an_error_with_the_nearest_name() {
        let error = find(&["wbe".into()], &snapshot()).unwrap_err();
        assert_eq!(error.report(), "error: no app or instance `wbe`\nhint:  did you mean `web`?\n");
        assert!(find(&["17".into()], &snapshot()).is_err());
    }
}
