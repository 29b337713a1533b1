//! A table of a TOML file, read strictly: every key that is not asked for is an error.
//!
//! Owns the way from an offset in the text to line and column. Knows nothing of what the keys mean (`file`). Keys
//! are asked for by name, and what was asked for is what is known: there is no second list of keys to keep in step.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{At, ConfigError, Place, Problem};
use super::{suggest, units};

/// The text of a file, with the beginnings of its lines.
pub struct Text<'t> {
    text: &'t str,
    lines: Vec<usize>,
}

impl<'t> Text<'t> {
    /// Prepares a text for [`Text::place`].
    pub fn new(text: &'t str) -> Text<'t> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Text { text, lines }
    }

    /// Parses it.
    ///
    /// # Errors
    /// The first thing that is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'t>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let place = error.span().map_or(Place::Whole, |span| self.place(span.start));
            // The message alone: the error's own display quotes the line, which may hold a token.
            ConfigError::at(place, Problem::Syntax(error.message().replace('\n', ", ")))
        })
    }

    /// Line and column of an offset.
    pub fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        // An offset may lie behind the last character, never within one; be content with the line if it does.
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place::At { line: line as u32, column: column as u32 }
    }
}

/// One table while it is read.
pub struct Section<'t> {
    text: &'t Text<'t>,
    table: &'t DeTable<'t>,
    /// As the user wrote it: `[[app]]`.
    title: String,
    place: Place,
    asked: Vec<&'static str>,
    /// Other names of keys, and the keys that they mean.
    aliases: &'static [(&'static str, &'static str)],
}

/// A value and its place.
type Written<'t> = (&'t DeValue<'t>, Place);

/// What stands where a table may.
pub enum Within<'t> {
    Table(Section<'t>),
    /// `true` or `false`.
    Switch(At<bool>),
}

/// Something that is named, its place, and what is said of it, if anything.
pub type Named = (At<String>, Option<At<String>>);

