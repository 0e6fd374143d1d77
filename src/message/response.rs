//! Reading an upstream's answers over HTTP/1.1 from bytes: heads, interim ones (1xx) before them, and content.
//!
//! httparse reads lines; what a head means for its content is [`framing`](super::framing)'s, and what is in doubt is an
//! error. Content is given on as it comes and never copied. Imports nothing of ours but its neighbors.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::Frame;
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::fields;
use super::framing::{self, FramingError, Trust};

/// What an upstream's answers may be at most (docs/rules.md 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answers {
    /// Bytes of a head.
    pub head: u32,
    /// Fields of a head.
    pub fields: usize,
    /// Interim answers (1xx) before the final one; nobody has a use for more than one or two.
    pub interim: u32,
}

impl Default for Answers {
    fn default() -> Self {
        Self { head: 64 * 1024, fields: USUAL_FIELDS, interim: 32 }
    }
}

/// So many have a place on the stack while they are read.
const USUAL_FIELDS: usize = 100;
/// Room for so many is kept from one answer to the next.
const KEPT_LINES: usize = 32;
/// Bytes of empty lines before a head, which are passed over.
const EMPTY_LINES: usize = 64;
/// Bytes of a chunked body's trailers, of the line before one chunk, and of all such lines beyond what each needs.
const CHUNK_LINES: usize = 16 * 1024;
/// What a line before a chunk needs: sixteen digits and its end.
const CHUNK_SIZE: usize = 18;

/// Reads the heads of one answer: those before the last have no content and are thrown away.
#[derive(Debug)]
pub struct Heads {
    most: Answers,
    interim: u32,
    /// Bytes of the buffer that were looked at without finding the end of a head.
    looked: usize,
    /// Room for where the fields are.
    lines: Vec<Line>,
}

/// The head of an answer, and what comes behind it.
#[derive(Debug)]
pub struct Head {
    /// Without its content.
    pub response: Response<()>,
    /// The content.
    pub content: Content,
    /// Whether another answer may follow on the connection.
    pub persists: bool,
}

impl Heads {
    /// Of an answer within `most`.
    pub fn new(most: Answers) -> Self {
        Self { most, interim: 0, looked: 0, lines: Vec::new() }
    }

    /// What they may be at most.
    pub fn most(&self) -> Answers {
        self.most
    }

    /// Begins with the next answer.
    pub fn restart(&mut self) {
        (self.interim, self.looked) = (0, 0);
        if self.lines.capacity() > KEPT_LINES {
            self.lines = Vec::new();
        }
    }

    /// Whether anything of an answer has come; `bytes` are those that were not taken.
    pub fn have_begun(&self, bytes: &[u8]) -> bool {
        self.interim > 0 || !bytes.is_empty()
    }

