//! Reading a TOML document by hand, so that every mistake has a place and reading goes on after
//! it. Values come out typed or are reported and left out.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::problem::{Problem, nearest, position};

/// A table with the name it goes by in messages.
#[derive(Clone)]
pub(super) struct Section<'t> {
    pub name: String,
    /// Where its header is.
    pub span: Range<usize>,
    pub table: &'t DeTable<'t>,
}

/// A text value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Word<'t> {
    pub text: &'t str,
    pub span: Range<usize>,
}

/// The document being read, and what was found wrong so far.
pub(super) struct Sheet<'a> {
    file: &'a str,
    text: &'a str,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl<'a> Sheet<'a> {
    pub(super) const fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: Vec::new(), warnings: Vec::new() }
    }

    fn at(&self, span: &Range<usize>, message: String, hint: Option<String>) -> Problem {
        let (line, column) = position(self.text, span.start);
        Problem { file: self.file.to_owned(), line, column, message, hint }
    }

    pub(super) fn wrong(&mut self, span: &Range<usize>, message: String, hint: Option<String>) {
        let problem = self.at(span, message, hint);
        self.problems.push(problem);
    }

    pub(super) fn warn(&mut self, span: &Range<usize>, message: String) {
        let problem = self.at(span, message, None);
        self.warnings.push(problem);
    }

    /// Reports every key of `section` that is not known.
    pub(super) fn only(&mut self, section: &Section<'_>, known: &[&str]) {
        for key in section.table.keys() {
            let word: &str = key.get_ref();
            if !known.contains(&word) {
                let hint = nearest(word, known.iter().copied())
                    .or_else(|| Some(format!("known here: {}", known.join(", "))));
                let message = format!("unknown key `{word}` in {}", section.name);
                self.wrong(&key.span(), message, hint);
            }
        }
    }

    pub(super) fn missing(&mut self, section: &Section<'_>, key: &str, example: &str) {
        let message = format!("{} has no `{key}`", section.name);
        self.wrong(&section.span, message, Some(format!("such as {example}")));
    }

    fn mistyped(
        &mut self,
        section: &Section<'_>,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        want: &str,
    ) {
        let found = value.get_ref().type_str();
        let message = format!("`{key}` in {} must be {want}, not {found}", section.name);
        self.wrong(&value.span(), message, None);
    }

    /// The table under `key`, if any.
    pub(super) fn section<'t>(&mut self, of: &Section<'t>, key: &str) -> Option<Section<'t>> {
        let (name, value) = of.table.get_key_value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.mistyped(of, key, value, "a table");
            return None;
        };
        let inner = if of.name.is_empty() { key.to_owned() } else { format!("{}.{key}", of.name) };
        Some(Section { name: inner, span: name.span(), table })
    }

    /// The tables under `key`, each with its own name.
    pub(super) fn named<'t>(
        &mut self,
        of: &Section<'t>,
        key: &str,
    ) -> Vec<(Word<'t>, Section<'t>)> {
        let Some(outer) = self.section(of, key) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, _) in outer.table {
            let text: &'t str = name.get_ref();
            if let Some(section) = self.section(&outer, text) {
                found.push((Word { text, span: name.span() }, section));
            }
        }
        found
    }

    /// The text under `key`, if any.
    pub(super) fn word<'t>(&mut self, of: &Section<'t>, key: &str) -> Option<Word<'t>> {
        let value = of.table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Word { text, span: value.span() }),
            _ => {
                self.mistyped(of, key, value, "a text in quotes");
                None
            }
        }
    }

    /// One text or a list of texts under `key`; empty when there is none.
    pub(super) fn words<'t>(&mut self, of: &Section<'t>, key: &str) -> Vec<Word<'t>> {
        let Some(value) = of.table.get(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::String(text) => vec![Word { text, span: value.span() }],
            DeValue::Array(items) => {
                let mut words = Vec::new();
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::String(text) => words.push(Word { text, span: item.span() }),
                        _ => self.mistyped(of, key, item, "a list of texts in quotes"),
                    }
                }
                words
            }
            _ => {
                self.mistyped(of, key, value, "a text or a list of texts");
                Vec::new()
            }
        }
    }

    /// The tables of a list under `key`.
    pub(super) fn sections<'t>(&mut self, of: &Section<'t>, key: &str) -> Vec<Section<'t>> {
        let Some(value) = of.table.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.mistyped(of, key, value, "a list of tables");
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items.iter() {
            let name = format!("{}.{key}", of.name);
            match item.get_ref() {
                DeValue::Table(table) => found.push(Section { name, span: item.span(), table }),
                _ => self.mistyped(of, key, item, "a list of tables"),
            }
        }
        found
    }

    /// A whole number from 0 up under `key`.
    pub(super) fn number(&mut self, of: &Section<'_>, key: &str) -> Option<u32> {
        let value = of.table.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(digits) => u32::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        if number.is_none() {
            self.mistyped(of, key, value, "a whole number from 0 to 4294967295");
        }
        number
    }

    /// `true` or `false` under `key`.
    pub(super) fn flag(&mut self, of: &Section<'_>, key: &str) -> Option<bool> {
        let value = of.table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.mistyped(of, key, value, "true or false");
        }
        flag
    }

    /// A word as the type that parses it; reported when it does not.
    pub(super) fn parsed<T>(&mut self, word: &Word<'_>) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match word.text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(&word.span, format!("{error}"), None);
                None
            }
        }
    }

    /// The text under `key` as the type that parses it.
    pub(super) fn value<T>(&mut self, of: &Section<'_>, key: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let word = self.word(of, key)?;
        self.parsed(&word)
    }

    /// One of a few words under `key`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        of: &Section<'_>,
        key: &str,
        among: &[(&str, T)],
    ) -> Option<T> {
        let word = self.word(of, key)?;
        let found = among.iter().find(|(known, _)| *known == word.text);
        if found.is_none() {
            let known: Vec<&str> = among.iter().map(|(known, _)| *known).collect();
            let hint = nearest(word.text, known.iter().copied());
            let message = format!("`{key}` cannot be {:?}: one of {}", word.text, known.join(", "));
            self.wrong(&word.span, message, hint);
        }
        found.map(|(_, value)| *value)
    }
}
