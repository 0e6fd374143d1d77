//! A request head, judged on its bytes as they come.
//!
//! Stricter than RFC 9112 where that lets two readers differ: lines end with CRLF, a name ends at its colon, there is one
//! Host and one framing. Refuses at the first byte that breaks a rule, so that nobody waits for an end that a peer who
//! speaks no HTTP will never send. Imports `message`.

use http::{Method, Uri};

use super::framing::Framing;
use crate::message::target::{LONGEST_TARGET, TargetError};

/// A request head may be this large (docs/rules.md 3.2), unless the config says otherwise.
pub const LARGEST_HEAD: usize = 32 * 1024;
/// And have this many fields (docs/rules.md 3.2).
pub const MOST_FIELDS: usize = 100;
/// What a request head may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all of it.
    pub bytes: usize,
    /// Its fields.
    pub fields: usize,
    /// Bytes of the request-target.
    pub target: usize,
}

impl Limits {
    /// Unless the config says otherwise.
    pub const DEFAULT: Self = Self { bytes: LARGEST_HEAD, fields: MOST_FIELDS, target: LONGEST_TARGET };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Of what a refused head asks for; people read it.
const LONGEST_SHOWN: usize = 1_024;
/// The longest registered method has 17 characters; routes may name others.
const LONGEST_METHOD: usize = 256;
/// Whoever is behind us may count in floating point; no body of this size ends.
pub(super) const LARGEST_BODY: u64 = 1 << 53;

/// Why a request head is refused. The texts go to the caller: they name the rule and never quote the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not three parts with one space between, or no method.
    #[error("the first line is not a method, a request-target and a version of HTTP")]
    RequestLine,
    /// HTTP, but neither 1.0 nor 1.1.
    #[error("the version of HTTP is neither 1.0 nor 1.1")]
    Version,
    /// A request-target that cannot be read in one way only.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// `https://…` in front of the path: TLS cannot be asked for like this.
    #[error("a request-target with a scheme must begin with \"http://\"")]
    Scheme,
    /// Longer than [`Limits::target`].
    #[error("the request-target is longer than max_target")]
    TargetTooLong,
    /// Larger than [`Limits::bytes`].
    #[error("the request head is larger than max_head")]
    TooLarge,
    /// More than [`Limits::fields`].
    #[error("the request head has more fields than max_fields")]
    TooManyFields,
    /// A CR or LF that is not a CRLF.
    #[error("a line of the request head does not end with CR and LF")]
    LineEnd,
    /// NUL and its kind, TAB aside.
    #[error("the request head has a control character")]
    Control,
    /// Obsolete line folding (RFC 9112 5.2).
    #[error("a field line begins with white space")]
    Folded,
    /// No colon, nothing before it, or what is before it is not a name.
    #[error("a field line does not begin with a name and a colon")]
    FieldName,
    /// HTTP/1.1 and no Host.
    #[error("the request has no Host field")]
    NoHost,
    /// More than one, equal or not.
    #[error("the request has more than one Host field")]
    SeveralHosts,
    /// Not digits alone, or too many.
    #[error("the Content-Length is not one number from 0 to 2^53")]
    Length,
    /// More than one line of it, equal or not.
    #[error("the request has more than one Content-Length field")]
    SeveralLengths,
    /// Neither `chunked` nor the name of a coding.
    #[error("the Transfer-Encoding is not one line that says \"chunked\"")]
    Coding,
    /// A coding that is not done here.
    #[error("no Transfer-Encoding but \"chunked\" is understood")]
    UnknownCoding,
    /// HTTP/1.0 has none (RFC 9112 6.1).
    #[error("an HTTP/1.0 request cannot have a Transfer-Encoding")]
    CodingOfHttp10,
    /// Both fields: two readers would see two bodies.
    #[error("the request has a Content-Length and a Transfer-Encoding")]
    TwoFramings,
}

/// What has been read of a head. Wants to see all of the head's bytes each time, and looks at each once.
#[derive(Debug, Default)]
pub struct Head {
    limits: Limits,
    /// Bytes looked at.
    seen: usize,
    /// Where the line begins whose end is not there yet.
    line: usize,
    asked: Option<Asked>,
    fields: usize,
    hosts: usize,
    /// Where the names of `Upgrade` fields begin that ask for no WebSocket.
    strays: Vec<usize>,
    length: Option<u64>,
    chunked: bool,
}

