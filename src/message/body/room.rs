//! Where a held body is written.
//!
//! Large ones have pages of their own, which go back to the system with them: the heap keeps blocks of megabytes that were
//! freed, and leaves gaps between those that were not, a third above what is held. Imports nothing of ours.

use bytes::{Bytes, BytesMut};
use memmap2::MmapMut;

/// Smaller ones are left to the heap, which needs no call of the system for each; its gaps are small with them.
const OWN_PAGES: usize = 1024 * 1024;

/// Room for the bytes of one body.
#[derive(Debug)]
pub(super) enum Room {
    /// A block of the heap, which grows if it must.
    Heap(BytesMut),
    /// Pages, of which so many bytes are written.
    Pages(Pages),
}

#[derive(Debug)]
pub(super) struct Pages {
    map: MmapMut,
    written: usize,
}

impl Room {
    /// For `bytes`.
    pub(super) fn of(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or_default();
        if bytes < OWN_PAGES {
            return Self::Heap(BytesMut::with_capacity(bytes));
        }
        match MmapMut::map_anon(bytes) {
            Ok(map) => Self::Pages(Pages { map, written: 0 }),
            // A limit on mappings, say; the heap may have some yet.
            Err(_unmapped) => Self::Heap(BytesMut::with_capacity(bytes)),
        }
    }

    /// Makes it room for `bytes`, of which there are no fewer than are written.
    pub(super) fn grow(&mut self, bytes: u64) {
        let mut larger = Self::of(bytes);
        larger.push(self.written());
        *self = larger;
    }

    /// Writes on; what there is no room for makes it larger.
    pub(super) fn push(&mut self, data: &[u8]) {
        let end = self.written().len() + data.len();
        match self {
            Self::Heap(bytes) => bytes.extend_from_slice(data),
            Self::Pages(pages) => {
                if let Some(space) = pages.map.get_mut(pages.written..end) {
                    space.copy_from_slice(data);
                    pages.written = end;
                } else {
                    self.grow(end as u64);
                    self.push(data);
                }
            }
        }
    }

    /// What is written.
    pub(super) fn written(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Pages(pages) => pages.as_ref(),
        }
    }

    /// The same, to be shared.
    pub(super) fn freeze(self) -> Bytes {
        match self {
            Self::Heap(bytes) => bytes.freeze(),
            Self::Pages(pages) => Bytes::from_owner(pages),
        }
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.map.get(..self.written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_what_is_frozen_wherever_it_lies() {
        for (room, is_paged) in [(0, false), (10, false), (OWN_PAGES - 1, false), (OWN_PAGES, true), (3_000_000, true)]
        {
            let pushed: Vec<u8> = (0..room + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
            // As much as there is room for, and more.
            for end in [0, room / 2, room, room + 5] {
                let mut body = Room::of(room as u64);
                assert_eq!(matches!(body, Room::Pages(_)), is_paged, "{room}");
                for piece in pushed[..end].chunks(64 * 1024) {
                    body.push(piece);
                }
                assert_eq!(body.written(), &pushed[..end], "{end} of {room}");
                assert_eq!(body.freeze(), pushed[..end], "{end} of {room}");
            }
        }
    }
}
