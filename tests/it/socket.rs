//! Unix sockets: who may open the file, who is let in, and what becomes of the file.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use countersign::app::{Sidecar, StartError};
use countersign::clock::Clock;
use countersign::config::{self, Environment, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::support::{Plan, World, within};

fn socket(world: &World) -> PathBuf {
    world.countersign.folder().join("proxy.sock")
}

/// All that is answered to one request through the socket; nothing, if the door was shut.
async fn ask(path: &Path, fields: &str) -> String {
    let mut stream = within(UnixStream::connect(path)).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n");
    let mut answer = Vec::new();
    if within(stream.write_all(request.as_bytes())).await.is_ok() {
        within(stream.read_to_end(&mut answer)).await.ok();
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_socket_serves_its_owner_and_goes_at_the_end() {
    let world = Plan::bearer().listen("unix:proxy.sock").start().await;
    let path = socket(&world);
    let file = std::fs::symlink_metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert!(ask(&path, "").await.starts_with("HTTP/1.1 200 "));
    assert!(ask(&path, "origin: http://evil.test\r\n").await.starts_with("HTTP/1.1 403 "), "the same rules hold");
    assert_eq!(world.get("/").await.status, 200, "beside TCP");
    let folder = world.countersign.keep_folder();
    world.finish().await;
    assert!(folder.path().exists() && !path.exists());
}

#[tokio::test]
async fn its_mode_can_be_chosen() {
    let world = Plan::open().listen("unix:proxy.sock").proxy("socket_mode = \"0660\"").start().await;
    assert_eq!(std::fs::symlink_metadata(socket(&world)).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(ask(&socket(&world), "").await.starts_with("HTTP/1.1 200 "));
    world.finish().await;
}

#[tokio::test]
async fn only_listed_users_are_let_in() {
    // The file may be opened by this test; the list is what shuts it out.
    let world = Plan::open().listen("unix:proxy.sock").proxy("socket_users = [4000000000]").start().await;
    assert_eq!(ask(&socket(&world), "").await, "");
    assert_eq!(world.gateway.requests(), 0);
    assert!(world.countersign.log().contains("a user who is not in socket_users was turned away"));
    world.finish().await;
}

#[tokio::test]
async fn tls_is_for_tcp_alone() {
    let (cert, key) = standin::Authority::new().issue(&["localhost"]);
    let plan = Plan::open().file("cert.pem", &cert).file("key.pem", &key).listen("unix:proxy.sock");
    let world = plan.proxy("tls = { cert = \"cert.pem\", key = \"key.pem\" }").start().await;
    assert!(ask(&socket(&world), "").await.starts_with("HTTP/1.1 200 "));
    world.finish().await;
}

async fn bind(folder: &Path) -> Result<Sidecar, StartError> {
    let text = "[proxy]\nlisten = [\"unix:proxy.sock\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[[route]]\nauth = \"none\"\n\
                upstream = \"http://127.0.0.1:9\"\n";
    let source = Source { name: "test".to_owned(), text: text.to_owned(), folder: folder.to_owned() };
    let compiled = config::load(&source, &Environment::default()).unwrap_or_else(|report| panic!("{report}"));
    Box::pin(Sidecar::bind(compiled, Clock::system())).await
}

#[tokio::test]
async fn a_file_that_nobody_answers_on_is_replaced_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.sock");
    // A killed process leaves its file behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = bind(folder.path()).await.unwrap();
    let refused = bind(folder.path()).await.unwrap_err();
    assert!(matches!(&refused, StartError::Bind(error) if error.source.kind() == std::io::ErrorKind::AddrInUse));
    assert!(refused.to_string().contains("proxy.sock"), "{refused}");
    drop(first);
    assert!(!path.exists());
    std::fs::write(&path, "somebody's letter").unwrap();
    let refused = bind(folder.path()).await.unwrap_err();
    assert!(matches!(&refused, StartError::Bind(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's letter");
}

#[tokio::test]
async fn a_file_that_somebody_put_in_its_place_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.sock");
    let sidecar = bind(folder.path()).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(sidecar);
    assert!(path.exists());
    drop(theirs);
}
