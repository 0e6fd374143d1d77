//! Too many, too large, gone too soon, a neighbour that hangs, too little to live on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{MIB, Pace, Plan, Site, assert_formula, late, never};
use crate::support::{Client, within};

/// `all` connections where `most` may be: the rest are told so at once, and probes are answered.
async fn too_many(most: usize, all: usize) {
    let site = Plan::new(&format!("max_connections = {most}")).start().await;
    crowd(&site, most, all).await;
}

async fn crowd(site: &Site, most: usize, all: usize) {
    let mut inside = Vec::new();
    for _ in 0..most {
        let mut client = site.client().await;
        assert_eq!(client.get("/").await.status, 200);
        inside.push(client);
    }
    let (mut refused, mut outside) = (Vec::new(), Vec::new());
    for _ in most..all {
        let begun = Instant::now();
        let mut client = site.client().await;
        let answer = client.reader.answer("GET").await;
        refused.push(begun.elapsed());
        assert_eq!((answer.verdict(), answer.header("retry-after")), ((503, "overloaded"), Some("1")));
        // Whoever is turned away and stays costs nothing.
        outside.push(client);
    }
    println!("refused {}: {}; health {:?}", all - most, Pace::of(refused), site.health().await);
    assert!(outside.last_mut().unwrap().reader.is_over().await);
    for client in &mut inside {
        assert_eq!(client.get("/").await.status, 200, "those that are in stay in");
    }
    assert_formula(site.program.usage(), most, 0, 0);
    drop(inside);
    within(async { while site.client().await.get("/").await.status != 200 {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_refused_at_once_and_probes_are_answered() {
    too_many(64, 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_descriptors_there_are_fewer_connections_and_none_fails_for_want_of_one() {
    let site = Plan::new("").line("ulimit -n 300; exec \"$@\"").start().await;
    let log = site.log();
    let lowered = log.lines().find(|line| line.contains("limits lowered")).expect("they do not fit");
    let (_, most) = lowered.split_once("max_connections=").unwrap();
    let most = most.split(' ').next().unwrap().parse().unwrap();
    crowd(&site, most, 400).await;
    assert!(most > 40 && !site.log().contains("accepting a connection"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "five thousand connections; `make strain`"]
async fn t84_five_thousand_connections_where_1024_may_be() {
    too_many(1_024, 5_000).await;
}

/// `number` uploads of `size` at once, where `budget` of them may be held.
async fn uploads(number: usize, size: usize, budget: usize) {
    let limits = format!("buffer_budget = \"{budget}B\"\nbuffer_wait = \"2s\"");
    let plan = Plan::new(&limits).upstream(&format!("max_body = \"{size}B\"")).signed();
    let site = plan.hurt(late(Duration::from_millis(200), 10)).start().await;
    let mut asking = JoinSet::new();
    for _ in 0..number {
        let mut client = site.client().await;
        asking.spawn(async move {
            let begun = Instant::now();
            let head = format!("PUT /hurt HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n");
            // Whoever is refused is not heard to the end.
            client.writer.send(head).await;
            let Client { mut writer, mut reader } = client;
            let (answer, _sent) =
                tokio::join!(reader.answer("PUT"), async { writer.try_send(vec![b'p'; size]).await.is_ok() });
            (answer, begun.elapsed())
        });
    }
    let (mut done, mut shed, mut most, mut held) = (0, Vec::new(), site.program.usage(), 0);
    loop {
        tokio::select! {
            answered = asking.join_next() => match answered {
                None => break,
                Some(answered) => {
                    let (answer, taken) = answered.unwrap();
                    match answer.verdict() {
                        (200, "none") => done += 1,
                        (503, "overloaded") => {
                            assert!(answer.header("retry-after").is_some());
                            shed.push(taken);
                        }
                        other => panic!("{other:?}: {}", answer.text()),
                    }
                }
            },
            () = sleep(Duration::from_millis(20)) => {
                let usage = site.program.usage();
                most = if usage.resident > most.resident { usage } else { most };
                let used = site.program.metrics().await.count("countersign_buffer_used_bytes", &[]);
                held = held.max(used);
            }
        }
    }
    println!(
        "{done} of {number} went through, {} shed after {:?}, {held} bytes held at most",
        shed.len(),
        shed.iter().max()
    );
    assert!(held <= budget as u64 && done >= budget / size && done + shed.len() == number);
    assert_formula(most, number, number, budget);

    let mut client = site.client().await;
    client
        .writer
        .send(format!("PUT /hurt HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", size + MIB / 10))
        .await;
    assert_eq!(client.reader.answer("PUT").await.verdict(), (413, "body-too-large"), "before a byte of it");
    let mut client = site.client().await;
    client.writer.chunked("PUT", "/hurt").await;
    let mut sent = 0;
    let piece = vec![b'c'; 64 * 1024];
    while sent <= size && timeout(Duration::ZERO, client.reader.skip()).await.is_err() {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
        if client.writer.try_send(chunk).await.is_err() {
            break;
        }
        sent += piece.len();
    }
    assert_eq!(
        client.reader.answer("PUT").await.verdict(),
        (413, "body-too-large"),
        "before the end, which never comes"
    );
    assert_eq!(site.hurt.requests(), done, "of what was refused, nothing went out");
    site.until_in_flight(0).await;
    assert_eq!(site.program.metrics().await.count("countersign_buffer_used_bytes", &[]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_for_signing_keep_to_the_budget() {
    uploads(12, MIB, 4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a gigabyte; `make strain`"]
async fn t86_fifty_uploads_of_ten_megabytes() {
    uploads(50, 10 * MIB, 64 * MIB).await;
}

/// One client that leaves at some moment, politely or not.
async fn leave(mut client: Client) {
    let body = fastrand::usize(..40_000);
    let head = format!("PUT /hurt HTTP/1.1\r\nhost: localhost\r\ncontent-length: {body}\r\n\r\n");
    let request = [head.as_bytes(), &vec![b'a'; body]].concat();
    let sent = if fastrand::bool() { request.len() } else { fastrand::usize(..request.len()) };
    if client.writer.try_send(&request[..sent]).await.is_ok() && sent == request.len() && fastrand::bool() {
        // Some of the answer, perhaps.
        let _some = timeout(Duration::from_millis(fastrand::u64(..60)), client.reader.skip()).await;
    }
    if fastrand::bool() {
        client.reset();
    }
}

/// `number` clients that leave, `at_once` at the same time; afterwards it is as it was.
async fn leaving(number: usize, at_once: usize) {
    let site = Plan::new(&format!("max_in_flight = {}", 2 * at_once)).hurt(late(Duration::from_millis(20), 50_000));
    let site = site.start().await;
    let crowd = async |number: usize| {
        let mut leaving = JoinSet::new();
        for _ in 0..number {
            while leaving.len() >= at_once {
                leaving.join_next().await.unwrap().unwrap();
            }
            leaving.spawn(leave(site.client().await));
        }
        while let Some(left) = leaving.join_next().await {
            left.unwrap();
        }
        let begun = Instant::now();
        site.until_in_flight(0).await;
        begun.elapsed()
    };
    // Pools and the allocator are filled by the first.
    crowd(number / 5).await;
    let before = settled(&site).await;
    let taken = crowd(number).await;
    let after = settled(&site).await;
    println!("{number} left; all of them forgotten after {taken:?}; before {before:?}, after {after:?}");
    assert!(taken < Duration::from_secs(5));
    assert!(after.descriptors <= before.descriptors + at_once, "connections to the API are kept for a while");
    assert!(after.resident <= before.resident + 4_096);
    let mut asking = JoinSet::new();
    for _ in 0..at_once {
        let mut client = site.client().await;
        asking.spawn(async move { client.get("/hurt").await.status });
    }
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200, "all places are free again");
    }
}

/// What it uses once clients' connections are closed.
async fn settled(site: &Site) -> crate::support::Usage {
    let (mut usage, mut since) = (site.program.usage(), Instant::now());
    while since.elapsed() < Duration::from_millis(700) {
        sleep(Duration::from_millis(50)).await;
        let now = site.program.usage();
        if now.descriptors < usage.descriptors {
            since = Instant::now();
        }
        usage = now;
    }
    usage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_leave_nothing_behind() {
    leaving(600, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten thousand clients; `make strain`"]
async fn t87_ten_thousand_clients_that_leave() {
    leaving(10_000, 60).await;
}

/// `waiting` requests to an API that hangs, while another is asked.
async fn a_neighbour_hangs(waiting: usize) -> (Pace, Pace) {
    let limits = format!("max_connections = {}\nmax_in_flight = {}", waiting + 64, 2 * waiting);
    let site = Plan::new(&limits).hurt(never()).start().await;
    let watch = async || {
        let good = site.ask_steadily().await;
        sleep(Duration::from_secs(if waiting < 500 { 1 } else { 10 })).await;
        good.end().await
    };
    let before = watch().await;
    let mut crowd = Vec::new();
    for _ in 0..waiting {
        let mut client = site.client().await;
        client.writer.request("GET", "/hurt", &[], b"").await;
        crowd.push(client);
    }
    site.until_in_flight(waiting as u64).await;
    let during = watch().await;
    println!("{waiting} waiting; before: {before}; during: {during}; health {:?}", site.health().await);
    // Its share of all places is taken: whoever comes now is told so at once (docs/rules.md 3.2: within 5 ms).
    let (mut client, mut shed) = (site.client().await, Vec::new());
    for _ in 0..200 {
        let begun = Instant::now();
        let answer = client.get("/hurt").await;
        shed.push(begun.elapsed());
        assert_eq!((answer.verdict(), answer.header("retry-after")), ((503, "overloaded"), Some("2")));
    }
    println!("shed: {}", Pace::of(shed));
    assert!(crowd.iter().all(|client| client.reader.is_silent()), "they wait");
    assert_formula(site.program.usage(), waiting, waiting, 0);
    (before, during)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_hangs_does_not_slow_another() {
    let (_, during) = a_neighbour_hangs(100).await;
    assert!(during.requests > 50, "{during:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; `make strain`"]
async fn t91_a_thousand_waiting_for_an_api_that_hangs() {
    let (before, during) = a_neighbour_hangs(1_000).await;
    let (before, during) = (before.p99.as_secs_f64(), during.p99.as_secs_f64());
    println!("p99 {:+.0} %", (during / before - 1.0) * 100.0);
}

/// Root of the file system read-only, another user, no capabilities, nothing to gain.
const CONFINED: &str = "exec unshare -m sh -c 'mount --make-rprivate / && mount -o remount,ro,bind / && exec setpriv \
    --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \"$@\"' sh \"$@\"";

/// A control group of version 2 as a container's runtime makes it: the limit is not the group's own but the pod's above.
const GROUP_2: &str = "exec unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs none /sys/fs/cgroup && \
    cd /sys/fs/cgroup && mkdir -p pods/pod7/app && echo max > memory.max && echo 134217728 > pods/pod7/memory.max && \
    echo max > pods/pod7/app/memory.max && echo 0::/pods/pod7/app > own && cd - > /dev/null && \
    mount --bind /sys/fs/cgroup/own /proc/$$/cgroup && exec \"$@\"' sh \"$@\"";

/// Whether a process may be started so, by `line`.
fn may(line: &str) -> bool {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", line, "sh", "true"]);
    let may = command.status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("no right to confine a process here: nothing was tested");
    }
    may
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_writable_root_no_user_and_no_capabilities() {
    if !may(CONFINED) {
        return;
    }
    let site = Plan::new("").line(CONFINED).start().await;
    assert_eq!(site.client().await.get("/").await.status, 200);
    let status = fs::read_to_string(format!("/proc/{}/status", site.program.id())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(line("Uid:").starts_with("65532") && line("NoNewPrivs:") == "1");
    assert_eq!((line("CapEff:"), line("CapBnd:")), ("0".repeat(16), "0".repeat(16)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_fit_what_a_group_of_version_2_leaves_to_those_in_it() {
    if !may(GROUP_2) {
        return;
    }
    let site = Plan::new("").line(GROUP_2).start().await;
    let lowered = site.log();
    let lowered = lowered.lines().find(|line| line.contains("limits lowered")).expect("they do not fit").to_owned();
    for told in ["memory=134217728", "max_connections=385", "max_in_flight=192"] {
        assert!(lowered.contains(told), "{lowered}");
    }
    assert_eq!(site.client().await.get("/").await.status, 200);
}

/// A control group of little means, which is gone with this.
struct Poor(Vec<PathBuf>);

impl Poor {
    /// A tenth of a processor and 128 MiB, if there is a right to that here.
    fn make() -> Option<Self> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let name = format!("countersign-{}", std::process::id());
        let is_second = root.join("cgroup.controllers").exists();
        let groups = if is_second {
            vec![root.join(&name)]
        } else {
            vec![root.join("memory").join(&name), root.join("cpu").join(&name)]
        };
        let group = Self(groups);
        let limits: &[(usize, &str, &str)] = if is_second {
            &[(0, "memory.max", "134217728"), (0, "cpu.max", "10000 100000")]
        } else {
            &[(0, "memory.limit_in_bytes", "134217728"), (1, "cpu.cfs_quota_us", "10000")]
        };
        let made = group.0.iter().try_for_each(fs::create_dir).is_ok();
        (made && limits.iter().all(|(at, file, value)| fs::write(group.0[*at].join(file), value).is_ok()))
            .then_some(group)
    }

    /// What a shell does to become one of it.
    fn join(&self) -> String {
        let enter = |group: &PathBuf| format!("echo $$ > {}/cgroup.procs; ", group.display());
        self.0.iter().map(enter).collect::<Vec<_>>().concat()
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        for group in &self.0 {
            // Whoever was in it has been killed, and is gone in a moment.
            for _ in 0..100 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the right to make control groups, and minutes; `make strain`"]
async fn t103_a_tenth_of_a_processor_and_128_megabytes() {
    let Some(group) = Poor::make().filter(|_| may(CONFINED)) else {
        eprintln!("no right to make a control group here: nothing was tested");
        return;
    };
    let plan = Plan::new("header_timeout = \"10s\"").signed().hurt(late(Duration::from_millis(100), 1_000));
    let mut site = plan.line(&(group.join() + CONFINED)).start().await;
    let lowered = site.log();
    let lowered = lowered.lines().find(|line| line.contains("limits lowered")).expect("they do not fit").to_owned();
    println!("{lowered}");
    let mut health = vec![site.health().await];
    // Far more connections than there are places, most of them slow.
    let mut crowd = Vec::new();
    for number in 0..900 {
        let mut client = site.client().await;
        let _turned_away = client.writer.try_send("GET /hurt HTTP/1.1\r\nhost: localhost\r\n").await;
        crowd.push(client);
        if number % 100 == 0 {
            health.push(site.health().await);
        }
    }
    let mut most = site.program.usage();
    drop(crowd);
    let mut asking = JoinSet::new();
    for _ in 0..30 {
        let client = site.client().await;
        asking.spawn(async move {
            let head = format!("PUT /hurt HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 10 * MIB);
            let Client { mut writer, mut reader } = client;
            let sending = async {
                let _until_refused = writer.try_send(head).await;
                for _ in 0..160 {
                    if writer.try_send(vec![b'p'; MIB / 16]).await.is_err() {
                        break;
                    }
                }
            };
            let answered = async { if reader.head("PUT").await.status == 200 { (1, 0) } else { (0, 1) } };
            tokio::select! {
                counted = answered => counted,
                counted = async { sending.await; std::future::pending().await } => counted,
            }
        });
    }
    let (mut done, mut shed) = (0, 0);
    loop {
        tokio::select! {
            answered = asking.join_next() => match answered {
                None => break,
                Some(answered) => {
                    let (one, other) = answered.unwrap();
                    (done, shed) = (done + one, shed + other);
                }
            },
            () = sleep(Duration::from_millis(500)) => {
                let usage = site.program.usage();
                most = if usage.resident > most.resident { usage } else { most };
                health.push(site.health().await);
            }
        }
    }
    let pace = Pace::of(health);
    println!("{done} uploads of 10 MiB went through, {shed} were shed; {most:?} at most; health: {pace}");
    assert!(site.program.is_running(), "it was killed");
    assert!(pace.longest < Duration::from_secs(1), "{pace:?}");
    within(async { while site.client().await.get("/").await.status != 200 {} }).await;
    drop(site);
}
