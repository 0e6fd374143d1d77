//! Whatever an upstream answers over HTTP/1.1: what is read of it is the same however it is cut, within the limits, and no
//! more than there was.

#![no_main]

use bytes::BytesMut;
use countersign::message::framing::FramingError;
use countersign::message::response::{Answers, Heads};
use http::Method;
use libfuzzer_sys::fuzz_target;

const MOST: Answers = Answers { head: 1_024, fields: 20, interim: 3 };

/// What was read: the head, the content, the trailers' number, and whether it is whole.
#[derive(Debug, PartialEq)]
struct Read {
    head: String,
    content: Vec<u8>,
    trailers: usize,
    end: Result<bool, FramingError>,
    persists: bool,
    /// Bytes behind it.
    left: usize,
}

/// Reads an answer that comes in pieces of `step` bytes; `None` where there is no head.
fn read(bytes: &[u8], step: usize, method: &Method) -> Option<Read> {
    let (mut pieces, mut there) = (bytes.chunks(step), BytesMut::new());
    let mut heads = Heads::new(MOST);
    let mut head = loop {
        there.extend_from_slice(pieces.next()?);
        if let Some(head) = heads.next(&mut there, method).ok()? {
            break head;
        }
    };
    assert!(head.response.headers().len() <= MOST.fields);
    let status = head.response.status().as_u16();
    assert!(status == 101 && !head.persists || (200..600).contains(&status));
    let (shown, persists) = (format!("{:?}", head.response), head.persists);
    let mut read = Read { head: shown, content: Vec::new(), trailers: 0, end: Ok(true), persists, left: 0 };
    while !head.content.is_over() {
        match head.content.next(&mut there, MOST.fields) {
            Ok(Some(frame)) => match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty());
                    read.content.extend_from_slice(&data);
                }
                Err(frame) => read.trailers = frame.into_trailers().expect("there is no third").len(),
            },
            Ok(None) if head.content.is_over() => {}
            Ok(None) => match pieces.next() {
                Some(piece) => there.extend_from_slice(piece),
                None => read.end = Ok(head.content.close()),
            },
            Err(error) => {
                read.end = Err(error);
                break;
            }
        }
    }
    // Behind an error, nobody looks.
    if read.end.is_ok() {
        read.left = there.len() + pieces.map(<[u8]>::len).sum::<usize>();
    }
    assert!(read.content.len() + read.left <= bytes.len() && read.trailers <= MOST.fields);
    Some(read)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (step, is_head, bytes) = input;
    let method = if is_head { Method::HEAD } else { Method::GET };
    let whole = read(bytes, bytes.len().max(1), &method);
    assert_eq!(read(bytes, usize::from(step) + 1, &method), whole);
});