    /// Takes the head of the answer to a request of `method` from the front of `bytes`; `None` until all of it is there.
    ///
    /// # Errors
    /// [`FramingError`]: what comes there is no answer, is larger than it may be, or leaves in doubt where it ends.
    pub fn next(&mut self, bytes: &mut BytesMut, method: &Method) -> Result<Option<Head>, FramingError> {
        while self.may_end(bytes) {
            let Some((length, response)) = read(bytes, self.most.fields, &mut self.lines)? else { break };
            if length > self.most.head as usize {
                return Err(FramingError::HeadTooLarge(self.most.head));
            }
            self.looked = 0;
            // 101 is the last answer in HTTP.
            if !response.status().is_informational() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return judge(response, method).map(Some);
            }
            self.interim += 1;
            if self.interim > self.most.interim {
                return Err(FramingError::TooManyInterim(self.most.interim));
            }
        }
        self.looked = bytes.len();
        if bytes.get(..EMPTY_LINES).is_some_and(|begin| begin.iter().all(|byte| matches!(byte, b'\r' | b'\n'))) {
            return Err(FramingError::Head(httparse::Error::NewLine));
        }
        if bytes.len() >= self.most.head as usize { Err(FramingError::HeadTooLarge(self.most.head)) } else { Ok(None) }
    }

    /// Whether a head may end in `bytes`: one that comes in small pieces is not read anew for each.
    fn may_end(&self, bytes: &[u8]) -> bool {
        // As much as the end of a head can lie before what is new.
        let fresh = bytes.get(self.looked.saturating_sub(3)..).unwrap_or_default();
        let ends = |at: &[u8]| matches!(at, [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n', ..]);
        !bytes.is_empty() && (self.looked == 0 || (0..fresh.len()).any(|at| fresh.get(at..).is_some_and(ends)))
    }
}

/// Takes a head from the front of `bytes`, with its length there; `None` if it is not whole. `lines` is there to be used again.
fn read(
    bytes: &mut BytesMut,
    most: usize,
    lines: &mut Vec<Line>,
) -> Result<Option<(usize, Response<()>)>, FramingError> {
    lines.clear();
    let found = if most <= USUAL_FIELDS {
        let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        find(bytes, fields.get_mut(..most).unwrap_or_default(), lines)?
    } else {
        find(bytes, &mut vec![MaybeUninit::uninit(); most], lines)?
    };
    let Some((length, mut response)) = found else { return Ok(None) };
    // The fields share the head's bytes.
    let head = bytes.split_to(length).freeze();
    *response.headers_mut() = HeaderMap::with_capacity(lines.len());
    for Line { name, value } in lines.iter() {
        let name = HeaderName::from_bytes(head.get(name.clone()).unwrap_or_default());
        let name = name.map_err(|_long| FramingError::Head(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_maybe_shared(head.slice(value.clone()));
        let value = value.map_err(|_no_value| FramingError::Head(httparse::Error::HeaderValue))?;
        response.headers_mut().append(name, value);
    }
    Ok(Some((length, response)))
}

/// Where a field lies in a head.
#[derive(Debug)]
struct Line {
    name: Range<usize>,
    value: Range<usize>,
}

/// Looks for a head at the beginning of `bytes`: its length, and all of it but its fields. Where those are goes into `lines`;
/// `fields` is room for them.
fn find<'b>(
    bytes: &'b [u8],
    fields: &mut [MaybeUninit<Header<'b>>],
    lines: &mut Vec<Line>,
) -> Result<Option<(usize, Response<()>)>, FramingError> {
    let most = fields.len();
    let mut head = httparse::Response::new(&mut []);
    let length = match ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(FramingError::TooManyFields(most)),
        Err(error) => return Err(FramingError::Head(error)),
    };
    let mut response = Response::new(());
    let code = StatusCode::from_u16(head.code.unwrap_or_default());
    *response.status_mut() = code.map_err(|_no_code| FramingError::Head(httparse::Error::Status))?;
    *response.version_mut() = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = head.reason.unwrap_or_default();
    if Some(reason) != response.status().canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
        start..start + part.len()
    };
    let places = head.headers.iter().map(|line| Line { name: place(line.name.as_bytes()), value: place(line.value) });
    lines.extend(places);
    Ok(Some((length, response)))
}

/// What follows a head (RFC 9112 6.3).
fn judge(mut response: Response<()>, method: &Method) -> Result<Head, FramingError> {
    let framing = framing::judge(response.status(), response.headers_mut())?;
    let (status, headers) = (response.status(), response.headers());
    let bodiless = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let content = match framing.length {
        _ if bodiless || method == Method::HEAD => Content::Over,
        _ if framing.is_chunked && response.version() < Version::HTTP_11 => return Err(FramingError::Coding),
        _ if framing.is_chunked => Content::Chunked(Chunks::default()),
        Some(length) => Content::of_length(length),
        None => Content::UntilClose,
    };
    let says = |word| fields::lists(headers, &header::CONNECTION, word);
    // RFC 9112 9.3.
    let closes = says("close") || (response.version() < Version::HTTP_11 && !says("keep-alive"));
    let ends = closes || status == StatusCode::SWITCHING_PROTOCOLS || matches!(content, Content::UntilClose);
    let persists = framing.trust == Trust::Kept && !ends;
    Ok(Head { response, content, persists })
}

/// What is still to come of an answer's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Over,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection closes.
    UntilClose,
}

impl Content {
    fn of_length(length: u64) -> Self {
        if length == 0 { Self::Over } else { Self::Length(length) }
    }

    /// Whether all of it was given on.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Bytes still to come, if that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Over => Some(0),
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece, or the trailers, from the front of `bytes`; `None` if it [is over](Self::is_over), or if more
    /// bytes are wanted first. Of trailers there are `fields` at most.
    ///
    /// # Errors
    /// [`FramingError`] of chunks.
    pub fn next(&mut self, bytes: &mut BytesMut, fields: usize) -> Result<Option<Frame<Bytes>>, FramingError> {
        match self {
            Self::Over => Ok(None),
            Self::Length(left) => {
                let data = take(bytes, left);
                if *left == 0 {
                    *self = Self::Over;
                }
                Ok(data.map(Frame::data))
            }
            Self::UntilClose => {
                let mut all = u64::MAX;
                Ok(take(bytes, &mut all).map(Frame::data))
            }
            Self::Chunked(chunks) => {
                let frame = chunks.next(bytes, fields)?;
                if chunks.at == At::End {
                    *self = Self::Over;
                }
                Ok(frame)
            }
        }
    }

    /// The connection has closed: whether nothing is missing.
    pub fn close(&mut self) -> bool {
        let whole = matches!(self, Self::Over | Self::UntilClose);
        *self = Self::Over;
        whole
    }
}

