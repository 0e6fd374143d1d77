//! Bytes in lower-case hex, for the places where `format!` takes too long. Imports nothing of ours.

/// Writes `bytes` into `digits`, two for each. What finds no room, or no byte, stays as it is.
pub fn fill(digits: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

/// The digit of a number below 16.
fn digit(number: u8) -> u8 {
    if number < 10 { b'0' + number } else { b'a' + number - 10 }
}
