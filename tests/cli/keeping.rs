//! What keeps it going, as a process: SIGHUP, SIGTERM under load, life as process 1, no descriptors left, and systemd.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use standin::{Authority, Authorizer, Gateway};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::{API, HEAD, Running, get, route, signal, trusting, within};

async fn gateway(authority: &Authority) -> Gateway {
    Gateway::builder().tls(authority, &[API]).method("/prod", Authorizer::Open).start().await
}

struct Place {
    gateway: Gateway,
    folder: TempDir,
    config: String,
}

/// A config with one route, in a folder.
async fn place() -> Place {
    let authority = Authority::new();
    let gateway = gateway(&authority).await;
    let config = format!("{HEAD}{}", route(&gateway, "none"));
    let folder = trusting(&authority, &config);
    Place { gateway, folder, config }
}

fn write(folder: &Path, text: &str) {
    fs::write(folder.join("countersign.toml"), text).unwrap();
}

#[tokio::test]
async fn sighup_takes_up_the_file_and_a_bad_one_is_reported() {
    let Place { gateway: _gateway, folder, config } = place().await;
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let proxy = running.address("proxy").await;
    let admin = running.address("admin").await;
    assert_eq!(get(proxy, "/").await.0, 200);
    write(folder.path(), &config.replace("auth = \"none\"", "path = \"/only\"\nauth = \"none\""));
    running.signal("HUP");
    running.line(&["a new config is served", "\"generation\":2"]).await;
    assert_eq!((get(proxy, "/").await.0, get(proxy, "/only").await.0), (404, 200));
    write(folder.path(), "[[rout");
    running.signal("HUP");
    let line = running.line(&["ERROR", "the config was not taken up"]).await;
    assert!(line.contains("countersign.toml:1:"), "{line}");
    assert_eq!(get(proxy, "/only").await.0, 200);
    let page = get(admin, "/readyz").await.1;
    assert!(page.contains("was refused, generation 2 stays"), "{page}");
    running.signal("TERM");
    assert_eq!(running.ended().await.0, 0);
}

#[tokio::test]
async fn sighup_without_a_file_is_answered_and_ends_nothing() {
    let Place { gateway: _gateway, folder, config } = place().await;
    let mut running = Running::start(folder.path(), &["run"], &[("COUNTERSIGN_CONFIG_TOML", &config)]);
    let proxy = running.address("proxy").await;
    running.signal("HUP");
    running.line(&["the config was not taken up", "nothing to read again"]).await;
    assert_eq!(get(proxy, "/").await.0, 200);
    running.signal("TERM");
    assert_eq!(running.ended().await.0, 0);
}

/// One client: asks again and again until it is told to end or nobody listens any more. Honours `Connection: close`.
async fn insist(proxy: SocketAddr, over: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let mut connection: Option<TcpStream> = None;
    // The load comes at a pace, 100 a second: the machine has other processes of this test to run.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while !over.load(Ordering::Relaxed) {
        pace.tick().await;
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(proxy).await.expect("it accepts until it has been quiet"),
        };
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it takes requests");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            within(stream.read_exact(&mut byte)).await.expect("a request that was sent is answered");
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = vec![0; field("content-length:").unwrap().parse().unwrap()];
        within(stream.read_exact(&mut body)).await.expect("and the answer is whole");
        answered.fetch_add(1, Ordering::Relaxed);
        connection = (field("connection:") != Some("close")).then_some(stream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sigterms_under_load_lose_nothing() {
    twenty_sigterms(5, 4, 50).await;
}

/// One after the other, each under 500 requests a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes, in a fast build; `make strain`"]
async fn strain_twenty_sigterms_under_five_hundred_requests_a_second() {
    twenty_sigterms(1, 5, 750).await;
}

/// Each process has so many clients, and so many requests before and after its SIGTERM.
async fn twenty_sigterms(at_once: usize, clients_each: usize, requests: u64) {
    let Place { gateway, folder, .. } = place().await;
    let all = Arc::<AtomicU64>::default();
    for _ in 0..20 / at_once {
        let mut processes = JoinSet::new();
        for _ in 0..at_once {
            let (path, all) = (folder.path().to_owned(), Arc::clone(&all));
            processes.spawn(async move {
                let mut running = Running::start(&path, &["run"], &[]);
                let proxy = running.address("proxy").await;
                let (over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
                let mut clients = JoinSet::new();
                for _ in 0..clients_each {
                    clients.spawn(insist(proxy, Arc::clone(&over), Arc::clone(&answered)));
                }
                let reach = async |number: u64| {
                    while answered.load(Ordering::Relaxed) < number {
                        tokio::task::yield_now().await;
                    }
                };
                let begun = tokio::time::Instant::now();
                within(reach(requests)).await;
                let each = begun.elapsed() / u32::try_from(requests).unwrap();
                running.signal("TERM");
                running.line(&["stopping"]).await;
                within(reach(answered.load(Ordering::Relaxed) + requests)).await;
                over.store(true, Ordering::Relaxed);
                while let Some(client) = clients.join_next().await {
                    client.unwrap();
                }
                let (code, said) = running.ended().await;
                assert_eq!(code, 0, "{said}");
                assert!(said.contains("every request was answered"), "{said}");
                println!("{} requests, one each {each:?} before it", answered.load(Ordering::Relaxed));
                all.fetch_add(answered.load(Ordering::Relaxed), Ordering::Relaxed);
            });
        }
        while let Some(process) = processes.join_next().await {
            process.unwrap();
        }
    }
    let all = all.load(Ordering::Relaxed);
    assert_eq!(gateway.requests() as u64, all);
    println!("20 stops, {all} requests, none failed");
}

#[tokio::test]
async fn it_can_be_process_1() {
    if !Command::new("unshare").args(["-pf", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("no right to make a process namespace here: nothing was tested");
        return;
    }
    let Place { gateway: _gateway, folder, .. } = place().await;
    let mut running =
        Running::start_by(folder.path(), "exec unshare -pf --kill-child \"$@\"", &["run"], Stdio::null(), &[]);
    let proxy = running.address("proxy").await;
    assert_eq!(get(proxy, "/").await.0, 200);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.id())).unwrap();
    signal("TERM", children.trim().parse().unwrap());
    let (code, said) = running.ended().await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("every request was answered"), "{said}");
}

