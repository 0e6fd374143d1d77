//! Values that keys of several tables have: strings, numbers, durations, sizes, addresses, lists and maps.
//!
//! `${NAME}` is filled in here, for every string. Imports `units`.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use toml::de::DeValue;

use super::{At, FromToml, Map, Reader, Type, Value, called, is_variable};
use crate::config::diagnostic::Span;
use crate::units::{self, ByteSize};

/// A string whose `${NAME}`s have been filled in.
#[derive(Clone)]
pub(in crate::config) struct Text {
    value: String,
    /// As written, where that differs: only this may be quoted in a message.
    written: Option<String>,
}

impl Text {
    /// Whether part of it came from the environment.
    pub(in crate::config) fn is_filled_in(&self) -> bool {
        self.written.is_some()
    }

    /// A piece of it, to be quoted.
    pub(in crate::config) fn part(&self, part: &str) -> Self {
        if self.is_filled_in() { self.clone() } else { Self { value: part.to_owned(), written: None } }
    }

    /// What is behind `prefix`; quoted, it still shows as it was written.
    pub(in crate::config) fn behind(&self, prefix: &str) -> Option<Self> {
        let value = self.value.strip_prefix(prefix)?.to_owned();
        Some(Self { value, written: self.written.clone() })
    }

    pub(in crate::config) fn into_string(self) -> String {
        self.value
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.value
    }
}

/// In quotes, and as written: what came from the environment does not print.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.written.as_deref().unwrap_or(&self.value))
    }
}

impl FromToml for Text {
    const TYPE: Type = Type::Text;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let DeValue::String(written) = value.get_ref() else {
            reader.wrong_type(key, value, "a string");
            return None;
        };
        let span = reader.span(value);
        reader.fill_in(span, written)
    }
}

impl FromToml for bool {
    const TYPE: Type = Type::Bool;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            reader.wrong_type(key, value, "true or false").help("without quotes");
        }
        truth
    }
}

impl FromToml for usize {
    const TYPE: Type = Type::Count;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            let problem = reader.wrong_type(key, value, "a whole number");
            problem.help("a plain number, without quotes and without a unit");
            return None;
        };
        // More than fits in 32 bits is a slip, and must not overflow a semaphore (tokio: 2^61 - 1 permits).
        let number = u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| *number > 0);
        if number.is_none() {
            let span = reader.span(value);
            reader.problems.error(span, format!("{} must be between 1 and {}", called(key), u32::MAX));
        }
        number.and_then(|number| usize::try_from(number).ok())
    }
}

impl FromToml for Duration {
    const TYPE: Type = Type::Duration;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        const DAY: Duration = Duration::from_hours(24);
        let wanted = ("a duration", "a duration is a string with a unit, such as \"250ms\", \"5s\" or \"10m\"");
        reader.parse(key, value, wanted, |text| match units::parse_duration(text) {
            Ok(Duration::ZERO) => Err("zero would end everything at once".to_owned()),
            // Beyond this the arithmetic of deadlines might overflow, and nobody means it.
            Ok(duration) if duration > DAY => Err("more than a day".to_owned()),
            Ok(duration) => Ok(duration),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl FromToml for ByteSize {
    const TYPE: Type = Type::Size;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let wanted = ("a size", "a size is a string with a unit, such as \"64KiB\" or \"10MiB\"");
        reader.parse(key, value, wanted, |text| match text.parse() {
            Ok(Self(0)) => Err("zero leaves no room for any body".to_owned()),
            Ok(size) => Ok(size),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl FromToml for SocketAddr {
    const TYPE: Type = Type::Address;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let help = "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
        reader.parse(key, value, ("an address", help), |text| {
            text.parse().map_err(|_not_an_address| format!("\"{text}\" is not an IP address and a port"))
        })
    }
}

impl<T: FromToml> FromToml for Vec<At<T>> {
    const TYPE: Type = Type::List(&T::TYPE);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let Some(items) = value.get_ref().as_array() else {
            reader.wrong_type(key, value, "an array").help(format!("put it in brackets: `{key} = [\"…\"]`"));
            return None;
        };
        let name = format!("an item of `{key}`");
        let read: Self = items.iter().filter_map(|item| reader.at(&name, item)).collect();
        // A list of nothing but mistakes is not an empty list.
        (!read.is_empty() || items.is_empty()).then_some(read)
    }
}

impl<T: FromToml> FromToml for Map<T> {
    const TYPE: Type = Type::Map(&T::TYPE);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let table = reader.table(key, value)?;
        let mut pairs: Self = Vec::new();
        for (name, value) in table.entries {
            let name = At { value: name.get_ref().to_string(), span: reader.span(name) };
            if let Some(value) = reader.at(&name.value, value) {
                pairs.push((name, value));
            }
        }
        pairs.sort_by_key(|(name, _)| name.span);
        Some(pairs)
    }
}

impl Reader<'_> {
    /// Fills in `${NAME}` and `${NAME:-default}`; `$${` stands for `${`.
    pub(super) fn fill_in(&mut self, span: Span, written: &str) -> Option<Text> {
        if !written.contains("${") {
            return Some(Text { value: written.to_owned(), written: None });
        }
        let mut value = String::new();
        let mut rest = written;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                value.push_str(before);
                value.push_str("${");
                rest = after;
                continue;
            }
            value.push_str(before);
            let Some((inside, after)) = after.split_once('}') else {
                self.problems.error(span, "`${` has no `}`").help("write `$${` for the characters themselves");
                return None;
            };
            value.push_str(&self.variable(span, inside)?);
            rest = after;
        }
        value.push_str(rest);
        Some(Text { value, written: Some(written.to_owned()) })
    }

    fn variable(&mut self, span: Span, inside: &str) -> Option<String> {
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
        if !is_variable(name) {
            let problem = self.problems.error(span, "`${…}` does not hold the name of an environment variable");
            problem.help("write `${NAME}` or `${NAME:-default}`; `$${` stands for the characters themselves");
            return None;
        }
        match (self.environment.get(name), default) {
            // As in a shell, `:-` also takes the place of an empty value.
            (Some("") | None, Some(default)) => Some(default.to_owned()),
            (Some(found), _) => Some(found.to_owned()),
            (None, None) => {
                let problem = self.problems.error(span, format!("environment variable {name} is not set"));
                problem.help(format!("set it, or give a default: `${{{name}:-default}}`"));
                None
            }
        }
    }
}
