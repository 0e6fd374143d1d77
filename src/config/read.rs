//! Reads a TOML table into a flat struct and notes every problem on the way.
//!
//! serde's derive stops at the first error, so this walks the spanned table itself. The macro [`table`] declares a key
//! once: its type, default and description serve the reader, the tests and the JSON schema. What a value means is not
//! decided here, but for its units. Imports `units` and `telemetry::log` for their types.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Environment;
use super::diagnostic::{Problem, Problems, Span};
use crate::units::{self, ByteSize};

/// One key of the config, as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name, without the table.
    pub name: &'static str,
    /// What may be written.
    pub kind: Type,
    /// What holds when it is not written, in TOML; `None` when leaving it out is a meaning of its own.
    pub default: Option<&'static str>,
    /// Whether leaving it out is an error.
    pub required: bool,
    /// What it does; lines begin with a space.
    pub doc: &'static str,
}

/// What may be written for a key.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number of at least 1.
    Count,
    /// `"5s"`; never zero, at most a day.
    Duration,
    /// `"64KiB"`; never zero.
    Size,
    /// IP address and port.
    Address,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An array.
    List(&'static Type),
    /// A table with one key that says where the secret is.
    Secret,
    /// A string or a secret.
    TextOrSecret,
    /// A table whose keys are the user's.
    Map(&'static Type),
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table whose `kind` decides about its other keys.
    Kinds(&'static [(&'static str, &'static [Key])]),
    /// One of these strings, or a table with one of these keys.
    ChoiceOrTable(&'static [&'static str], &'static [Key]),
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A string whose `${NAME}`s have been filled in.
#[derive(Clone)]
pub(super) struct Text {
    value: String,
    /// As written, where that differs: only this may be quoted in a message.
    written: Option<String>,
}

/// Pairs whose keys are the user's own, in the order of the file.
pub(super) type Map<T> = Vec<(At<String>, At<T>)>;

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A table that is being read.
pub(super) struct Table<'t, 'i> {
    /// As it is called in messages: `[proxy]`.
    pub(super) name: &'t str,
    pub(super) span: Span,
    pub(super) entries: &'t DeTable<'i>,
}

/// What a value can be read into.
pub(super) trait FromToml: Sized + Clone {
    const TYPE: Type;

    /// The value of `key`, or `None` after noting why not.
    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self>;
}

pub(super) struct Reader<'a> {
    pub(super) environment: &'a Environment,
    pub(super) problems: &'a mut Problems,
    /// Defaults are read like any value, but stand nowhere.
    written: bool,
}

/// Declares a table of the config: a struct with one field for each key, and its [`Key`]s.
///
/// `key: Type = "default"` is always there, `key: Type` is an `Option`, `key: Type => required` is an `Option` too, and a
/// problem has been noted when it is `None`.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty $(= $default:literal)? $(=> $need:ident)?;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub(super) $key: slot!($type $(, $default)?),)+
        }

        impl $name {
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($key),
                kind: <$type as FromToml>::TYPE,
                default: given!($($default)?),
                required: needed!($($need)?),
                doc: concat!($($doc, "\n"),+),
            },)+];

            /// Reads the keys; what is not written comes from `inherited`, or is the default.
            pub(super) fn take(reader: &mut Reader<'_>, table: &Table<'_, '_>, inherited: Option<&Self>) -> Self {
                Self { $($key: take!(reader, table, inherited, $key, $type $(, $default)? $(, $need)?),)+ }
            }
        }

        impl FromToml for $name {
            const TYPE: Type = Type::Table(Self::KEYS);

            fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
                let table = reader.table(key, value)?;
                reader.refuse_unknown(&table, &[Self::KEYS]);
                Some(Self::take(reader, &table, None))
            }
        }
    };
}

macro_rules! slot {
    ($type:ty) => { Option<At<$type>> };
    ($type:ty, $default:literal) => { At<$type> };
}

macro_rules! given {
    () => {
        None
    };
    ($default:literal) => {
        Some($default)
    };
}

macro_rules! needed {
    () => {
        false
    };
    (required) => {
        true
    };
}

