//! Two whole sites in one process: a coordinator and an agent at `a`, a proxy with a virtual
//! tape library at `b`, over real sockets on loopback with real certificates. Nodes are started
//! and stopped one by one; their directories are where a test says.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use strongroom_certs::{
    Authority, Cost, Credential, CurrentCredential, Expect, KeyPair, RecoveryKey, Revocations,
    Root, Secret, WrapContext, Wrapped, client_config, files,
};
use strongroom_coordinator::Coordinator;
use strongroom_node::ask::ask;
use strongroom_node::enrol::{enrol, introduce};
use strongroom_node::home::{DrillSettings, Floor, Home, MediaSettings, Settings};
use strongroom_node::log::LogStyle;
use strongroom_node::scrubber::ScrubSettings;
use strongroom_protocol::admin::{JobRow, PointRow, Request, Response};
use strongroom_protocol::link::{Endpoint, Link};
use strongroom_protocol::{ALPN_NODE, Clock, Identity, RepoId, Role, SystemClock, WorkloadName};
use strongroom_proxy::Proxy;
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Repo, RepoSetup};
use strongroom_store::tape::{Shape, VirtualLibrary};
use tokio_util::sync::CancellationToken;

/// What is waited for comes within this, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The passphrase of every test organisation.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// A node running as tasks of this process.
pub struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) fn start<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: tokio::task::spawn(run(stop.clone())), stop }
    }

    /// Stops it in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.context("the node panicked")?
    }

    /// Whether it ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

/// Two sites of a test organisation.
pub struct TwoSites {
    pub dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub recovery: RecoveryKey,
    pub repo: RepoId,
    pub coordinator_at: SocketAddr,
    pub proxy_at: SocketAddr,
}

/// A name of any kind, for tests.
///
/// # Panics
/// When it is none.
pub fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|error| panic!("{text:?} is no name: {error:?}"))
}

/// A free port below those the system gives to sockets that dial: a node that is started again
/// must find its own free.
fn free() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(7919).wrapping_add(number * 13);
        let port = u16::try_from(20_000 + spread % 10_000)?;
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(socket.local_addr()?);
        }
    }
    bail!("no free UDP port")
}

/// The socket of a node that has stopped goes a moment after it, later on a busy machine.
fn await_free(at: SocketAddr) {
    let pause = Duration::from_millis(20);
    (0..500).take_while(|_| UdpSocket::bind(at).is_err()).for_each(|_| std::thread::sleep(pause));
}

