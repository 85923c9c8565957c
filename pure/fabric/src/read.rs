//! Reading TOML tables key by key with the place of everything at hand, so that each error can point.
//!
//! How: the document is parsed to spanned values; a [`Table`] refuses unknown keys when it is opened; a [`Field`]
//! turns its value into one type or says what was found instead.
//! Absent on purpose: derived deserialization, whose messages do not know ranges, units or neighbours.

use crate::error::{Problem, SpecError};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table whose keys are all known.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    text: &'a str,
    /// In words, for messages.
    name: &'static str,
    start: usize,
    keys: &'a DeTable<'a>,
}

/// A key with its value.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    text: &'a str,
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

/// Parses the text; `Table::root` opens the result.
pub(crate) fn document(text: &str) -> Result<Spanned<DeTable<'_>>, SpecError> {
    DeTable::parse(text).map_err(|e| {
        let span = e.span().unwrap_or(0..0);
        SpecError::new(text, span, Problem::Syntax(e.message().to_string()))
    })
}

impl<'a> Table<'a> {
    pub(crate) fn root(
        text: &'a str,
        document: &'a DeTable<'a>,
        name: &'static str,
        known: &'static [&'static str],
    ) -> Result<Self, SpecError> {
        Table { text, name, start: 0, keys: document }.only(known)
    }
    fn only(self, known: &'static [&'static str]) -> Result<Self, SpecError> {
        let unknown = self.keys.iter().map(|(key, _)| key).filter(|key| !known.contains(&&**key.get_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            Some(key) => {
                let problem = Problem::UnknownKey { key: key.get_ref().to_string(), table: self.name, known };
                Err(SpecError::new(self.text, key.span(), problem))
            }
            None => Ok(self),
        }
    }
    pub(crate) fn get(&self, key: &'static str) -> Option<Field<'a>> {
        let (_, value) = self.keys.iter().find(|(k, _)| k.get_ref() == key)?;
        Some(Field { text: self.text, key, value })
    }
    pub(crate) fn need(&self, key: &'static str, expected: &'static str) -> Result<Field<'a>, SpecError> {
        self.get(key).ok_or_else(|| self.error(Problem::Missing { key, table: self.name, expected }))
    }
    /// An error about the table as a whole.
    pub(crate) fn error(&self, problem: Problem) -> SpecError {
        SpecError::new(self.text, self.start..self.start, problem)
    }
}

impl<'a> Field<'a> {
    pub(crate) fn span(&self) -> Range<usize> {
        self.value.span()
    }
    pub(crate) fn key(&self) -> String {
        self.key.to_string()
    }
    pub(crate) fn error(&self, problem: Problem) -> SpecError {
        SpecError::new(self.text, self.span(), problem)
    }
    fn wrong(&self, expected: &'static str) -> SpecError {
        let found = self.value.get_ref().type_str();
        self.error(Problem::WrongType { key: self.key(), found, expected })
    }
    pub(crate) fn bad(&self, expected: &'static str) -> SpecError {
        let found = match self.value.get_ref() {
            DeValue::String(s) => s.to_string(),
            DeValue::Integer(i) => i.to_string(),
            DeValue::Float(f) => f.to_string(),
            _ => return self.wrong(expected),
        };
        self.error(Problem::BadValue { key: self.key(), found, expected })
    }
    /// A whole number within bounds.
    pub(crate) fn number(&self, low: u64, high: u64) -> Result<u64, SpecError> {
        let DeValue::Integer(i) = self.value.get_ref() else { return Err(self.wrong("a whole number")) };
        match u64::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) if (low..=high).contains(&n) => Ok(n),
            _ => Err(self.error(Problem::OutOfRange { key: self.key(), found: i.to_string(), low, high })),
        }
    }
    pub(crate) fn text(&self, expected: &'static str) -> Result<&'a str, SpecError> {
        match self.value.get_ref() {
            DeValue::String(s) => Ok(s),
            _ => Err(self.wrong(expected)),
        }
    }
    /// A text that a function reads.
    pub(crate) fn read<T>(
        &self,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SpecError> {
        read(self.text(expected)?).ok_or_else(|| self.bad(expected))
    }
    pub(crate) fn flag(&self) -> Result<bool, SpecError> {
        match self.value.get_ref() {
            DeValue::Boolean(b) => Ok(*b),
            _ => Err(self.wrong("true or false")),
        }
    }
    pub(crate) fn table(
        &self,
        name: &'static str,
        known: &'static [&'static str],
    ) -> Result<Table<'a>, SpecError> {
        match self.value.get_ref() {
            DeValue::Table(keys) => {
                Table { text: self.text, name, start: self.span().start, keys }.only(known)
            }
            _ => Err(self.wrong("a table")),
        }
    }
    /// The elements of an array.
    pub(crate) fn list(&self, expected: &'static str) -> Result<Vec<Field<'a>>, SpecError> {
        match self.value.get_ref() {
            DeValue::Array(values) => {
                Ok(values.iter().map(|value| Field { text: self.text, key: self.key, value }).collect())
            }
            _ => Err(self.wrong(expected)),
        }
    }
}
