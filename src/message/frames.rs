//! Where WebSocket frames end, for saying a word of our own between two of them.
//!
//! Counts lengths and looks at nothing else: a stream that breaks the rules passes as it is, and merely has no place for
//! that word. Control frames may stand between the parts of a message (RFC 6455 5.4), so the end of any frame will do.
//! Imports nothing of ours.

/// A server's Close with status 1001, "going away": it is not masked (RFC 6455 5.1, 5.5.1, 7.4.1).
pub const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

const CLOSE: u8 = 0x8;

/// One direction of a WebSocket.
#[derive(Debug, Default)]
pub struct Frames {
    at: At,
    /// A Close has begun: nothing may follow it.
    closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Between two frames.
    #[default]
    Boundary,
    /// Behind the first byte.
    Length,
    /// In a length of several bytes: how many of it are to come, what they say so far, and the bytes of the mask.
    LongLength { left: u8, so_far: u64, mask: u64 },
    /// In mask and payload, of which so much is to come.
    Payload(u64),
}

impl Frames {
    /// Whether a frame of ours may stand here.
    pub fn has_room(&self) -> bool {
        self.at == At::Boundary && !self.closed
    }

    /// Goes over `bytes`, or to the first place in them where a frame of ours may stand; returns how far it came.
    pub fn to_room(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while !self.has_room() && passed < bytes.len() {
            passed += self.step(bytes.get(passed..).unwrap_or_default());
        }
        passed
    }

    /// Goes over all of `bytes`.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut passed = 0;
        while passed < bytes.len() {
            passed += self.step(bytes.get(passed..).unwrap_or_default());
        }
    }

    /// One byte of a head, or as much of a payload as there is. Returns how many bytes that were: at least one.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some(&byte) = bytes.first() else { return 0 };
        let mut taken = 1;
        self.at = match self.at {
            At::Boundary => {
                self.closed |= byte & 0x0f == CLOSE;
                At::Length
            }
            At::Length => {
                let mask = if byte & 0x80 == 0 { 0 } else { 4 };
                match byte & 0x7f {
                    126 => At::LongLength { left: 2, so_far: 0, mask },
                    127 => At::LongLength { left: 8, so_far: 0, mask },
                    short => Self::payload(u64::from(short) + mask),
                }
            }
            At::LongLength { left, so_far, mask } => {
                let so_far = so_far << 8 | u64::from(byte);
                match left {
                    1 => Self::payload(so_far.saturating_add(mask)),
                    _ => At::LongLength { left: left - 1, so_far, mask },
                }
            }
            At::Payload(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(left);
                taken = usize::try_from(here).unwrap_or(bytes.len());
                Self::payload(left - here)
            }
        };
        taken
    }

    fn payload(left: u64) -> At {
        if left == 0 { At::Boundary } else { At::Payload(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with a payload of zeros.
    fn frame(first: u8, length: usize, mask: bool) -> Vec<u8> {
        let bit: u8 = if mask { 0x80 } else { 0 };
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(bit | u8::try_from(length).unwrap()),
            126..65_536 => {
                frame.push(bit + 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(bit + 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + if mask { 4 } else { 0 } + length, 0);
        frame
    }

    #[test]
    fn the_end_of_a_frame_is_found_however_its_bytes_come() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            for mask in [false, true] {
                let one = frame(0x82, length, mask);
                let two = [one.clone(), frame(0x01, 3, mask)].concat();
                for piece in [1, 2, 3, 1000, two.len()] {
                    let mut frames = Frames::default();
                    let mut at = 0;
                    for bytes in two.chunks(piece) {
                        // The place before the first frame is one too.
                        frames.pass(&bytes[..1]);
                        let room = 1 + frames.to_room(&bytes[1..]);
                        at += room;
                        if frames.has_room() {
                            break;
                        }
                    }
                    assert_eq!(at, one.len(), "{length} {mask} {piece}");
                }
            }
        }
    }

    #[test]
    fn nothing_may_stand_behind_a_close() {
        let mut frames = Frames::default();
        assert!(frames.has_room());
        frames.pass(&frame(0x81, 5, false));
        assert!(frames.has_room());
        frames.pass(&frame(0x88, 2, false));
        assert!(!frames.has_room());
        assert_eq!(frames.to_room(&frame(0x81, 5, false)), 7);
        assert!(!frames.has_room());
    }

    #[test]
    fn a_length_that_cannot_be_ends_nothing() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert!(!frames.has_room());
    }
}
