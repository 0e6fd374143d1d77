//! Reads text that may not be TOML, and says once what is wrong with each place.
//!
//! The parser goes on after an error, but a lost bracket makes it complain of every line below. So the line at fault is
//! taken out and the rest parsed again, until it is TOML; what is left can be checked like any config. Imports nothing of
//! ours.

use std::ops::Range;

use toml::de::DeTable;

use super::diagnostic::{Problems, Span};

/// Give up after so many: then it is not a config at all.
const MOST: usize = 20;
/// How many lines above an error may have caused it: a bracket is closed a few lines below at most.
const REACH: usize = 6;

const DUPLICATE: &str = "duplicate key";

/// Text that is TOML but for doubled keys.
pub(super) struct Recovered {
    /// As long as the original, with blanks where lines were taken out.
    pub(super) text: String,
    /// Whether lines were taken out, so that a missing key proves nothing.
    pub(super) has_gaps: bool,
}

struct Fault {
    message: String,
    span: Range<usize>,
}

/// Notes every syntax error of `text`, and gives what is left without them.
pub(super) fn recover(text: &str, problems: &mut Problems) -> Recovered {
    let mut left = text.to_owned();
    let mut has_gaps = false;
    for _ in 0..MOST {
        let faults = faults(&left);
        let Some(fault) = faults.iter().find(|fault| fault.message != DUPLICATE) else {
            note_doubles(&left, &faults, problems);
            return Recovered { text: left, has_gaps };
        };
        has_gaps = true;
        let (cut, remaining) = cut(&left, fault.span.start);
        note(text, fault, &cut, problems);
        left = remaining;
    }
    Recovered { text: String::new(), has_gaps: true }
}

fn faults(text: &str) -> Vec<Fault> {
    let (_, errors) = DeTable::parse_recoverable(text);
    let fault =
        |error: &toml::de::Error| Fault { message: error.message().to_owned(), span: error.span().unwrap_or_default() };
    let mut faults: Vec<Fault> = errors.iter().map(fault).collect();
    // Strings are read after the lines are taken apart; the first in the file is the one that causes the others.
    faults.sort_by_key(|fault| fault.span.start);
    faults
}

/// Takes out the line that leaves the fewest errors: the one at `offset`, or one above it that may be open.
fn cut(text: &str, offset: usize) -> (Range<usize>, String) {
    let mut line = line_at(text, offset);
    let mut best: Option<(usize, Range<usize>, String)> = None;
    for _ in 0..REACH {
        let shown = text.get(line.clone()).unwrap_or_default().trim_start();
        // A table goes only for its own fault.
        if best.is_some() && shown.starts_with('[') {
            break;
        }
        let candidate = blanked(text, &gap(text, line.clone()));
        let errors = faults(&candidate).len();
        if best.as_ref().is_none_or(|(fewest, ..)| errors < *fewest && !shown.is_empty()) {
            best = Some((errors, line.clone(), candidate));
        }
        match line.start.checked_sub(1) {
            Some(above) => line = line_at(text, above),
            None => break,
        }
    }
    best.map_or((line, String::new()), |(_, line, candidate)| (line, candidate))
}

/// The line itself; for a `[table]`, everything up to the next one, as its keys would fall to the table above.
fn gap(text: &str, line: Range<usize>) -> Range<usize> {
    if !text.get(line.clone()).is_some_and(|line| line.trim_start().starts_with('[')) {
        return line;
    }
    let below = text.get(line.end..).unwrap_or_default();
    line.start..below.find("\n[").map_or(text.len(), |next| line.end + next)
}

fn blanked(text: &str, gap: &Range<usize>) -> String {
    let blank = |(offset, byte)| if gap.contains(&offset) && byte != b'\n' { b' ' } else { byte };
    let bytes = text.bytes().enumerate().map(blank).collect();
    // Whole lines were replaced by ASCII.
    String::from_utf8(bytes).unwrap_or_default()
}

