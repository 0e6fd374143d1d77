//! Whatever goes wrong, every request is answered, and what went wrong says so.

mod credentials;
mod floods;
mod process;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use countersign::clock::Clock;
use countersign::proxy::pool::Names;
use standin::{
    AccessKeys, Alpn, Authority, Authorizer, ContainerCredentials, Fault, FaultProxy, Gateway, Role, Sts,
    TokenEndpoint, TokenForm,
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{API, Countersign, Done, Ledger, REGION, Setup, app_client, iam, seen, token, user, within};

const SECRET: &str = "ledger-client-secret-1c9a";
const KEY: &str = "ledger-secret-key-e07b";
const ROLE: &str = "arn:aws:iam::210987654321:role/ledger";
const TASK: &str = "arn:aws:iam::123456789012:role/task";
/// Of the credentials of a role or a task.
const LIFE: Duration = Duration::from_secs(5);
/// What is made good after a fault is made good within this.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long each fault lasts.
const FAULT: Duration = Duration::from_millis(600);

/// What the API wants of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// A token of a client.
    Token,
    /// The signature of a user.
    User,
    /// The signature of a role, which lives for a moment.
    Role,
    /// The signature of a container's task, the same.
    Task,
}

/// A sidecar before an API behind a network that fails, and another API that is well.
struct Bench {
    authority: Authority,
    countersign: Countersign,
    network: FaultProxy,
    gateway: Gateway,
    /// Shows a certificate of somebody else's.
    impostor: Gateway,
    /// Shows another good certificate.
    renewed: Gateway,
    /// Behind a route of its own, and open.
    _well: Gateway,
    tokens: TokenEndpoint,
    sts: Sts,
    task: ContainerCredentials,
    keys: AccessKeys,
    /// How far the wall clock is off, in seconds.
    off: Arc<AtomicI64>,
    done: Done,
    well_done: Done,
}

impl Bench {
    async fn start(alpn: Alpn) -> Self {
        Self::wanting(Wants::Token, alpn).await
    }

