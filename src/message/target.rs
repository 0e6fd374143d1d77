//! The request-target: which ones are refused, and how the outgoing one is built.
//!
//! The rules are docs/rules.md 2.3 and docs/aws.md B4. A target is built once; the string that was matched is the one that is
//! signed and the one that is sent. Imports nothing of ours.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// API Gateway takes 10,240 bytes of request line and fields together (docs/rules.md 3.2).
pub const LONGEST_TARGET: usize = 8 * 1024;
/// Everything but RFC 3986's unreserved characters: what `SigV4` encodes in a query (docs/aws.md A2).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a target is refused. The texts go to the caller, so they name the rule and never quote the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not `/path?query`: asterisk, authority or empty form.
    #[error("the request-target is not a path that starts with \"/\"")]
    NotAPath,
    /// Two slashes in front could be read as a host name (RFC 3986 4.2).
    #[error("the path starts with \"//\"")]
    LeadingDoubleSlash,
    /// A control character, a backslash or a byte outside ASCII.
    #[error("the request-target has a character that must be percent-encoded")]
    RawCharacter,
    /// A `%` without two hex digits behind it.
    #[error("the request-target has a \"%\" that is not followed by two hex digits")]
    BadEscape,
    /// `%00`, `%0A`, `%0D` or `%5C` in the path.
    #[error("the path has an encoded control character or backslash")]
    EncodedControl,
    /// `%2F` in the path of a route that does not allow it.
    #[error("the path has an encoded slash (%2F), which this route does not allow")]
    EncodedSlash,
    /// `.` or `..`, in any spelling.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A query of a signed route whose escapes are not UTF-8: no two signers agree on those.
    #[error("the query has escapes that are not UTF-8")]
    QueryNotUtf8,
    /// A query that tries to be a presigned URL.
    #[error("the query has an X-Amz-* parameter of a presigned URL")]
    PresignedQuery,
    /// What was built is no URI; only reachable with a base path that is not checked.
    #[error("the request-target cannot be sent")]
    Unsendable,
}

/// A path and a query that passed the rules every route has in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path_and_query: PathAndQuery,
    encoded_slash: bool,
}

impl Target {
    /// Checks a path and query as they came.
    ///
    /// # Errors
    /// [`TargetError`], by the rule that is broken first.
    pub fn parse(path_and_query: &PathAndQuery) -> Result<Self, TargetError> {
        let encoded_slash = check_path(path_and_query.path())?;
        if let Some(query) = path_and_query.query() {
            check_characters(query)?;
        }
        let path_and_query = match path_and_query.as_str() {
            // `GET http://orders.local?a HTTP/1.1`: HTTP/1 and the signer would add the slash, HTTP/2 would not.
            bare if bare.starts_with('?') => {
                PathAndQuery::try_from(format!("/{bare}")).map_err(|_not_a_uri| TargetError::Unsendable)?
            }
            _ => path_and_query.clone(),
        };
        Ok(Self { path_and_query, encoded_slash })
    }

    /// The path, byte for byte as it came.
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// The query without its `?`, byte for byte as it came.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    /// Whether the path has a `%2F`.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// The outgoing target: `base_path`, then this path without `strip` in front, then `query`.
    ///
    /// `strip` must be a prefix of whole segments of this path, or empty. One slash joins the parts; an empty result
    /// is `/`.
    ///
    /// # Errors
    /// [`TargetError::LeadingDoubleSlash`] when what is left behind `strip` would read as a host name;
    /// [`TargetError::Unsendable`] when the result is no URI or leaves `base_path`.
    pub fn rebase(&self, strip: &str, base_path: &str, query: Option<&str>) -> Result<PathAndQuery, TargetError> {
        if strip.is_empty() && base_path.is_empty() && query == self.query() {
            return Ok(self.path_and_query.clone());
        }
        let rest = self.path().strip_prefix(strip).unwrap_or_else(|| self.path());
        let mut built = String::with_capacity(base_path.len() + rest.len() + query.map_or(0, str::len) + 2);
        built.push_str(base_path);
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err(TargetError::Unsendable);
        }
        built.push_str(rest);
        if built.starts_with("//") {
            // `/orders//evil.test` without its prefix: what was refused when it came must not arise here.
            return Err(TargetError::LeadingDoubleSlash);
        }
        if built.is_empty() {
            built.push('/');
        }
        if let Some(query) = query {
            built.push('?');
            built.push_str(query);
        }
        let built = PathAndQuery::try_from(built).map_err(|_not_a_uri| TargetError::Unsendable)?;
        // A prefix of whole segments: `/prod` must not have become `/production` (docs/rules.md 1.2).
        match built.path().strip_prefix(base_path) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(built),
            _ => Err(TargetError::Unsendable),
        }
    }
}

