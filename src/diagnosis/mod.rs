//! Why a request failed, in words: from what is known of it to named causes, the likeliest first.
//!
//! Pure functions over facts: nothing here asks, waits or logs, but the [`Ledger`], which says each cause once and counts
//! it from then on. What an API's refusal leaves open stays open: several causes are named where several fit. Evidence
//! is what speaks for a cause in this one case; it never holds a token, a key, a query value or a body. Imports nothing of ours.

pub mod answer;
pub mod canonical;
pub mod claims;
pub mod credential;
pub mod ledger;
pub mod table;
pub mod transport;

use std::fmt;

pub use self::ledger::Ledger;
pub use self::table::{Cause, Chapter, Entry};

/// Further causes help nobody at 3 a.m.
const MOST_FINDINGS: usize = 4;
/// A field of an answer that is longer costs the caller more than it tells.
const LONGEST_HINT: usize = 640;
const LONGEST_EVIDENCE: usize = 240;

/// A cause, and what speaks for it in this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// What speaks for it, in at most 240 printable characters of ASCII; `None` where it is all in the cause.
    pub evidence: Option<String>,
}

/// Causes of one failure, the likeliest first; one at least, four at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    first: Finding,
    others: Vec<Finding>,
}

/// Whether evidence is shown to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It is about an answer that the caller gets as well.
    Shown,
    /// It names hosts, accounts or policies that callers need not know (docs/rules.md 2.6).
    Withheld,
}

impl Diagnosis {
    /// A cause, without evidence.
    pub fn of(cause: Cause) -> Self {
        Self { first: Finding { cause, evidence: None }, others: Vec::new() }
    }

    /// With what speaks for the likeliest.
    #[must_use]
    pub fn because(mut self, evidence: &str) -> Self {
        self.first.evidence = Some(printable(evidence)).filter(|evidence| !evidence.is_empty());
        self
    }

    /// With one more cause, less likely than those before it. One that is named already stays where it is.
    #[must_use]
    pub fn or(self, cause: Cause) -> Self {
        self.or_finding(cause, None)
    }

    /// [`Diagnosis::or`], with what speaks for it.
    #[must_use]
    pub fn or_because(self, cause: Cause, evidence: &str) -> Self {
        self.or_finding(cause, Some(printable(evidence)))
    }

    /// The first with all of these behind it.
    #[must_use]
    pub fn or_any(self, causes: impl IntoIterator<Item = Cause>) -> Self {
        causes.into_iter().fold(self, Self::or)
    }

    fn or_finding(mut self, cause: Cause, evidence: Option<String>) -> Self {
        if self.others.len() + 1 < MOST_FINDINGS && self.findings().all(|known| known.cause != cause) {
            self.others.push(Finding { cause, evidence });
        }
        self
    }

    /// The likeliest.
    pub fn first(&self) -> &Finding {
        &self.first
    }

    /// All, the likeliest first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// `CODE: what it is (evidence). Fix: what to do. Or: CODE, CODE`, in at most 640 printable characters of ASCII.
    pub fn hint(&self, evidence: Evidence) -> String {
        let Entry { code, is, fix, .. } = self.first.cause.entry();
        let evidence = match (evidence, &self.first.evidence) {
            (Evidence::Shown, Some(evidence)) => format!(" ({evidence})"),
            (Evidence::Shown, None) | (Evidence::Withheld, _) => String::new(),
        };
        let others: Vec<&str> = self.others.iter().map(|other| other.cause.code()).collect();
        let others = if others.is_empty() { String::new() } else { format!(". Or: {}", others.join(", ")) };
        cut(&format!("{code}: {is}{evidence}. Fix: {fix}{others}"), LONGEST_HINT)
    }
}

/// For people, in lines: each cause with its evidence and its fix.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Finding { cause, evidence }) in self.findings().enumerate() {
            let Entry { code, is, fix, .. } = cause.entry();
            let lead = if number == 0 { "most likely" } else { "\nor" };
            write!(f, "{lead} {code}: {is}")?;
            if let Some(evidence) = evidence {
                write!(f, " ({evidence})")?;
            }
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

/// Foreign words, fit for a header field and for a line of a log.
pub(crate) fn printable(text: &str) -> String {
    cut(text.trim(), LONGEST_EVIDENCE)
}

fn cut(text: &str, longest: usize) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(longest).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_all_words_fit_into_a_field() {
        let codes: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.code()).collect();
        assert_eq!(codes.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            let Entry { code, is, fix, sees, .. } = cause.entry();
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
            let hint = Diagnosis::of(*cause).hint(Evidence::Shown);
            assert!(hint.len() < 480 && hint.ends_with(fix), "{code}: room is left for evidence and others: {hint}");
            for words in [is, fix, sees] {
                assert!(words.is_ascii() && !words.ends_with('.') && !words.contains("  "), "{code}: {words}");
            }
        }
    }

    #[test]
    fn causes_keep_their_order_and_are_named_once() {
        let diagnosis = Diagnosis::of(Cause::NoSuchPath)
            .because("GET /prod/\u{1f600}\r\nx")
            .or(Cause::AuthNone)
            .or(Cause::NoSuchPath)
            .or_any([Cause::WebAcl, Cause::ApiKeyMissing, Cause::PrivateApi]);
        let codes: Vec<&str> = diagnosis.findings().map(|finding| finding.cause.code()).collect();
        assert_eq!(codes, ["no-such-path", "auth-none", "web-acl", "api-key-missing"]);
        let hint = diagnosis.hint(Evidence::Shown);
        assert!(
            hint.contains("(GET /prod/???x). Fix: ") && hint.ends_with(". Or: auth-none, web-acl, api-key-missing")
        );
        assert!(!diagnosis.hint(Evidence::Withheld).contains("/prod/"));
        assert_eq!(diagnosis.to_string().lines().count(), 4);
        let long = Diagnosis::of(Cause::NoSuchPath).because(&"x".repeat(9_999)).hint(Evidence::Shown);
        assert!(long.len() <= LONGEST_HINT && long.contains(". Fix: "), "{long}");
    }
}
