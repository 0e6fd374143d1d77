//! For the tests of the gate: streams with something wrong in them, and another parser's view of what passed.

/// Requests that are in order, to be put behind each other and spoiled.
const REQUESTS: [&[u8]; 8] = [
    b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\nhello world",
    b"PUT /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    b"PUT /up HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 45\r\n\r\nGET /hidden HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://localhost/b HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];

/// What attacks are made of.
const SPLICES: [&[u8]; 36] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\x0b",
    b"\x7f",
    b"\xa0",
    b"\xff",
    b"0",
    b"1",
    b",",
    b";",
    b"_",
    b"#",
    b"\\",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length : 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Host: evil.test\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Upgrade: h2c\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

/// One to three requests with up to four things done to them.
pub(super) fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..random.usize(1..=3) {
        stream.extend_from_slice(REQUESTS[random.usize(..REQUESTS.len())]);
    }
    for _ in 0..random.usize(0..=4) {
        let at = random.usize(..stream.len());
        let end = stream.len().min(at + random.usize(1..=4));
        match random.u8(..6) {
            0 => stream[at] = random.u8(..),
            1 => drop(stream.drain(at..end)),
            2 => drop(stream.splice(at..at, stream[at..end].to_vec())),
            3 => stream[at] ^= 0x20,
            4 => drop(stream.splice(at..at, SPLICES[random.usize(..SPLICES.len())].iter().copied())),
            // At the begin of a line, where it means most.
            _ => {
                let lines: Vec<usize> = (2..stream.len()).filter(|at| &stream[at - 2..*at] == b"\r\n").collect();
                let at = lines.get(random.usize(..lines.len().max(1))).copied().unwrap_or(0);
                drop(stream.splice(at..at, SPLICES[random.usize(..SPLICES.len())].iter().copied()));
            }
        }
        if stream.is_empty() {
            return b"\n".to_vec();
        }
    }
    stream
}

/// A request as another parser sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) body: Vec<u8>,
    /// Whether its body has come to its end.
    pub(super) whole: bool,
    /// Whether the connection goes on behind it.
    pub(super) last: bool,
}

/// Reads what passed with `httparse`, and panics at anything that is not plainly one request behind the other.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            other => panic!("{other:?} of {}", bytes.escape_ascii()),
        };
        let head = &bytes[..length];
        assert!(!head.windows(2).any(|pair| pair[0] != b'\r' && pair[1] == b'\n'), "{}", head.escape_ascii());
        let values = |name: &str| -> Vec<&[u8]> {
            let own = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            own.map(|field| field.value).collect()
        };
        let (method, target) = (request.method.unwrap().to_owned(), request.path.unwrap().to_owned());
        let http10 = request.version == Some(0);
        let hosts = values("host").len();
        assert!(hosts == 1 || (http10 && hosts == 0), "{}", head.escape_ascii());
        let connection = values("connection").join(&b","[..]).to_ascii_lowercase();
        let says = |word: &[u8]| connection.split(|byte| *byte == b',').any(|own| own.trim_ascii() == word);
        let last = says(b"close") || (http10 && !says(b"keep-alive")) || method == "CONNECT";
        bytes = &bytes[length..];
        let (body, whole) = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
            _ if method == "CONNECT" => {
                assert!(bytes.is_empty(), "{}", bytes.escape_ascii());
                (Vec::new(), true)
            }
            ([], []) => (Vec::new(), true),
            ([digits], []) => {
                let length: usize = str::from_utf8(digits).unwrap().parse().unwrap();
                let (body, behind) = bytes.split_at(length.min(bytes.len()));
                bytes = behind;
                (body.to_vec(), body.len() == length)
            }
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && !http10 => chunked(&mut bytes),
            framing => panic!("{framing:?} in {}", head.escape_ascii()),
        };
        messages.push(Message { method, target, body, whole, last });
    }
    messages
}

fn chunked(bytes: &mut &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let part = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete((line, size))) => {
                assert!(bytes[..line].ends_with(b"\r\n"), "{}", bytes[..line].escape_ascii());
                *bytes = &bytes[line..];
                usize::try_from(size).unwrap()
            }
            Ok(httparse::Status::Partial) => {
                *bytes = &[];
                return (body, false);
            }
            Err(error) => panic!("{error:?} in {}", bytes.escape_ascii()),
        };
        if part == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 100];
            return match httparse::parse_headers(bytes, &mut trailers).unwrap() {
                httparse::Status::Complete((length, _)) => {
                    *bytes = &bytes[length..];
                    (body, true)
                }
                httparse::Status::Partial => {
                    *bytes = &[];
                    (body, false)
                }
            };
        }
        let (data, behind) = bytes.split_at(part.min(bytes.len()));
        body.extend_from_slice(data);
        *bytes = behind;
        match behind {
            [b'\r', b'\n', rest @ ..] => *bytes = rest,
            [] | [b'\r'] => {
                *bytes = &[];
                return (body, false);
            }
            other => panic!("no CRLF behind a chunk: {}", other.escape_ascii()),
        }
    }
}