macro_rules! take {
    ($reader:ident, $table:ident, $inherited:ident, $key:ident, $type:ty) => {
        $reader
            .optional::<$type>($table, stringify!($key))
            .or_else(|| $inherited.and_then(|inherited| inherited.$key.clone()))
    };
    ($reader:ident, $table:ident, $inherited:ident, $key:ident, $type:ty, required) => {
        $reader.required::<$type>($table, stringify!($key))
    };
    ($reader:ident, $table:ident, $inherited:ident, $key:ident, $type:ty, $default:literal) => {
        $reader.or_default::<$type>($table, stringify!($key), $default, $inherited.map(|inherited| &inherited.$key))
    };
}

/// Declares the strings that stand for the variants of an enum.
macro_rules! choice {
    ($type:ty { $($name:literal => $variant:expr),+ $(,)? }) => {
        impl FromToml for $type {
            const TYPE: Type = Type::Choice(&[$($name),+]);

            fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
                let text = Text::read(reader, key, value)?;
                match &*text {
                    $($name => Some($variant),)+
                    _ => {
                        reader.unknown_value(key, value, &text, &[$($name),+]);
                        None
                    }
                }
            }
        }
    };
}

pub(super) use {choice, given, needed, slot, table, take};

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a Environment, problems: &'a mut Problems) -> Self {
        Self { environment, problems, written: true }
    }

    pub(super) fn span<T>(&self, value: &Spanned<T>) -> Span {
        if self.written { Span::from(value.span()) } else { Span::NOWHERE }
    }

    pub(super) fn at<T: FromToml>(&mut self, key: &str, value: &Value<'_>) -> Option<At<T>> {
        let span = self.span(value);
        T::read(self, key, value).map(|value| At { value, span })
    }

    pub(super) fn optional<T: FromToml>(&mut self, table: &Table<'_, '_>, key: &str) -> Option<At<T>> {
        self.at(key, table.entries.get(key)?)
    }

    pub(super) fn required<T: FromToml>(&mut self, table: &Table<'_, '_>, key: &str) -> Option<At<T>> {
        if table.entries.contains_key(key) {
            return self.optional(table, key);
        }
        self.missing(table, key);
        None
    }

    pub(super) fn or_default<T: FromToml>(
        &mut self,
        table: &Table<'_, '_>,
        key: &str,
        default: &str,
        inherited: Option<&At<T>>,
    ) -> At<T> {
        self.optional(table, key).or_else(|| inherited.cloned()).unwrap_or_else(|| default_of(default))
    }

    pub(super) fn table<'t, 'i>(&mut self, name: &'t str, value: &'t Value<'i>) -> Option<Table<'t, 'i>> {
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table { name, span: self.span(value), entries }),
            other => {
                self.wrong_type(name, value, other, "a table");
                None
            }
        }
    }

    pub(super) fn missing(&mut self, table: &Table<'_, '_>, key: &str) -> &mut Problem {
        self.problems.error(table.span, format!("{} has no `{key}`", called(table.name))).absence()
    }

    /// Notes the keys of `table` that are in none of `known`.
    pub(super) fn refuse_unknown(&mut self, table: &Table<'_, '_>, known: &[&[Key]]) {
        for key in table.entries.keys() {
            let name: &str = key.get_ref();
            if !known.iter().copied().flatten().any(|key| key.name == name) {
                let names = known.iter().copied().flatten().map(|key| key.name);
                self.unknown_key(table.name, key.span().into(), name, names);
            }
        }
    }

    pub(super) fn unknown_key(
        &mut self,
        table: &str,
        span: Span,
        key: &str,
        names: impl Iterator<Item = &'static str>,
    ) {
        let problem = self.problems.error(span, format!("unknown key `{key}`"));
        problem.label(format!("not a key of {}", called(table)));
        if let Some(meant) = nearest(key, names) {
            problem.help(format!("did you mean `{meant}`?"));
        } else if let Some(home) = super::raw::home_of(key) {
            problem.help(format!("`{key}` belongs in {home}"));
        }
    }

    pub(super) fn unknown_value(&mut self, key: &str, value: &Value<'_>, text: &Text, known: &[&'static str]) {
        let span = self.span(value);
        let problem = self.problems.error(span, format!("{text} is not a value of `{key}`"));
        let list = known.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        problem.help(match nearest(text, known.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"? Known are {list}"),
            None => format!("known are {list}"),
        });
    }

    pub(super) fn wrong_type(
        &mut self,
        key: &str,
        value: &Value<'_>,
        found: &DeValue<'_>,
        wanted: &str,
    ) -> &mut Problem {
        let found = match found {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let span = self.span(value);
        self.problems.error(span, format!("{} must be {wanted}, not {found}", called(key)))
    }

    /// The string of `key`, or what else there is to say than that it is not `wanted`.
    fn string<'v>(&mut self, key: &str, value: &'v Value<'_>, wanted: &str, help: &str) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::String(text) => Some(text),
            other => {
                self.wrong_type(key, value, other, wanted).help(help);
                None
            }
        }
    }

    /// Fills in `${NAME}` and `${NAME:-default}`; `$${` stands for `${`.
    fn fill_in(&mut self, span: Span, written: &str) -> Option<Text> {
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
            (Some(""), Some(default)) | (None, Some(default)) => Some(default.to_owned()),
            (Some(found), _) => Some(found.to_owned()),
            (None, None) => {
                let problem = self.problems.error(span, format!("environment variable {name} is not set"));
                problem.help(format!("set it, or give a default: `${{{name}:-default}}`"));
                None
            }
        }
    }

    /// Reads a value that has a syntax of its own.
    fn parse<T>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        wanted: (&str, &str),
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (wanted, help) = wanted;
        let written = self.string(key, value, wanted, help)?;
        let span = self.span(value);
        let text = self.fill_in(span, written)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                // The variable may be the wrong one, and its value a secret.
                let why = if text.written.is_some() { format!("{text} does not give {wanted}") } else { why };
                self.problems.error(span, format!("`{key}`: {why}")).help(help);
                None
            }
        }
    }
}

