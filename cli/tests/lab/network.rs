//! A server that is only reached by TLS and a password, as one on another host is; and policies
//! that protect it without a hand on its files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use strongroom_agent::workload::postgres::programs::OwnCluster;

use super::cluster::{Scene, signal};

const PASSWORD: &str = "a password with a space, and a ' in it";

/// All that a role needs whose clusters are streamed.
const LEAST: &str = "REVOKE ALL ON FUNCTION pg_backup_start(text, boolean) FROM strongroom; \
                     REVOKE ALL ON FUNCTION pg_backup_stop(boolean) FROM strongroom";

/// An authority and a certificate for a server, as PEM.
struct Vouched {
    authority: String,
    certificate: String,
    key: String,
}

fn vouched(name: &str) -> Vouched {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = server.signed_by(&own, &issuer).unwrap();
    Vouched { authority: signed.pem(), certificate: certificate.pem(), key: own.serialize_pem() }
}

/// A file that the server alone may read.
fn give(cluster: &OwnCluster, path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((user, group)) = cluster.programs.owner {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

impl Scene {
    /// Puts the server on the network, by TLS and a password, for a role with the fewest rights.
    pub(crate) fn open_to_the_network(&self) {
        let cluster = &self.cluster;
        cluster.ask(LEAST).unwrap();
        let quoted = PASSWORD.replace('\'', "''");
        cluster.ask(&format!("ALTER ROLE strongroom PASSWORD '{quoted}'")).unwrap();
        let own = vouched("127.0.0.1");
        give(cluster, &cluster.data.join("server.crt"), &own.certificate);
        give(cluster, &cluster.data.join("server.key"), &own.key);
        fs::write(self.path("ca.pem"), own.authority).unwrap();
        fs::write(self.path("other-ca.pem"), vouched("127.0.0.1").authority).unwrap();
        self.password(PASSWORD);
        let hba = cluster.data.join("pg_hba.conf");
        let lines = fs::read_to_string(&hba).unwrap();
        let ours = "hostssl postgres strongroom 127.0.0.0/8 scram-sha-256\n\
                    hostnossl postgres strongroom 127.0.0.0/8 scram-sha-256\n\
                    local all strongroom reject\nhost all all 127.0.0.0/8 reject\n";
        give(cluster, &hba, &format!("{ours}{lines}"));
        let elsewhere = self.path("elsewhere.conf");
        give(cluster, Path::new(&elsewhere), "# nobody\n");
        let elsewhere = format!("ident_file = '{elsewhere}'");
        for setting in ["ssl = on", "listen_addresses = '127.0.0.1, 127.0.0.2'", &elsewhere] {
            cluster.ask(&format!("ALTER SYSTEM SET {setting}")).unwrap();
        }
        cluster.stop("fast").unwrap();
        cluster.start().unwrap();
    }

    /// The password in the file that the policy names.
    pub(crate) fn password(&self, password: &str) {
        let file = self.path("password");
        fs::write(&file, format!("{password}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn right_password(&self) {
        self.password(PASSWORD);
    }

    /// A policy that streams the cluster and its log; `more` is said of both.
    pub(crate) fn streamed(&self, port: u16, more: &str) {
        let password = self.path("password");
        let server = format!(
            "policy = \"p\"\nagent = \"host1\"\nkind = \"postgres\"\nport = {port}\n\
             password_file = \"{password}\"\n{more}"
        );
        self.sites.apply(&format!(
            r#"
[policy.p]
timezone = "Europe/London"
[policy.p.primary]
keep = {{ newest = 100 }}
[workload."db"]
mode = "wire"
{server}
[workload."log"]
mode = "wal"
by = "stream"
{server}
"#
        ));
    }

    /// The same of the server of the scene, by TLS.
    pub(crate) fn streamed_by_tls(&self) {
        let more = format!("host = \"127.0.0.1\"\nca_file = \"{}\"", self.path("ca.pem"));
        self.streamed(self.cluster.port, &more);
    }

    /// Orders a point of a workload, and stops the agent while it is streamed.
    pub(crate) fn stopped_in_the_stream(&self, cluster: &OwnCluster, workload: &str) -> String {
        let agent = self.sites.pid("agent");
        let until = Instant::now() + Duration::from_secs(60);
        signal(agent, "STOP");
        let job = self.sites.order(workload);
        while !is_streamed(cluster) {
            assert!(Instant::now() < until, "no stream was begun");
            // It goes on in short steps, so that it cannot be through before it is seen.
            signal(agent, "CONT");
            std::thread::sleep(Duration::from_millis(3));
            signal(agent, "STOP");
        }
        job
    }
}

/// Whether a backup or the log is being streamed to us.
pub(crate) fn is_streamed(cluster: &OwnCluster) -> bool {
    let question = "SELECT count(*) FROM pg_stat_replication WHERE application_name = \
                    'strongroom' AND state IN ('backup', 'streaming', 'catchup')";
    cluster.ask(question).unwrap() != "0"
}

/// Slots that went with a backup's session, and those that stay.
pub(crate) fn slots(cluster: &OwnCluster) -> String {
    let question = "SELECT count(*) FILTER (WHERE temporary), count(*) FILTER (WHERE NOT \
                    temporary) FROM pg_replication_slots";
    cluster.ask(question).unwrap()
}