/// A head that may pass.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes, with the empty line at its end.
    pub length: usize,
    /// How the bytes behind it are framed; `None` if they are no business of HTTP (CONNECT).
    pub framing: Option<Framing>,
    /// Where the names of `Upgrade` fields begin that ask for no WebSocket.
    pub strays: Vec<usize>,
}

/// What the first line says about the rest.
#[derive(Clone, Copy, Debug)]
struct Asked {
    http11: bool,
    connects: bool,
}

impl Head {
    /// Nothing yet of a head that is held to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Reads on in `bytes`, which begin where the head begins; `None` if its end is not there yet.
    ///
    /// # Errors
    /// [`HeadError`] by the first rule that is broken; how the bytes were cut into reads makes no difference.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Whole>, HeadError> {
        loop {
            let rest = bytes.get(self.seen..).unwrap_or_default();
            let Some(found) = next_control(rest) else {
                self.seen = bytes.len();
                self.limit(bytes, self.seen)?;
                return Ok(None);
            };
            let at = self.seen + found;
            self.limit(bytes, at + 2)?;
            match rest.get(found..) {
                Some([b'\r']) => {
                    self.seen = at;
                    return Ok(None);
                }
                Some([b'\r', b'\n', ..]) => {}
                Some([b'\r' | b'\n', ..]) => return Err(HeadError::LineEnd),
                _ => return Err(HeadError::Control),
            }
            let line = bytes.get(self.line..at).unwrap_or_default();
            let (begin, at_start) = (self.line, self.line == 0);
            (self.seen, self.line) = (at + 2, at + 2);
            match &self.asked {
                // One empty line in front is forgiven: old clients end a body with it (RFC 9112 2.2).
                None if line.is_empty() && at_start => {}
                None => self.asked = Some(request_line(line, self.limits.target)?),
                Some(asked) if line.is_empty() => {
                    let framing = self.framing(*asked)?;
                    let framing = (!asked.connects).then_some(framing);
                    return Ok(Some(Whole { length: self.seen, framing, strays: std::mem::take(&mut self.strays) }));
                }
                Some(_) => self.field(line, begin)?,
            }
        }
    }

    /// The method and the request-target, as far as the first line that `bytes` begin with has them, whatever is wrong
    /// with it. They are for people: without what may be a secret (query, fragment, user name and password), and without
    /// control characters.
    pub(super) fn asked(bytes: &[u8]) -> (Option<Method>, Option<String>) {
        let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let line = line.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let mut parts = line.split(|byte| *byte == b' ');
        let method = parts.next().filter(|method| method.len() <= LONGEST_METHOD && is_token(method));
        let method = method.and_then(|method| Method::from_bytes(method).ok());
        // A lone word is no request: it may be anything.
        let (Some(method), Some(target)) = (method, parts.next()) else { return (None, None) };
        let path = target.split(|byte| matches!(byte, b'?' | b'#')).next();
        (Some(method), path.and_then(shown))
    }

    /// Whether `length` bytes may be needed up to here.
    fn limit(&self, bytes: &[u8], length: usize) -> Result<(), HeadError> {
        // Method, target, version, the two spaces between and the end of the line.
        let longest = LONGEST_METHOD + 1 + self.limits.target + " HTTP/1.1\r\n".len();
        if self.asked.is_none() && length - self.line > longest {
            let start = bytes.get(self.line..).unwrap_or_default();
            let is_method = start.iter().take(LONGEST_METHOD + 1).any(|byte| *byte == b' ');
            return Err(if is_method { HeadError::TargetTooLong } else { HeadError::RequestLine });
        }
        if length > self.limits.bytes { Err(HeadError::TooLarge) } else { Ok(()) }
    }

    /// Judges the field line that begins at `begin`.
    fn field(&mut self, line: &[u8], begin: usize) -> Result<(), HeadError> {
        self.fields += 1;
        if self.fields > self.limits.fields {
            return Err(HeadError::TooManyFields);
        }
        if let [b' ' | b'\t', ..] = line {
            return Err(HeadError::Folded);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadError::FieldName)?;
        let (name, value) = line.split_at_checked(colon).ok_or(HeadError::FieldName)?;
        if !is_token(name) {
            return Err(HeadError::FieldName);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            if self.hosts > 1 {
                return Err(HeadError::SeveralHosts);
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            if !value.eq_ignore_ascii_case(b"websocket") {
                self.strays.push(begin);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(HeadError::SeveralLengths);
            }
            self.length = Some(length(value).ok_or(HeadError::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !is_token(value) {
                return Err(HeadError::Coding);
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::UnknownCoding);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn framing(&self, asked: Asked) -> Result<Framing, HeadError> {
        if asked.http11 && self.hosts == 0 {
            return Err(HeadError::NoHost);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(HeadError::TwoFramings),
            (true, None) if !asked.http11 => Err(HeadError::CodingOfHttp10),
            (true, None) => Ok(Framing::chunked()),
            (false, length) => Ok(Framing::Counted(length.unwrap_or(0))),
        }
    }
}

fn request_line(line: &[u8], longest_target: usize) -> Result<Asked, HeadError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::RequestLine);
    };
    if method.len() > LONGEST_METHOD || !is_token(method) {
        return Err(HeadError::RequestLine);
    }
    let http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        version if version.starts_with(b"HTTP/") => return Err(HeadError::Version),
        _ => return Err(HeadError::RequestLine),
    };
    if target.len() > longest_target {
        return Err(HeadError::TargetTooLong);
    }
    request_target(target)?;
    Ok(Asked { http11, connects: method == b"CONNECT" })
}

