//! When a config takes the place of another: at SIGHUP, and when its file or a certificate that it names has changed.
//!
//! Looks at the content every two seconds instead of asking the kernel for events. A `ConfigMap` changes by a symbolic link
//! two folders up, editors rename, others write in place, and a bind mount or a network file system reports nothing at all:
//! to a reader all of them look the same, and one small read costs microseconds. What has changed is taken up
//! when it reads the same twice in a row, so that half of a file that is just being written is not. Refuses to judge: what
//! does not compile is handed on as the report that it is. What was refused is tried again after a while.
//! Imports `config`, `auth`, `tls`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::auth::shared::Transport;
use crate::auth::status::Chain;
use crate::config::{self, Compiled, Environment, Hash, Report, Source};
use crate::tls::{self, ClientSettings, Fingerprint};

/// What was refused may be taken later although the file is the same: a port is free by then, or a file is there.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A kubelet itself brings a changed `ConfigMap` only every minute.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Follows one config file.
#[derive(Debug)]
pub struct Reloader {
    /// `None` where the config is no file: then there is nothing to read again.
    path: Option<PathBuf>,
    environment: Environment,
    asked: Arc<Notify>,
    /// Certificate files that the config in use names.
    files: BTreeSet<PathBuf>,
    /// What was last tried, well or not.
    tried: Content,
    /// What the look before found instead, if anything.
    found: Option<Content>,
    /// When that was refused last, and why.
    refused: Option<(Instant, String)>,
}

/// Why a config is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It is another, or somebody asks.
    New,
    /// It was refused a while ago.
    Again,
}

/// What the files held at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    /// Or why it could not be read.
    text: Result<Hash, io::ErrorKind>,
    files: Fingerprint,
}

/// A config that may take the place of another.
#[derive(Debug)]
pub struct Attempt {
    /// Why now.
    pub occasion: Occasion,
    /// Of its text, if it could be read.
    pub hash: Option<Hash>,
    /// The config, or why it is none.
    pub config: Result<Compiled, Refusal>,
}

/// Why a config stays.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It was given by flags or in the environment, which do not change.
    #[error("the config is no file, so there is nothing to read again")]
    NoFile,
    /// The file is gone, not ours to read, no text, or too large.
    #[error("reading the config file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("{0}")]
    Bad(Report),
}

impl Reloader {
    /// Follows the file at `path`, from which `current` was compiled, and tries again whenever `asked`.
    pub fn new(path: Option<PathBuf>, current: &Compiled, environment: Environment, asked: Arc<Notify>) -> Self {
        // A pipe, as from `<(…)` in a shell, can be read only once.
        let path = path.filter(|path| path.is_file());
        let files = files(current);
        let tried = Content { text: Ok(current.hash), files: fingerprint(&files) };
        Self { path, environment, asked, files, tried, found: None, refused: None }
    }

    /// The next config to try.
    ///
    /// # Cancellation
    /// Safe: what was not handed over is found again.
    pub async fn next(&mut self) -> Attempt {
        loop {
            let is_asked = tokio::select! {
                () = self.asked.notified() => true,
                () = sleep(LOOK_EVERY), if self.path.is_some() => false,
            };
            let Some(path) = self.path.clone() else {
                return Attempt { occasion: Occasion::New, hash: None, config: Err(Refusal::NoFile) };
            };
            let files = self.files.clone();
            let Some((read, content)) = blocking(move || look(&path, &files)).await else { continue };
            // Whoever asks has finished writing.
            let settled = self.found.replace(content) == Some(content);
            if is_asked || (settled && content != self.tried) {
                return self.attempt(read, content, Occasion::New).await;
            }
            if settled && self.refused.as_ref().is_some_and(|(then, _)| then.elapsed() >= TRY_AGAIN_AFTER) {
                let attempt = self.attempt(read, content, Occasion::Again).await;
                if !attempt.config.as_ref().is_err_and(|refusal| self.was_said(&Chain(refusal).to_string())) {
                    return attempt;
                }
            }
        }
    }

    /// Whether the refusal before had this reason; if so, that is put off once more.
    fn was_said(&mut self, reason: &str) -> bool {
        let same = self.refused.as_mut().filter(|(_, before)| before == reason);
        same.map(|(then, _)| *then = Instant::now()).is_some()
    }

    /// What was tried last is refused. Returns whether that is news.
    pub fn refuse(&mut self, reason: &str) -> bool {
        let is_news = !self.was_said(reason);
        self.refused = Some((Instant::now(), reason.to_owned()));
        is_news
    }

    /// What was tried last is served.
    pub fn accept(&mut self) {
        self.refused = None;
    }

