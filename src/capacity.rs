//! What this process may use, and the limits that fit into it.
//!
//! Reads the cgroup's memory limit (v2 and v1) and the limit on descriptors, and raises the latter as far as it may. Where
//! they cannot be read there are none. Imports nothing of ours.

use std::num::NonZero;
use std::path::{Path, PathBuf};

/// The program itself (docs/rules.md 3.2).
const BASE: u64 = 24 * 1024 * 1024;
/// Of a client's connection.
const CONNECTION: u64 = 48 * 1024;
/// The rest of the memory is for the kernel's buffers and the allocator's gaps.
const SHARE: f64 = 0.8;
/// Connections to the admin's listeners that the program itself has room for: those of two with the default limit.
const USUAL_ADMIN: usize = 64;
/// Listeners, files, the control plane's connections.
const OTHER_DESCRIPTORS: u64 = 64;
/// More threads than this would serve more than a sidecar is asked for, on machines that have CPUs for it.
const MOST_WORKERS: usize = 4;
/// Less would be no proxy.
const FEWEST: usize = 8;
const LEAST_BUFFERS: u64 = 1024 * 1024;

/// What there is; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Bytes.
    pub memory: Option<u64>,
    /// Open files and sockets.
    pub descriptors: Option<u64>,
}

/// What may be there at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients' connections.
    pub connections: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Bytes of bodies held for signing.
    pub buffers: u64,
    /// Bytes of one request in flight: both connections' buffers and what is kept for a second send. Never lowered.
    pub request: u64,
    /// Connections to the admin's listeners. Never lowered: probes are the last to be turned away.
    pub admin: usize,
}

impl Limits {
    /// The most memory that they come to.
    pub fn memory(&self) -> u64 {
        self.base() + self.connections as u64 * CONNECTION + self.in_flight as u64 * self.request + self.buffers
    }

    /// The memory that is needed in any case.
    fn base(&self) -> u64 {
        BASE + self.admin.saturating_sub(USUAL_ADMIN) as u64 * CONNECTION
    }

    /// The most descriptors: a request may have a connection upstream, and leave it idle for the next.
    pub fn descriptors(&self) -> u64 {
        self.other_descriptors() + self.connections as u64 + 2 * self.in_flight as u64
    }

    /// Those that are needed in any case.
    fn other_descriptors(&self) -> u64 {
        OTHER_DESCRIPTORS + self.admin as u64
    }

    /// All of them, in proportion.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "limits are far below 2^52, and the share is between 0 and 1"
    )]
    fn scaled(self, share: f64) -> Self {
        let number = |number: usize| ((number as f64 * share) as usize).max(FEWEST.min(number));
        Self {
            connections: number(self.connections),
            in_flight: number(self.in_flight),
            buffers: ((self.buffers as f64 * share) as u64).max(LEAST_BUFFERS.min(self.buffers)),
            ..self
        }
    }
}

impl Machine {
    /// This process's limits; that on descriptors is raised first, as far as the system lets it.
    pub fn read() -> Self {
        Self { memory: memory(Path::new("/")), descriptors: descriptors() }
    }

    /// `wanted`, or as much of it as there is room for.
    pub fn fit(&self, wanted: Limits) -> Limits {
        let files = share(self.descriptors, 1.0, wanted.other_descriptors(), wanted.descriptors());
        // Descriptors are not what buffers need.
        let fitting = Limits { buffers: wanted.buffers, ..wanted.scaled(files) };
        let bytes = share(self.memory, SHARE, fitting.base(), fitting.memory());
        fitting.scaled(bytes)
    }
}

/// How many threads are to serve connections where nobody says: one for each CPU that this process may use.
pub fn workers() -> NonZero<usize> {
    // It knows affinity and the quota of a cgroup.
    let cpus = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    NonZero::new(cpus.get().min(MOST_WORKERS)).unwrap_or(cpus)
}

/// How much of `wanted` there is room for in a part of `all`, `base` of it in any case.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory are below 2^52")]
fn share(all: Option<u64>, part: f64, base: u64, wanted: u64) -> f64 {
    let Some(all) = all else { return 1.0 };
    let scalable = wanted.saturating_sub(base).max(1) as f64;
    ((all as f64 * part - base as f64) / scalable).clamp(0.0, 1.0)
}

/// The least memory limit of the cgroups that this process is in, with `root` as `/`.
fn memory(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().flat_map(|line| {
        // `0::/path` in version 2, `5:memory:/path` in version 1.
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (mount, file) = if controllers.is_empty() {
            (root.join("sys/fs/cgroup"), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        } else {
            return Vec::new();
        };
        limits_above(&mount, path, file)
    });
    // Version 1 says "none" with a number near 2^63.
    limits.min().filter(|limit| *limit < 1 << 60)
}

/// A group's limit holds for those in it too. Inside a container the path may be the host's: then the mount is the group.
fn limits_above(mount: &Path, path: &str, file: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    let mut group: PathBuf = path.trim_start_matches('/').into();
    loop {
        let text = std::fs::read_to_string(mount.join(&group).join(file));
        limits.extend(text.ok().and_then(|text| text.trim().parse::<u64>().ok()));
        if !group.pop() {
            return limits;
        }
    }
}

#[cfg(unix)]
fn descriptors() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Shells and init systems set it low for programs that use select(2); this one does not.
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_not_ours_to_raise) => limit.current,
    }
}

