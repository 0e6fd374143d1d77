//! What is wrong with a config file, and where: `error: …`, `--> FILE:LINE:COLUMN`, the line, a caret, what to do.
//!
//! Reports all problems of a file, in the file's order. Refuses to show a value that may be secret: lines go through
//! [`mask`](super::mask) first, and messages never quote such a value. Imports nothing of ours but that.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::mask;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and somebody should know.
    Warning,
}

/// One problem, with the line it is about. Its `Display` is the whole paragraph, masked and without colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Name of the file.
    pub file: String,
    /// Line, from 1; 1 when it is about the whole file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Stands beside the caret.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
    shown: Option<(String, Range<usize>)>,
}

/// Everything that is wrong with a file, in the file's order; there is at least one error in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name of the file.
    pub file: String,
    /// The problems.
    pub diagnostics: Vec<Diagnostic>,
}

/// Bytes of the file's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A problem that has not been placed in a line yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) span: Span,
    /// Whether it says that something is not there; after a syntax error that proves nothing.
    pub(super) absence: bool,
    message: String,
    label: Option<String>,
    help: Option<String>,
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Span {
    /// Of a default: a value that nobody wrote.
    pub(super) const NOWHERE: Self = Self { start: 0, end: 0 };

    pub(super) fn is_written(self) -> bool {
        self != Self::NOWHERE
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

impl Problem {
    /// Sets what stands beside the caret.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// Sets what to do.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn absence(&mut self) -> &mut Self {
        self.absence = true;
        self
    }

    fn place(self, file: &str, text: &str, secret: &[Range<usize>]) -> Diagnostic {
        let Self { severity, span, message, label, help, absence: _ } = self;
        let mut placed =
            Diagnostic { severity, message, file: file.to_owned(), line: 1, column: 1, label, help, shown: None };
        if span.is_written() {
            // The end of the file is shown as the end of its last line that holds something.
            let start = span.start.min(text.trim_end().len());
            let before = text.get(..start).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line_end =
                text.get(start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| start + length);
            placed.line = before.matches('\n').count() + 1;
            placed.column = text.get(line_start..start).unwrap_or_default().chars().count() + 1;
            let caret = start..span.end.clamp(start, line_end);
            placed.shown = Some(mask::line(text, line_start..line_end, caret, secret));
        }
        placed
    }
}

impl Problems {
    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, span, message.into())
    }

    pub(super) fn warning(&mut self, span: Span, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, span, message.into())
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Drops the problems that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Problem) -> bool) {
        self.0.retain(keep);
    }

    /// The problems in the file's order, each once, with their lines.
    pub(super) fn place(mut self, file: &str, text: &str) -> Vec<Diagnostic> {
        // By message too, so that what was noted twice stands side by side.
        self.0.sort_by(|a, b| {
            (a.span.start, a.severity, a.span.end, &a.message).cmp(&(b.span.start, b.severity, b.span.end, &b.message))
        });
        self.0.dedup();
        let secret = mask::find(text);
        self.0.into_iter().map(|problem| problem.place(file, text, &secret)).collect()
    }

    fn add(&mut self, severity: Severity, span: Span, message: String) -> &mut Problem {
        self.0.push_mut(Problem { severity, span, absence: false, message, label: None, help: None })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let mut group = match &self.shown {
            None => title.element(Origin::path(self.file.as_str())),
            Some((line, caret)) => title
                // Given apart from the snippet: masking changes columns.
                .element(Origin::path(self.file.as_str()).line(self.line).char_column(self.column))
                .element(
                    Snippet::source(line.as_str())
                        .line_start(self.line)
                        .annotation(AnnotationKind::Primary.span(caret.clone()).label(self.label.as_deref())),
                ),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        // The renderer marks the seam between place and snippet with a line of its own.
        let rendered = Renderer::plain().render(&[group]);
        let lines = rendered.lines().filter(|line| line.trim() != ":::").collect::<Vec<_>>();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            write!(f, "{diagnostic}\n\n")?;
        }
        let errors = self.diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
        write!(f, "{}", counted(errors, "error"))?;
        match self.diagnostics.len() - errors {
            0 => {}
            warnings => write!(f, " and {}", counted(warnings, "warning"))?,
        }
        write!(f, " in {}", self.file)
    }
}

impl std::error::Error for Report {}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_that_of_the_file_even_behind_a_masked_value() {
        let text = "a = { value = \"hunter2\", listen = 3 }\n";
        let mut problems = Problems::default();
        let start = text.find('3').unwrap();
        problems.error(Span::from(start..start + 1), "wrong").label("here").help("do this");
        let placed = problems.place("countersign.toml", text);
        assert_eq!((placed[0].line, placed[0].column), (1, start + 1));
        let rendered = placed[0].to_string();
        assert!(rendered.contains(&format!("countersign.toml:1:{}", start + 1)), "{rendered}");
        assert!(!rendered.contains("hunter2"), "{rendered}");
    }

    #[test]
    fn problems_come_in_the_files_order_and_once() {
        let mut problems = Problems::default();
        problems.error(Span::from(4..5), "second");
        problems.warning(Span::from(0..1), "first");
        problems.error(Span::from(4..5), "second");
        let messages: Vec<_> = problems.place("f", "a\nb\nc").into_iter().map(|found| found.message).collect();
        assert_eq!(messages, ["first", "second"]);
    }
}
