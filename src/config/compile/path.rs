//! Paths that the config writes: a route's prefix and the path of an upstream.
//!
//! Requests are matched byte for byte, so a path that no request could have is an error, not something to repair.

/// Why a path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("does not begin with \"/\"")]
    NotAbsolute,
    #[error("has a query; a path ends before the \"?\"")]
    Query,
    #[error("has a fragment; a path ends before the \"#\"")]
    Fragment,
    #[error("has a dot segment (\".\" or \"..\")")]
    DotSegment,
    #[error("has an empty segment (\"//\")")]
    EmptySegment,
    #[error("has a \"%\" that is not followed by two hex digits")]
    BadEscape,
    #[error("has an encoded control character or backslash, which no request may have")]
    EncodedControl,
    #[error("has a character that must be percent-encoded: '{}'", shown(*.0))]
    Character(char),
}

impl PathError {
    /// What to do about it.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Character(character) => {
                let escapes: Vec<String> = character.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
                Some(format!("write {}", escapes.concat()))
            }
            Self::BadEscape => Some("write %25 for the percent sign itself".to_owned()),
            Self::NotAbsolute => Some("put \"/\" in front".to_owned()),
            Self::Query | Self::Fragment | Self::DotSegment | Self::EmptySegment | Self::EncodedControl => None,
        }
    }
}

/// A path without the slash at its end: empty, or `/a/b`.
pub(super) fn parse(text: &str) -> Result<&str, PathError> {
    if !text.is_empty() && !text.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    for character in text.chars() {
        match character {
            '?' => return Err(PathError::Query),
            '#' => return Err(PathError::Fragment),
            // RFC 3986 3.3: unreserved, sub-delims, ":", "@"
            '/' | '%' | '-' | '.' | '_' | '~' | '!' | '$' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | ';' | '='
            | ':' | '@' => {}
            _ if character.is_ascii_alphanumeric() => {}
            _ => return Err(PathError::Character(character)),
        }
    }
    for escape in text.split('%').skip(1) {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            None => return Err(PathError::BadEscape),
            Some(0 | b'\n' | b'\r' | b'\\') => return Err(PathError::EncodedControl),
            Some(_) => {}
        }
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    for segment in path.split('/').skip(1) {
        // As in message::target: servers read `%2e` and `..;x` as dots too.
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        match plain.split([';']).next() {
            Some("." | "..") => return Err(PathError::DotSegment),
            _ if segment.is_empty() => return Err(PathError::EmptySegment),
            _ => {}
        }
    }
    Ok(path)
}

/// Whether a path has a `%2F`.
pub(super) fn has_encoded_slash(path: &str) -> bool {
    path.to_ascii_lowercase().contains("%2f")
}

/// A character as it can stand in a message.
pub(super) fn shown(character: char) -> String {
    if character.is_control() { character.escape_default().to_string() } else { character.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_goes_and_everything_else_stays() {
        for (text, path) in
            [("/", ""), ("", ""), ("/a/", "/a"), ("/a/b", "/a/b"), ("/a%20b", "/a%20b"), ("/$default", "/$default")]
        {
            assert_eq!(parse(text), Ok(path), "{text}");
        }
    }

    #[test]
    fn a_path_that_no_request_could_have_is_refused() {
        for (text, error) in [
            ("a", PathError::NotAbsolute),
            ("/a?b", PathError::Query),
            ("/a#b", PathError::Fragment),
            ("/a/../b", PathError::DotSegment),
            ("/a/.", PathError::DotSegment),
            ("/a/%2E%2e", PathError::DotSegment),
            ("/..;x", PathError::DotSegment),
            ("//a", PathError::EmptySegment),
            ("/a//", PathError::EmptySegment),
            ("/%", PathError::BadEscape),
            ("/%g0", PathError::BadEscape),
            ("/%+1", PathError::BadEscape),
            ("/%0a", PathError::EncodedControl),
            ("/é", PathError::Character('é')),
            ("/{id}", PathError::Character('{')),
            ("/a b", PathError::Character(' ')),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(PathError::Character('é').help().unwrap(), "write %C3%A9");
    }
}