impl TwoSites {
    /// Makes the organisation's directories below `dir`; nothing runs yet.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        Self::make_with(dir, Arc::new(SystemClock), 24 * 3600)
    }

    /// The same with a clock and a life of certificates of the test's choice.
    pub fn make_with(
        dir: &Path,
        clock: Arc<dyn Clock>,
        certificate_seconds: u32,
    ) -> anyhow::Result<Self> {
        let now = clock.now();
        let recovery = RecoveryKey::generate()?;
        let org = name("acme");
        let passphrase = Secret::from(PASSPHRASE);
        let root = Root::create(&org, &passphrase, &recovery, Cost::TESTING, now)?;
        let repo = RepoId::fresh(now.unix_ms());
        let key = VaultKey::fresh()?;
        let owner = repo.to_string();
        let context = WrapContext { purpose: "vault key", owner: &owner };
        let secret = Secret::new(key.to_secret().to_vec());
        let wrap = Wrapped::by_recovery(&secret, &recovery, context)?;
        let setup = RepoSetup {
            repo,
            org: org.clone(),
            cut: CutParams::FILES,
            created: now,
            wraps: vec![postcard::to_stdvec(&wrap)?],
        };
        let sites = Self {
            dir: dir.to_owned(),
            clock,
            recovery,
            repo,
            coordinator_at: free()?,
            proxy_at: free()?,
        };
        let base = |site: &str, role, listen: SocketAddr| Settings {
            org: org.clone(),
            site: name(site),
            role,
            name: name(role.as_str()),
            listen: Some(listen),
            advertise: None,
            coordinator: None,
            coordinator_site: None,
            dr_site: Some(name("b")),
            certificate_seconds,
            library: None,
            floor: Floor::default(),
            media: MediaSettings::default(),
            drills: DrillSettings::default(),
            log: LogStyle::Text,
            scrub: ScrubSettings::default(),
        };
        let coordinator = base("a", Role::Coordinator, sites.coordinator_at);
        sites.make_node("coordinator", coordinator, &root, &key, &setup)?;
        let mut proxy = base("b", Role::Proxy, sites.proxy_at);
        proxy.coordinator = Some(sites.coordinator_at.to_string());
        proxy.coordinator_site = Some(name("a"));
        proxy.library = Some("library".into());
        sites.make_node("proxy", proxy, &root, &key, &setup)?;
        let barcodes: Vec<_> = (1..=8).map(|n| name(&format!("T{n:05}L9"))).collect();
        VirtualLibrary::create(
            &sites.home("proxy").join("library"),
            Shape::with_capacity(256 << 20),
            &barcodes,
        )?;
        Ok(sites)
    }

    fn make_node(
        &self,
        node: &str,
        settings: Settings,
        root: &Root,
        key: &VaultKey,
        setup: &RepoSetup,
    ) -> anyhow::Result<()> {
        let authority = root.issue_site(&settings.site, self.clock.now())?;
        let home = Home::create(&self.home(node), settings)?;
        authority.save(&home.authority())?;
        files::write_private(&home.vault_key(), &key.to_secret())?;
        Repo::create(&LocalDisk::new(home.repo()), setup, key)?;
        Ok(())
    }

    /// The directory of a node.
    pub fn home(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Writes how a node scrubs into its settings; it reads them when it starts.
    pub fn set_scrub(&self, node: &str, scrub: ScrubSettings) -> anyhow::Result<()> {
        let settings = Home::open(&self.home(node))?.settings().clone();
        Ok(Home::create(&self.home(node), Settings { scrub, ..settings }).map(drop)?)
    }

    /// Starts the coordinator.
    pub fn start_coordinator(&self) -> anyhow::Result<Running> {
        await_free(self.coordinator_at);
        let home = Home::open_as(&self.home("coordinator"), Role::Coordinator)?;
        let coordinator = Coordinator::open(home, Arc::clone(&self.clock))?;
        let run = |stop| async move { Ok(coordinator.run(stop).await?) };
        Ok(Running::start(run))
    }

    /// Starts the proxy.
    pub fn start_proxy(&self) -> anyhow::Result<Running> {
        await_free(self.proxy_at);
        let home = Home::open_as(&self.home("proxy"), Role::Proxy)?;
        let proxy = Proxy::open(home, Arc::clone(&self.clock))?;
        Ok(Running::start(|stop| async move {
            proxy.run(stop).await;
            Ok(())
        }))
    }

    /// Starts an agent that was enrolled.
    pub fn start_agent(&self, agent: &str) -> anyhow::Result<Running> {
        let home = Home::open_as(&self.home(agent), Role::Agent)?;
        let clock = Arc::clone(&self.clock);
        let run = |stop| async move { Ok(strongroom_agent::run(home, clock, stop).await?) };
        Ok(Running::start(run))
    }

    /// A token for a node, asked of the coordinator as an operator does.
    pub async fn token(&self, role: Role, node: &str) -> anyhow::Result<strongroom_certs::Token> {
        let request = Request::TokenCreate { role, name: name(node), seconds_valid: 600 };
        match self.ask("coordinator", &request).await? {
            Response::Token { text, .. } => Ok(text.parse()?),
            other => bail!("no token: {other:?}"),
        }
    }

    /// Enrols an agent with a token of the coordinator.
    pub async fn enrol_agent(&self, agent: &str) -> anyhow::Result<()> {
        let token = self.token(Role::Agent, agent).await?;
        let identity = token.identity(&name(agent));
        let settings = Settings {
            org: identity.org.clone(),
            site: identity.site.clone(),
            role: Role::Agent,
            name: name(agent),
            listen: None,
            advertise: None,
            coordinator: Some(self.coordinator_at.to_string()),
            coordinator_site: None,
            dr_site: None,
            certificate_seconds: 3600,
            library: None,
            floor: Floor::default(),
            media: MediaSettings::default(),
            drills: DrillSettings::default(),
            log: LogStyle::Text,
            scrub: ScrubSettings::default(),
        };
        Home::create(&self.home(agent), settings)?;
        Ok(enrol(&self.home(agent), &token, &identity, Arc::clone(&self.clock)).await?)
    }

    /// Introduces the proxy with a token of the coordinator.
    pub async fn introduce_proxy(&self) -> anyhow::Result<()> {
        let token = self.token(Role::Proxy, "proxy").await?;
        let identity = token.identity(&name("proxy"));
        Ok(introduce(&token, &identity, Arc::clone(&self.clock)).await?)
    }

    /// A link to a node, as an operator of its site.
    pub async fn operator(&self, node: &str) -> anyhow::Result<Link> {
        let authority = Authority::open(&self.home(node).join("authority"))?;
        let identity = Identity {
            org: authority.org().clone(),
            site: authority.site().clone(),
            role: Role::Operator,
            name: name("admin"),
        };
        self.link_as(&authority, &identity, node).await
    }

    /// A link to a node with a certificate that `authority` issues to `identity`.
    pub async fn link_as(
        &self,
        authority: &Authority,
        identity: &Identity,
        node: &str,
    ) -> anyhow::Result<Link> {
        let key = KeyPair::generate()?;
        let chain = authority.issue(identity, &key.public(), self.clock.now(), 3600)?;
        let credential = Credential::of(chain, key, authority.root().clone())?;
        let current = CurrentCredential::new(&credential)?;
        let revoked = Arc::new(Revocations::in_memory());
        let clock = Arc::clone(&self.clock);
        let tls = client_config(
            &current,
            authority.root(),
            &[ALPN_NODE],
            Expect::ANYBODY,
            revoked,
            clock,
        )?;
        let at = if node == "proxy" { self.proxy_at } else { self.coordinator_at };
        let endpoint = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), None)?;
        Ok(endpoint.dial(at, Arc::new(tls)).await?)
    }

    /// Asks a node a question as an operator of its site.
    pub async fn ask(&self, node: &str, request: &Request) -> anyhow::Result<Response> {
        let link = self.operator(node).await?;
        let answer = ask(&link, request).await?;
        link.close("done");
        Ok(answer)
    }

    /// Applies a policy text.
    pub async fn apply(&self, toml: &str) -> anyhow::Result<()> {
        let (file, toml) = ("policy.toml".to_owned(), toml.to_owned());
        self.ask("coordinator", &Request::PolicyApply { file, toml }).await.map(drop)
    }

    /// Makes a point and waits for the job's end.
    pub async fn protect(&self, workload: &str) -> anyhow::Result<JobRow> {
        let workload: WorkloadName = name(workload);
        let Response::Job(job) = self.ask("coordinator", &Request::Protect { workload }).await?
        else {
            bail!("no job");
        };
        self.wait_for("the protect job", async |sites| {
            let request = Request::Job { job: job.id };
            match sites.ask("coordinator", &request).await {
                Ok(Response::Journal { job, .. }) => Ok(job.ended.is_some().then_some(job)),
                _ => Ok(None),
            }
        })
        .await
    }

    /// The points a node knows.
    pub async fn points(&self, node: &str) -> anyhow::Result<Vec<PointRow>> {
        match self.ask(node, &Request::Points { workload: None }).await? {
            Response::Points(points) => Ok(points),
            other => bail!("no points: {other:?}"),
        }
    }

    /// Waits until a copy of the newest point is there with a proof.
    pub async fn await_copy(&self, copy: &str, proof: &str) -> anyhow::Result<PointRow> {
        self.wait_for(&format!("copy {copy}, {proof}"), async |sites| {
            let points = sites.points("coordinator").await?;
            let there = points.into_iter().next().filter(|point| {
                let row = point.copies.iter().find(|row| row.copy.as_str() == copy);
                row.is_some_and(|row| row.state == "present" && row.proof == proof)
            });
            Ok(there)
        })
        .await
    }

    /// Waits for something.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        look: impl AsyncFn(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self).await? {
                return Ok(found);
            }
            if Instant::now() > until {
                bail!("{what} did not come");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until so many nodes are connected to the coordinator.
    pub async fn await_nodes(&self, count: usize) -> anyhow::Result<()> {
        self.wait_for("the nodes", async |sites| {
            let Response::Nodes(nodes) = sites.ask("coordinator", &Request::Nodes).await? else {
                bail!("no nodes");
            };
            let connected = nodes.iter().filter(|node| node.connected).count();
            Ok((connected >= count).then_some(()))
        })
        .await
    }
}

/// A policy for one tree at agent `host1`, copied to the proxy and to media.
pub fn policy(source: &Path) -> String {
    include_str!("site/policy.toml").replace("SOURCE", &source.display().to_string())
}
