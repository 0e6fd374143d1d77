//! All logs of this process, at trace level.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use countersign::telemetry::log::{Format, Settings};
use tracing_subscriber::fmt::MakeWriter;

/// A buffer that everything is logged to.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The process's one, set up as the program sets up its own.
    pub(super) fn shared() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let settings = Settings { format: Format::Json, level: "trace".parse().unwrap(), access: true };
            tracing::subscriber::set_global_default(settings.subscriber(log.clone())).unwrap();
            log
        })
    }

    /// Bytes logged so far.
    pub(super) fn length(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What was logged after the first `length` bytes.
    pub(super) fn since(&self, length: usize) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[length..]).into_owned()
    }
}

impl io::Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