#[expect(clippy::expect_used, reason = "the defaults are part of the program, and a test reads every one")]
fn default_of<T: FromToml>(text: &str) -> At<T> {
    let value = DeValue::parse(text).expect("a default is TOML");
    let (environment, mut problems) = (Environment::default(), Problems::default());
    let mut reader = Reader { environment: &environment, problems: &mut problems, written: false };
    reader.at("", &value).expect("a default is a value of its key")
}

/// A table's or key's name as it stands in a sentence.
fn called(name: &str) -> String {
    match name {
        "" => "the file".to_owned(),
        "proxy" | "admin" | "log" | "upstream" | "auth" => format!("[{name}]"),
        "route" => "this [[route]]".to_owned(),
        _ if name.starts_with("auth.") => format!("[{name}]"),
        _ => format!("`{name}`"),
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // 0.8 takes one slip in five letters and swapped words' endings, but not `host` for `port`.
    known
        .map(|known| (strsim::jaro_winkler(&name.to_ascii_lowercase(), known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Whether `name` can be the name of an environment variable.
pub(super) fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

impl Text {
    /// Whether part of it came from the environment.
    pub(super) fn is_filled_in(&self) -> bool {
        self.written.is_some()
    }

    /// A piece of it, to be quoted.
    pub(super) fn part(&self, part: &str) -> Self {
        if self.is_filled_in() { self.clone() } else { Self { value: part.to_owned(), written: None } }
    }

    pub(super) fn into_string(self) -> String {
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
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.written.as_deref().unwrap_or(&self.value))
    }
}

impl FromToml for Text {
    const TYPE: Type = Type::Text;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let DeValue::String(written) = value.get_ref() else {
            reader.wrong_type(key, value, value.get_ref(), "a string");
            return None;
        };
        let span = reader.span(value);
        reader.fill_in(span, written)
    }
}

impl FromToml for bool {
    const TYPE: Type = Type::Bool;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => {
                reader.wrong_type(key, value, other, "true or false").help("without quotes");
                None
            }
        }
    }
}

impl FromToml for usize {
    const TYPE: Type = Type::Count;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            let problem = reader.wrong_type(key, value, value.get_ref(), "a whole number");
            problem.help("a plain number, without quotes and without a unit");
            return None;
        };
        // More than fits in 32 bits is a slip, and must not overflow a semaphore (tokio: 2^61 - 1 permits).
        let number = u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| *number > 0);
        if number.is_none() {
            let span = reader.span(value);
            reader.problems.error(span, format!("`{key}` must be between 1 and {}", u32::MAX));
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
            text.parse().map_err(|_| format!("\"{text}\" is not an IP address and a port"))
        })
    }
}

impl<T: FromToml> FromToml for Vec<At<T>> {
    const TYPE: Type = Type::List(&T::TYPE);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(items) => Some(items.iter().filter_map(|item| reader.at(key, item)).collect()),
            other => {
                reader.wrong_type(key, value, other, "an array").help(format!("put it in brackets: `{key} = [\"…\"]`"));
                None
            }
        }
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