/// The characters, and that `http` will read it as we do; which form fits which method is the guard's business.
fn request_target(target: &[u8]) -> Result<(), HeadError> {
    let mut in_query = false;
    for byte in target {
        // What RFC 3986 has no place for and some readers change: a fragment would be cut, a backslash turned.
        let is_wrong = matches!(byte, b'#' | b'\\' | b'<' | b'>' | b'`') || (in_query && *byte == b'"');
        if !byte.is_ascii_graphic() || is_wrong {
            return Err(TargetError::RawCharacter.into());
        }
        in_query |= *byte == b'?';
    }
    if let [b'/', ..] = target {
        return Ok(());
    }
    let uri = Uri::try_from(target).map_err(|_no_form_of_it| TargetError::NotAPath)?;
    match uri.scheme_str() {
        None | Some("http") => Ok(()),
        Some(_) => Err(HeadError::Scheme),
    }
}

/// A target as it may be shown: a path, or a URL without its user name and password.
fn shown(target: &[u8]) -> Option<String> {
    let target = target.get(..LONGEST_SHOWN).unwrap_or(target);
    // A head is refused at such a byte, and what is behind it may not have come yet.
    let target = target.split(|byte| is_control(*byte) || *byte == b'\t').next().unwrap_or_default();
    let text = String::from_utf8_lossy(target).into_owned();
    if text.starts_with('/') {
        return Some(text);
    }
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| is_token(scheme.as_bytes()))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(format!("{scheme}://{host}{path}"))
}

fn length(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign. 2^53 has 16 digits.
    let fits = digits.len() <= 16 && digits.iter().all(u8::is_ascii_digit);
    let number = fits.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten()?;
    (number <= LARGEST_BODY).then_some(number)
}

/// TAB aside: it is white space within a value.
pub(super) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// RFC 9110 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_character(*byte))
}

pub(super) fn is_token_character(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)) == Some(&true)
}

/// Of each byte, whether it is a token character.
const TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        let is_mark = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        #[expect(clippy::indexing_slicing, reason = "at compile time")]
        {
            token[byte as usize] = byte.is_ascii_alphanumeric() || is_mark;
        }
        byte += 1;
    }
    token
};

/// Where the next control character is.
fn next_control(bytes: &[u8]) -> Option<usize> {
    // Sixteen at once, without a branch among them: the compiler makes a few vector instructions of that.
    let is_clean = |piece: &&[u8]| !piece.iter().fold(false, |found, byte| found | is_control(*byte));
    let clean = bytes.chunks_exact(16).take_while(is_clean).count() * 16;
    let found = bytes.get(clean..)?.iter().position(|byte| is_control(*byte));
    found.map(|found| clean + found)
}

#[cfg(test)]
mod tests;
