//! Log lines on their way out, on a thread of their own: no request waits for whoever reads them.
//!
//! A pipe that nobody empties, or a disk that is full, costs lines and nothing else; they are counted, and the log says
//! so once it is read again. Lines that come close together go out together: a write and a wake-up for each would cost
//! more than all else that is done for a request's line. Imports nothing of ours.

use std::io::{self, Write};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written: a second of lines at 4,000 a second.
const MOST_LINES: usize = 4_096;
/// And in bytes, since lines are not equal.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Written at once: what a pipe takes whole (`PIPE_BUF`), so that nothing of another program that writes to it comes between.
const PIECE: usize = 4_096;
/// Nobody is woken for lines that come within this after others; they go out at its end.
const NAP: Duration = Duration::from_millis(2);
/// A buffer that grew beyond this is given back.
const KEPT: usize = 64 * 1024;
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
    queue: Arc<Queue>,
    lost: LostLines,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    bytes: Vec<u8>,
    /// Lines that are not written yet, and bytes of them that the thread has taken.
    lines: usize,
    in_hand: usize,
    /// To be told once all before is written.
    flushes: Vec<SyncSender<()>>,
    /// The thread waits to be woken.
    asleep: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// [`io::Error`] when the system starts no thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<(Self, LostLines)> {
        let (queue, lost) = (Arc::<Queue>::default(), LostLines::default());
        let drain = Drain { out, queue: Arc::clone(&queue), lost: lost.clone(), told: 0 };
        // Ends with the process: it may be stuck in a write.
        drop(thread::Builder::new().name("log".to_owned()).spawn(move || drain.run())?);
        Ok((Self { queue, lost: lost.clone() }, lost))
    }

    /// Waits until what was logged is written, 1 s at most.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        let mut waiting = self.queue.lock();
        waiting.flushes.push(done);
        self.queue.wake(waiting);
        let _in_time = written.recv_timeout(FLUSH);
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.queue.lock();
        let bytes = waiting.bytes.len() + waiting.in_hand + line.len();
        if waiting.lines >= MOST_LINES || bytes > MOST_BYTES {
            drop(waiting);
            self.lost.0.inc();
            return;
        }
        waiting.lines += 1;
        waiting.bytes.extend_from_slice(line);
        self.queue.wake(waiting);
    }
}

impl Queue {
    /// A panic elsewhere does not poison it: what it guards is valid between any two statements.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes of those in hand are out, or lost.
    fn written(&self, piece: &[u8]) {
        let mut waiting = self.lock();
        waiting.in_hand -= piece.len();
        // A line may have had line ends within it.
        waiting.lines = if waiting.in_hand == 0 && waiting.bytes.is_empty() {
            0
        } else {
            waiting.lines.saturating_sub(count(piece))
        };
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.more.notify_one();
        }
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
    queue: Arc<Queue>,
    lost: LostLines,
    /// Lost lines that the log has told of.
    told: u64,
}

impl<W: Write> Drain<W> {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let flushes = self.take(&mut lines);
            let mut rest = lines.as_slice();
            while let Some((piece, more)) = next_piece(rest) {
                let written = self.write(piece);
                self.queue.written(piece);
                match written {
                    Ok(()) => self.tell(),
                    Err(_nowhere_to_tell) => drop(self.lost.0.inc_by(count(piece) as u64)),
                }
                rest = more;
            }
            for done in flushes {
                let _gone = done.try_send(());
            }
            lines.clear();
            lines.shrink_to(KEPT);
            thread::park_timeout(NAP);
        }
    }

    /// Waits for lines, and moves them into `lines`, which is empty; and who is to be told when they are written.
    fn take(&self, lines: &mut Vec<u8>) -> Vec<SyncSender<()>> {
        let mut waiting = self.queue.lock();
        while waiting.bytes.is_empty() && waiting.flushes.is_empty() {
            waiting.asleep = true;
            waiting = self.queue.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut waiting.bytes, lines);
        waiting.in_hand = lines.len();
        std::mem::take(&mut waiting.flushes)
    }

    /// `write_all`, but for pipes that do not block.
    fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            match self.out.write(piece) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => piece = piece.get(written..).unwrap_or_default(),
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

/// As many whole lines as fit into a piece, or one that does not; and what follows.
fn next_piece(lines: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_end = |byte: &u8| *byte == b'\n';
    let fitting = lines.get(..PIECE).unwrap_or(lines).iter().rposition(is_end);
    let end = fitting.or_else(|| lines.iter().position(is_end)).map_or(lines.len(), |end| end + 1);
    lines.split_at_checked(end).filter(|(piece, _)| !piece.is_empty())
}

fn count(lines: &[u8]) -> usize {
    lines.split_inclusive(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Passes lines on, to a reader who may not look.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0.send(lines.to_vec()).map_err(|_gone| io::ErrorKind::BrokenPipe)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes half of what it is given.
    struct Heard(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Heard {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let half = &lines[..lines.len().div_ceil(2)];
            self.0.send(half.to_vec()).unwrap();
            Ok(half.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_does_not_look_costs_lines_and_no_time() {
        let (pipe, reader) = sync_channel(0);
        let (lines, lost) = Lines::start(Pipe(pipe)).unwrap();
        for number in 0..20_000 {
            (&lines).write_all(format!("{number:>255}\n").as_bytes()).unwrap();
        }
        assert_eq!(lost.count(), 20_000 - 4_096);
        let pieces: Vec<Vec<u8>> = std::iter::from_fn(|| reader.recv_timeout(FLUSH).ok()).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE && piece.ends_with(b"\n")), "lines are not cut");
        let read = pieces.iter().map(|piece| count(piece) as u64).sum::<u64>();
        // Once it is read again, the log tells of them; here there is none.
        assert_eq!(read + lost.count(), 20_000);
    }

    #[test]
    fn large_lines_are_bounded_in_bytes_and_go_out_whole() {
        let (pipe, reader) = sync_channel(0);
        let (lines, lost) = Lines::start(Pipe(pipe)).unwrap();
        let mut line = vec![b'x'; 99_999];
        line.push(b'\n');
        for _ in 0..100 {
            (&lines).write_all(&line).unwrap();
        }
        assert_eq!(lost.count(), 80);
        assert_eq!(reader.recv().unwrap(), line);
    }

    #[test]
    fn a_full_disk_costs_lines() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (lines, lost) = Lines::start(full).unwrap();
        (&lines).write_all(b"lost\n").unwrap();
        lines.flush();
        assert_eq!(lost.count(), 1);
    }

    #[test]
    fn what_was_logged_is_written_at_the_end() {
        let (said, written) = channel();
        let (lines, lost) = Lines::start(Heard(said)).unwrap();
        for _ in 0..4_000 {
            (&lines).write_all(b"line\n").unwrap();
        }
        lines.flush();
        assert_eq!(written.try_iter().flatten().collect::<Vec<u8>>(), b"line\n".repeat(4_000));
        assert_eq!(lost.count(), 0);
    }
}