/// The query in the form that every signer agrees on: same pairs in the same order, empty ones dropped, all but
/// unreserved characters encoded, `+` written as `%20`. `a` stays `a` and `a=` stays `a=`.
///
/// # Errors
/// [`TargetError::QueryNotUtf8`] and [`TargetError::PresignedQuery`].
pub fn canonical_query(query: &str) -> Result<String, TargetError> {
    let mut canonical = String::with_capacity(query.len());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        if !canonical.is_empty() {
            canonical.push('&');
        }
        let name = decode(name)?;
        if is_presigning(&name) {
            return Err(TargetError::PresignedQuery);
        }
        canonical.extend(utf8_percent_encode(&name, RESERVED));
        if let Some(value) = value {
            canonical.push('=');
            canonical.extend(utf8_percent_encode(&decode(value)?, RESERVED));
        }
    }
    Ok(canonical)
}

/// Refuses `X-Amz-*` parameters, which would make a caller's signature count beside ours (docs/rules.md 2.4).
///
/// # Errors
/// [`TargetError::PresignedQuery`].
pub fn refuse_presigned(query: &str) -> Result<(), TargetError> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    for name in names {
        let decoded = percent_decode_str(name).decode_utf8_lossy();
        if is_presigning(&decoded) {
            return Err(TargetError::PresignedQuery);
        }
    }
    Ok(())
}

fn is_presigning(name: &str) -> bool {
    name.as_bytes().get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"))
}

fn decode(text: &str) -> Result<Cow<'_, str>, TargetError> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(Cow::Owned(decoded.into_owned())),
        Err(_) => Err(TargetError::QueryNotUtf8),
    }
}

/// Returns whether the path has an encoded slash.
fn check_path(path: &str) -> Result<bool, TargetError> {
    if !path.starts_with('/') {
        return Err(TargetError::NotAPath);
    }
    if path.starts_with("//") {
        return Err(TargetError::LeadingDoubleSlash);
    }
    check_characters(path)?;
    let mut encoded_slash = false;
    for escape in escapes(path) {
        match escape {
            0 | b'\n' | b'\r' | b'\\' => return Err(TargetError::EncodedControl),
            b'/' => encoded_slash = true,
            _ => {}
        }
    }
    // An upstream may decode once, a backend behind it once more: a dot segment must not appear at any of the three.
    let mut reading = Cow::Borrowed(path.as_bytes());
    for _decoding in 0..3 {
        if has_dot_segment(&reading) {
            return Err(TargetError::DotSegment);
        }
        if !reading.contains(&b'%') {
            break;
        }
        reading = Cow::Owned(percent_encoding::percent_decode(&reading).collect());
    }
    Ok(encoded_slash)
}

fn check_characters(text: &str) -> Result<(), TargetError> {
    if text.bytes().any(|byte| !(b' '..0x7f).contains(&byte) || byte == b'\\') {
        return Err(TargetError::RawCharacter);
    }
    let well_formed = |rest: &str| {
        let mut digits = rest.bytes();
        digits.next().is_some_and(|byte| byte.is_ascii_hexdigit())
            && digits.next().is_some_and(|byte| byte.is_ascii_hexdigit())
    };
    if text.split('%').skip(1).all(well_formed) { Ok(()) } else { Err(TargetError::BadEscape) }
}

