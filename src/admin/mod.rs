//! The admin port: the status page and its data, `/livez`, `/readyz`, `/startupz`, `/metrics`, the log's level, and
//! `/quitquitquit` where it is asked for.
//!
//! Shows how things are; the level of the log and whether all of it runs is all that it changes. `/readyz` stays 200 when a
//! credential fails later on: an issuer's outage must not take a whole fleet out of service; it names what fails. Imports
//! `auth`, `clock`, `proxy`, `server`, `telemetry`.

mod board;
mod html;
mod live;
mod page;
mod report;
mod time;
mod words;

pub mod standing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use self::board::{Board, Token};
use self::live::Live;
pub use self::live::Said;
use self::standing::Standing;
use crate::auth::{self, Roster};
use crate::clock::Clock;
use crate::proxy::Proxy;
use crate::proxy::guard::Guard;
use crate::proxy::guard::token::CallerToken;
use crate::proxy::outcome::ProxyError;
use crate::secret::LocalSecret;
use crate::server::{Arrival, Drain};
use crate::telemetry::level::Dial;

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
    /// Connections to each of the two, apart from the clients'.
    pub max_connections: usize,
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
    board: Arc<Board>,
    registry: Registry,
    quit_token: Option<Arc<CallerToken>>,
    quit: CancellationToken,
    /// Who may call; anybody where the port was opened to other machines on purpose.
    guard: Option<Guard>,
}

/// What the pages tell of.
#[derive(Debug)]
pub struct Shown {
    /// Credentials that are used now.
    pub credentials: Roster,
    /// The config that is served.
    pub standing: Standing,
    /// Routes and requests.
    pub proxy: Arc<Proxy>,
    /// Whether a stop was asked for.
    pub drain: Drain,
    /// What time it is.
    pub clock: Clock,
    /// The log's level, where it can be changed.
    pub dial: Option<Dial>,
}

type Answer = Response<Said>;

impl Admin {
    /// Shows these, and `registry`.
    pub fn new(settings: &Settings, shown: Shown, registry: Registry, quit_token: Option<Arc<CallerToken>>) -> Self {
        let guard = settings.listen.ip().is_loopback().then(Guard::loopback);
        Self { board: Arc::new(Board::new(shown)), registry, quit_token, quit: CancellationToken::new(), guard }
    }

    /// Ready once somebody who may has asked for the end.
    pub async fn quit(&self) {
        self.quit.cancelled().await;
    }

    /// Ready once no credential is in its first try, or one takes too long.
    pub async fn first_tries(&self) {
        // What is late is reported by `/readyz`; nobody waits for it longer than that does.
        drop(tokio::time::timeout(FIRST_TRIES, auth::tried(&self.board.shown().credentials.all())).await);
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
        {
            // No page has a button that ends the program.
            if parts.uri.path() != "/quitquitquit" {
                page::admit_own(&mut parts);
            }
            if let Err(error) = guard.check_here(&parts) {
                return text(error.code().status(), format!("{error}\n"));
            }
        }
        if (parts.uri.path(), pages) == ("/api/log-level", Pages::All) {
            return self.log_level(&parts);
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
            ("/", Pages::All) => {
                let report = self.board.report(0);
                let newest = report.requests.first().map_or(0, |request| request.number);
                page::html(html::page(&report, &self.board.token(newest).to_string()))
            }
            ("/api/status", Pages::All) => page::json(&self.board.report(0)),
            ("/api/events", Pages::All) => self.events(&parts),
            (path, Pages::All) if let Some(asset) = page::asset(path) => asset,
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
        let Shown { drain, clock, standing, .. } = self.board.shown();
        if drain.is_leaving() {
            lines.push_str("not ready: stopping\n");
        }
        lines.push_str(&match pages {
            Pages::All => standing.describe(),
            Pages::Probes => standing.summary(),
        });
        let now = clock.wall();
        let statuses = self.board.statuses();
        for status in &statuses {
            match pages {
                Pages::All => lines.push_str(&status.describe(now)),
                Pages::Probes => lines.push_str(&status.summary(now)),
            }
            lines.push('\n');
        }
        if let Some(cache) = self.board.shown().credentials.cache() {
            lines.push_str(&match pages {
                Pages::All => cache.describe(),
                Pages::Probes => cache.summary(),
            });
            lines.push('\n');
        }
        let ready = !drain.is_leaving() && self.board.first_tries_are_over(&statuses);
        lines.push_str(if ready { "ready\n" } else { "not ready\n" });
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
    }

    fn started(&self) -> Answer {
        if self.board.first_tries_are_over(&self.board.statuses()) {
            text(StatusCode::OK, "started\n".to_owned())
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "waiting for the first credentials\n".to_owned())
        }
    }

    /// What keeps an open page up to date.
    fn events(&self, parts: &Parts) -> Answer {
        let Some(place) = self.board.watch() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n".to_owned());
        };
        // A browser that connects again says what it has; the page's own address is of the time when it was written.
        let last = parts.headers.get("last-event-id").and_then(|value| value.to_str().ok());
        let token = last.or_else(|| page::parameter(&parts.uri, "after")).and_then(Token::parse);
        page::events(Live::new(Arc::clone(&self.board), token, place))
    }

    /// Tells the log's level, sets it (`PUT /api/log-level?level=debug`), or sets it back to the config's (`DELETE`).
    fn log_level(&self, parts: &Parts) -> Answer {
        let Some(dial) = self.board.dial() else {
            return text(StatusCode::NOT_FOUND, "the log has no level to set\n".to_owned());
        };
        let wanted = match parts.method {
            Method::GET | Method::HEAD => return text(StatusCode::OK, format!("{}\n", dial.level())),
            Method::DELETE => None,
            Method::PUT => Some(page::parameter(&parts.uri, "level").unwrap_or_default()),
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "only GET, PUT and DELETE\n".to_owned()),
        };
        // On a port that other machines reach nobody is known, and a page's request looks like any other.
        if self.guard.is_none() {
            return text(StatusCode::FORBIDDEN, "the level can be set on a loopback admin port alone\n".to_owned());
        }
        match dial.turn(wanted) {
            Ok(before) => {
                let level = dial.level();
                // Said at a level that is nearly always logged: who looks for missing lines must find why.
                tracing::warn!(before, level, "the log's level was changed from the admin port");
                text(StatusCode::OK, format!("{level}\n"))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
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
    let mut answer = Response::new(Said::Whole(Full::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
