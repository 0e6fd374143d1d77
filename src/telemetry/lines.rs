//! Log lines on their way out, on a thread of their own: no request waits for whoever reads them.
//!
//! A pipe that nobody empties, or a disk that is full, costs lines and nothing else; they are counted, and the log says
//! so once it is read again. Imports nothing of ours.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written: a second of lines at 4,000 a second.
const MOST_LINES: usize = 4_096;
/// And in bytes, since lines are not equal.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Between two tries on a pipe that somebody else has set to not block.
const FULL_PIPE: Duration = Duration::from_millis(10);
/// For the last lines, at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// How many lines were lost, for the metrics.
#[derive(Clone, Debug, Default)]
pub struct LostLines(Counter<u64, AtomicU64>);

impl LostLines {
    /// The number so far.
    pub fn count(&self) -> u64 {
        self.0.get()
    }

    /// Shows it in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("log_lines_lost", "Log lines that nobody took in time", self.0.clone());
    }
}

/// Where log lines are written to. Writing never waits.
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Entry>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    lost: LostLines,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// All lines before this are written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// [`io::Error`] when the system starts no thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<(Self, LostLines)> {
        let (queue, entries) = sync_channel(MOST_LINES);
        let (waiting, lost) = (Arc::<AtomicUsize>::default(), LostLines::default());
        let drain = Drain { out, waiting: Arc::clone(&waiting), lost: lost.clone(), told: 0 };
        // Ends with the process: it may be stuck in a write.
        drop(thread::Builder::new().name("log".to_owned()).spawn(move || drain.run(&entries))?);
        Ok((Self { queue, waiting, lost: lost.clone() }, lost))
    }

    /// Waits until what was logged is written, 1 s at most.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        // A queue that is full is one that nobody empties.
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _in_time = written.recv_timeout(FLUSH);
        }
    }

    fn add(&self, line: &[u8]) {
        let bytes = line.len();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_BYTES {
            match self.queue.try_send(Entry::Line(line.to_vec())) {
                Ok(()) => return,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.lost.0.inc();
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The far end of the queue.
struct Drain<W> {
    out: W,
    waiting: Arc<AtomicUsize>,
    lost: LostLines,
    /// Lost lines that the log has told of.
    told: u64,
}

impl<W: Write> Drain<W> {
    fn run(mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            match entry {
                Entry::Flush(done) => drop(done.try_send(())),
                Entry::Line(line) => {
                    let written = self.write(&line);
                    self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    match written {
                        Ok(()) => self.tell(),
                        Err(_nowhere_to_tell) => drop(self.lost.0.inc()),
                    }
                }
            }
        }
    }

    /// `write_all`, but for pipes that do not block.
    fn write(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.out.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => line = line.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(FULL_PIPE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tell(&mut self) {
        let lost = self.lost.count();
        if lost > self.told {
            tracing::warn!(lines = lost - self.told, "log lines were lost: nobody took them in time");
            // What this very line loses is told with the next.
            self.told = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Passes lines on, to a reader who may not look.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(|_gone| io::ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes half of what it is given.
    struct Heard(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Heard {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let piece = &line[..line.len().div_ceil(2)];
            self.0.send(piece.to_vec()).unwrap();
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_does_not_look_costs_lines_and_no_time() {
        let (pipe, reader) = sync_channel(0);
        let (lines, lost) = Lines::start(Pipe(pipe)).unwrap();
        for number in 0..10_000 {
            (&lines).write_all(format!("{number}").as_bytes()).unwrap();
        }
        // One may be in the thread's hand.
        assert!((5_903..=5_904).contains(&lost.count()), "{}", lost.count());
        assert_eq!(reader.recv().unwrap(), b"0");
        let read = std::iter::from_fn(|| reader.recv_timeout(FLUSH).ok()).count();
        assert_eq!(read as u64 + 1 + lost.count(), 10_000);
    }

    #[test]
    fn large_lines_are_bounded_in_bytes() {
        let (pipe, _reader) = sync_channel(0);
        let (lines, lost) = Lines::start(Pipe(pipe)).unwrap();
        let line = vec![b'x'; 100_000];
        for _ in 0..100 {
            (&lines).write_all(&line).unwrap();
        }
        assert_eq!(lost.count(), 80);
    }

    #[test]
    fn a_full_disk_costs_lines() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (lines, lost) = Lines::start(full).unwrap();
        (&lines).write_all(b"lost").unwrap();
        lines.flush();
        assert_eq!(lost.count(), 1);
    }

    #[test]
    fn what_was_logged_is_written_at_the_end() {
        let (said, written) = channel();
        let (lines, lost) = Lines::start(Heard(said)).unwrap();
        for _ in 0..100 {
            (&lines).write_all(b"line\n").unwrap();
        }
        lines.flush();
        assert_eq!(written.try_iter().flatten().collect::<Vec<u8>>(), b"line\n".repeat(100));
        assert_eq!(lost.count(), 0);
    }
}
