use super::super::testing::{Message, messages, mutated};
use super::*;

/// All that passes of `stream` when it comes in pieces of `step` bytes, and what stops it.
fn clear_by(stream: &[u8], step: usize) -> (Vec<u8>, Option<Stop>) {
    let mut judge = Judge::default();
    let (mut cleared, mut end) = (0, 0);
    loop {
        match judge.clear(&stream[cleared..end]) {
            Ok(0) if end == stream.len() => return (stream[..cleared].to_vec(), None),
            Ok(0) => end = stream.len().min(end + step),
            Ok(more) => cleared += more,
            Err(stop) => {
                assert!(judge.is_over() && judge.clear(&stream[cleared..]) == Ok(0));
                return (stream[..cleared].to_vec(), Some(stop));
            }
        }
    }
}

#[test]
fn one_request_passes_at_a_time() {
    let (first, second) =
        (&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"[..], b"\r\nGET / HTTP/1.0\r\n\r\n");
    let stream = [first, second, b"GET"].concat();
    let mut judge = Judge::default();
    assert_eq!(judge.clear(&stream), Ok(first.len()));
    assert!(judge.is_at_head());
    assert_eq!(judge.clear(&stream[first.len()..]), Ok(second.len()));
    assert_eq!(judge.clear(b"GET"), Ok(0));
    assert!(judge.is_at_head() && !judge.is_over());
}

#[test]
fn nothing_passes_behind_a_connect() {
    let mut judge = Judge::default();
    let head = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(judge.clear(&[&head[..], b"GET / HTTP/1.0\r\n\r\n"].concat()), Ok(head.len()));
    assert!(judge.is_over());
    assert_eq!(judge.clear(b"GET / HTTP/1.0\r\n\r\n"), Ok(0));
}

#[test]
fn a_body_that_breaks_a_rule_passes_up_to_there() {
    let (head, good, bad) =
        (&b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"[..], b"3\r\nabc\r\n", b"x\r\n");
    for step in [1, 7, 1000] {
        let (passed, stop) = clear_by(&[head, good, bad].concat(), step);
        assert_eq!((passed, stop), ([head, good].concat(), Some(Stop::Body(ChunkError::Size))));
        let (passed, stop) = clear_by(&[head, bad].concat(), step);
        assert_eq!((passed, stop), (head.to_vec(), Some(Stop::Body(ChunkError::Size))));
    }
}

#[test]
fn a_mutated_stream_is_judged_alike_however_it_is_cut_and_another_parser_sees_the_same_in_it() {
    let mut random = fastrand::Rng::with_seed(21);
    let (mut passed, mut stopped) = (0, 0);
    for _ in 0..20_000 {
        let stream = mutated(&mut random);
        let (cleared, stop) = clear_by(&stream, stream.len());
        for step in [1, random.usize(1..64)] {
            assert_eq!(clear_by(&stream, step), (cleared.clone(), stop.clone()), "{}", stream.escape_ascii());
        }
        let messages = messages(&cleared);
        for Message { whole, .. } in messages.iter().rev().skip(1) {
            assert!(whole, "only the last can be a part: {}", stream.escape_ascii());
        }
        passed += messages.len();
        stopped += usize::from(stop.is_some());
    }
    assert!(passed > 10_000 && stopped > 5_000, "{passed} requests passed, {stopped} streams were stopped");
}
