//! A process of the binary, with nothing of this one's environment.

use std::future::Future;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use standin::{Authority, Gateway};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(crate) const API: &str = "abc123.execute-api.ap-northeast-1.amazonaws.com";

/// Nothing here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("this should have happened long ago")
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn command(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, in `folder`.
pub(crate) fn call(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    ended(command(folder, arguments, variables).spawn().unwrap())
}

/// The same, with `input` on its standard input.
pub(crate) fn call_with_input(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut child = command(folder, arguments, variables).stdin(Stdio::piped()).spawn().unwrap();
    // Dropped here, so that it ends.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ended(child)
}

fn ended(child: Child) -> Output {
    let id = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()).ok());
    let Ok(output) = told.recv_timeout(DEADLINE) else {
        signal("KILL", id);
        panic!("this should have ended long ago");
    };
    let output = output.unwrap();
    Output {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with a config in it.
pub(crate) fn folder(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("countersign.toml"), config).unwrap();
    folder
}

/// A running process.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    said: Vec<String>,
    deaf: Arc<AtomicBool>,
}

impl Running {
    /// Starts it in `folder`; its standard error is read line by line.
    pub(crate) fn start(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::follow(command(folder, arguments, variables).spawn().unwrap())
    }

    fn follow(mut child: Child) -> Self {
        let stderr = child.stderr.take().unwrap();
        let (say, lines) = mpsc::unbounded_channel();
        let deaf = Arc::<AtomicBool>::default();
        let is_deaf = Arc::clone(&deaf);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                drop(say.send(line.unwrap()));
                while is_deaf.load(Ordering::Relaxed) {
                    // The pipe stays open, and nobody reads.
                    std::thread::park();
                }
            }
        });
        Self { child, lines, said: Vec::new(), deaf }
    }

    /// Waits for a line that has all of `words`.
    pub(crate) async fn line(&mut self, words: &[&str]) -> String {
        let fits = |line: &String| words.iter().all(|word| line.contains(word));
        if let Some(line) = self.said.iter().find(|line| fits(line)) {
            return line.clone();
        }
        loop {
            let line = within(self.lines.recv()).await;
            let line = line.unwrap_or_else(|| panic!("it ended without a line with {words:?}: {:#?}", self.said));
            self.said.push(line.clone());
            if fits(&line) {
                return line;
            }
        }
    }

    /// Where it listens, by its JSON log.
    pub(crate) async fn address(&mut self, listener: &str) -> SocketAddr {
        let line = self.line(&["\"listening\"", &format!("\"listener\":\"{listener}\"")]).await;
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    /// Starts it through a shell, which runs `line` with the program and its arguments behind it, and with `stdin`.
    pub(crate) fn start_by(
        folder: &Path,
        line: &str,
        arguments: &[&str],
        stdin: Stdio,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_countersign")]).args(arguments);
        command.current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::follow(command.spawn().unwrap())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads no more of its standard error, which stays open.
    pub(crate) fn stop_reading(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Waits for its end; returns its exit code.
    pub(crate) async fn code(mut self) -> i32 {
        let waited = tokio::task::spawn_blocking(move || self.child.wait().unwrap().code().unwrap());
        within(waited).await.unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for its end; returns its exit code and all it said.
    pub(crate) async fn ended(mut self) -> (i32, String) {
        // The end of its standard error is the end of the process.
        while let Some(line) = within(self.lines.recv()).await {
            self.said.push(line);
        }
        (self.child.wait().unwrap().code().unwrap(), self.said.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a process a signal.
pub(crate) fn signal(name: &str, id: u32) {
    let kill = format!("kill -{name} {id}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Status and text of one GET.
pub(crate) async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    request("GET", address, target).await.unwrap()
}

/// Status and text of one request without a body.
pub(crate) async fn request(method: &str, address: SocketAddr, target: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: cli-1\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await?;
    let status = answer.get(9..12).unwrap().parse().unwrap();
    Ok((status, answer))
}

/// The head of a config: free ports, JSON lines, the stand-in's authority.
pub(crate) const HEAD: &str = "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                               [log]\nformat = \"json\"\n[upstream]\nca_file = \"ca.pem\"\n";

/// A route named `api` to `gateway`.
pub(crate) fn route(gateway: &Gateway, auth: &str) -> String {
    format!(
        "[[route]]\nname = \"api\"\nauth = \"{auth}\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n",
        gateway.port()
    )
}

/// A folder with a config and the authority that it trusts.
pub(crate) fn trusting(authority: &Authority, config: &str) -> TempDir {
    let folder = folder(config);
    authority.write_pem(folder.path());
    folder
}
