//! Active Directory as a workload: every object of every naming context by LDAPS, the whole
//! domain by `samba-tool` where it is asked for. Nothing is held still: what a point claims is
//! that nothing had changed when it was looked at last.

pub mod carry;
pub mod change;
pub mod compare;
pub mod domain;
pub mod ldap;
pub mod object;
pub mod picture;
pub mod plan;
pub mod read;
pub mod revived;
pub mod schema;
pub mod wish;

mod ber;
mod gather;
mod metadata;
mod point;
mod request;
mod shards;
mod state;
pub(in crate::workload) mod tls;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use strongroom_protocol::opening::RefusalKind;

pub use point::{About, AboutContext};

use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::apps::{SettingError, Settings};
use crate::workload::compose::Composer;
use crate::workload::directory::domain::{DomainError, Unpacked, Way};
use crate::workload::directory::gather::{GatherError, Gathering, Harvest};
use crate::workload::directory::ldap::{Connection, LdapProblem, Server};
use crate::workload::directory::read::{Reader, Root};
use crate::workload::directory::state::{Files, Head};
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::{Item, Workload};

/// How often both halves of the group policies are read until they are of one version.
const POLICY_LOOKS_MAX: u32 = 3;

/// A directory, as a policy points at it.
#[derive(Clone, Debug)]
pub struct DirectoryWorkload {
    server: Server,
    exclude: Vec<String>,
    whole: Option<Way>,
    samba_config: Option<PathBuf>,
}

