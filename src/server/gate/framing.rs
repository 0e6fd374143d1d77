//! Where a request body ends: counted, or chunk by chunk.
//!
//! The one reader of chunks that decides; what it lets pass, hyper reads once more and cannot read otherwise. Trailers are
//! read as strictly as a head. Imports nothing of ours.

use super::head::{LARGEST_BODY, MOST_FIELDS, is_control, is_token_character};

/// All chunk extensions of a body together; nobody is known to use any. hyper's own limit is 16 KiB.
const MOST_EXTENSION: usize = 8 * 1024;
/// All trailers of a body together.
const MOST_TRAILERS: usize = 8 * 1024;
/// Enough for any `u64`; more are leading zeros to no purpose.
const MOST_DIGITS: u8 = 16;

/// Why a chunked body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Not 1 to 16 hex digits, or more than 2^53.
    #[error("a chunk has no valid size")]
    Size,
    /// A control character in one, or too many of them.
    #[error("a chunk has a malformed or too long extension")]
    Extension,
    /// A line or a chunk without its CRLF.
    #[error("a chunk does not end with CR and LF")]
    End,
    /// No field line, or too many of them.
    #[error("the trailers of a chunked body are malformed or too long")]
    Trailers,
}

/// How much of a body is still to come.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes.
    Counted(u64),
    /// As its chunks say.
    Chunked(Chunks),
}

/// Where in a chunked body we are.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    size: u64,
    extension: usize,
    trailers: usize,
    trailer_lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Behind so many digits of a size.
    Size(u8),
    Extension,
    /// Behind the CR of a size's line.
    SizeEnd,
    /// Before so many bytes of data.
    Data(u64),
    DataEnd,
    /// Behind the CR there.
    DataEndCr,
    /// At the begin of a line behind the last chunk.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    /// Behind the CR of the last, empty line.
    LastEnd,
    Over,
}

