use super::*;

/// Reads `head` in pieces of `step` bytes.
fn read_by(head: &[u8], step: usize) -> Result<Option<Whole>, HeadError> {
    let mut reader = Head::default();
    let mut end = 0;
    while end < head.len() {
        end = head.len().min(end + step);
        if let Some(whole) = reader.read(&head[..end])? {
            return Ok(Some(whole));
        }
    }
    Ok(None)
}

/// The verdict on `head`, which must be the same however it is cut.
fn judge(head: &[u8]) -> Result<Option<Whole>, HeadError> {
    let said = read_by(head, head.len());
    for step in [1, 2, 3, 7, 100] {
        let by_step = read_by(head, step);
        let same = match (&said, &by_step) {
            (Ok(Some(one)), Ok(Some(other))) => one.length == other.length,
            (Ok(None), Ok(None)) => true,
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        assert!(same, "{said:?} became {by_step:?} in steps of {step}: {}", head.escape_ascii());
    }
    said
}

#[track_caller]
fn passes(head: &[u8]) -> Framing {
    match judge(head) {
        Ok(Some(Whole { length, framing: Some(framing), strays: _ })) if length == head.len() => framing,
        other => panic!("{other:?}: {}", head.escape_ascii()),
    }
}

#[track_caller]
fn refused(head: &[u8], error: HeadError) {
    match judge(head) {
        Err(said) if said == error => {}
        other => panic!("{other:?} and not {error:?}: {}", head.escape_ascii()),
    }
}

/// A GET with these lines besides its Host.
fn with(lines: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: localhost\r\n", lines, b"\r\n"].concat()
}

fn line(first: &[u8]) -> Vec<u8> {
    [first, b"\r\nHost: localhost\r\n\r\n"].concat()
}

#[test]
fn plain_heads_pass_with_their_framing() {
    assert!(matches!(passes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Framing::Counted(0)));
    assert!(matches!(passes(b"\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Framing::Counted(0)));
    assert!(matches!(passes(b"GET / HTTP/1.0\r\n\r\n"), Framing::Counted(0)));
    assert!(matches!(passes(b"GET / HTTP/1.1\r\nhost:\r\n\r\n"), Framing::Counted(0)), "which host is the guard's");
    assert!(matches!(passes(&with(b"Content-Length: 42\r\n")), Framing::Counted(42)));
    assert!(matches!(passes(&with(b"content-LENGTH:\t003 \r\n")), Framing::Counted(3)));
    assert!(matches!(passes(&with(b"Content-Length: 9007199254740992\r\n")), Framing::Counted(LARGEST_BODY)));
    assert!(matches!(passes(&with(b"Transfer-Encoding: Chunked\r\n")), Framing::Chunked(_)));
    assert!(matches!(passes(&with(b"x: a\xe9\tb\r\nx-empty:\r\nX_1!#$%&'*+-.^_`|~:  y  \r\n")), Framing::Counted(0)));
    assert!(matches!(judge(b"GET / HTTP/1.1\r\nHost: localhost\r\n"), Ok(None)));
    assert!(matches!(judge(b"GET / HT"), Ok(None)));
}

#[test]
fn two_ways_to_frame_a_body_are_none() {
    for lines in [
        &b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"[..],
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    ] {
        refused(&with(lines), HeadError::TwoFramings);
    }
    refused(&with(b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n"), HeadError::Length);
    refused(&with(b"Content-Length: 3\r\nContent-Length: 3\r\n"), HeadError::SeveralLengths);
    refused(&with(b"Content-Length: 3\r\nContent-Length: 4\r\n"), HeadError::SeveralLengths);
    refused(&with(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), HeadError::Coding);
    refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::CodingOfHttp10);
}

#[test]
fn a_length_is_digits_and_nothing_else() {
    for value in [
        "3, 3",
        "+3",
        "-1",
        "0x3",
        "",
        "3 3",
        "1e1",
        "3;a",
        "3,",
        "\"3\"",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "00000000000000003",
        "\u{663}",
    ] {
        refused(&with(format!("Content-Length: {value}\r\n").as_bytes()), HeadError::Length);
    }
}

#[test]
fn a_coding_is_chunked_and_nothing_else() {
    for value in
        ["chunked;q=1", "chunked, chunked", "gzip, chunked", "", ",chunked", "chunked,", "\"chunked\"", "chun ked"]
    {
        refused(&with(format!("Transfer-Encoding: {value}\r\n").as_bytes()), HeadError::Coding);
    }
    for value in ["xchunked", "identity", "gzip", "chunked1"] {
        refused(&with(format!("Transfer-Encoding: {value}\r\n").as_bytes()), HeadError::UnknownCoding);
    }
    refused(&with(b"Transfer-Encoding: \x0bchunked\r\n"), HeadError::Control);
    refused(&with(b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n"), HeadError::UnknownCoding);
}

#[test]
fn names_that_some_would_read_as_framing_are_refused_or_are_no_framing() {
    for lines in [
        &b"Content-Length : 3\r\n"[..],
        b"Content-Length\t: 3\r\n",
        b"Content-Length\xa0: 3\r\n",
        b"Content-Length\x85: 3\r\n",
        b"Content-Length\xc2\xad: 3\r\n",
        b"\xffContent-Length: 3\r\n",
        b"Content-Length\\: 3\r\n",
        b"Content Length: 3\r\n",
        b"(Content-Length): 3\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b": x\r\n",
        b"no colon\r\n",
    ] {
        refused(&with(lines), HeadError::FieldName);
    }
    for lines in [
        &b" Content-Length: 3\r\n"[..],
        b"\tTransfer-Encoding: chunked\r\n",
        b"x: y\r\n Content-Length: 3\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"x: y\r\n \r\n",
    ] {
        assert!(matches!(judge(&with(lines)), Err(HeadError::Folded | HeadError::Coding)), "{}", lines.escape_ascii());
    }
    for lines in
        [&b"Content_Length: 3\r\n"[..], b"Content-Length_: 3\r\n", b"X-Content-Length: 3\r\n", b"Content-Lengt: 3\r\n"]
    {
        assert!(matches!(passes(&with(lines)), Framing::Counted(0)), "{}", lines.escape_ascii());
    }
}

#[test]
fn lines_end_with_cr_and_lf() {
    for head in [
        &b"GET / HTTP/1.1\nHost: localhost\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\rHost: localhost\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\rGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        refused(head, HeadError::LineEnd);
    }
    refused(b"\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", HeadError::RequestLine);
    for byte in (0..=0x7f).filter(|byte| is_control(*byte) && !matches!(byte, b'\r' | b'\n')) {
        refused(&with(&[b'x', b':', byte, b'\r', b'\n']), HeadError::Control);
        refused(&with(&[b'x', byte, b':', b'\r', b'\n']), HeadError::Control);
        refused(&line(&[b"GET /", &[byte][..], b" HTTP/1.1"].concat()), HeadError::Control);
    }
}

#[test]
fn there_is_one_host() {
    refused(b"GET / HTTP/1.1\r\n\r\n", HeadError::NoHost);
    refused(b"GET / HTTP/1.1\r\nHost_: localhost\r\n\r\n", HeadError::NoHost);
    refused(&with(b"Host: localhost\r\n"), HeadError::SeveralHosts);
    refused(&with(b"HOST: evil\r\n"), HeadError::SeveralHosts);
    refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", HeadError::SeveralHosts);
    refused(b"GET http://localhost/ HTTP/1.1\r\n\r\n", HeadError::NoHost);
}

#[test]
fn what_is_no_http_1_is_refused_at_once() {
    for (bytes, error) in [
        (&b"GET /\r\n"[..], HeadError::RequestLine),
        (b"GET\r\n", HeadError::RequestLine),
        (b"SSH-2.0-OpenSSH_9.6\r\n", HeadError::RequestLine),
        (b"GET  / HTTP/1.1\r\n", HeadError::RequestLine),
        (b"GET / HTTP/1.1 \r\n", HeadError::RequestLine),
        (b" GET / HTTP/1.1\r\n", HeadError::RequestLine),
        (b"GET /a b HTTP/1.1\r\n", HeadError::RequestLine),
        (b"GET / http/1.1\r\n", HeadError::RequestLine),
        (b"G(T / HTTP/1.1\r\n", HeadError::RequestLine),
        (b"G\xc9T / HTTP/1.1\r\n", HeadError::RequestLine),
        (b"GET\t/ HTTP/1.1\r\n", HeadError::RequestLine),
        (b"GET / HTTP/1.2\r\n", HeadError::Version),
        (b"GET / HTTP/2.0\r\n", HeadError::Version),
        (b"GET / HTTP/0.9\r\n", HeadError::Version),
        (b"GET / HTTP/1.10\r\n", HeadError::Version),
        (b"GET / HTTP/01.1\r\n", HeadError::Version),
        (b"GET / HTTP/1,1\r\n", HeadError::Version),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::Version),
        (b"\x16\x03\x01\x02\x00\x01", HeadError::Control),
        (b"EHLO x\r\n", HeadError::RequestLine),
        (b"GET  HTTP/1.1\r\n", HeadError::Target(TargetError::NotAPath)),
    ] {
        refused(bytes, error);
    }
}

#[test]
fn targets_have_no_character_that_readers_differ_about() {
    for target in [
        &b"/a#b"[..],
        b"/a\\b",
        b"/\xc3\xa9",
        b"/a?\xff",
        b"/<",
        b"/>",
        b"/`",
        b"/?\"",
        b"http://localhost/#",
        b"\xc3\xa9",
    ] {
        refused(&line(&[b"GET ", target, b" HTTP/1.1"].concat()), HeadError::Target(TargetError::RawCharacter));
    }
    for target in [&b"a/b"[..], b"http://", b"/../\"", b"::", b"http://a b"] {
        let head = line(&[b"GET ", target, b" HTTP/1.1"].concat());
        let verdict = judge(&head);
        let passes = target.starts_with(b"/");
        assert_eq!(verdict.is_ok(), passes, "{verdict:?} {}", target.escape_ascii());
    }
    for target in ["https://localhost/", "HTTPS://localhost/", "ftp://localhost/", "ws://localhost/"] {
        refused(&line(format!("GET {target} HTTP/1.1").as_bytes()), HeadError::Scheme);
    }
    for target in ["*", "http://localhost:1/x?y", "HTTP://localhost", "localhost:443"] {
        passes(&line(format!("OPTIONS {target} HTTP/1.1").as_bytes()));
    }
    assert!(matches!(judge(&line(b"CONNECT a:1 HTTP/1.1")), Ok(Some(Whole { framing: None, .. }))));
}

#[test]
fn what_passes_is_read_by_http_too() {
    for byte in 0..=u8::MAX {
        for target in [[b'/', byte, b'a'], [b'/', b'?', byte], [b'*', byte, b'a']] {
            let passes = judge(&line(&[b"GET ", &target[..], b" HTTP/1.1"].concat())).is_ok();
            assert!(!passes || Uri::try_from(&target[..]).is_ok(), "{}", target.escape_ascii());
        }
        let passes = judge(&with(&[b'x', byte, b'y', b':', b'z', b'\r', b'\n'])).is_ok();
        let name = http::HeaderName::from_bytes(&[b'x', byte, b'y']);
        assert!(!passes || name.is_ok() || byte == b':', "{byte}");
        let passes = judge(&line(&[b"G", &[byte][..], b"T / HTTP/1.1"].concat())).is_ok();
        assert!(!passes || Method::from_bytes(&[b'G', byte, b'T']).is_ok(), "{byte}");
    }
}

#[test]
fn too_much_is_told_apart() {
    let target = |length: usize| line(format!("GET /{} HTTP/1.1", "a".repeat(length - 1)).as_bytes());
    passes(&target(LONGEST_TARGET));
    refused(&target(LONGEST_TARGET + 1), HeadError::TargetTooLong);
    refused(&target(66 * 1024), HeadError::TargetTooLong);
    refused(&[b"GET /", "a".repeat(66 * 1024).as_bytes()].concat(), HeadError::TargetTooLong);
    let method = |length: usize| line(format!("{} / HTTP/1.1", "M".repeat(length)).as_bytes());
    passes(&method(LONGEST_METHOD));
    refused(&method(LONGEST_METHOD + 1), HeadError::RequestLine);
    refused("A".repeat(66 * 1024).as_bytes(), HeadError::RequestLine);
    let padding = LARGEST_HEAD - with(b"x: \r\n").len();
    passes(&with(format!("x: {}\r\n", "y".repeat(padding)).as_bytes()));
    refused(&with(format!("x: {}\r\n", "y".repeat(padding + 1)).as_bytes()), HeadError::TooLarge);
    refused(&with(format!("x: {}\r\n", "y".repeat(450_000)).as_bytes()), HeadError::TooLarge);
    refused(&with(format!("x: {}", "y".repeat(40_000)).as_bytes()), HeadError::TooLarge);
    passes(&with("x: y\r\n".repeat(MOST_FIELDS - 1).as_bytes()));
    refused(&with("x: y\r\n".repeat(MOST_FIELDS).as_bytes()), HeadError::TooManyFields);
}

#[test]
fn what_a_refused_head_asks_for_is_told_without_what_may_be_secret() {
    for (line, method, path) in [
        ("GET /a/b?key=1 HTTP/1.1\r\nx y: z", Some("GET"), Some("/a/b")),
        ("\r\nPUT / HTTP/1.1\r\n", Some("PUT"), Some("/")),
        ("GET /a\\b#key HTTP/1.1", Some("GET"), Some("/a\\b")),
        ("GET /a b HTTP/1.1", Some("GET"), Some("/a")),
        ("GET http://me:key@host/ HTTP/1.1", Some("GET"), Some("http://host/")),
        ("POST https://me:key@api.example/x?key=1 HTTP/1.1", Some("POST"), Some("https://api.example/x")),
        ("GET https://me:key@other@api.example HTTP/1.1", Some("GET"), Some("https://api.example")),
        ("GET /\u{e9}\u{1b}[2J HTTP/1.1", Some("GET"), Some("/\u{e9}")),
        ("GET /x HTTP/3.0", Some("GET"), Some("/x")),
        ("GET key HTTP/1.1", Some("GET"), None),
        ("key", None, None),
        ("SSH-2.0-x", None, None),
        ("G{}T /x HTTP/1.1", None, None),
        ("\u{16}\u{3}\u{1}", None, None),
    ] {
        let bytes = format!("{line}\r\n");
        let (known, shown) = Head::asked(bytes.as_bytes());
        assert_eq!((known.as_ref().map(Method::as_str), shown.as_deref()), (method, path), "{line}");
    }
}
