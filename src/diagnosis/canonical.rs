//! The canonical request that a REST API quotes when a signature does not match, against ours.
//!
//! Names the first line that differs. A session token is never looked at, let alone shown; of a query only names are told,
//! of header fields other than `host` and `content-type` as well. Imports nothing of ours.

use super::{Cause, printable};

/// What stands before the quoted text.
const LEAD: &str = "Canonical String for this request should have been";
/// Longer paths and hosts are cut.
const LONGEST_VALUE: usize = 80;

/// Where two canonical requests part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nowhere, but in what is not compared.
    None,
    /// Here.
    At {
        /// What it comes to.
        cause: Cause,
        /// The line in words.
        line: String,
    },
}

/// The canonical request that `message` quotes.
pub fn quoted(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(LEAD)?;
    let (_, rest) = rest.split_once('\'')?;
    let (text, _) = rest.split_once("'\n\nThe String-to-Sign").or_else(|| rest.rsplit_once('\''))?;
    Some(text)
}

/// Its `x-amz-date`.
pub fn date_of(canonical: &str) -> Option<&str> {
    canonical.lines().find_map(|line| line.strip_prefix("x-amz-date:")).filter(|date| date.len() == 16)
}

/// Compares what was signed with what the API would have signed.
pub fn compare(ours: &str, theirs: &str) -> Difference {
    let (Some(ours), Some(theirs)) = (Parts::read(ours), Parts::read(theirs)) else { return Difference::None };
    let at = |cause, line: String| Difference::At { cause, line: printable(&line) };
    let both = |what: &str, ours: &str, theirs: &str| {
        format!("{what}: signed \"{}\", the API has \"{}\"", shown(ours), shown(theirs))
    };
    if ours.method != theirs.method {
        return at(Cause::RequestRewritten, both("method", ours.method, theirs.method));
    }
    if ours.path != theirs.path {
        return at(Cause::RequestRewritten, both("path", ours.path, theirs.path));
    }
    if ours.query != theirs.query {
        let names = |query: &str| -> Vec<String> { query.split('&').map(ToOwned::to_owned).collect() };
        let (mine, its) = (names(ours.query), names(theirs.query));
        let odd = mine.iter().find(|pair| !its.contains(pair)).or_else(|| its.iter().find(|pair| !mine.contains(pair)));
        let name = odd.and_then(|pair| pair.split('=').next()).unwrap_or_default();
        return at(Cause::RequestRewritten, format!("query: the parameter \"{}\" differs", shown(name)));
    }
    for (name, mine) in &ours.fields {
        let its = theirs.fields.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        match (*name, its) {
            ("host", Some(its)) if its != *mine => return at(Cause::HostChanged, both("host", mine, its)),
            ("content-type", Some(its)) if its != *mine => {
                return at(Cause::HeaderChanged, both("content-type", mine, its));
            }
            // A secret, which was redacted before it came here, and the time of the other attempt.
            ("x-amz-security-token" | "x-amz-date", Some(_)) => {}
            (name, Some(its)) if its != *mine => {
                return at(Cause::HeaderChanged, format!("the field {} has another value", shown(name)));
            }
            (name, None) => return at(Cause::HeaderChanged, format!("the field {} is gone", shown(name))),
            (_, Some(_)) => {}
        }
    }
    if let Some((name, _)) = theirs.fields.iter().find(|(name, _)| ours.fields.iter().all(|(known, _)| known != name)) {
        return at(Cause::HeaderChanged, format!("the field {} was added", shown(name)));
    }
    if ours.payload != theirs.payload {
        let cause = if ours.payload == "UNSIGNED-PAYLOAD" { Cause::PayloadNotSigned } else { Cause::BodyChanged };
        let short = |hash: &str| hash.chars().take(16).collect::<String>();
        return at(cause, both("payload hash", &short(ours.payload), &short(theirs.payload)));
    }
    Difference::None
}

fn shown(text: &str) -> String {
    text.chars().take(LONGEST_VALUE).collect()
}

/// A canonical request, taken apart.
struct Parts<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    fields: Vec<(&'a str, &'a str)>,
    payload: &'a str,
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut lines = text.lines();
        let (method, path, query) = (lines.next()?, lines.next()?, lines.next()?);
        let fields = lines.by_ref().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
        let fields = fields.collect();
        let (_names, payload) = (lines.next()?, lines.next()?);
        Some(Self { method, path, query, fields, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "GET\n/prod/a\nq=secret&x=1\ncontent-type:text/plain\nhost:api.example\n\
                        x-amz-date:20261121T083000Z\nx-amz-security-token:ours\nx-amz-meta:m\n\nhost;x-amz-date\ne3b0c442";

    fn changed(from: &str, to: &str) -> Difference {
        assert!(OURS.contains(from), "{from}");
        compare(OURS, &OURS.replacen(from, to, 1))
    }

    #[test]
    fn the_first_line_that_differs_is_named_and_nothing_secret_is_told() {
        for (from, to, cause, words) in [
            ("GET", "POST", Cause::RequestRewritten, "method: signed \"GET\", the API has \"POST\""),
            ("/prod/a", "/a", Cause::RequestRewritten, "path: signed \"/prod/a\", the API has \"/a\""),
            ("q=secret", "q=hidden", Cause::RequestRewritten, "query: the parameter \"q\" differs"),
            ("&x=1", "&x=1&y=2", Cause::RequestRewritten, "query: the parameter \"y\" differs"),
            (
                "host:api.example",
                "host:other",
                Cause::HostChanged,
                "host: signed \"api.example\", the API has \"other\"",
            ),
            ("text/plain", "text/html", Cause::HeaderChanged, "content-type: signed \"text/plain\""),
            ("x-amz-meta:m", "x-amz-meta:n", Cause::HeaderChanged, "the field x-amz-meta has another value"),
            ("\nx-amz-meta:m", "", Cause::HeaderChanged, "the field x-amz-meta is gone"),
            ("x-amz-meta:m", "x-amz-meta:m\nx-amz-more:1", Cause::HeaderChanged, "the field x-amz-more was added"),
            ("e3b0c442", "11111111", Cause::BodyChanged, "payload hash: signed \"e3b0c442\""),
        ] {
            let Difference::At { cause: found, line } = changed(from, to) else { panic!("{from}") };
            assert_eq!(found, cause, "{line}");
            assert!(line.starts_with(words) && !line.contains("secret") && !line.contains("ours"), "{line}");
        }
    }

    #[test]
    fn tokens_and_dates_are_no_difference() {
        assert_eq!(changed("token:ours", "token:[redacted]"), Difference::None);
        assert_eq!(changed("083000", "083001"), Difference::None);
        assert_eq!(compare("", "x"), Difference::None);
        let unsigned = OURS.replace("e3b0c442", "UNSIGNED-PAYLOAD");
        let Difference::At { cause, .. } = compare(&unsigned, OURS) else { panic!() };
        assert_eq!(cause, Cause::PayloadNotSigned);
    }

    #[test]
    fn the_quoted_text_is_found_in_the_apis_words() {
        let message = format!(
            "The request signature we calculated does not match.\n\nThe Canonical String for this request should have been\n\
             '{OURS}'\n\nThe String-to-Sign should have been\n'AWS4-HMAC-SHA256\nx'\n"
        );
        assert_eq!(quoted(&message), Some(OURS));
        assert_eq!(date_of(OURS), Some("20261121T083000Z"));
        assert_eq!(quoted("nothing of the kind"), None);
        assert_eq!(quoted("The Canonical String for this request should have been\n'cut"), None);
    }
}