    async fn attempt(&mut self, read: Result<Source, Refusal>, content: Content, occasion: Occasion) -> Attempt {
        let environment = self.environment.clone();
        let known = self.files.clone();
        let compiled = blocking(move || {
            let config = read.and_then(|source| config::load(&source, &environment).map_err(Refusal::Bad));
            // Before anybody makes use of them: what changes from now on is seen at the next look.
            let files = config.as_ref().map_or(known, files);
            let now = fingerprint(&files);
            (config, files, now)
        });
        let Some((config, files, now)) = compiled.await else {
            // Compiling has panicked, and would again.
            self.tried = content;
            let reason = io::Error::other("compiling it failed");
            let path = self.path.clone().unwrap_or_default();
            let config = Err(Refusal::Unreadable { path, source: reason });
            return Attempt { occasion, hash: content.text.ok(), config };
        };
        self.files = files;
        self.tried = Content { text: content.text, files: now };
        Attempt { occasion, hash: content.text.ok(), config }
    }
}

/// What the file holds now, and those that it names.
fn look(path: &Path, files: &BTreeSet<PathBuf>) -> (Result<Source, Refusal>, Content) {
    let source = match path.metadata() {
        // Opening a pipe waits for a writer.
        Ok(metadata) if !metadata.is_file() => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        _ => Source::read(path),
    };
    let content =
        Content { text: source.as_ref().map(Source::hash).map_err(io::Error::kind), files: fingerprint(files) };
    (source.map_err(|source| Refusal::Unreadable { path: path.to_owned(), source }), content)
}

/// The certificate files that upstreams and token endpoints are reached with. Those of listeners and all secrets are
/// followed by whoever uses them.
fn files(config: &Compiled) -> BTreeSet<PathBuf> {
    let upstreams = config.routes.iter().map(|route| &route.upstream.origin.tls);
    let cache = config.token_cache.as_ref().and_then(|cache| match &cache.transport {
        Transport::Plain => None,
        Transport::Tls(tls) => Some(tls),
    });
    std::iter::once(&config.control)
        .chain(cache)
        .chain(upstreams)
        .flat_map(ClientSettings::files)
        .map(Path::to_owned)
        .collect()
}

fn fingerprint(files: &BTreeSet<PathBuf>) -> Fingerprint {
    tls::fingerprint(files.iter().map(PathBuf::as_path))
}