fn line_at(text: &str, offset: usize) -> Range<usize> {
    let offset = offset.min(text.len());
    let bytes = text.as_bytes();
    let start = bytes.iter().take(offset).rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end = bytes.iter().skip(offset).position(|byte| *byte == b'\n').map_or(text.len(), |length| offset + length);
    start..end
}

fn note(text: &str, fault: &Fault, cut: &Range<usize>, problems: &mut Problems) {
    let message = fault.message.split(", expected").next().unwrap_or_default();
    let (before, behind) = text.split_at_checked(fault.span.start).unwrap_or_default();
    let (message, help) = match message {
        "invalid basic string" => ("a string has no closing quote", Some("close it with \"")),
        "invalid literal string" => ("a string has no closing quote", Some("close it with '")),
        "invalid multi-line basic string" | "invalid multi-line literal string" => {
            ("a string of several lines has no end", Some("one pair of quotes is enough"))
        }
        "key with no value" | "invalid unquoted key" if behind.starts_with(':') || before.trim_end().ends_with(':') => {
            ("a key has no value", Some("TOML has \"=\" between key and value, not \":\""))
        }
        "key with no value" => ("a key has no value", Some("write `key = value`")),
        "string values must be quoted" => ("a string must stand in quotes", Some("write `key = \"value\"`")),
        "invalid float" | "invalid integer" | "invalid date-time" | "invalid datetime" => {
            ("this is not a number", Some("what is not a number stands in quotes"))
        }
        _ => (message, None),
    };
    let mut span = shown(fault);
    if message.starts_with("a string of several lines") {
        // The parser points at the end of the file.
        let opening = before.rfind("\"\"\"").max(before.rfind("'''"));
        span = opening.map_or(span, |start| Span { start, end: start + 3 });
    }
    let problem = problems.error(span, format!("not TOML: {message}"));
    if message.starts_with("a string") {
        problem.help(help.unwrap_or_default());
    } else if !cut.contains(&fault.span.start) && fault.span.start > cut.end {
        let line = text.bytes().take(cut.start).filter(|byte| *byte == b'\n').count() + 1;
        problem.help(format!("line {line} may lack a closing bracket, brace or quote"));
    } else if let Some(help) = help {
        problem.help(help);
    }
}

/// Doubled keys; those of a doubled table are not told one by one.
fn note_doubles(text: &str, faults: &[Fault], problems: &mut Problems) {
    let mut covered = 0..0;
    for fault in faults {
        if covered.contains(&fault.span.start) {
            continue;
        }
        let line = line_at(text, fault.span.start);
        let table = text.get(line.clone()).is_some_and(|line| line.trim_start().starts_with('['));
        if table {
            covered = gap(text, line);
        }
        let what = if table { "table" } else { "key" };
        problems.error(shown(fault), format!("this {what} stands here for the second time")).help("keep one of them");
    }
}

/// An error in the very first character is somewhere nevertheless.
fn shown(fault: &Fault) -> Span {
    Span { start: fault.span.start, end: fault.span.end.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let mut problems = Problems::default();
        let recovered = recover(text, &mut problems);
        assert_eq!(recovered.text.len(), text.len());
        problems.place("f", text).iter().map(|found| found.line).collect()
    }

    #[test]
    fn one_slip_is_told_once() {
        for (text, expected) in [
            ("a = 1\nb = 2\n", vec![]),
            ("a = [1\nb = 2\n[c]\nd = 3\n", vec![2]),
            ("a = { b = \"x }\nc = 1\n[d]\ne = 2\n", vec![1]),
            ("a = 1\n[b\nc = 2\n[d]\nc = 3\n", vec![2]),
            ("a 1\nb = 2\nc 3\n", vec![1, 3]),
            ("[a]\nb = 1\n[a]\nb = 2\n", vec![3]),
            ("a: 1\n", vec![1]),
            ("=\n", vec![1]),
        ] {
            assert_eq!(lines(text), expected, "{text}");
        }
    }
}
