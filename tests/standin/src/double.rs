//! The body all doubles share: a listener on loopback, the tasks behind it, the script in front of it, and the verdict
//! when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Error;
use crate::script::{Script, Turn};

/// A running double: while it lives it answers, and when it is dropped its tasks end and its script must be used up.
#[derive(Debug)]
pub(crate) struct Double {
    name: &'static str,
    address: SocketAddr,
    crew: Crew,
    pub(crate) script: Script,
}

/// The tasks of one double. Clones share them; ending ends them all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crew(Arc<Tasks>);

#[derive(Debug)]
struct Tasks {
    /// `None` once ended: a task that spawns at that moment must not outlive its double.
    running: Mutex<Option<JoinSet<()>>>,
    panicked: AtomicBool,
}

/// Is dropped with its task: by a panic, or in peace.
struct Witness(Crew);

/// One call of a control endpoint, read to its end.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query as received.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Bytes,
}

/// A double that answers whole requests with whole responses: all but the gateway.
pub(crate) trait Endpoint: Send + Sync + 'static {
    /// Takes note of a call, before its answer is thought about.
    fn record(&self, call: &Call);
    /// Answers a call; `turn` is never `Respond`.
    fn answer(&self, call: &Call, turn: Turn) -> Response<Bytes>;
}

impl Double {
    /// Listens on a free port of 127.0.0.1 and runs `connection` in a task for each connection accepted.
    pub(crate) async fn start<F, C>(name: &'static str, script: Script, mut connection: F) -> Self
    where
        F: FnMut(TcpStream, Crew) -> C + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let crew = Crew::default();
        let accepting = crew.clone();
        crew.spawn(async move {
            loop {
                // An error of accept concerns the one connection (or the descriptors of the test run): go on.
                if let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).ok();
                    accepting.spawn(connection(stream, accepting.clone()));
                }
            }
        });
        Self { name, address, crew, script }
    }

    /// Runs an endpoint over plain HTTP/1.1.
    pub(crate) async fn serve(name: &'static str, endpoint: Arc<impl Endpoint>) -> Self {
        let script = Script::default();
        let scripted = script.clone();
        Self::start(name, script, move |stream, _| {
            let (script, endpoint) = (scripted.clone(), Arc::clone(&endpoint));
            async move {
                let service = service_fn(|request| respond(&script, &*endpoint, request));
                // A failed connection is the other side's affair, or was scripted.
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            }
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let panicked = self.crew.end();
        if std::thread::panicking() {
            return; // a second panic would abort, and hide the first
        }
        assert!(!panicked, "a task of the {} panicked", self.name);
        let unused = self.script.unused();
        assert!(unused == 0, "{unused} scripted answers of the {} were not used", self.name);
    }
}

async fn respond(
    script: &Script,
    endpoint: &impl Endpoint,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Error> {
    let (parts, body) = request.into_parts();
    let call = Call {
        method: parts.method,
        target: parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), ToString::to_string),
        headers: list(&parts.headers),
        body: body.collect().await?.to_bytes(),
    };
    endpoint.record(&call);
    let response = match script.turn().await? {
        Turn::Respond(response) => response,
        turn @ (Turn::Normal | Turn::Issue { .. }) => endpoint.answer(&call, turn),
    };
    Ok(response.map(Full::new))
}

impl Call {
    /// The value of a field, if it is there and is text; of several, the first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(candidate, _)| candidate == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// The fields of a map in its order: that of first occurrence, equal names together.
pub(crate) fn list(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

impl Crew {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = running.as_mut() {
            while tasks.try_join_next().is_some() {}
            let witness = Witness(self.clone());
            tasks.spawn(async move {
                let _witness = witness;
                task.await;
            });
        }
    }

    /// Ends all tasks, and says whether one has panicked.
    pub(crate) fn end(&self) -> bool {
        let tasks = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(tasks);
        self.0.panicked.load(Ordering::Relaxed)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.0.panicked.store(true, Ordering::Relaxed);
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self { running: Mutex::new(Some(JoinSet::new())), panicked: AtomicBool::new(false) }
    }
}

/// Runs the streams of an HTTP/2 connection.
impl<F> hyper::rt::Executor<F> for Crew
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.spawn(async move {
            stream.await;
        });
    }
}

/// A response of JSON.
pub(crate) fn json(status: u16, body: &serde_json::Value) -> Response<Bytes> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Bytes::from(body.to_string())).expect("fixed fields are valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Answer;

    #[tokio::test]
    #[should_panic(expected = "1 scripted answers of the thing were not used")]
    async fn an_unused_script_fails_the_test() {
        let thing = Double::start("thing", Script::default(), |_, _| async {}).await;
        thing.script.push(Answer::Close);
    }

    #[tokio::test]
    #[should_panic(expected = "a task of the thing panicked")]
    async fn a_panic_in_a_task_fails_the_test() {
        let thing = Double::start("thing", Script::default(), |_, _| async { panic!("on purpose") }).await;
        let mut stream = TcpStream::connect(thing.address()).await.unwrap();
        // The connection ends with its task.
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.ok();
    }
}
