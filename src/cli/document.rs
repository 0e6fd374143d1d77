//! The text of a config, written key by key, with the flag that each value came from.
//!
//! Quotes what it is given, so that a flag's value is that value whatever characters it has. Refuses nothing: what is
//! wrong with a value is found by [`config::load`], for flags as for files, and told by the flag's name here. Imports
//! `config`.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::config::{self, Compiled, Diagnostic, Environment, Report, Source};

/// A config that is being written.
#[derive(Debug, Default)]
pub(super) struct Document {
    text: String,
    /// For each line, the flag that its value came from.
    flags: Vec<Option<&'static str>>,
}

impl Document {
    /// Lines as they are: comments, table heads, empty ones.
    pub(super) fn say(&mut self, lines: &str) {
        for line in lines.split('\n') {
            self.line(None, line);
        }
    }

    /// A key and a value, which is TOML already. `flag` is where the value came from.
    pub(super) fn set(&mut self, flag: &'static str, key: &str, value: &str) {
        self.line((!flag.is_empty()).then_some(flag), &format!("{key} = {value}"));
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Checks it as a file would be; what is wrong is told by the flags' names. The report's places are those of
    /// [`Document::text`], which `name` stands for.
    ///
    /// # Errors
    /// [`Report`] with all problems.
    pub(super) fn load(&self, name: &str, environment: &Environment) -> Result<Compiled, Report> {
        let mut loaded = config::load(&self.source(name), environment);
        let diagnostics = match &mut loaded {
            Ok(compiled) => &mut compiled.warnings,
            Err(report) => &mut report.diagnostics,
        };
        for diagnostic in diagnostics {
            self.name_flag(diagnostic);
        }
        loaded
    }

    fn source(&self, name: &str) -> Source {
        Source { name: name.to_owned(), text: self.text.clone(), folder: PathBuf::from(".") }
    }

    fn name_flag(&self, diagnostic: &mut Diagnostic) {
        let line = diagnostic.line.checked_sub(1).and_then(|index| self.flags.get(index));
        if let Some(Some(flag)) = line {
            diagnostic.message = format!("{flag}: {}", diagnostic.message);
        }
    }

    fn line(&mut self, flag: Option<&'static str>, line: &str) {
        // Writing to a String cannot go wrong.
        let _infallible = writeln!(self.text, "{line}");
        self.flags.push(flag);
    }
}

/// `text` as a TOML string that means exactly it: no escapes, and no variables.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.replace("${", "$${").chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            character if character.is_control() => {
                let _infallible = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of strings.
pub(super) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// A table of one line, whose values are TOML already.
pub(super) fn table(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::spec::{Bearer, Kind, TokenSource};

    #[test]
    fn a_quoted_text_is_read_back_as_it_was() {
        for text in ["plain", "a \"b\" \\ c", "${HOME} $x $${Y} $", "日本", "'", "# no comment"] {
            let mut document = Document::default();
            document.say("[auth.a]\nkind = \"client-credentials\"\ntoken_url = \"https://a.example/\"");
            document.set("--client-id", "client_id", &quoted(text));
            document
                .say("client_secret = { env = \"SECRET\" }\n[[route]]\nupstream = \"https://a.example\"\nauth = \"a\"");
            let environment = Environment::new([("SECRET".to_owned(), "s3cret".to_owned())]);
            let compiled = document.load("the flags", &environment).unwrap();
            let Kind::Bearer(Bearer { token: TokenSource::Client(client), .. }) = &compiled.schemes[0].kind else {
                panic!("no token")
            };
            assert_eq!(client.client_id, text);
        }
        assert_eq!(quoted("\t\u{7f}"), "\"\\u0009\\u007F\"");
    }

    #[test]
    fn a_problem_is_told_by_the_flag() {
        let mut document = Document::default();
        document.say("# A comment.\n[[route]]");
        document.set("--upstream", "upstream", &quoted("http://far.example/"));
        document.set("", "auth", "\"none\"");
        let report = document.load("the flags", &Environment::default()).unwrap_err();
        assert_eq!(report.diagnostics[0].line, 3);
        assert!(report.diagnostics[0].message.starts_with("--upstream: "), "{report}");
    }
}
