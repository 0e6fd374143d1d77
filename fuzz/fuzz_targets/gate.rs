//! What the gate lets pass is the same however the stream is cut, and another parser finds whole requests in it and
//! nothing else.
#![no_main]

#[path = "../../src/server/gate/testing.rs"]
mod testing;

use countersign::server::gate::judge::{Judge, Stop};
use libfuzzer_sys::fuzz_target;

/// All that passes of `stream` when it comes in pieces of `step` bytes, and what stops it.
fn clear_by(stream: &[u8], step: usize) -> (&[u8], Option<Stop>) {
    let mut judge = Judge::default();
    let (mut cleared, mut end) = (0, 0);
    loop {
        match judge.clear(&stream[cleared..end]) {
            Ok(0) if end == stream.len() => return (&stream[..cleared], None),
            Ok(0) => end = stream.len().min(end + step),
            Ok(more) => cleared += more,
            Err(stop) => return (&stream[..cleared], Some(stop)),
        }
    }
}

fuzz_target!(|input: (u8, u32, Vec<u8>)| {
    let (step, seed, mut stream) = input;
    // Half of the time, the fuzzer's bytes go behind a stream that is nearly in order.
    if seed % 2 == 1 {
        let mut prefix = testing::mutated(&mut fastrand::Rng::with_seed(seed.into()));
        prefix.append(&mut stream);
        stream = prefix;
    }
    let whole = clear_by(&stream, stream.len());
    assert_eq!(clear_by(&stream, usize::from(step) + 1), whole);
    let messages = testing::messages(whole.0);
    assert!(messages.iter().rev().skip(1).all(|message| message.whole));
});
