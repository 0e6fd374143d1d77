//! The admin port: `/livez`, `/readyz`, `/startupz`, `/metrics`, and `/quitquitquit` where it is asked for.
//!
//! Shows how things are; the one thing it can change is whether all of it runs. `/readyz` stays 200 when a credential fails later on: an issuer's outage
//! must not take a whole fleet out of service; it names what fails. Imports `auth`, `clock`, `proxy`, `server`.

pub mod standing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::standing::Standing;
use crate::auth::refreshing::Status;
use crate::auth::{self, Roster};
use crate::clock::Clock;
use crate::proxy::guard::Guard;
use crate::proxy::guard::token::CallerToken;
use crate::proxy::outcome::ProxyError;
use crate::secret::LocalSecret;
use crate::server::{Arrival, Drain};

/// A credential source that has not answered by then is slow, but no reason to keep the app from starting.
const FIRST_TRIES: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the admin pages are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// All pages.
    pub listen: SocketAddr,
    /// The probes alone, for a kubelet that comes from outside the pod.
    pub health_listen: Option<SocketAddr>,
    /// What a POST to `/quitquitquit` must show; without, there is no such page.
    pub quit_token: Option<LocalSecret>,
}

/// Which pages a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// All, for callers that say a loopback name: a web page must not read them.
    All,
    /// The probes, for anybody.
    Probes,
}

/// Answers on the admin port.
#[derive(Debug)]
pub struct Admin {
    credentials: Roster,
    standing: Standing,
    registry: Registry,
    drain: Drain,
    clock: Clock,
    quit_token: Option<Arc<CallerToken>>,
    quit: CancellationToken,
    /// Who may call; anybody where the port was opened to other machines on purpose.
    guard: Option<Guard>,
    started: Instant,
}

/// What the pages tell of.
#[derive(Debug)]
pub struct Shown {
    /// Credentials that are used now.
    pub credentials: Roster,
    /// The config that is served.
    pub standing: Standing,
    /// Metrics.
    pub registry: Registry,
    /// Whether a stop was asked for.
    pub drain: Drain,
    /// What time it is.
    pub clock: Clock,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    /// Shows these.
    pub fn new(settings: &Settings, shown: Shown, quit_token: Option<Arc<CallerToken>>) -> Self {
        let Shown { credentials, standing, registry, drain, clock } = shown;
        let guard = settings.listen.ip().is_loopback().then(Guard::loopback);
        let (quit, started) = (CancellationToken::new(), Instant::now());
        Self { credentials, standing, registry, drain, clock, quit_token, quit, guard, started }
    }

    /// Ready once somebody who may has asked for the end.
    pub async fn quit(&self) {
        self.quit.cancelled().await;
    }

    /// Ready once no credential is in its first try, or one takes too long.
    pub async fn first_tries(&self) {
        // What is late is reported by `/readyz`; nobody waits for it longer than that does.
        drop(tokio::time::timeout(FIRST_TRIES, auth::tried(&self.credentials.all())).await);
    }

    /// Answers one request.
    pub fn answer<B>(&self, arrival: Arrival<B>, pages: Pages) -> Answer {
        let (mut parts, _unread) = match arrival {
            Ok(request) => request.into_parts(),
            Err(refused) => {
                return text(ProxyError::from(refused.error).code().status(), format!("{}\n", refused.error));
            }
        };
        if pages == Pages::All
            && let Some(guard) = &self.guard
            && let Err(error) = guard.check_here(&parts)
        {
            return text(error.code().status(), format!("{error}\n"));
        }
        if (pages, parts.uri.path()) == (Pages::All, "/quitquitquit") {
            return match &self.quit_token {
                Some(token) => self.quit_for(token, &parts.method, &mut parts.headers),
                None => no_such_page(),
            };
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        }
        match (parts.uri.path(), pages) {
            ("/livez", _) => text(StatusCode::OK, "alive\n".to_owned()),
            ("/readyz", pages) => self.ready(pages),
            ("/startupz", _) => self.started(),
            ("/metrics", Pages::All) => self.metrics(),
            _ => no_such_page(),
        }
    }

    /// For a Job on a cluster without native sidecars: its last command ends the sidecar, too. POST alone, since a web page
    /// can have a GET made.
    fn quit_for(&self, token: &CallerToken, method: &Method, headers: &mut HeaderMap) -> Answer {
        if *method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
        }
        if let Err(error) = token.admit(headers) {
            return text(StatusCode::UNAUTHORIZED, format!("{error}\n"));
        }
        tracing::info!("asked to stop by /quitquitquit");
        self.quit.cancel();
        text(StatusCode::OK, "stopping\n".to_owned())
    }

    /// Ready: the first try of every credential has ended, and no stop was asked for. Why a try failed is for callers
    /// from this machine alone: it names endpoints and roles.
    fn ready(&self, pages: Pages) -> Answer {
        let mut lines = String::new();
        if self.drain.is_leaving() {
            lines.push_str("not ready: stopping\n");
        }
        lines.push_str(&match pages {
            Pages::All => self.standing.describe(),
            Pages::Probes => self.standing.summary(),
        });
        let now = self.clock.now().wall;
        let statuses = self.credentials.statuses();
        for status in &statuses {
            match pages {
                Pages::All => lines.push_str(&status.describe(now)),
                Pages::Probes => lines.push_str(&status.summary(now)),
            }
            lines.push('\n');
        }
        let ready = !self.drain.is_leaving() && self.first_tries_are_over(&statuses);
        lines.push_str(if ready { "ready\n" } else { "not ready\n" });
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
    }

    fn started(&self) -> Answer {
        let statuses = self.credentials.statuses();
        if self.first_tries_are_over(&statuses) {
            text(StatusCode::OK, "started\n".to_owned())
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "waiting for the first credentials\n".to_owned())
        }
    }

    fn first_tries_are_over(&self, statuses: &[Status]) -> bool {
        statuses.iter().all(|status| status.tried) || self.started.elapsed() > FIRST_TRIES
    }

    fn metrics(&self) -> Answer {
        let mut page = String::new();
        if let Err(error) = encode(&mut page, &self.registry) {
            tracing::error!(%error, "writing the metrics");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".to_owned());
        }
        let mut answer = text(StatusCode::OK, page);
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        answer
    }
}

fn no_such_page() -> Answer {
    text(StatusCode::NOT_FOUND, "no such page\n".to_owned())
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