impl Framing {
    /// At the first byte of a chunked body.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size(0), size: 0, extension: 0, trailers: 0, trailer_lines: 0 })
    }

    /// Whether all of the body has been taken.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Counted(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::Over,
        }
    }

    /// How many bytes of the front of `bytes` belong to the body.
    ///
    /// # Errors
    /// [`ChunkError`] if the very first byte breaks a rule; what stands before such a byte is taken first.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        match self {
            Self::Counted(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut rest = bytes;
        while let Some((byte, behind)) = rest.split_first() {
            if self.at == At::Over {
                break;
            }
            if let At::Data(left) = self.at {
                let (taken, behind) = rest.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(rest.len()));
                let left = left - taken.len() as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                rest = behind;
                continue;
            }
            match self.step(*byte) {
                Ok(()) => rest = behind,
                Err(error) if rest.len() == bytes.len() => return Err(error),
                Err(_told_next_time) => break,
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Takes one byte of the framing; changes nothing if it is a wrong one.
    fn step(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.at = match (self.at, byte) {
            (At::Size(digits @ 1..), b'\r' | b';') => {
                debug_assert!(digits <= MOST_DIGITS);
                if byte == b'\r' { At::SizeEnd } else { At::Extension }
            }
            (At::Size(digits), _) => {
                let digit = char::from(byte).to_digit(16).ok_or(ChunkError::Size)?;
                let size = if digits == 0 { 0 } else { self.size };
                let size = (size << 4) | u64::from(digit);
                if digits == MOST_DIGITS || size > LARGEST_BODY {
                    return Err(ChunkError::Size);
                }
                self.size = size;
                At::Size(digits + 1)
            }
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) => {
                if is_control(byte) || self.extension == MOST_EXTENSION {
                    return Err(ChunkError::Extension);
                }
                self.extension += 1;
                At::Extension
            }
            (At::SizeEnd, b'\n') => match self.size {
                0 => At::Trailer,
                size => At::Data(size),
            },
            (At::DataEnd, b'\r') => At::DataEndCr,
            (At::DataEndCr, b'\n') => At::Size(0),
            (At::Trailer, b'\r') => At::LastEnd,
            (At::LastEnd, b'\n') => At::Over,
            (At::Trailer | At::TrailerName | At::TrailerValue | At::TrailerEnd, _) => self.trailer(byte)?,
            // Data is taken as a whole.
            (At::SizeEnd | At::Data(_) | At::DataEnd | At::DataEndCr | At::LastEnd | At::Over, _) => {
                return Err(ChunkError::End);
            }
        };
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<At, ChunkError> {
        let next = match (self.at, byte) {
            (At::TrailerName, b':') => At::TrailerValue,
            (At::Trailer | At::TrailerName, byte) if is_token_character(byte) => At::TrailerName,
            (At::TrailerValue, b'\r') => At::TrailerEnd,
            (At::TrailerValue, byte) if !is_control(byte) => At::TrailerValue,
            (At::TrailerEnd, b'\n') => At::Trailer,
            _ => return Err(ChunkError::Trailers),
        };
        let lines = self.trailer_lines + usize::from(self.at == At::Trailer);
        if self.trailers == MOST_TRAILERS || lines > MOST_FIELDS {
            return Err(ChunkError::Trailers);
        }
        self.trailers += 1;
        self.trailer_lines = lines;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of `bytes`, cut into reads of `step`: how many are taken, and what the next one breaks.
    fn take(bytes: &[u8], step: usize) -> (usize, bool, Option<ChunkError>) {
        let mut framing = Framing::chunked();
        let mut taken = 0;
        while taken < bytes.len() && !framing.is_over() {
            match framing.take(&bytes[taken..bytes.len().min(taken + step)]) {
                Ok(0) => panic!("neither taken nor refused: {}", bytes.escape_ascii()),
                Ok(more) => taken += more,
                Err(error) => return (taken, false, Some(error)),
            }
        }
        (taken, framing.is_over(), None)
    }

    #[test]
    fn chunks_end_where_they_say_however_they_are_cut() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"3\r\nabc\r\n0\r\n\r\n",
            b"0003\r\nabc\r\n000\r\n\r\n",
            b"A\r\n0123456789\r\na;x=\"y;\xc3\xa9\"\t\r\n0123456789\r\n0;last\r\n\r\n",
            b"1\r\n\n\r\n0\r\nx-sum: 1\r\nX-Empty:\r\nx: \xff\t\r\n\r\n",
            b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        ] {
            for step in 1..=body.len() {
                assert_eq!(take(body, step), (body.len(), true, None), "{} by {step}", body.escape_ascii());
            }
            assert_eq!(take(&[body, b"GET / HTTP/1.1"].concat(), 4096), (body.len(), true, None));
            for end in 0..body.len() {
                assert_eq!(take(&body[..end], 7), (end, false, None), "a part is not the whole");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused_at_its_first_wrong_byte() {
        let zeros = format!("{}3\r\nabc", "0".repeat(16));
        for (body, taken, error) in [
            (&b"0x3\r\nabc"[..], 1, ChunkError::Size),
            (b"+3\r\nabc", 0, ChunkError::Size),
            (b"-3\r\nabc", 0, ChunkError::Size),
            (b" 3\r\nabc", 0, ChunkError::Size),
            (b"3 \r\nabc", 1, ChunkError::Size),
            (b"3\t;x\r\nabc", 1, ChunkError::Size),
            (b"\r\nabc", 0, ChunkError::Size),
            (b";x\r\nabc", 0, ChunkError::Size),
            (b"fffffffffffffffff\r\n", 13, ChunkError::Size),
            (b"20000000000001\r\n", 13, ChunkError::Size),
            (zeros.as_bytes(), 16, ChunkError::Size),
            (b"g\r\n", 0, ChunkError::Size),
            (b"3\nabc", 1, ChunkError::Size),
            (b"3\rabc", 2, ChunkError::End),
            (b"3\r\nabc\n0\r\n\r\n", 6, ChunkError::End),
            (b"3\r\nabcd\r\n", 6, ChunkError::End),
            (b"3\r\nabc\r0\r\n\r\n", 7, ChunkError::End),
            (b"3\r\nabcXX0\r\n\r\n", 6, ChunkError::End),
            (b"3;a\nb\r\nabc", 3, ChunkError::Extension),
            (b"3;a\x00\r\nabc", 3, ChunkError::Extension),
            (b"3;a\rb\r\nabc", 4, ChunkError::End),
            (b"0\r\n\n", 3, ChunkError::Trailers),
            (b"0\r\nx y: z\r\n\r\n", 4, ChunkError::Trailers),
            (b"0\r\n folded\r\n\r\n", 3, ChunkError::Trailers),
            (b"0\r\nx: y\r\n z\r\n\r\n", 9, ChunkError::Trailers),
            (b"0\r\nno colon\r\n\r\n", 5, ChunkError::Trailers),
            (b"0\r\nx:\x01\r\n\r\n", 5, ChunkError::Trailers),
            (b"0\r\nx: y\n\r\n", 7, ChunkError::Trailers),
            (b"0\r\n: y\r\n\r\n", 3, ChunkError::Trailers),
            (b"0\r\nGET / HTTP/1.1\r\n\r\n", 6, ChunkError::Trailers),
            (b"0\r\n\rX", 4, ChunkError::End),
        ] {
            for step in 1..=body.len() {
                assert_eq!(take(body, step), (taken, false, Some(error)), "{} by {step}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let extension = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length));
        assert!(take(extension(MOST_EXTENSION).as_bytes(), 1000).1);
        assert_eq!(take(extension(MOST_EXTENSION + 1).as_bytes(), 1000).2, Some(ChunkError::Extension));
        let many = "1;xxxxxxxx\r\na\r\n".repeat(MOST_EXTENSION / 8 + 1);
        assert_eq!(take(many.as_bytes(), 1000).2, Some(ChunkError::Extension));
        let trailers = |lines: usize| format!("0\r\n{}\r\n", "x: y\r\n".repeat(lines));
        assert!(take(trailers(MOST_FIELDS).as_bytes(), 1000).1);
        assert_eq!(take(trailers(MOST_FIELDS + 1).as_bytes(), 1000).2, Some(ChunkError::Trailers));
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(MOST_TRAILERS));
        assert_eq!(take(long.as_bytes(), 1000).2, Some(ChunkError::Trailers));
    }

    #[test]
    fn a_count_takes_so_many_and_no_more() {
        let mut framing = Framing::Counted(5);
        assert_eq!(framing.take(b"abc"), Ok(3));
        assert!(!framing.is_over());
        assert_eq!(framing.take(b"deGET / HTTP/1.1"), Ok(2));
        assert!(framing.is_over());
        assert!(Framing::Counted(0).is_over());
    }
}
