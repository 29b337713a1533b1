//! A string of arguments, split the way a shell would, without a shell: quotes and backslashes, nothing else.

/// Splits `text` into words. Single quotes keep everything, double quotes know `\"` and `\\`, a backslash outside
/// of quotes keeps the next character.
///
/// # Errors
/// The rest of a sentence, when a quote or a backslash is left open. It does not quote the text: arguments may hold
/// secrets.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => quoted(c, &mut rest, word.get_or_insert_default())?,
            '\\' => {
                let kept = rest.next().ok_or("ends in a backslash")?;
                word.get_or_insert_default().push(kept);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Reads up to the closing quote.
fn quoted(quote: char, rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let open = || "has a quote that is not closed".to_owned();
    loop {
        match rest.next().ok_or_else(open)? {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match rest.next().ok_or_else(open)? {
                c @ ('"' | '\\') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_keep_a_word_together() {
        for (text, words) in [
            ("", vec![]),
            ("  a  b ", vec!["a", "b"]),
            ("--name 'two words'", vec!["--name", "two words"]),
            (r#"--say="a \"b\" \c""#, vec![r#"--say=a "b" \c"#]),
            (r"a\ b", vec!["a b"]),
            ("'' \"\"", vec!["", ""]),
        ] {
            assert_eq!(split(text), Ok(words.into_iter().map(str::to_owned).collect()), "{text}");
        }
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert_eq!(split("a 'b"), Err("has a quote that is not closed".into()));
        assert_eq!(split("a\\"), Err("ends in a backslash".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = split(&text);
        }
    }
}
