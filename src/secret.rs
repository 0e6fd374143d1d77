//! Secrets that cannot print.
//!
//! A [`Secret`] has no `Display`, a `Debug` that says nothing, and is zeroed when dropped. Reading it takes a call to
//! [`Secret::expose`], so every place that does can be found by searching for that word. Imports nothing of ours.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A secret file that is larger is none.
const LARGEST_FILE: u64 = 64 * 1024;

/// A text that must never reach a log, an error or an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// A secret that is at hand without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalSecret {
    /// What the environment or the config itself gave at start.
    Fixed(Secret),
    /// The content of this file, as it is at the time.
    File(PathBuf),
}

impl LocalSecret {
    /// The secret as it is now. Blocks for the length of one small file read.
    ///
    /// # Errors
    /// [`SecretError`] when the file is missing, unreadable or empty.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Fixed(secret) => Ok(secret.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

/// A secret file that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("reading secret file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds nothing, or only the ends of lines.
    #[error("secret file {} is empty", .0.display())]
    Empty(PathBuf),
    /// No secret is that long.
    #[error("secret file {} is larger than {LARGEST_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
}

impl Secret {
    /// Wraps `text`; the caller's copy is moved, not duplicated.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Whoever calls this must not print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

/// The secret that a file holds, as it is now. Blocks for the length of one small file read.
///
/// # Errors
/// [`SecretError`] when the file is missing, unreadable or empty.
pub fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    // Editors and `kubectl create secret --from-file` leave a newline that is not part of the secret.
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(SecretError::Empty(path.to_owned())),
        secret => Ok(Secret::from(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Some(Secret::from("hunter2"))), "Some([secret])");
    }

    #[test]
    fn a_secret_file_loses_its_newline_and_is_read_again_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(read_file(&path), Err(SecretError::Unreadable { .. })));
        std::fs::write(&path, "one\r\n").unwrap();
        assert_eq!(read_file(&path).unwrap().expose(), "one");
        std::fs::write(&path, " two \n").unwrap();
        assert_eq!(read_file(&path).unwrap().expose(), " two ");
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(read_file(&path), Err(SecretError::TooLarge(_))));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read_file(&path), Err(SecretError::Empty(_))));
    }
}