#[cfg(not(unix))]
fn descriptors() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const DEFAULT: Limits =
        Limits { connections: 1024, in_flight: 512, buffers: 64 * MIB, request: 192 * 1024, admin: USUAL_ADMIN };

    #[test]
    fn the_defaults_come_to_232_mib() {
        assert_eq!(DEFAULT.memory(), 232 * MIB);
    }

    #[test]
    fn limits_are_lowered_until_the_formula_fits() {
        for (mib, connections, in_flight, buffers) in
            [(64, 133, 66, 8), (128, 385, 192, 24), (256, 890, 445, 55), (512, 1024, 512, 64)]
        {
            let fitting = Machine { memory: Some(mib * MIB), descriptors: None }.fit(DEFAULT);
            let Limits { connections: c, in_flight: f, buffers: b, .. } = fitting;
            assert_eq!((c, f, b / MIB), (connections, in_flight, buffers), "{mib}");
            assert!(fitting.memory() * 5 <= mib * MIB * 4, "{mib}: {fitting:?}");
        }
        assert_eq!(Machine::default().fit(DEFAULT), DEFAULT);
        let least = Machine { memory: Some(16 * MIB), descriptors: Some(16) }.fit(DEFAULT);
        assert_eq!(least, Limits { connections: FEWEST, in_flight: FEWEST, buffers: MIB, ..DEFAULT });
        let small = Limits { connections: 4, in_flight: 2, buffers: 1024, ..DEFAULT };
        assert_eq!(Machine { memory: Some(16 * MIB), descriptors: Some(16) }.fit(small), small);
    }

    #[test]
    fn few_descriptors_leave_the_buffers_alone() {
        let fitting = Machine { memory: None, descriptors: Some(1024) }.fit(DEFAULT);
        assert_eq!(fitting, Limits { connections: 448, in_flight: 224, ..DEFAULT });
        assert!(fitting.descriptors() <= 1024);
        assert_eq!(Machine { memory: None, descriptors: Some(4096) }.fit(DEFAULT), DEFAULT);
    }

    #[test]
    fn what_a_request_and_the_admin_take_leaves_less_for_the_rest() {
        let machine = Machine { memory: Some(256 * MIB), descriptors: Some(1024) };
        let usual = machine.fit(DEFAULT);
        for wanted in [Limits { request: 1024 * 1024, ..DEFAULT }, Limits { admin: 512, ..DEFAULT }] {
            let fitting = machine.fit(wanted);
            assert!(fitting.in_flight < usual.in_flight, "{fitting:?}");
            assert!(fitting.memory() * 5 <= 256 * MIB * 4 && fitting.descriptors() <= 1024, "{fitting:?}");
            assert_eq!((fitting.request, fitting.admin), (wanted.request, wanted.admin));
        }
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let root = tempfile::TempDir::new().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(memory(root.path()), None);
        write("proc/self/cgroup", "0::/kubepods/pod1/app\n");
        assert_eq!(memory(root.path()), None);
        write("sys/fs/cgroup/kubepods/pod1/app/memory.max", "max\n");
        assert_eq!(memory(root.path()), None);
        write("sys/fs/cgroup/kubepods/pod1/memory.max", "134217728\n");
        assert_eq!(memory(root.path()), Some(128 * MIB));
        write("sys/fs/cgroup/kubepods/pod1/app/memory.max", "268435456\n");
        assert_eq!(memory(root.path()), Some(128 * MIB), "the pod's is less than the container's own");
        write("sys/fs/cgroup/memory.max", "67108864\n");
        assert_eq!(memory(root.path()), Some(64 * MIB));
        for path in ["/", "/../../pod7/app", "/system.slice/docker-5.scope"] {
            write("proc/self/cgroup", &format!("0::{path}\n"));
            assert_eq!(memory(root.path()), Some(64 * MIB), "in a container the mount is the group: {path}");
        }
        write("proc/self/cgroup", "12:cpu,cpuacct:/docker/1\n5:memory:/docker/1\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(root.path()), None);
        write("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "33554432\n");
        assert_eq!(memory(root.path()), Some(32 * MIB));
        write("proc/self/cgroup", "5:memory:/docker/1\n0::/kubepods/pod1/app\n");
        assert_eq!(memory(root.path()), Some(32 * MIB), "both versions side by side");
    }

    #[cfg(unix)]
    #[test]
    fn descriptors_are_limited_here_too() {
        assert!(Machine::read().descriptors.is_none_or(|number| number >= 256));
    }
}