/// A network file system may take its time, and other tasks must not wait for it. `None` if `work` panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const ONE: &str = "[[route]]\nname = \"one\"\nupstream = \"https://a.example\"\nauth = \"none\"\n";
    const TWO: &str = "[[route]]\nname = \"two\"\nupstream = \"https://b.example\"\nauth = \"none\"\n";

    fn follow(path: &Path) -> (Reloader, Arc<Notify>) {
        let asked = Arc::<Notify>::default();
        let compiled = config::load(&Source::read(path).unwrap(), &Environment::default()).unwrap();
        let reloader = Reloader::new(Some(path.to_owned()), &compiled, Environment::default(), Arc::clone(&asked));
        (reloader, asked)
    }

    fn name(attempt: &Attempt) -> &str {
        attempt.config.as_ref().unwrap().routes.first().unwrap().name.as_ref()
    }

    /// What the next change comes to, and how long it took to be noticed.
    async fn noticed(reloader: &mut Reloader) -> Attempt {
        let begun = Instant::now();
        let attempt = reloader.next().await;
        assert!(begun.elapsed() <= 3 * LOOK_EVERY, "{:?}", begun.elapsed());
        attempt
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_in_whatever_way_it_is_made() {
        let folder = TempDir::new().unwrap();
        // As a kubelet mounts a ConfigMap.
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/config.toml"), ONE).unwrap();
        symlink("..1", at("..data")).unwrap();
        let path = at("config.toml");
        symlink("..data/config.toml", &path).unwrap();
        let (mut reloader, asked) = follow(&path);
        assert!(timeout(100 * LOOK_EVERY, reloader.next()).await.is_err(), "nothing has changed");

        fs::create_dir(at("..2")).unwrap();
        fs::write(at("..2/config.toml"), TWO).unwrap();
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at("..1")).unwrap();
        assert_eq!(name(&noticed(&mut reloader).await), "two");

        fs::write(at("..2/config.toml"), ONE).unwrap();
        assert_eq!(name(&noticed(&mut reloader).await), "one");

        fs::write(at("new"), TWO).unwrap();
        fs::rename(at("new"), &path).unwrap();
        assert_eq!(name(&noticed(&mut reloader).await), "two");
        assert!(timeout(100 * LOOK_EVERY, reloader.next()).await.is_err(), "nothing has changed since");

        asked.notify_one();
        let begun = Instant::now();
        assert_eq!(name(&reloader.next().await), "two", "asked for, and so read again");
        assert!(begun.elapsed() < LOOK_EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_file_is_reported_once_and_the_next_good_one_is_taken() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, ONE).unwrap();
        let (mut reloader, _asked) = follow(&path);
        let large = "#".repeat(50 * 1024 * 1024);
        for bad in ["", "[[route]]\nname = \"two\"\n", &large, "[[rou", "[proxy]\n"] {
            fs::write(&path, bad).unwrap();
            assert!(noticed(&mut reloader).await.config.is_err(), "{:?}", bad.get(..20));
            assert!(timeout(20 * LOOK_EVERY, reloader.next()).await.is_err(), "said once");
        }
        fs::remove_file(&path).unwrap();
        let gone = noticed(&mut reloader).await;
        assert!(matches!(&gone.config, Err(Refusal::Unreadable { .. })) && gone.hash.is_none(), "{gone:?}");
        assert!(timeout(20 * LOOK_EVERY, reloader.next()).await.is_err(), "said once");
        fs::create_dir(&path).unwrap();
        assert!(matches!(noticed(&mut reloader).await.config, Err(Refusal::Unreadable { .. })));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, TWO).unwrap();
        assert_eq!(name(&noticed(&mut reloader).await), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_file_is_not_taken_while_it_is_being_written() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        let whole = format!("{ONE}{}", TWO.replace("[[route]]", "[[route]]\npath = \"/two\""));
        fs::write(&path, &whole).unwrap();
        let (mut reloader, _asked) = follow(&path);
        // A valid config all the while, with fewer routes: only time can tell.
        let write = async {
            for length in 0..20 {
                fs::write(&path, format!("{ONE}#{}", "x".repeat(length))).unwrap();
                sleep(LOOK_EVERY.mul_f64(0.9)).await;
            }
            fs::write(&path, format!("{whole}# written")).unwrap();
        };
        let (attempt, ()) = tokio::join!(reloader.next(), write);
        assert_eq!(attempt.config.unwrap().routes.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_tried_again_until_it_is_taken_and_a_reason_is_given_once() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, ONE).unwrap();
        let (mut reloader, _asked) = follow(&path);
        let wants = format!("[upstream]\nca_file = \"ca.pem\"\n{ONE}");
        fs::write(&path, wants).unwrap();
        let refusal = noticed(&mut reloader).await.config.unwrap_err();
        assert!(reloader.refuse(&Chain(&refusal).to_string()), "it is news");
        assert!(timeout(10 * TRY_AGAIN_AFTER, reloader.next()).await.is_err(), "said once");
        fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
        let other = timeout(2 * TRY_AGAIN_AFTER, reloader.next()).await.unwrap();
        assert_eq!(other.occasion, Occasion::Again);
        assert!(reloader.refuse(&Chain(&other.config.unwrap_err()).to_string()), "another reason");
        fs::write(folder.path().join("ca.pem"), standin::Authority::new().pem()).unwrap();
        let good = timeout(2 * TRY_AGAIN_AFTER, reloader.next()).await.unwrap();
        assert!(good.config.is_ok());
        // It is good, and still cannot be had: a port is taken, say.
        assert!(reloader.refuse("the port is taken"));
        let again = timeout(2 * TRY_AGAIN_AFTER, reloader.next()).await.unwrap();
        assert!(again.config.is_ok() && !reloader.refuse("the port is taken"));
        reloader.accept();
        assert!(timeout(10 * TRY_AGAIN_AFTER, reloader.next()).await.is_err(), "it is served");
    }

    /// All 1,024 histories of five looks at a file that holds one config, or another, or half of one, or is gone: what lasts
    /// for two looks is tried, once, and nothing else ever is.
    #[tokio::test(start_paused = true)]
    async fn in_every_short_history_of_a_file_what_lasts_is_tried_once() {
        const STATES: [Option<&str>; 4] = [Some(ONE), Some(TWO), Some("[[rou"), None];
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        for history in 0..4_usize.pow(5) {
            let looks: Vec<_> = (0..5).map(|look| STATES[history >> (2 * look) & 3]).collect();
            fs::write(&path, ONE).unwrap();
            let (mut reloader, _asked) = follow(&path);
            let mut expected = Vec::new();
            for pair in [&looks[..], &looks[4..]].concat().windows(2).filter(|pair| pair[0] == pair[1]) {
                if expected.last().copied().unwrap_or(Some(ONE)) != pair[0] {
                    expected.push(pair[0]);
                }
            }
            let write = async {
                sleep(LOOK_EVERY / 2).await;
                for state in &looks {
                    match state {
                        Some(text) => fs::write(&path, text).unwrap(),
                        None => drop(fs::remove_file(&path)),
                    }
                    sleep(LOOK_EVERY).await;
                }
                sleep(3 * LOOK_EVERY).await;
            };
            let mut tried = Vec::new();
            let trying = async {
                loop {
                    tried.push(reloader.next().await);
                }
            };
            tokio::select! {
                () = trying => {}
                () = write => {}
            }
            let hash =
                |text: &str| Source { name: String::new(), text: text.to_owned(), folder: PathBuf::new() }.hash();
            let expected: Vec<_> = expected.into_iter().map(|text| text.map(hash)).collect();
            assert_eq!(tried.iter().map(|attempt| attempt.hash).collect::<Vec<_>>(), expected, "{looks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_config_that_is_no_file_says_so_when_asked() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, ONE).unwrap();
        let compiled = config::load(&Source::read(&path).unwrap(), &Environment::default()).unwrap();
        let asked = Arc::<Notify>::default();
        for none in [None, Some(PathBuf::from("/dev/null"))] {
            let mut reloader = Reloader::new(none, &compiled, Environment::default(), Arc::clone(&asked));
            assert!(timeout(100 * LOOK_EVERY, reloader.next()).await.is_err());
            asked.notify_one();
            assert!(matches!(reloader.next().await.config, Err(Refusal::NoFile)));
        }
    }
}