/// Clock ticks that a process has used.
fn used(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Takes its descriptors away for two seconds; how often it tried to accept.
async fn accepts_without_descriptors(lines: &str) -> u64 {
    let Place { gateway: _gateway, folder, config } = place().await;
    write(folder.path(), &config.replacen("[proxy]", &format!("[proxy]\n{lines}"), 1));
    let mut running = Running::start(folder.path(), &["run"], &[]);
    let proxy = running.address("proxy").await;
    assert_eq!(get(proxy, "/").await.0, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", running.id())).unwrap().count();
    let limit = |most: usize| {
        let arguments = [format!("--pid={}", running.id()), format!("--nofile={most}:")];
        assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
    };
    limit(open + 4);
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect(proxy).await.unwrap());
    }
    running.line(&["WARN", "accepting a connection"]).await;
    let before = used(running.id());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ticks = used(running.id()) - before;
    assert!(ticks < 40, "it spins: {ticks} of 200 ticks");
    drop(crowd);
    assert_eq!(get(proxy, "/").await.0, 200, "there are descriptors again");
    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 0);
    let complaints = said.matches("accepting a connection").count();
    assert!(complaints <= 6, "{complaints} lines in about three seconds");
    let times = said.rsplit_once("\"times\":").unwrap().1;
    times.split_once(|c: char| !c.is_ascii_digit()).unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn it_outlives_a_time_without_descriptors() {
    let usual = accepts_without_descriptors("").await;
    assert!(usual <= 10, "{usual} times in about three seconds");
    let eager = accepts_without_descriptors("accept_pause = \"20ms\"").await;
    assert!(eager > 20, "{eager} times in about three seconds");
}

/// A datagram socket, as systemd listens on.
struct Notified {
    socket: UnixDatagram,
    path: String,
}

impl Notified {
    fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).expect("it says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hands_over_its_sockets_and_is_told() {
    let Place { gateway: _gateway, folder, config } = place().await;
    let notified = Notified::listen(folder.path());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // What comes before it is up waits in the socket's queue.
    let mut early = JoinSet::new();
    early.spawn(async move { get(address, "/early").await });
    let config = config.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{address}\"]"));
    write(folder.path(), &config);
    let variables = [("NOTIFY_SOCKET", notified.path.as_str()), ("LISTEN_FDS", "1")];
    let line = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$@\"";
    let stdin = Stdio::from(OwnedFd::from(socket));
    let mut running = Running::start_by(folder.path(), line, &["run"], stdin, &variables);
    assert_eq!(running.address("proxy").await, address);
    assert_eq!(within(early.join_next()).await.unwrap().unwrap().0, 200);
    assert_eq!(notified.next().trim(), "READY=1");
    running.signal("HUP");
    let reloading = notified.next();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(notified.next().trim(), "READY=1");
    running.signal("TERM");
    assert_eq!(notified.next().trim(), "STOPPING=1");
    assert_eq!(running.ended().await.0, 0);
}

#[tokio::test]
async fn a_socket_that_the_config_does_not_know_is_an_error() {
    let Place { gateway: _gateway, folder, .. } = place().await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let line = "exec 3<&0 </dev/null; exec \"$@\"";
    let stdin = Stdio::from(OwnedFd::from(socket));
    let running = Running::start_by(folder.path(), line, &["run"], stdin, &[("LISTEN_FDS", "1")]);
    let (code, said) = running.ended().await;
    assert!(code == 1 && said.contains(&address.to_string()), "{code} {said}");
}