/// What there is of `left` bytes.
fn take(bytes: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let number = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= number as u64;
    (number > 0).then(|| bytes.split_to(number).freeze())
}

/// Chunked content (RFC 9112 7.1), as far as it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of extensions so far, which nobody has a use for.
    extensions: usize,
}

/// Where in chunked content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// At the line before a chunk.
    #[default]
    Size,
    /// In a chunk; so many bytes are to come.
    Data(u64),
    /// At the line end behind one.
    DataEnd,
    Trailers,
    End,
}

impl Chunks {
    fn next(&mut self, bytes: &mut BytesMut, fields: usize) -> Result<Option<Frame<Bytes>>, FramingError> {
        loop {
            self.at = match self.at {
                At::End => return Ok(None),
                At::Size => match self.size(bytes)? {
                    None => return Ok(None),
                    Some(0) => At::Trailers,
                    Some(size) => At::Data(size),
                },
                At::Data(mut left) => {
                    let data = take(bytes, &mut left);
                    self.at = if left > 0 { At::Data(left) } else { At::DataEnd };
                    if left == 0 && **bytes == *LAST_CHUNK {
                        // As mostly: its reader need not ask once more.
                        bytes.clear();
                        self.at = At::End;
                    }
                    return Ok(data.map(Frame::data));
                }
                At::DataEnd if bytes.starts_with(b"\r\n") => {
                    bytes.advance(2);
                    At::Size
                }
                At::DataEnd if b"\r\n".starts_with(bytes) => return Ok(None),
                At::DataEnd => return Err(FramingError::Chunk),
                At::Trailers => {
                    let Some(trailers) = trailers(bytes, fields)? else { return Ok(None) };
                    self.at = At::End;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
            };
        }
    }

    /// Takes the line before a chunk.
    fn size(&mut self, bytes: &mut BytesMut) -> Result<Option<u64>, FramingError> {
        // httparse takes a line without a digit for one with a zero.
        if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
            return Err(FramingError::Chunk);
        }
        let line = httparse::parse_chunk_size(bytes).map_err(|_invalid| FramingError::Chunk)?;
        let (length, size) = match line {
            Status::Complete((length, size)) => (length, Some(size)),
            Status::Partial => (bytes.len(), None),
        };
        let line = bytes.get(..length).unwrap_or_default();
        let (extensions, is_lax) = (length.saturating_sub(CHUNK_SIZE), has_bare_line_feed(line));
        if is_lax || self.extensions + extensions > CHUNK_LINES {
            return Err(FramingError::Chunk);
        }
        if size.is_some() {
            self.extensions += extensions;
            bytes.advance(length);
        }
        Ok(size)
    }
}

/// The end of the last chunk with data, and what follows it where there are no trailers.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Whether a line ends in it that not every reader would end there.
fn has_bare_line_feed(lines: &[u8]) -> bool {
    let before = [0].iter().chain(lines);
    before.zip(lines).any(|(before, byte)| *byte == b'\n' && *before != b'\r')
}

