//! Reads a TOML table into a flat struct and notes every problem on the way.
//!
//! serde's derive stops at the first error, so this walks the spanned table itself. The macro [`table`] declares a key
//! once: its type, default and description serve the reader, the tests and the JSON schema. What a value means is not
//! decided here. Imports nothing of ours.

mod values;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Environment;
use super::diagnostic::{Problem, Problems, Span};
pub(super) use values::Text;

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
    /// A whole number.
    Id,
    /// A number from 0 to 1.
    Share,
    /// `"5s"`; never zero, at most a day.
    Duration,
    /// `"64KiB"`; never zero.
    Size,
    /// IP address and port; for `[proxy] listen` also `unix:` and a path.
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
    /// A table with these keys, or an array of such.
    Tables(&'static [Key]),
    /// One of these strings, or a table with one of these keys.
    ChoiceOrTable(&'static [&'static str], &'static [Key]),
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
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
                // A table of required keys alone inherits nothing.
                let _: Option<&Self> = inherited;
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
        $reader.required::<$type>($table, stringify!($key), Self::KEYS)
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

    pub(super) fn required<T: FromToml>(&mut self, table: &Table<'_, '_>, key: &str, keys: &[Key]) -> Option<At<T>> {
        if table.entries.contains_key(key) {
            return self.optional(table, key);
        }
        let doc = keys.iter().find(|known| known.name == key).map_or("", |known| known.doc);
        self.missing(table, key).help(format!("`{key}`: {}", sentence(doc)));
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
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(name, value, "a table");
            return None;
        };
        Some(Table { name, span: self.span(value), entries })
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
        problem.label(if table.is_empty() {
            "not a table of a config".to_owned()
        } else {
            format!("not a key of {}", called(table))
        });
        if let Some(meant) = nearest(key, names) {
            problem.help(format!("did you mean `{meant}`?"));
        } else if let Some(meant) = nearest(key, super::raw::all_keys())
            && let Some(home) = super::raw::home_of(meant)
        {
            problem.help(format!("`{meant}` belongs in {home}"));
        }
    }

    pub(super) fn unknown_value(&mut self, key: &str, value: &Value<'_>, text: &Text, known: &[&'static str]) {
        let span = self.span(value);
        let problem = self.problems.error(span, format!("{text} is not a value of {}", called(key)));
        let list = known.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        problem.help(match nearest(text, known.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"? Known are {list}"),
            None => format!("known are {list}"),
        });
    }

    pub(super) fn wrong_type(&mut self, key: &str, value: &Value<'_>, wanted: &str) -> &mut Problem {
        let found = match value.get_ref() {
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
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, wanted).help(help);
        }
        text
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
                let why = if text.is_filled_in() { format!("{text} does not give {wanted}") } else { why };
                self.problems.error(span, format!("{}: {why}", called(key))).help(help);
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

/// A description as it stands in a help line: no capital, unless it begins with an abbreviation, and no full stop.
fn sentence(doc: &str) -> String {
    let doc = doc.replace('\n', "");
    let doc = doc.trim().trim_end_matches('.');
    let mut characters = doc.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(characters).collect(),
        _ => doc.to_owned(),
    }
}

/// A table's or key's name as it stands in a sentence.
fn called(name: &str) -> String {
    match name {
        "proxy" | "admin" | "log" | "traces" | "upstream" | "auth" => format!("[{name}]"),
        "route" => "this [[route]]".to_owned(),
        _ if name.starts_with("auth.") => format!("[{name}]"),
        _ if name.contains('`') => name.to_owned(),
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