impl<'t> Section<'t> {
    /// A table to read; `title` is what errors call it.
    pub fn new(text: &'t Text<'t>, table: &'t DeTable<'t>, title: &str, place: Place) -> Section<'t> {
        Section { text, table, title: title.to_owned(), place, asked: Vec::new(), aliases: &[] }
    }

    /// The same table, in which keys also go by other names.
    pub fn with_aliases(self, aliases: &'static [(&'static str, &'static str)]) -> Section<'t> {
        Section { aliases, ..self }
    }

    /// Where it begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The first key, as the file goes, that nobody asked for.
    pub fn finish(self) -> Result<(), ConfigError> {
        let aliases = self.aliases.iter().filter(|(_, key)| self.asked.contains(key)).map(|(alias, _)| *alias);
        let known: Vec<&'static str> = self.asked.iter().copied().chain(aliases).collect();
        let strangers = self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = strangers.min_by_key(|key| key.span().start) else { return Ok(()) };
        let name = key.get_ref().to_string();
        let near = suggest::nearest(&name, known).map(str::to_owned);
        let problem = Problem::UnknownKey { key: name, section: self.title, near, known: self.asked };
        Err(ConfigError::at(self.text.place(key.span().start), problem))
    }

    /// A string.
    pub fn string(&mut self, key: &'static str) -> Result<Option<At<String>>, ConfigError> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned).ok_or(None))
    }

    /// A string without a NUL byte, fit for the system.
    pub fn text(&mut self, key: &'static str) -> Result<Option<At<String>>, ConfigError> {
        let text = self.string(key)?;
        match &text {
            Some(At { value, place }) if value.contains('\0') => {
                Err(ConfigError::at(*place, Problem::Nul { key: key.to_owned() }))
            }
            _ => Ok(text),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<At<bool>>, ConfigError> {
        self.read(key, "true or false", |value| value.as_bool().ok_or(None))
    }

    /// A whole number that fits `T`.
    pub fn number<T: TryFrom<i64>>(&mut self, key: &'static str) -> Result<Option<At<T>>, ConfigError> {
        self.read(key, "a whole number", |value| {
            let number = integer(value).ok_or(None)?;
            T::try_from(number).map_err(|_| Some(format!("{number} is out of range")))
        })
    }

    /// A duration: a string with a unit, or milliseconds.
    pub fn duration(&mut self, key: &'static str) -> Result<Option<At<Duration>>, ConfigError> {
        self.read(key, "a duration such as \"3s\"", |value| quantity(value, units::duration))
    }

    /// A size: a string with a unit, or bytes.
    pub fn size(&mut self, key: &'static str) -> Result<Option<At<u64>>, ConfigError> {
        self.read(key, "a size such as \"64KiB\"", |value| quantity(value, units::size))
    }

    /// A list of strings, each with its place.
    pub fn strings(&mut self, key: &'static str) -> Result<Option<Vec<At<String>>>, ConfigError> {
        const EXPECTED: &str = "a list of strings";
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        let Some(list) = value.as_array() else { return Err(wrong(key, EXPECTED, value, place)) };
        let strict = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::String(_) => self.word(key, EXPECTED, item),
            other => Err(wrong(key, EXPECTED, other, self.text.place(item.span().start))),
        };
        list.iter().map(strict).collect::<Result<_, _>>().map(Some)
    }

    /// Strings, each with its place: one by itself, or a list. Whole numbers count as strings.
    pub fn words(&mut self, key: &'static str) -> Result<Option<Vec<At<String>>>, ConfigError> {
        const EXPECTED: &str = "a string or a list of strings";
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        match value.as_array() {
            Some(list) => list.iter().map(|item| self.word(key, EXPECTED, item)).collect::<Result<_, _>>().map(Some),
            None => Ok(Some(vec![as_word(key, EXPECTED, value, place)?])),
        }
    }

    /// A string; a whole number counts as one.
    pub fn word_of(&mut self, key: &'static str) -> Result<Option<At<String>>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        as_word(key, "a string", value, place).map(Some)
    }

    /// Names: one by itself, a list, or a table that says something of each.
    pub fn named(&mut self, key: &'static str, expected: &'static str) -> Result<Vec<Named>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(Vec::new()) };
        let mut named = Vec::new();
        match value {
            DeValue::Array(list) => {
                for item in list {
                    named.push((self.word(key, expected, item)?, None));
                }
            }
            DeValue::Table(table) => {
                for (name, value) in table {
                    let at = At::new(name.get_ref().to_string(), self.text.place(name.span().start));
                    named.push((at, Some(self.word(key, "a string", value)?)));
                }
                named.sort_by_key(|(name, _)| name.place);
            }
            other => named.push((as_word(key, expected, other, place)?, None)),
        }
        Ok(named)
    }

    fn word(
        &self,
        key: &'static str,
        expected: &'static str,
        item: &Spanned<DeValue<'_>>,
    ) -> Result<At<String>, ConfigError> {
        as_word(key, expected, item.get_ref(), self.text.place(item.span().start))
    }

    /// Any value, read by `read`: `Err(None)` says that the type is wrong, `Err(Some(..))` what else is.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Option<String>>,
    ) -> Result<Option<At<T>>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        match read(value) {
            Ok(value) => Ok(Some(At::new(value, place))),
            Err(None) => Err(wrong(key, expected, value, place)),
            Err(Some(reason)) => {
                Err(ConfigError::at(place, Problem::Value { key: key.to_owned(), reason, hint: None }))
            }
        }
    }

    /// A table of free keys whose values are strings, numbers or booleans, all read as strings.
    pub fn variables(&mut self, key: &'static str) -> Result<Vec<(At<String>, String)>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(Vec::new()) };
        let Some(table) = value.as_table() else {
            return Err(wrong(key, "a table such as { PORT = \"3000\" }", value, place));
        };
        let mut variables = Vec::new();
        for (name, value) in table {
            let place = self.text.place(name.span().start);
            let Some(text) = scalar(value.get_ref()) else {
                let place = self.text.place(value.span().start);
                let key = format!("{key}.{}", name.get_ref());
                let (expected, found) = ("a string, a number or a boolean", type_name(value.get_ref()));
                return Err(ConfigError::at(place, Problem::WrongType { key, expected, found }));
            };
            variables.push((At::new(name.get_ref().to_string(), place), text));
        }
        variables.sort_by_key(|(name, _)| name.place);
        Ok(variables)
    }

    /// A table of its own: `[key]`.
    pub fn section(&mut self, key: &'static str) -> Result<Option<Section<'t>>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        let Some(table) = value.as_table() else { return Err(wrong(key, "a table, written [name]", value, place)) };
        Ok(Some(Section::new(self.text, table, &format!("[{key}]"), place)))
    }

    /// A table within another one: `[app.key]`.
    pub fn within(&mut self, key: &'static str, title: &'static str) -> Result<Option<Section<'t>>, ConfigError> {
        match self.within_or_switch(key, title)? {
            None => Ok(None),
            Some(Within::Table(section)) => Ok(Some(section)),
            Some(Within::Switch(At { place, .. })) => {
                let (key, expected, found) = (key.to_owned(), "a table", "a boolean");
                Err(ConfigError::at(place, Problem::WrongType { key, expected, found }))
            }
        }
    }

    /// The same, where `false` may stand in its place.
    pub fn within_or_switch(
        &mut self,
        key: &'static str,
        title: &'static str,
    ) -> Result<Option<Within<'t>>, ConfigError> {
        let Some((value, place)) = self.take(key)? else { return Ok(None) };
        match value {
            DeValue::Table(table) => Ok(Some(Within::Table(Section::new(self.text, table, title, place)))),
            DeValue::Boolean(said) => Ok(Some(Within::Switch(At::new(*said, place)))),
            _ => Err(wrong(key, "a table", value, place)),
        }
    }

    /// Whether a key holds a table, where it may hold something else.
    pub fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    /// A list of tables: `[[title]]`.
    pub fn sections(&mut self, key: &'static str, title: &'static str) -> Result<Vec<Section<'t>>, ConfigError> {
        const EXPECTED: &str = "a list of tables, written in double brackets";
        let Some((value, place)) = self.take(key)? else { return Ok(Vec::new()) };
        let Some(list) = value.as_array() else { return Err(wrong(key, EXPECTED, value, place)) };
        let mut sections = Vec::new();
        for item in list {
            let place = self.text.place(item.span().start);
            let Some(table) = item.get_ref().as_table() else {
                return Err(wrong(key, EXPECTED, item.get_ref(), place));
            };
            sections.push(Section::new(self.text, table, title, place));
        }
        Ok(sections)
    }

    /// The value of a key, under whichever of its names it stands.
    fn take(&mut self, key: &'static str) -> Result<Option<Written<'t>>, ConfigError> {
        self.asked.push(key);
        let aliases = self.aliases.iter().filter(|(_, of)| *of == key).map(|(alias, _)| *alias);
        let mut found: Option<(&'static str, &'t Spanned<DeValue<'t>>)> = None;
        for name in std::iter::once(key).chain(aliases) {
            let Some(value) = self.table.get(name) else { continue };
            if let Some((other, _)) = found {
                let place = self.text.place(value.span().start);
                return Err(ConfigError::at(place, Problem::Either { key: name, other }));
            }
            found = Some((name, value));
        }
        Ok(found.map(|(_, value)| (value.get_ref(), self.text.place(value.span().start))))
    }
}

/// A string without a NUL byte, or a whole number, as a string.
fn as_word(key: &str, expected: &'static str, value: &DeValue<'_>, place: Place) -> Result<At<String>, ConfigError> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(_) => integer(value).unwrap_or_default().to_string(),
        _ => return Err(wrong(key, expected, value, place)),
    };
    match text.contains('\0') {
        true => Err(ConfigError::at(place, Problem::Nul { key: key.to_owned() })),
        false => Ok(At::new(text, place)),
    }
}

/// An integer of any base.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    // Out of range reads as the nearest: nothing here has a use for so large a number, and every caller checks.
    let far = if integer.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
    Some(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(far))
}

fn quantity<T>(value: &DeValue<'_>, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Option<String>> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(_) => integer(value).unwrap_or_default().to_string(),
        _ => return Err(None),
    };
    read(&text).map_err(Some)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(_) => integer(value).map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    }
}

fn wrong(key: &str, expected: &'static str, value: &DeValue<'_>, place: Place) -> ConfigError {
    ConfigError::at(place, Problem::WrongType { key: key.to_owned(), expected, found: type_name(value) })
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