/// The bytes that the (well-formed) escapes stand for.
fn escapes(text: &str) -> impl Iterator<Item = u8> {
    text.split('%').skip(1).filter_map(|rest| u8::from_str_radix(rest.get(..2)?, 16).ok())
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        // `..;x` is `..` to servers that know path parameters.
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::parse(&text.parse().expect("hyper would have refused it"))
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for path in [
            "/o/../x",
            "/o/..",
            "/o/.",
            "/./x",
            "/o/%2e%2e/x",
            "/o/.%2E/x",
            "/o/%252e%252e/x",
            "/o/..%2fx",
            "/o/..;/x",
            "/o/..;a=b/x",
            "/o/%2e",
            "/..",
            "/o/%2e%2e%2fx",
            "/o/%25%32%65./x",
        ] {
            assert_eq!(parse(path), Err(TargetError::DotSegment), "{path}");
        }
        for path in ["/o/...", "/o/..x", "/o/.x", "/o/x..", "/o/;..", "/a..b/.c", "/", "/o/"] {
            assert!(parse(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn controls_backslashes_and_bad_escapes_are_refused() {
        for (path, error) in [
            ("/a%00", TargetError::EncodedControl),
            ("/a%0a", TargetError::EncodedControl),
            ("/a%0D", TargetError::EncodedControl),
            ("/a%5cb", TargetError::EncodedControl),
            ("/a\\b", TargetError::RawCharacter),
            ("/é", TargetError::RawCharacter),
            ("/a?é", TargetError::RawCharacter),
            ("/a%", TargetError::BadEscape),
            ("/a%2", TargetError::BadEscape),
            ("/a%zz", TargetError::BadEscape),
            ("/a?x=%zz", TargetError::BadEscape),
            ("/a?%", TargetError::BadEscape),
            ("//evil.test/x", TargetError::LeadingDoubleSlash),
            ("*", TargetError::NotAPath),
        ] {
            assert_eq!(parse(path), Err(error), "{path}");
        }
        assert!(parse("/a?x=/../&y=%0d%00").is_ok(), "a query may hold anything encoded");
    }

    #[test]
    fn an_encoded_slash_is_noticed() {
        assert!(parse("/a%2Fb").unwrap().has_encoded_slash());
        assert!(parse("/a%2fb").unwrap().has_encoded_slash());
        assert!(!parse("/a%20b?c=%2F").unwrap().has_encoded_slash());
    }

    #[test]
    fn a_query_without_a_path_gets_its_slash() {
        let uri: http::Uri = "http://orders.local?a=b".parse().unwrap();
        let target = Target::parse(uri.path_and_query().unwrap()).unwrap();
        assert_eq!(target.rebase("", "", target.query()).unwrap().as_str(), "/?a=b");
    }

    #[test]
    fn a_rebased_target_has_one_slash_between_its_parts() {
        let rebase = |target: &str, strip: &str, base: &str| {
            let target = parse(target).unwrap();
            target.rebase(strip, base, target.query()).unwrap().to_string()
        };
        assert_eq!(rebase("/orders/42?a=b", "/orders", "/prod"), "/prod/42?a=b");
        assert_eq!(rebase("/orders", "/orders", "/prod"), "/prod");
        assert_eq!(rebase("/orders?q", "/orders", "/prod"), "/prod?q");
        assert_eq!(rebase("/orders", "/orders", ""), "/");
        assert_eq!(rebase("/orders/", "/orders", "/prod"), "/prod/");
        assert_eq!(rebase("/orders/a//b", "", "/prod"), "/prod/orders/a//b");
        assert_eq!(rebase("/x?", "", ""), "/x?");
    }

    #[test]
    fn a_stripped_prefix_leaves_no_double_slash_in_front() {
        let target = parse("/orders//evil.test/x").unwrap();
        assert_eq!(target.rebase("/orders", "", None), Err(TargetError::LeadingDoubleSlash));
        assert_eq!(target.rebase("/orders", "/prod", None).unwrap(), "/prod//evil.test/x");
        assert_eq!(target.rebase("", "", None).unwrap(), "/orders//evil.test/x");
    }

    #[test]
    fn a_query_is_rewritten_without_changing_what_it_means() {
        for (query, canonical) in [
            ("a=1&a=2&b&&c=%20+%7E&d=%2F'()*!", "a=1&a=2&b&c=%20%20~&d=%2F%27%28%29%2A%21"),
            ("", ""),
            ("&&", ""),
            ("=v&k=", "=v&k="),
            ("k=a=b", "k=a%3Db"),
            ("%e3%81%82=%2b", "%E3%81%82=%2B"),
            ("z=1&a=2", "z=1&a=2"),
        ] {
            assert_eq!(canonical_query(query).as_deref(), Ok(canonical), "{query}");
        }
        assert_eq!(canonical_query("a=%ff"), Err(TargetError::QueryNotUtf8));
        assert_eq!(canonical_query("X-Amz-Signature=1"), Err(TargetError::PresignedQuery));
        assert_eq!(canonical_query("a&x%2damz-date=1"), Err(TargetError::PresignedQuery));
        assert_eq!(refuse_presigned("a=X-Amz-Date&b"), Ok(()));
        assert_eq!(refuse_presigned("b&x-amz-security-token"), Err(TargetError::PresignedQuery));
    }
}
