//! The place of a request in a trace: `traceparent` and `tracestate`, by W3C Trace Context.
//!
//! Parses what callers send by the letter, since a field that is taken wrongly ties strangers' traces together. Knows no
//! sampling and no span. Imports nothing of ours.

use std::num::{NonZeroU64, NonZeroU128};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The field that names the trace and the span above.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems say to one another beside it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;
const SAMPLED: u8 = 0b01;
/// Level 2 has whoever began the trace say so when its id is random; it is passed on.
const RANDOM: u8 = 0b10;
/// W3C Trace Context 3.3.1.1.
const MOST_MEMBERS: usize = 32;
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 256;

/// A span, and the trace that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: NonZeroU128,
    /// The span.
    pub span: NonZeroU64,
    flags: u8,
}

impl Context {
    /// What a caller says of the span above; `None` where it says nothing, or nothing that counts (3.2.2).
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(&TRACEPARENT).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Self::parse(line.as_bytes()),
            // Which of two would it be?
            _ => None,
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let mut part = |length: usize| parts.next().filter(|part| part.len() == length).and_then(digits);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_known = version == 0 && more.is_empty();
        // A version to come may have more behind a dash; of it, this much is known (4.3).
        let may_be_known = (1..0xff).contains(&version) && (more.is_empty() || more.starts_with(b"-"));
        if parts.next().is_some() || !(is_known || may_be_known) {
            return None;
        }
        let flags = u8::try_from(flags).ok()? & (SAMPLED | RANDOM);
        let span = NonZeroU64::new(u64::try_from(span).ok()?)?;
        Some(Self { trace: NonZeroU128::new(trace)?, span, flags })
    }

    /// The root of a new trace, recorded if `sampled` says so of it.
    pub(super) fn root(sampled: impl FnOnce(Self) -> bool) -> Self {
        let root = Self { trace: random_trace(), span: random_span(), flags: 0 };
        Self { flags: u8::from(sampled(root)), ..root }
    }

    /// A span below this one.
    pub(super) fn child(self, sampled: bool) -> Self {
        Self { span: random_span(), flags: self.flags & RANDOM | u8::from(sampled), ..self }
    }

    /// Whether whoever made it records its trace.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The last half of the trace's id, by which all samplers go.
    #[expect(clippy::cast_possible_truncation, reason = "what is cut off is the first half")]
    pub(super) fn end_of_trace(self) -> u64 {
        self.trace.get() as u64
    }

    /// Its flags, as they are written.
    pub(super) fn flags(self) -> u8 {
        self.flags
    }

    /// It as a field (3.2).
    pub(super) fn to_field(self) -> Option<HeaderValue> {
        let Self { trace, span, flags } = self;
        // Digits and dashes: always a field's value.
        HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-{flags:02x}")).ok()
    }
}

/// A caller's `tracestate`, its lines joined; `None` where there is none, or one that breaks a rule and so must not be
/// passed on (3.3.1).
pub(super) fn state(headers: &HeaderMap) -> Option<String> {
    let mut lines = Vec::new();
    for line in headers.get_all(&TRACESTATE) {
        lines.push(line.to_str().ok()?);
    }
    let text = lines.join(",");
    let mut names = Vec::new();
    // Empty members are allowed, and mean nothing.
    for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
        let (name, value) = member.split_once('=')?;
        if names.len() == MOST_MEMBERS || names.contains(&name) || !is_name(name) || !is_value(value) {
            return None;
        }
        names.push(name);
    }
    (!names.is_empty()).then_some(text)
}

fn is_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= LONGEST_NAME
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(rest)
        && name.bytes().filter(|byte| *byte == b'@').count() <= 1
}

fn is_value(value: &str) -> bool {
    let is_allowed = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'=';
    (1..=LONGEST_VALUE).contains(&value.len()) && value.bytes().all(is_allowed)
}

/// Lower-case hex.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn random_trace() -> NonZeroU128 {
    NonZeroU128::new(fastrand::u128(..)).unwrap_or(NonZeroU128::MIN)
}

fn random_span() -> NonZeroU64 {
    NonZeroU64::new(fastrand::u64(..)).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(lines: &[&str]) -> Option<Context> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, line.parse().unwrap());
        }
        Context::read(&headers)
    }

    fn state_of(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACESTATE, line.parse().unwrap());
        }
        state(&headers)
    }

    #[test]
    fn a_traceparent_is_read_and_written() {
        let text = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let context = read(&[&text]).unwrap();
        assert_eq!(
            (context.trace.get(), context.span.get()),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0xf0_67aa_0ba9_02b7)
        );
        assert!(context.is_sampled());
        assert_eq!(context.to_field().unwrap(), text.as_str());
        assert!(!read(&[&format!("00-{TRACE}-00f067aa0ba902b7-00")]).unwrap().is_sampled());
    }

    #[test]
    fn a_span_below_keeps_the_trace_and_the_flags_that_are_known() {
        // Bit 1 says that the trace's id is random; the others have no meaning yet and are not passed on.
        let context = read(&[&format!("00-{TRACE}-00f067aa0ba902b7-fe")]).unwrap();
        assert!(!context.is_sampled());
        let below = context.child(true);
        assert_eq!((below.trace, below.flags()), (context.trace, 0b11));
        assert_ne!(below.span, context.span);
        assert_eq!(Context::root(|_| true).flags(), 0b01);
    }

    #[test]
    fn a_version_to_come_is_read_as_far_as_it_is_known() {
        for text in [
            format!("01-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-00f067aa0ba902b7-01-"),
        ] {
            let context = read(&[&text]).unwrap_or_else(|| panic!("{text}"));
            assert!(context.to_field().unwrap().to_str().unwrap().starts_with("00-4bf92f"), "{text}");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_no_parent() {
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for text in [
            "",
            "00",
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01x"),
            &format!("01-{TRACE}-00f067aa0ba902b7-01.more"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            &format!("00-{TRACE}-0000000000000000-01"),
            &good.to_uppercase(),
            &good.replace('f', "g"),
            &good.replace("-01", "-0"),
            &good.replace("-00f0", "_00f0"),
            &good.replace("00-4b", "0-4bb"),
            &format!("00-{TRACE}a-0f067aa0ba902b7-01"),
            &good.replace("-01", "-+1"),
            &good.replace("-01", "--1"),
        ] {
            assert_eq!(read(&[text]), None, "{text}");
        }
        assert_eq!(read(&[&good, &good]), None, "two of them");
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_tracestate_is_passed_on_whole_or_not_at_all() {
        for text in ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b@c=2", "0tenant@vendor=x,, a_-*/=~ !"] {
            assert_eq!(state_of(&[text]).as_deref(), Some(text));
        }
        assert_eq!(state_of(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        let most: Vec<String> = (0..32).map(|number| format!("k{number}={}", "x".repeat(256))).collect();
        assert!(state_of(&[&most.join(",")]).is_some());
        for text in [
            "",
            ",",
            "a",
            "=1",
            "a=",
            "A=1",
            "a=1,a=2",
            "a=1=2",
            "a@b@c=1",
            "@a=1",
            "a b=1",
            &format!("{},last=1", most.join(",")),
            &format!("a={}", "x".repeat(257)),
            &format!("{}=1", "a".repeat(257)),
        ] {
            assert_eq!(state_of(&[text]), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.append(TRACESTATE, HeaderValue::from_bytes(b"a=\xff").unwrap());
        assert_eq!(state(&headers), None);
    }
}
