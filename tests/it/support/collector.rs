//! A collector of spans that speaks just enough HTTP, and answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A collector that runs until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _running: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    posts: Vec<Post>,
    statuses: VecDeque<u16>,
}

/// A batch that came.
#[derive(Clone)]
pub(crate) struct Post {
    /// The request's head, as it came.
    pub(crate) head: String,
    pub(crate) batch: ExportTraceServiceRequest,
    /// How it was answered.
    pub(crate) status: u16,
}

impl Collector {
    /// Answers with these, and then with 200.
    pub(crate) async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen { posts: Vec::new(), statuses: statuses.iter().copied().collect() }));
        let mut running = JoinSet::new();
        let shared = Arc::clone(&seen);
        running.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream, &shared).await;
            }
        });
        Self { address, seen, _running: running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// All batches that came, taken or not.
    pub(crate) fn posts(&self) -> Vec<Post> {
        self.seen.lock().unwrap().posts.clone()
    }

    /// The spans that were taken.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let taken = self.posts().into_iter().filter(|post| post.status == 200);
        let resources = taken.flat_map(|post| post.batch.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

async fn answer(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    while bytes.len() < end + length {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the batch broke off");
    }
    let batch = ExportTraceServiceRequest::decode(&bytes[end..]).unwrap();
    let status = {
        let mut seen = seen.lock().unwrap();
        let status = seen.statuses.pop_front().unwrap_or(200);
        seen.posts.push(Post { head, batch, status });
        status
    };
    let answer = format!("HTTP/1.1 {status} Told\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    drop(stream.write_all(answer.as_bytes()).await);
}

/// The attributes as text, by name.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
    if let Value::StringValue(text) = value {
        return Some(text.clone());
    }
    let Value::IntValue(number) = value else { panic!("{name} is {value:?}") };
    Some(number.to_string())
}
