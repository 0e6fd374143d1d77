//! A copy of fields that is hardly ever looked at again.
//!
//! Each request keeps one, for the case that it has to be sent once more. One behind the other in one piece of memory they
//! cost a fraction of a [`HeaderMap`]'s clone. Imports nothing of ours.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// In front of each field: the length of its name in two bytes and of its value in four, and whether it is sensitive.
const PREFIX: usize = 7;

/// Fields, in the order of their map.
pub struct Copied(Box<[u8]>);

impl Copied {
    /// A copy of all `headers`.
    pub fn of(headers: &HeaderMap) -> Self {
        let length = headers.iter().map(|(name, value)| PREFIX + name.as_str().len() + value.len()).sum();
        let mut bytes = Vec::with_capacity(length);
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            // Both fit: a head of 32 KiB is the largest, and `http` has no longer names.
            let (name_length, value_length) = (u16::try_from(name.len()), u32::try_from(value.len()));
            bytes.extend_from_slice(&name_length.unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend_from_slice(&value_length.unwrap_or(u32::MAX).to_le_bytes());
            bytes.push(u8::from(value.is_sensitive()));
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes.into_boxed_slice())
    }

    /// The fields once more.
    pub fn to_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value, is_sensitive) in self.iter() {
            // Both were what they are before they were copied.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                value.set_sensitive(is_sensitive);
                headers.append(name, value);
            }
        }
        headers
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.iter().any(|(other, _, _)| other == name.as_str().as_bytes())
    }

    /// The values that are marked as secrets.
    pub fn sensitive(&self) -> impl Iterator<Item = HeaderValue> {
        let sensitive = self.iter().filter(|(_, _, is_sensitive)| *is_sensitive);
        sensitive.filter_map(|(_, value, _)| {
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(true);
            Some(value)
        })
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (name_length, behind) = rest.split_first_chunk()?;
            let (value_length, behind) = behind.split_first_chunk()?;
            let (is_sensitive, behind) = behind.split_first()?;
            let (name, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*name_length)))?;
            let value_length = usize::try_from(u32::from_le_bytes(*value_length)).ok()?;
            let (value, behind) = behind.split_at_checked(value_length)?;
            rest = behind;
            Some((name, value, *is_sensitive == 1))
        })
    }
}

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names alone: a value may be a secret.
        let names = self.iter().map(|(name, _, _)| String::from_utf8_lossy(name).into_owned());
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_all_that_was_there() {
        let mut headers = HeaderMap::new();
        assert_eq!(Copied::of(&headers).to_map(), headers);
        for (name, value) in [("host", "a"), ("x-a", ""), ("x-a", "2"), ("cookie", "\u{e9}\t;"), ("x-b", "3")] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut secret = HeaderValue::from_static("s3cret");
        secret.set_sensitive(true);
        headers.append("x-a", secret.clone());
        headers.append("x-long", HeaderValue::try_from("v".repeat(70_000)).unwrap());
        let copied = Copied::of(&headers);
        let again = copied.to_map();
        assert_eq!(again, headers);
        let marked = |headers: &HeaderMap| headers.values().filter(|value| value.is_sensitive()).count();
        assert_eq!((marked(&again), copied.sensitive().collect::<Vec<_>>()), (1, vec![secret]));
        assert!(copied.contains(&HeaderName::from_static("x-b")) && !copied.contains(&HeaderName::from_static("x-c")));
        assert_eq!(format!("{copied:?}"), r#"["host", "x-a", "x-a", "x-a", "cookie", "x-b", "x-long"]"#);
    }
}
