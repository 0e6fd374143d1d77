//! Log lines for a person at a terminal: aligned, colored, a request in one glance.
//!
//! `08:30:00.123  GET     200   12.3 ms  orders        /orders/42` for a request, message and `key=value` for the rest. What
//! is read by programs is the JSON. Control characters never reach the terminal. Imports nothing of ours.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const PLAIN: &str = "\x1b[0m";

/// Writes an event as one line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal;

/// An event's fields, as text.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), &format!("{value:.3}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
}

impl Fields {
    fn add(&mut self, name: &'static str, value: &str) {
        let shown: String = value.chars().flat_map(shown).collect();
        if name == "message" {
            self.message = shown;
        } else {
            self.rest.push((name, shown));
        }
    }

    fn take(&mut self, name: &str) -> String {
        let place = self.rest.iter().position(|(known, _)| *known == name);
        place.map(|place| self.rest.remove(place).1).unwrap_or_default()
    }
}

/// A terminal obeys control characters, and a newline would forge a line.
fn shown(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    escaped.is_none().then_some(character).into_iter().chain(escaped.into_iter().flatten())
}

impl<S, N> FormatEvent<S, N> for Terminal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        write!(writer, "{DIM}{}{PLAIN} ", time()?)?;
        match metadata.target() {
            "access" => request(&mut writer, &mut fields)?,
            target => line(&mut writer, *metadata.level(), target, &fields.message)?,
        }
        for (name, value) in &fields.rest {
            let quote = if value.contains(' ') || value.is_empty() { "\"" } else { "" };
            write!(writer, "  {DIM}{name}={PLAIN}{quote}{value}{quote}")?;
        }
        writeln!(writer)
    }
}

/// `08:30:00.123`, UTC.
fn time() -> Result<String, fmt::Error> {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text))?;
    // 2026-11-21T08:30:00.123456Z
    Ok(text.chars().skip(11).take(12).collect())
}

fn line(writer: &mut Writer<'_>, level: Level, target: &str, message: &str) -> fmt::Result {
    let color = match level {
        Level::ERROR => RED,
        Level::WARN => YELLOW,
        Level::INFO => GREEN,
        Level::DEBUG => BLUE,
        Level::TRACE => DIM,
    };
    let ours = target.strip_prefix("countersign");
    write!(writer, "{color}{level:<5}{PLAIN}  {message}")?;
    match ours {
        Some(_) => Ok(()),
        None => write!(writer, "  {DIM}({target}){PLAIN}"),
    }
}

/// Method, status, time, route and path in columns; then what is not as it should be.
fn request(writer: &mut Writer<'_>, fields: &mut Fields) -> fmt::Result {
    let mut take = |name| fields.take(name);
    let (method, status, ms) = (take("method"), take("status"), take("ms"));
    let (route, path, outcome) = (take("route"), take("path"), take("outcome"));
    let (fault, error) = (take("fault"), take("error"));
    let color = match status.chars().next() {
        Some('5' | '0') => RED,
        Some('4') => YELLOW,
        _ => GREEN,
    };
    let status = if status == "0" { "---" } else { &status };
    let milliseconds: f64 = ms.parse().unwrap_or_default();
    write!(
        writer,
        "{color}{BOLD}{status:>5}{PLAIN}  {method:<7} {milliseconds:>9.1} ms  {BLUE}{route:<14}{PLAIN} {path}"
    )?;
    if outcome != "delivered" {
        write!(writer, "  {color}{outcome}{PLAIN}")?;
    }
    if !error.is_empty() {
        write!(writer, ": {error}")?;
    }
    if !fault.is_empty() {
        write!(writer, "  {DIM}fault={PLAIN}{fault}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that `say` leaves, without their time.
    fn said(say: impl FnOnce()) -> Vec<String> {
        use std::sync::{Arc, Mutex};

        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Kept {
            fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(line);
                Ok(line.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let into = Arc::clone(&kept);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(move || Kept(Arc::clone(&into)))
            .event_format(Terminal)
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.chars().skip("\x1b[2m08:30:00.123\x1b[0m ".len()).collect()).collect()
    }

    #[test]
    fn a_request_is_one_aligned_line() {
        let lines = said(|| {
            tracing::info!(
                target: "access", request_id = "id-1", method = %"GET", path = "/a", route = "orders", status = 200,
                outcome = "delivered", ms = 12.345, received = 0, sent = 7, "request"
            );
            tracing::warn!(
                target: "access", request_id = "id-2", method = %"DELETE", path = "/b", route = "stock", status = 502,
                outcome = "upstream-reset", fault = "upstream", error = Some("broken\n\x1b[2J"), ms = 1_234.5, "request failed"
            );
        });
        let bare: Vec<String> = lines
            .iter()
            .map(|line| {
                [DIM, BOLD, RED, GREEN, YELLOW, BLUE, PLAIN]
                    .iter()
                    .fold(line.clone(), |line, color| line.replace(color, ""))
            })
            .collect();
        assert_eq!(bare[0], "  200  GET          12.3 ms  orders         /a  request_id=id-1  received=0  sent=7");
        assert_eq!(
            bare[1],
            "  502  DELETE     1234.5 ms  stock          /b  upstream-reset: broken\\n\\u{1b}[2J  fault=upstream  request_id=id-2"
        );
        assert!(lines[0].starts_with("\x1b[32m") && lines[1].starts_with("\x1b[31m"));
    }

    #[test]
    fn other_lines_say_level_message_and_fields() {
        let lines = said(|| tracing::info!(listener = "proxy", note = "two words", "listening"));
        let expected =
            format!("{GREEN}INFO {PLAIN}  listening  {DIM}listener={PLAIN}proxy  {DIM}note={PLAIN}\"two words\"");
        assert_eq!(lines, [expected]);
    }
}
