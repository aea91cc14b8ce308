//! A domain of Samba and two sites that protect it. The domain controller has a certificate of
//! an authority that the test made, as a real one has.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use strongroom_agent::recover::item;
use strongroom_agent::samba::{Controller, DOMAIN as BASE, Writes};
use strongroom_agent::workload::directory::carry::{Carrier, Outcome};
use strongroom_agent::workload::directory::change::{Change, Edit};
use strongroom_agent::workload::directory::ldap::Server;
use strongroom_agent::workload::directory::object::Attributes;
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::PointId;
use strongroom_store::tree::Tree;
use tempfile::TempDir;

use crate::site::{Running, TwoSites, policy};

/// The workload of the domain.
pub const DOMAIN: &str = "ad@host1";

/// A domain controller, two sites, and the nodes that run.
pub struct Domain {
    pub controller: Controller,
    pub sites: TwoSites,
    pub running: Vec<Running>,
    pub ca_file: PathBuf,
    pub dir: TempDir,
}

/// The files of an authority and of a server it vouches for, in PEM.
pub struct Vouched {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl Domain {
    /// Everything runs; nothing is protected yet.
    pub async fn start(vouched: &Vouched, more: &str) -> anyhow::Result<Self> {
        if let Ok(levels) = std::env::var("STRONGROOM_LOG") {
            strongroom_node::log::start(strongroom_node::log::LogStyle::Text, &levels);
        }
        let dir = tempfile::tempdir()?;
        let controller = controller(&dir.path().join("dc1"), vouched)?;
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, &vouched.authority)?;
        let sites = TwoSites::make(dir.path())?;
        let mut running = vec![sites.start_coordinator()?];
        sites.enrol_agent("host1").await?;
        running.push(sites.start_agent("host1")?);
        sites.introduce_proxy().await?;
        running.push(sites.start_proxy()?);
        sites.await_nodes(2).await?;
        let domain = Self { controller, sites, running, ca_file, dir };
        domain.password(strongroom_agent::samba::PASSWORD)?;
        domain.point_at("Administrator@test.lan", more).await?;
        Ok(domain)
    }

    /// Where the agent reads the password.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// Writes the password for the agent.
    pub fn password(&self, text: &str) -> anyhow::Result<()> {
        let path = self.password_file();
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
    }

    /// Puts a policy in force by which the domain is read as `bind`, with more lines of TOML.
    pub async fn point_at(&self, bind: &str, more: &str) -> anyhow::Result<()> {
        let whole = policy(Path::new("/"));
        let head = whole.split("[workload.").next().context("a policy has a head")?;
        let text = format!(
            "{head}[workload.\"{DOMAIN}\"]\nagent = \"host1\"\nkind = \"directory\"\n\
             policy = \"standard\"\nurl = \"{}\"\nbind = \"{bind}\"\npassword_file = \"{}\"\n\
             ca_file = \"{}\"\n{more}\n",
            self.controller.url(),
            self.password_file().display(),
            self.ca_file.display(),
        );
        self.sites.apply(&text).await
    }

    /// As the administrator, believing the authority.
    pub fn server(&self) -> Server {
        Server { ca_file: Some(self.ca_file.clone()), ..self.controller.server() }
    }

    /// Makes a point and returns it.
    pub async fn point(&self) -> anyhow::Result<PointId> {
        Ok(self.counted().await?.0)
    }

    /// Makes a point and returns it, with how much of it was read, in bytes.
    pub async fn counted(&self) -> anyhow::Result<(PointId, u64)> {
        let job = self.sites.protect(DOMAIN).await?;
        if job.state != "succeeded" {
            bail!("the job ended otherwise: {job:?}");
        }
        Ok((job.point.context("a job without its point")?, job.progress.bytes_read))
    }

    /// The parts of the domain's naming context that the agent remembers.
    pub fn remembered(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut ahead = vec![self.dir.path().to_owned()];
        while let Some(dir) = ahead.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                    _ if entry.file_name().to_string_lossy().contains(".directory-0-") => {
                        found.push(entry.path());
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// What a point shows, read at a node.
    pub async fn picture(&self, node: &str, point: PointId) -> anyhow::Result<Picture> {
        let link = self.sites.operator(node).await?;
        let (manifest, source) = RemotePoint::open(&link, point, None).await?;
        let picture = tokio::task::spawn_blocking(move || {
            let source = Arc::new(source);
            let (page, _) = item(&Tree::new(Arc::clone(&source), manifest.body.root))?;
            anyhow::Ok(Picture::open(&Tree::new(source, page))?)
        });
        let picture = picture.await??;
        link.close("done");
        Ok(picture)
    }

    /// Makes an account that may read and no more; its password.
    pub async fn reader(&self, carrier: &Carrier, name: &str) -> String {
        let dn = format!("CN={name},CN=Users,{BASE}");
        let secret = "Only.Reads.1";
        let mut attributes = std::collections::BTreeMap::new();
        for (attribute, value) in [("objectClass", "user"), ("sAMAccountName", name)] {
            attributes.insert(attribute.to_owned(), vec![value.as_bytes().to_vec()]);
        }
        let principal = format!("{name}@test.lan").into_bytes();
        attributes.insert("userPrincipalName".to_owned(), vec![principal]);
        let quoted = format!("\"{secret}\"").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let edits = vec![
            Edit::replace("unicodePwd", &[quoted]),
            Edit::replace("userAccountControl", &[b"512".to_vec()]),
        ];
        let add = Change::Add { dn: dn.clone(), attributes: Attributes(attributes) };
        let phases = [vec![add], vec![Change::Modify { dn, edits }]];
        let mut outcome = Outcome::default();
        let done = carrier.run(&phases, &mut outcome).await;
        assert!(done.is_ok() && outcome.refused.is_empty(), "{done:?} {outcome:?}");
        secret.to_owned()
    }

    /// Stops the nodes in order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for node in self.running.drain(..).rev() {
            node.stop().await?;
        }
        Ok(())
    }
}

/// A domain controller that runs with the keys that were vouched for.
pub fn controller(dir: &Path, vouched: &Vouched) -> anyhow::Result<Controller> {
    let mut controller = Controller::provision(dir, "dc1", Writes::Unsynced)?;
    keys(&controller, vouched)?;
    controller.start()?;
    Ok(controller)
}

/// Gives a domain controller its keys; it uses them when it starts.
pub fn keys(controller: &Controller, vouched: &Vouched) -> anyhow::Result<()> {
    let tls = controller.tls();
    std::fs::create_dir_all(&tls)?;
    for (name, text) in [
        ("ca.pem", &vouched.authority),
        ("cert.pem", &vouched.certificate),
        ("key.pem", &vouched.key),
    ] {
        std::fs::write(tls.join(name), text)?;
    }
    let key = std::fs::Permissions::from_mode(0o600);
    Ok(std::fs::set_permissions(tls.join("key.pem"), key)?)
}
