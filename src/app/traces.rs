//! Spans on their way to the collector: in batches, in the background, one batch at a time.
//!
//! A collector that is down costs spans and nothing else: one batch is tried again ever more rarely while the queue behind it
//! fills, and the log says so once. Imports `auth` for its client, `telemetry`.

use std::mem;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::auth::control::{Answer, Control};
use crate::auth::error::FetchError;
use crate::auth::refreshing::Chain;
use crate::secret::SecretError;
use crate::tasks::Tasks;
use crate::telemetry::traces::span::Ended;
use crate::telemetry::traces::{Counts, Loss, Settings, otlp};

/// Spans in one POST, and how long the first of them waits for others: what the SDKs of OpenTelemetry do.
const LARGEST_BATCH: usize = 512;
const GATHERING: Duration = Duration::from_secs(5);
/// Until a batch is tried again; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// For the last spans, at the end. A pod's 30 s hold it beside the drain's 25.
const FLUSH: Duration = Duration::from_secs(2);

const INSTANCE: &str = "service.instance.id";
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Sends what is left of the spans, at the end.
#[derive(Debug)]
pub(super) struct Export(oneshot::Sender<oneshot::Sender<()>>);

/// Sends spans.
#[derive(Debug)]
struct Exporter {
    settings: Settings,
    control: Control,
    waiting: Receiver<Ended>,
    counts: Counts,
    /// Taken out of the queue, and not sent yet.
    batch: Vec<Ended>,
    /// Whether the log has been told that the collector does not take them, and how many were lost by then.
    troubled: Option<u64>,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Untaken {
    #[error(transparent)]
    Unreachable(#[from] FetchError),
    #[error("reading a secret of [traces] headers")]
    Secret(#[from] SecretError),
    #[error("the collector answered with status {0}")]
    Busy(u16, Option<Duration>),
    /// Asking again would change nothing.
    #[error("the collector refused them with status {0}")]
    Refused(u16),
}

impl Export {
    /// Begins to send what comes out of `waiting`.
    pub(super) fn start(
        mut settings: Settings,
        control: Control,
        waiting: Receiver<Ended>,
        counts: Counts,
        tasks: &Tasks,
    ) -> Self {
        tracing::info!(endpoint = settings.endpoint, "spans of requests go to a collector");
        // One of a fleet; which one is another's to know, unless somebody has said it.
        if settings.resource.iter().all(|(name, _)| name != INSTANCE) {
            settings.resource.push((INSTANCE.to_owned(), format!("{:032x}", fastrand::u128(..))));
        }
        let (end, asked) = oneshot::channel();
        let exporter = Exporter { settings, control, waiting, counts, batch: Vec::new(), troubled: None };
        tasks.spawn("traces", exporter.run(asked));
        Self(end)
    }

    /// Sends what is there, in 2 s at most. No request may be under way any more.
    pub(super) async fn flush(self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(done).is_ok() && timeout(FLUSH, flushed).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

impl Exporter {
    async fn run(mut self, mut end: oneshot::Receiver<oneshot::Sender<()>>) {
        let asked = tokio::select! {
            asked = &mut end => asked,
            () = self.send_all() => return,
        };
        // An end that nobody waits for is none that spans are sent for.
        let Ok(done) = asked else { return };
        self.waiting.close();
        while self.take() && self.send().await.is_ok() {}
        self.counts.lost(Loss::Stopped, (self.batch.len() + self.waiting.len()) as u64);
        // Whoever asked has waited long enough, otherwise.
        let _told = done.send(());
    }

    /// Sends batches until no more spans can come.
    async fn send_all(&mut self) {
        while self.gather().await {
            let mut wait = FIRST_WAIT;
            while let Err(after) = self.send().await {
                let jittered = wait.mul_f64(0.5 + fastrand::f64());
                sleep(after.map_or(jittered, |after| after.max(jittered)).min(LONGEST_WAIT)).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    /// Waits for a span, and then for others to go with it. False once there will be none.
    async fn gather(&mut self) -> bool {
        if self.batch.is_empty() && self.waiting.recv_many(&mut self.batch, LARGEST_BATCH).await == 0 {
            return false;
        }
        let until = Instant::now() + GATHERING;
        while let Some(room) = LARGEST_BATCH.checked_sub(self.batch.len()).filter(|room| *room > 0) {
            match timeout_at(until, self.waiting.recv_many(&mut self.batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    /// Fills the batch with what is there; false if it stays empty.
    fn take(&mut self) -> bool {
        while self.batch.len() < LARGEST_BATCH
            && let Ok(span) = self.waiting.try_recv()
        {
            self.batch.push(span);
        }
        !self.batch.is_empty()
    }

    /// Sends the batch; it is empty then, unless it is to be sent again, in so long if the collector says.
    async fn send(&mut self) -> Result<(), Option<Duration>> {
        match self.post().await {
            Ok(answer) => {
                let sent = mem::take(&mut self.batch).len();
                let (rejected, why) = otlp::rejected(&answer.body).unwrap_or_default();
                self.counts.lost(Loss::Refused, rejected);
                self.counts.sent(sent.saturating_sub(usize::try_from(rejected).unwrap_or(usize::MAX)));
                if rejected > 0 {
                    self.complain(&format!("the collector rejected {rejected} of {sent}: {why}"));
                } else if let Some(before) = self.troubled.take() {
                    let lost = self.counts.lost_so_far().saturating_sub(before);
                    tracing::info!(lost, "the collector takes spans again");
                }
                Ok(())
            }
            Err(refused @ Untaken::Refused(_)) => {
                let refused_spans = mem::take(&mut self.batch).len();
                self.complain(&Chain(&refused).to_string());
                self.counts.lost(Loss::Refused, refused_spans as u64);
                Ok(())
            }
            Err(untaken) => {
                self.complain(&Chain(&untaken).to_string());
                Err(if let Untaken::Busy(_, after) = untaken { after } else { None })
            }
        }
    }

    async fn post(&self) -> Result<Answer, Untaken> {
        let Settings { endpoint, headers, resource, .. } = &self.settings;
        let mut fields = HeaderMap::new();
        for (name, secret) in headers {
            // It was a field's value when the config was read; a file that has changed into none is left out.
            if let Ok(mut value) = HeaderValue::from_str(secret.read()?.expose()) {
                value.set_sensitive(true);
                fields.insert(name, value);
            }
        }
        fields.insert(header::CONTENT_TYPE, PROTOBUF);
        let answer = self.control.post(endpoint, fields, otlp::request(resource, &self.batch)).await?;
        // What may be tried again: OTLP specification, "Failures" of OTLP/HTTP.
        match answer.status.as_u16() {
            200..300 => Ok(answer),
            status @ (429 | 502 | 503 | 504) => Err(Untaken::Busy(status, answer.retry_after)),
            status => Err(Untaken::Refused(status)),
        }
    }

    /// Says once that spans are not taken.
    fn complain(&mut self, why: &str) {
        if self.troubled.is_none() {
            self.troubled = Some(self.counts.lost_so_far());
            let endpoint = &self.settings.endpoint;
            tracing::warn!(
                endpoint,
                error = why,
                "the collector does not take spans; requests go on, and countersign_trace_spans_lost_total counts"
            );
        } else {
            tracing::debug!(error = why, "the collector still does not take spans");
        }
    }
}