/// Takes the trailers, and the empty line behind them.
fn trailers(bytes: &mut BytesMut, fields: usize) -> Result<Option<HeaderMap>, FramingError> {
    let mut lines = vec![httparse::EMPTY_HEADER; fields];
    let (length, trailers) = match httparse::parse_headers(bytes, &mut lines).map_err(FramingError::Trailers)? {
        Status::Partial if bytes.len() < CHUNK_LINES => return Ok(None),
        Status::Complete((length, lines)) if length <= CHUNK_LINES => {
            let mut trailers = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes());
                let name = name.map_err(|_long| FramingError::Trailers(httparse::Error::HeaderName))?;
                let value = HeaderValue::from_bytes(line.value);
                trailers.append(name, value.map_err(|_bad| FramingError::Trailers(httparse::Error::HeaderValue))?);
            }
            (length, trailers)
        }
        Status::Partial | Status::Complete(_) => return Err(FramingError::Trailers(httparse::Error::TooManyHeaders)),
    };
    if has_bare_line_feed(bytes.get(..length).unwrap_or_default()) {
        return Err(FramingError::Trailers(httparse::Error::NewLine));
    }
    bytes.advance(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer with these chunks, in pieces of `step` bytes; what comes of it, and what is left.
    fn chunks(chunks: &str, step: usize) -> Result<(String, Vec<u8>), FramingError> {
        let (mut content, mut bytes, mut text) = (Content::Chunked(Chunks::default()), BytesMut::new(), Vec::new());
        for piece in chunks.as_bytes().chunks(step) {
            bytes.extend_from_slice(piece);
            while let Some(frame) = content.next(&mut bytes, 10)? {
                match frame.into_data() {
                    Ok(data) => text.extend_from_slice(&data),
                    Err(trailers) => text.extend(format!("{:?}", trailers.into_trailers().unwrap()).bytes()),
                }
            }
        }
        if !content.is_over() {
            text.extend(b"...");
        }
        Ok((String::from_utf8(text).unwrap(), bytes.to_vec()))
    }

    #[test]
    fn chunks_are_taken_by_the_letter_however_they_are_cut() {
        let (size, trailer) = (FramingError::Chunk, FramingError::Trailers);
        let long = "x".repeat(CHUNK_LINES + CHUNK_SIZE);
        for (bytes, outcome) in [
            ("3\r\nabc\r\n0\r\n\r\n", Ok("abc")),
            ("0003 \r\nabc\r\nA;q=\"1\"\r\n0123456789\r\n0\r\n\r\n", Ok("abc0123456789")),
            ("3\r\nabc\r\n0;last\r\nx-sum: 1\r\n\r\n", Ok("abc{\"x-sum\": \"1\"}")),
            ("3\r\nabc\r\n0\r\n", Ok("abc...")),
            ("3\r\nab", Ok("ab...")),
            ("\r\nabc\r\n0\r\n\r\n", Err(size)),
            (";a\r\nabc\r\n0\r\n\r\n", Err(size)),
            ("3\nabc\r\n0\r\n\r\n", Err(size)),
            ("3;a\nb\r\nabc\r\n0\r\n\r\n", Err(size)),
            ("3\r\nabcd\r\n0\r\n\r\n", Err(size)),
            ("3\r\nabc\n0\r\n\r\n", Err(size)),
            ("00000000000000003\r\nabc\r\n0\r\n\r\n", Err(size)),
            (&format!("3;{long}\r\nabc\r\n0\r\n\r\n"), Err(size)),
            (&"1;0123456789abcdef0123456789\r\na\r\n".repeat(CHUNK_LINES / 10), Err(size)),
            ("0\r\nx: 1\n\r\n", Err(trailer(httparse::Error::NewLine))),
            ("0\r\nx : 1\r\n\r\n", Err(trailer(httparse::Error::HeaderName))),
            (&format!("0\r\n{}\r\n", "x: 1\r\n".repeat(11)), Err(trailer(httparse::Error::TooManyHeaders))),
            (&format!("0\r\nx: {long}"), Err(trailer(httparse::Error::TooManyHeaders))),
        ] {
            for step in [1, 2, 3, 7, 100_000] {
                let read = chunks(bytes, step).map(|(text, left)| {
                    assert!(left.is_empty() || text.ends_with("..."), "{bytes:?}: {left:?}");
                    text
                });
                assert_eq!(read, outcome.map(str::to_owned), "{step}: {bytes:.80?}");
            }
        }
        assert_eq!(chunks("0\r\n\r\nHTTP/1.1", 100), Ok((String::new(), b"HTTP/1.1".to_vec())));
    }

    #[test]
    fn a_head_is_as_large_as_it_may_be_and_interim_ones_are_counted() {
        let most = Answers { head: 200, fields: 3, interim: 2 };
        let read = |text: String, step: usize| {
            let (mut heads, mut bytes) = (Heads::new(most), BytesMut::new());
            for piece in text.as_bytes().chunks(step) {
                bytes.extend_from_slice(piece);
                if let Some(head) = heads.next(&mut bytes, &Method::GET)? {
                    return Ok(Some((head.response.status().as_u16(), bytes.len())));
                }
            }
            Ok(None)
        };
        let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let interim = |number: usize| "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(number);
        let filled = |size: usize| head(&format!("x: {}\r\n", "a".repeat(size - head("x: \r\n").len())));
        for step in [1, 2, 3, 11, 100_000] {
            for (text, outcome) in [
                (head(""), Ok(Some((200, 0)))),
                (head("").replace("\r\n", "\n"), Ok(Some((200, 0)))),
                (interim(2) + &head(""), Ok(Some((200, 0)))),
                (interim(3) + &head(""), Err(FramingError::TooManyInterim(2))),
                (interim(1) + "HTTP/1.1 101 Switching\r\n\r\n", Ok(Some((101, 0)))),
                (filled(200), Ok(Some((200, 0)))),
                (filled(201), Err(FramingError::HeadTooLarge(200))),
                (head(&"x: 1\r\n".repeat(3)), Ok(Some((200, 0)))),
                (head(&"x: 1\r\n".repeat(4)), Err(FramingError::TooManyFields(3))),
                ("HTTP/1.1 200 OK\r\nx".to_owned(), Ok(None)),
                ("\r\n".repeat(16) + &head(""), Ok(Some((200, 0)))),
                ("\r\n".repeat(32), Err(FramingError::Head(httparse::Error::NewLine))),
            ] {
                assert_eq!(read(text.clone(), step), outcome, "{step}: {text:?}");
            }
        }
        assert_eq!(read(head("") + "content", 100), Ok(Some((200, 7))));
    }
}
