//! The real program in a process of its own, so that its memory and descriptors can be looked at from outside.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::sleep;

use super::{Client, Metrics, OwnWords, within};

/// A process, ended when this is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// KiB.
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
}

impl Program {
    /// Starts it with `countersign.toml` of `folder`, and waits until it listens. Its log goes to a file there.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_by(folder, "exec \"$@\"").await
    }

    /// The same through a shell, which runs `line` with the program and its arguments behind it.
    pub(crate) async fn start_by(folder: &Path, line: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_countersign"), "run"]).current_dir(folder).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
        let log = File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let (proxy, admin) = (address(folder, "proxy").await, address(folder, "admin").await);
        Self { child, proxy, admin }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn usage(&self) -> Usage {
        let process = Path::new("/proc").join(self.id().to_string());
        let status = fs::read_to_string(process.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        Usage { resident, descriptors: fs::read_dir(process.join("fd")).unwrap().count() }
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let page = Client::connect(self.admin, OwnWords::default()).await.get("/metrics").await;
        Metrics::parse(&page.text())
    }

    /// Waits until what is counted satisfies `condition`.
    pub(crate) async fn until(&self, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        within(async {
            loop {
                let metrics = self.metrics().await;
                if condition(&metrics) {
                    return metrics;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until the log in `folder` tells where it listens.
async fn address(folder: &Path, listener: &str) -> SocketAddr {
    within(async {
        loop {
            let log = fs::read_to_string(folder.join("log")).unwrap();
            let line = log.lines().find(|line| line.contains(&format!("listener=\"{listener}\"")));
            if let Some((_, rest)) = line.and_then(|line| line.split_once("address=")) {
                return rest.split_whitespace().next().unwrap().parse().unwrap();
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
