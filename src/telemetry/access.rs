//! The line of a request, in the very words of `tracing-subscriber`'s formats and in a fraction of their time.
//!
//! There is one for each request, and its machinery of nested formatters took a sixth of all instructions that a request
//! takes. Lines of any other target are left to it. Imports `clock`.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;
use crate::clock::civil::Civil;

/// The target of requests' lines.
const TARGET: &str = "access";
/// Room for most of them.
const USUAL: usize = 320;
const MILLION: u64 = 1_000_000;

/// Writes requests' lines, and has others written by `others`.
#[derive(Debug)]
pub(super) struct Requests<F> {
    style: Style,
    others: F,
    clock: Clock,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `key=value`.
    Text,
    /// One object.
    Json,
}

impl<F> Requests<F> {
    pub(super) fn new(style: Style, others: F) -> Self {
        Self { style, others, clock: Clock::system() }
    }
}

impl<S, N, F> FormatEvent<S, N> for Requests<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != TARGET {
            return self.others.format_event(context, writer, event);
        }
        let mut line = Line { style: self.style, text: String::with_capacity(USUAL) };
        line.begin(*metadata.level(), Civil::of(self.clock.wall()));
        event.record(&mut line);
        line.end();
        writer.write_str(&line.text)
    }
}

/// A line that is being written.
struct Line {
    style: Style,
    text: String,
}

impl Line {
    fn begin(&mut self, level: Level, now: Civil) {
        match self.style {
            Style::Text => {
                now.push_rfc3339(&mut self.text);
                self.text.push_str(match level {
                    Level::ERROR => " ERROR ",
                    Level::WARN => "  WARN ",
                    Level::INFO => "  INFO ",
                    Level::DEBUG => " DEBUG ",
                    Level::TRACE => " TRACE ",
                });
                self.text.push_str(TARGET);
                self.text.push(':');
            }
            Style::Json => {
                self.text.push_str("{\"timestamp\":\"");
                now.push_rfc3339(&mut self.text);
                self.text.push_str("\",\"level\":\"");
                self.text.push_str(level.as_str());
                self.text.push('"');
            }
        }
    }

    fn end(&mut self) {
        self.text.push_str(match self.style {
            Style::Text => "\n",
            Style::Json => ",\"target\":\"access\"}\n",
        });
    }

    /// Begins a field; the message has no name in text.
    fn name(&mut self, field: &Field) {
        match self.style {
            Style::Text => {
                self.text.push(' ');
                if field.name() != "message" {
                    self.text.push_str(field.name());
                    self.text.push('=');
                }
            }
            Style::Json => {
                self.text.push_str(",\"");
                self.text.push_str(field.name());
                self.text.push_str("\":");
            }
        }
    }

    /// A value in quotation marks.
    fn quoted(&mut self, value: &str) {
        // Without an early end, the compiler looks at many bytes at once.
        let is_plain = |byte| matches!(byte, b' '..=b'!' | b'#'..=b'[' | b']'..=b'~');
        if value.bytes().fold(true, |all, byte| all & is_plain(byte)) {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
            return;
        }
        match self.style {
            Style::Text => self.push(format_args!("{value:?}")),
            Style::Json => self.push(format_args!("{}", serde_json::Value::from(value))),
        }
    }

    fn plain(&mut self, field: &Field, value: impl Debug) {
        self.name(field);
        self.push(format_args!("{value:?}"));
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot go wrong.
        let _infallible = self.text.write_fmt(text);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.quoted(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        push_number(&mut self.text, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let Some(number) = of_few_digits(value) else { return self.plain(field, value) };
        self.name(field);
        push_number(&mut self.text, number / MILLION);
        self.text.push('.');
        let (mut fraction, mut unit) = (number % MILLION, MILLION / 10);
        loop {
            push_number(&mut self.text, fraction / unit);
            fraction %= unit;
            unit /= 10;
            if fraction == 0 {
                return;
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.style == Style::Text {
            return self.plain(field, value);
        }
        self.name(field);
        let text = format!("{value:?}");
        self.quoted(&text);
    }
}

/// `value` in millionths, if it is written as such a number: below 0.0001, `Debug` writes an exponent. Up to fifteen digits
/// stand for one number each, so that no shorter text can mean the same.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
fn of_few_digits(value: f64) -> Option<u64> {
    let number = (value * 1e6).round();
    let is_usual = (100.0..1e15).contains(&number) && (number / 1e6).to_bits() == value.to_bits();
    is_usual.then_some(number as u64)
}

fn push_number(text: &mut String, number: u64) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    let digit = u32::try_from(number % 10).ok().and_then(|digit| char::from_digit(digit, 10));
    text.push(digit.unwrap_or('0'));
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Page {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Page {
        /// The lines without what differs from moment to moment.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let time = text.find("20").unwrap()..text.find('Z').unwrap();
            assert_eq!(time.len(), "2026-11-21T08:30:00.123456".len(), "{text}");
            let stamps = text.lines().map(|line| line.find("20").unwrap());
            let apart = stamps.zip(text.lines()).map(|(at, line)| (line.split_at(at).0, line.split_at(at + 27).1));
            apart.map(|(before, behind)| format!("{before}{behind}")).collect()
        }
    }

    fn say() {
        let (none, some): (Option<&str>, Option<&str>) = (None, Some("sign\n\"al\\ é \u{1}"));
        let (method, status, long, zero) = (http::Method::GET, 200_u16, u64::MAX, 0_u64);
        for path in ["/orders/42", "", "/a\"b", "/日本\u{7f}\u{200b}\t"] {
            tracing::info!(
                target: "access", request_id = "1f", %method, path, route = "none", status, cause = none, error = some,
                ms = 0.709_923, whole = 5.0, tiny = 1e-7, least = 1e-4, huge = 987_654_321.012_345, third = 1.0 / 3.0,
                less = -0.5, long, zero, "request"
            );
        }
        tracing::warn!(target: "access", fault = "upstream", "request failed");
        tracing::info!(target: "countersign::app", path = "/x", "not a request");
    }

    fn agree(ours: &Page, theirs: &Page) {
        let (ours, theirs) = (ours.lines(), theirs.lines());
        assert_eq!(ours.len(), 6);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn text_is_that_of_the_library() {
        let (ours, theirs) = (Page::default(), Page::default());
        let lines = tracing_subscriber::fmt::layer().with_writer(ours.clone()).with_ansi(false);
        let lines = lines.map_event_format(|others| Requests::new(Style::Text, others));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        let lines = tracing_subscriber::fmt::layer().with_writer(theirs.clone()).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        agree(&ours, &theirs);
    }

    #[test]
    fn json_is_that_of_the_library() {
        let (ours, theirs) = (Page::default(), Page::default());
        let lines = tracing_subscriber::fmt::layer().with_writer(ours.clone()).json().flatten_event(true);
        let lines = lines.map_event_format(|others| Requests::new(Style::Json, others));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        let lines = tracing_subscriber::fmt::layer().with_writer(theirs.clone()).json().flatten_event(true);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        agree(&ours, &theirs);
    }
}
