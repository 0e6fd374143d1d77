//! Unix sockets: the file, who may open it, and who is let in.
//!
//! Two locks: the file's mode, and the user id that the kernel says of whoever connects. Between `bind` and `chmod` the
//! mode is what the umask leaves, so the second one must hold alone. Imports `server::listener`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

use super::listener::{Accept, BindError};
use super::orphan::FarEnd;

/// Somebody who listens takes a connection at once; longer, and his queue is full, so he is there.
const ANSWER: Duration = Duration::from_secs(1);
/// Refusals are logged this often at most: anybody on the machine may cause them.
const WORD_EVERY: Duration = Duration::from_secs(1);

/// Who may use the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of the file.
    pub mode: u32,
    /// User ids that are let in; `None` is our own and root's.
    pub users: Option<Vec<u32>>,
}

impl Access {
    fn users(&self) -> io::Result<Vec<u32>> {
        match &self.users {
            Some(users) => Ok(users.clone()),
            None => Ok(vec![0, own_user()?]),
        }
    }
}

/// A Unix socket that listens. Its file goes when it does.
#[derive(Debug)]
pub struct UnixSocket {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: whoever has put another file in place of ours keeps it.
    id: Option<(u64, u64)>,
    users: Vec<u32>,
    last_word: Option<Instant>,
}

impl UnixSocket {
    /// Listens on `path`. A socket file that nobody answers on, as a killed process leaves it, is replaced.
    ///
    /// # Errors
    /// [`BindError`]: something else is there, somebody answers, or the folder is not ours to write.
    pub async fn bind(path: &Path, access: &Access) -> Result<Self, BindError> {
        let failed = |source| BindError { address: path.display().to_string(), source };
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).await.map_err(failed)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let socket = socket.map_err(failed)?;
        let id = fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let users = access.users().map_err(failed)?;
        let listener = Self { socket, path: path.to_owned(), id, users, last_word: None };
        fs::set_permissions(path, fs::Permissions::from_mode(access.mode)).map_err(failed)?;
        Ok(listener)
    }

    /// Listens on a socket that whoever started us has bound already. Its file is theirs: it keeps its mode, and stays.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn adopt(socket: std::os::unix::net::UnixListener, path: &Path, access: &Access) -> Result<Self, BindError> {
        let failed = |source| BindError { address: path.display().to_string(), source };
        let socket = socket.set_nonblocking(true).and_then(|()| UnixListener::from_std(socket)).map_err(failed)?;
        let users = access.users().map_err(failed)?;
        Ok(Self { socket, path: path.to_owned(), id: None, users, last_word: None })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino())).ok();
        if found.is_some()
            && found == self.id
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "removing the socket");
        }
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;
    const MAY_SPEAK_TLS: bool = false;

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.socket.accept().await?;
            let user = match stream.peer_cred() {
                Ok(peer) if self.users.contains(&peer.uid()) => return Ok(stream),
                Ok(peer) => Some(peer.uid()),
                Err(_) => None,
            };
            if self.last_word.is_none_or(|said| said.elapsed() > WORD_EVERY) {
                tracing::warn!(path = %self.path.display(), user, "a user who is not in socket_users was turned away");
                self.last_word = Some(Instant::now());
            }
        }
    }

    fn hand_over(stream: UnixStream) -> io::Result<UnixStream> {
        UnixStream::from_std(stream.into_std()?)
    }

    fn far_end(_stream: &UnixStream) -> Option<FarEnd> {
        None
    }

    fn turn_away(stream: &UnixStream, words: &[u8]) -> io::Result<usize> {
        stream.try_write(words)
    }
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there, and is no socket"));
    }
    match timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Our effective user id, as the kernel tells our peers.
fn own_user() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}