/// Why there is no view of a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The file with the password.
    #[error("{}: the password cannot be read", .path.display())]
    Password { path: PathBuf, source: io::Error },
    /// Others could read the password.
    #[error("{} can be read by others: chmod 600 it", .path.display())]
    PasswordShown { path: PathBuf },
    /// No runtime for the connection.
    #[error("no connection can be driven")]
    Runtime(#[source] io::Error),
    /// The server.
    #[error(transparent)]
    Server(#[from] LdapProblem),
    /// The policy.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// The password in a file only its owner may read.
///
/// # Errors
/// It cannot be read, or by others too.
pub fn password(path: &Path) -> Result<String, DirectoryError> {
    let unread = |source| DirectoryError::Password { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unread)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(DirectoryError::PasswordShown { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl DirectoryWorkload {
    /// From what the policy says.
    ///
    /// # Errors
    /// It says too little, or names a password that cannot be used.
    pub fn of(settings: &Settings) -> Result<Self, DirectoryError> {
        let path = |key: &str| settings.get(key).map(PathBuf::from);
        let samba_config = path("samba_config");
        let whole = match settings.get("domain") {
            Some("online") => Some(Way::Online),
            Some("offline") => Some(Way::Offline),
            Some(_) => None,
            None => Way::usual(samba_config.as_deref()),
        };
        let server = Server {
            url: settings.wanted("url")?.to_owned(),
            bind: settings.wanted("bind")?.to_owned(),
            password: password(Path::new(settings.wanted("password_file")?))?,
            ca_file: path("ca_file"),
        };
        let exclude = settings.all("exclude").map(str::to_owned).collect();
        Ok(Self { server, exclude, whole, samba_config })
    }

    fn connect(&self) -> Result<(tokio::runtime::Runtime, Reader), DirectoryError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(DirectoryError::Runtime)?;
        let reader = runtime.block_on(async {
            let connection = Connection::open(&self.server).await?;
            Reader::open(connection, self.exclude.clone()).await
        })?;
        Ok((runtime, reader))
    }
}

impl Workload for DirectoryWorkload {
    type View = DirectoryView;
    type Error = DirectoryError;

    fn discover(&self) -> Result<Vec<Item>, DirectoryError> {
        let (_runtime, reader) = self.connect()?;
        Ok(vec![Item {
            name: reader.root.domain,
            consistency_max: Consistency::Application,
            place: self.server.url.clone(),
        }])
    }

    fn quiesce(&self) -> Result<Quiesced, DirectoryError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<DirectoryView, DirectoryError> {
        let (runtime, reader) = self.connect()?;
        Ok(DirectoryView { workload: self.clone(), runtime, reader, next: None })
    }

    fn refusal(error: &DirectoryError) -> RefusalKind {
        match error {
            DirectoryError::Server(
                LdapProblem::Unreachable { .. } | LdapProblem::Refused { .. },
            )
            | DirectoryError::Runtime(_) => RefusalKind::Unavailable,
            _ => RefusalKind::Invalid,
        }
    }
}

/// A connection to read the directory by.
pub struct DirectoryView {
    workload: DirectoryWorkload,
    runtime: tokio::runtime::Runtime,
    reader: Reader,
    /// To be remembered once the point is committed.
    next: Option<(Files, Head)>,
}

impl DirectoryView {
    fn whole(&self, scratch: &Path) -> Result<Option<Unpacked>, ProtectError> {
        let Some(way) = self.workload.whole else { return Ok(None) };
        let DirectoryWorkload { server, samba_config, .. } = &self.workload;
        let taken = Unpacked::take(way, server, samba_config.as_deref(), scratch);
        taken.map(Some).map_err(|error: DomainError| ProtectError::Application(Box::new(error)))
    }

    /// Policies whose halves are of different versions, in words.
    fn halves(&self, whole: &Unpacked) -> Result<Vec<String>, LdapProblem> {
        let root: &Root = &self.reader.root;
        let filter = "(&(objectClass=groupPolicyContainer)(!(isDeleted=TRUE)))";
        let policies = self.runtime.block_on(self.reader.below(&root.domain, filter))?;
        let files: BTreeMap<String, u64> = whole.policy_versions();
        let mut apart = Vec::new();
        for policy in policies {
            let name = policy.text("name").or_else(|| policy.text("cn")).unwrap_or_default();
            let name = name.to_uppercase();
            let here = policy.text("versionNumber").and_then(|text| text.parse().ok());
            let there = files.get(&name).copied();
            if here.unwrap_or(0) != there.unwrap_or(0) {
                let word = |version: Option<u64>| {
                    version.map_or_else(|| "none".to_owned(), |v| v.to_string())
                };
                let (here, there) = (word(here), word(there));
                apart.push(format!(
                    "group policy {name} is of version {here} in the directory and {there} in \
                     SYSVOL"
                ));
            }
        }
        Ok(apart)
    }

    fn gather(
        &self,
        reading: &Reading<'_>,
        files: &Files,
    ) -> Result<(Harvest, Option<Unpacked>), ProtectError> {
        let failed = |error: GatherError| match error {
            GatherError::Stopped => ProtectError::Stopped,
            other => ProtectError::Application(Box::new(other)),
        };
        let stopped = || match reading.stop.load(Ordering::Relaxed) {
            true => Err(GatherError::Stopped),
            false => Ok(()),
        };
        let gathering = Gathering {
            reader: &self.reader,
            files,
            exclude: &self.workload.exclude,
            stopped: &stopped,
        };
        let mut whole = self.whole(&files.scratch())?;
        let mut harvest = self.runtime.block_on(gathering.run()).map_err(failed)?;
        for look in 1..=POLICY_LOOKS_MAX {
            let Some(unpacked) = &whole else { break };
            let apart = self.halves(unpacked).map_err(|e| failed(e.into()))?;
            if apart.is_empty() {
                break;
            }
            if look == POLICY_LOOKS_MAX {
                harvest.notes.extend(apart);
                break;
            }
            whole = self.whole(&files.scratch())?;
            self.runtime.block_on(gathering.settle(&mut harvest)).map_err(failed)?;
        }
        Ok((harvest, whole))
    }
}

impl Moment for DirectoryView {
    fn source(&self) -> String {
        format!("{} of {}", self.reader.root.domain, self.workload.server.url)
    }

    fn consistency(&self) -> Consistency {
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        let files = Files::new(reading.memory.clone());
        files.sweep();
        let (mut harvest, whole) = self.gather(reading, &files)?;
        evidence.broken.extend(harvest.notes.iter().cloned());
        if !harvest.settled {
            let why = "the directory changed at every look: objects are of different moments";
            evidence.downgrade(Consistency::Fuzzy, why);
        }
        let way = match (&whole, self.workload.whole) {
            (Some(_), Some(Way::Online)) => "online",
            (Some(_), Some(Way::Offline)) => "offline",
            _ => "none",
        };
        let mut composer = Composer::new(reading)?;
        let about = point::about(&self.workload.server.url, &self.reader.root, &harvest, way);
        let text = serde_json::to_vec_pretty(&about).unwrap_or_default();
        let mut entries = vec![
            composer.bytes(point::ABOUT, point::private(0o600), &text)?,
            point::contexts(&composer, &files, &mut harvest)?,
        ];
        if let Some(whole) = &whole {
            for (name, dir) in [("domain", whole.domain()), ("sysvol", whole.sysvol())] {
                if dir.is_dir() {
                    let mut options = reading.options(dir, name);
                    // It is unpacked anew each time: a cache would never fit.
                    options.cache = None;
                    entries.push(composer.tree(name, "", &options)?);
                }
            }
        }
        let name = place(&self.reader.root.domain);
        let item = composer.directory(&name, point::private(0o700), entries)?;
        drop(whole);
        let head = harvest.head(files.memory(), &self.reader.root, &self.workload.exclude);
        self.next = Some((files, head));
        composer.finish(item)
    }

    fn committed(&mut self) {
        let Some((files, head)) = self.next.take() else { return };
        if let Err(error) = files.commit(&head) {
            tracing::warn!(%error, "the directory is read whole next time");
        }
        files.sweep();
    }
}

/// The item's name: the domain as people say it.
fn place(domain: &str) -> String {
    let parts = domain.split(',').filter_map(|part| part.trim().split_once('='));
    let names: Vec<&str> = parts.map(|(_, name)| name).collect();
    names.join(".")
}
