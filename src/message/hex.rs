//! Bytes in lower-case hex, for the places where `format!` takes too long. Imports nothing of ours.

/// Writes `bytes` into `digits`, two for each. What finds no room, or no byte, stays as it is.
pub fn fill(digits: &mut [u8], bytes: &[u8]) {
    let (pairs, _) = digits.as_chunks_mut();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 0xf)];
    }
}

/// The digit of a number below 16. Without a branch: the compiler then makes many at once.
fn digit(number: u8) -> u8 {
    number + b'0' + u8::from(number > 9) * (b'a' - b'9' - 1)
}