    async fn wanting(wants: Wants, alpn: Alpn) -> Self {
        let (authority, keys) = (Authority::new(), AccessKeys::new());
        keys.add(user("AKIDLEDGER", KEY));
        let tokens = TokenEndpoint::start(vec![app_client("orders", SECRET)]).await;
        let role =
            Role { arn: ROLE.to_owned(), external_id: None, trusted: vec!["AKIDLEDGER".to_owned()], lifetime: LIFE };
        let sts = Sts::start(keys.clone(), REGION, vec![role]).await;
        let task = ContainerCredentials::start(keys.clone(), TASK, LIFE).await;
        let (done, well_done) = (Done::default(), Done::default());
        let api = async |authority: &Authority, authorizer: Authorizer, done: &Done| {
            let gateway = Gateway::builder().tls(authority, &[API]).alpn(alpn).method("/prod", authorizer);
            gateway.respond("/prod/n", done.responder()).start().await
        };
        let authorizer = || match wants {
            Wants::Token => token(&tokens, "authorization", TokenForm::Bearer),
            Wants::User | Wants::Role | Wants::Task => iam(&keys),
        };
        let (gateway, renewed) =
            (api(&authority, authorizer(), &done).await, api(&authority, authorizer(), &done).await);
        let impostor = api(&Authority::new(), authorizer(), &done).await;
        let well = api(&authority, Authorizer::Open, &well_done).await;
        let network = FaultProxy::start(gateway.address()).await;
        let port = network.address().port();
        let user = "static = { access_key_id = { value = \"AKIDLEDGER\" }, secret_access_key = { env = \"KEY\" } }";
        let auth = match wants {
            Wants::Token => format!(
                "kind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
                 client_secret = {{ file = \"secret\" }}",
                tokens.url()
            ),
            Wants::User => format!("kind = \"sigv4\"\ncredentials = {{ {user} }}"),
            Wants::Role => format!(
                "kind = \"sigv4\"\ncredentials = {{ {user} }}\nassume_role = {{ arn = \"{ROLE}\", endpoint = \"{}\" }}",
                sts.url()
            ),
            Wants::Task => "kind = \"sigv4\"\ncredentials = \"container\"".to_owned(),
        };
        let off = Arc::<AtomicI64>::default();
        let clock = {
            let (off, system) = (Arc::clone(&off), Clock::system());
            Clock::from_fn(move || {
                let (now, off) = (system.now().wall, off.load(Ordering::Relaxed));
                let by = Duration::from_secs(off.unsigned_abs());
                if off < 0 { now - by } else { now + by }
            })
        };
        let setup = Setup::new(&authority)
            .clock(clock)
            .upstream("connect_timeout = \"400ms\"\ntls_timeout = \"400ms\"\nresponse_timeout = \"400ms\"")
            .upstream("body_idle_timeout = \"400ms\"\nping_interval = \"300ms\"\nping_timeout = \"300ms\"")
            .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &task.url())
            .secret_file("secret", SECRET)
            .secret("KEY", KEY)
            .add(&format!(
                "[auth.ledger]\n{auth}\n[[route]]\nname = \"api\"\nupstream = \"https://{API}/prod\"\n\
                 connect_to = \"127.0.0.1:{port}\"\nauth = \"ledger\"\n[[route]]\nname = \"well\"\npath = \"/well\"\n\
                 strip_path = true\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\nauth = \"none\"\n\
                 connect_timeout = \"9s\"\ntls_timeout = \"9s\"\nresponse_timeout = \"9s\"\nbody_idle_timeout = \"9s\"\n",
                well.port(),
            ));
        let countersign = setup.start().await;
        countersign.until_ready().await;
        Self {
            authority,
            countersign,
            network,
            gateway,
            impostor,
            renewed,
            _well: well,
            tokens,
            sts,
            task,
            keys,
            off,
            done,
            well_done,
        }
    }

    /// Sets the wall clock off by so many seconds.
    fn set_clock(&self, seconds: i64) {
        self.off.store(seconds, Ordering::Relaxed);
    }

    /// Requests before, in and after the fault; afterwards all is well within 5 s, and the books are even.
    async fn survive(self, begin: impl AsyncFnOnce(&mut Self), end: impl AsyncFnOnce(&mut Self)) -> Ledger {
        self.survive_for(FAULT, RECOVERY, begin, end).await
    }

    /// The same with a fault that lasts `fault` and is forgotten after `recovery`.
    async fn survive_for(
        mut self,
        fault: Duration,
        recovery: Duration,
        begin: impl AsyncFnOnce(&mut Self),
        end: impl AsyncFnOnce(&mut Self),
    ) -> Ledger {
        let (ledger, well) = (Arc::new(Ledger::default()), Arc::new(Ledger::default()));
        let asking = ledger.open(self.countersign.proxy, "/n", 12, 240);
        let asking_well = well.open(self.countersign.proxy, "/well/n", 2, 60);
        within(async {
            while ledger.delivered() < 30 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        begin(&mut self).await;
        sleep(fault).await;
        end(&mut self).await;
        let (over, delivered) = (Instant::now(), ledger.delivered());
        let is_well = async {
            while ledger.delivered() < delivered + 60 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(2 * recovery, is_well).await.expect("all should be well long since");
        let recovered = over.elapsed();
        ledger.close(asking).await;
        well.close(asking_well).await;
        println!("{}, recovered in {recovered:?}", ledger.summary());
        assert!(recovered < recovery, "{recovered:?}");
        ledger.balance(&self.done);
        well.balance(&self.well_done);
        assert_eq!(self.impostor.requests(), 0, "nothing was sent to who is not trusted");
        assert!(well.marked().is_empty() && well.cut() == 0, "the other route is untouched: {well:?}");
        let total = ledger.sent() + well.sent();
        let metrics = self.countersign.until(|metrics| metrics.count("countersign_requests_total", &[]) >= total).await;
        assert_eq!(metrics.count("countersign_requests_total", &[]), total, "countersign has counted the same");
        self.countersign.hide(self.tokens.issued());
        self.countersign.hide(seen(&self.gateway, &self.keys));
        self.countersign.finish().await;
        Arc::into_inner(ledger).expect("the clients have ended")
    }

    async fn network(self, fault: Fault) {
        drop(self.survive(async |bench| bench.network.set(fault), async |bench| bench.network.set(Fault::None)).await);
    }
}

/// A test of its own for each fault and protocol.
macro_rules! faults {
    ($($name:ident: $alpn:ident, $fault:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            Bench::start(Alpn::$alpn).await.network($fault).await;
        }
    )*};
}

faults! {
    an_upstream_that_refuses: Http1, Fault::Refuse;
    an_upstream_that_refuses_over_http_2: Http2, Fault::Refuse;
    a_black_hole: Http1, Fault::BlackHole;
    a_black_hole_over_http_2: Http2, Fault::BlackHole;
    a_slow_network: Http1, Fault::Delay(Duration::from_millis(150));
    a_slow_network_over_http_2: Http2, Fault::Delay(Duration::from_millis(150));
    answers_that_drip: Http1, Fault::Drip(Duration::from_millis(5));
    answers_that_drip_over_http_2: Http2, Fault::Drip(Duration::from_millis(5));
    resets_at_the_first_byte: Http1, Fault::Reset(0);
    resets_at_the_first_byte_over_http_2: Http2, Fault::Reset(0);
    resets_in_a_handshake_or_a_head: Http1, Fault::Reset(100);
    resets_in_a_body: Http1, Fault::Reset(4_000);
    resets_in_a_body_over_http_2: Http2, Fault::Reset(4_000);
    ends_in_a_head: Http1, Fault::Truncate(100);
    ends_in_a_body: Http1, Fault::Truncate(4_000);
    ends_in_a_body_over_http_2: Http2, Fault::Truncate(4_000);
}

async fn connections_that_end_politely(alpn: Alpn) {
    let leave = async |bench: &mut Bench| {
        for _ in 0..10 {
            bench.gateway.go_away();
            sleep(Duration::from_millis(30)).await;
        }
    };
    drop(Bench::start(alpn).await.survive(leave, async |_| {}).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaways() {
    connections_that_end_politely(Alpn::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_connections() {
    connections_that_end_politely(Alpn::Http1).await;
}

/// New connections lead elsewhere, and old ones end.
fn moved(bench: &Bench, to: &Gateway) {
    bench.network.lead_to(to.address());
    bench.gateway.go_away();
    bench.renewed.go_away();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate() {
    let bench = Bench::start(Alpn::Both).await;
    drop(bench.survive(async |bench| moved(bench, &bench.renewed), async |bench| moved(bench, &bench.gateway)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_somebody_else() {
    let bench = Bench::start(Alpn::Both).await;
    drop(bench.survive(async |bench| moved(bench, &bench.impostor), async |bench| moved(bench, &bench.gateway)).await);
}

/// Addresses of a name change: new connections go to the new ones.
#[tokio::test]
async fn a_name_that_moves_takes_all_requests_with_it() {
    let authority = Authority::new();
    let (old, new) = (Gateway::builder().tls(&authority, &[API]), Gateway::builder().tls(&authority, &[API]));
    let old = old.method("/prod", Authorizer::Open).start().await;
    let new = new.method("/prod", Authorizer::Open).start().await;
    let here = FaultProxy::start(old.address()).await;
    let port = here.address().port();
    let there = FaultProxy::start_at((Ipv4Addr::new(127, 0, 0, 2), port).into(), new.address()).await;
    let (moved, dead) = (Arc::new(AtomicBool::new(false)), Ipv4Addr::new(127, 0, 0, 3));
    let at = Arc::clone(&moved);
    let names = Names::from_fn(move |name| {
        assert_eq!(name, API);
        // An address that refuses stands in front.
        let address = if at.load(Ordering::Relaxed) { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST };
        vec![dead.into(), address.into()]
    });
    let route = format!("[[route]]\nauth = \"none\"\nupstream = \"https://{API}:{port}/prod\"\n");
    let setup = Setup::new(&authority).upstream("max_connection_age = \"200ms\"").add(&route).names(names);
    let countersign = setup.start().await;
    let mut client = countersign.connect().await;
    for both_live in [true, false] {
        let (to, from) = if both_live { (&new, &old) } else { (&old, &new) };
        assert_eq!(client.get("/").await.status, 200);
        moved.store(both_live, Ordering::Relaxed);
        if !both_live {
            there.set(Fault::Reset(0));
        }
        let since = Instant::now();
        // Within the age and a fifth of it, all requests are at the new address; none has failed on the way.
        while since.elapsed() < Duration::from_millis(260) {
            assert_eq!(client.get("/").await.status, 200);
        }
        let (at_old, at_new) = (from.requests(), to.requests());
        for _ in 0..20 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!((from.requests(), to.requests()), (at_old, at_new + 20));
    }
    countersign.finish().await;
}
