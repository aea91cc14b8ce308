//! A cluster of PostgreSQL anywhere, read over the replication protocol: nothing of ours need be
//! on its host. Promises the same point as beside the server, with every file checked by the
//! manifest of the backup; refuses servers that do not stream one (before 15).

mod fields;
pub(super) mod follow;
mod gather;
mod link;
mod login;
mod manifest;
mod queue;
mod talk;
mod tar;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use postgres::Client;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Clock, JobId};
use strongroom_store::content::Meta;

use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::compose::Composer;
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::postgres::about::{self, About, ClusterPoint, Tablespace};
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::{Segment, numbers};
use crate::workload::postgres::page::{Findings, Pages};
use crate::workload::postgres::reading::{CONFIG_DIRECTORY, failed, unwritten};
use crate::workload::postgres::session::{Dial, Server};
use crate::workload::postgres::settings::Cluster;
use crate::workload::postgres::{PgWorkload, fits};
use crate::workload::{Item, Workload};

use gather::{Directory, Gathering, application};
pub use link::WireError;
use queue::{Part, Queue};
use talk::{Begun, Ended, Talk};

/// The first version whose backups come as one stream with a manifest.
const MAJOR_MIN: u32 = 15;
/// A file and a directory made here.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A cluster, wherever it is.
pub struct PgWire {
    pub cluster: Cluster,
    pub job: JobId,
    pub clock: Arc<dyn Clock>,
}

/// A backup whose stream waits to be read.
pub struct PgWireView {
    dial: Dial,
    clock: Arc<dyn Clock>,
    /// Keeps the log by a temporary slot, and is the stream.
    talk: Talk,
    server: Server,
    begun: Begun,
    began: i64,
}

impl PgWire {
    fn look(&self) -> Result<Server, PgError> {
        let dial = &self.cluster.dial;
        let mut client = connect(dial)?;
        let server = dial.look(&mut client)?;
        if server.major < MAJOR_MIN {
            return Err(PgError::Old { place: dial.place(), version: server.version });
        }
        fits(&self.cluster, &server, &mut client)?;
        Ok(server)
    }
}

/// The first session of a run. Where others can listen, the replication protocol gets in before
/// it: that refuses to say a password which whoever listens could use, and the session would not.
///
/// # Errors
/// Who refused, and the way out.
pub(super) fn connect(dial: &Dial) -> Result<Client, PgError> {
    if dial.is_overheard() {
        drop(Talk::open(dial)?);
    }
    dial.connect()
}

/// Refuses a session of replication that is with another server than the sessions for questions.
///
/// # Errors
/// It is.
pub(super) fn is_of(after: u64, server: &Server, place: &str) -> Result<(), PgError> {
    let before = server.system_identifier;
    if before == after {
        return Ok(());
    }
    let why = format!("one session is with system {before}, the next with system {after}");
    Err(PgError::Pooler { place: place.to_owned(), why })
}

impl Workload for PgWire {
    type View = PgWireView;
    type Error = PgError;

    fn discover(&self) -> Result<Vec<Item>, PgError> {
        let server = self.look()?;
        Ok(vec![Item {
            name: format!("{} of {}", server.data.display(), self.cluster.dial.place()),
            consistency_max: Consistency::Application,
            place: format!("postgresql {}", server.version),
        }])
    }

    /// Nothing is held still: the server writes on, and its log makes the copy whole.
    fn quiesce(&self) -> Result<Quiesced, PgError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<PgWireView, PgError> {
        let began = seconds(&*self.clock);
        let server = self.look()?;
        let mut talk = Talk::open(&self.cluster.dial)?;
        is_of(talk.system_identifier()?, &server, &self.cluster.dial.place())?;
        let slot = format!("strongroom_{}", self.job.to_string().replace('-', ""));
        talk.keep_log(&slot)?;
        let begun = talk.begin_backup(&format!("strongroom {}", self.job))?;
        let (dial, clock) = (self.cluster.dial.clone(), Arc::clone(&self.clock));
        Ok(PgWireView { dial, clock, talk, server, begun, began })
    }

    fn refusal(error: &PgError) -> RefusalKind {
        PgWorkload::refusal(error)
    }
}

fn seconds(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().unix_ms() / 1000).unwrap_or_default()
}

impl Moment for PgWireView {
    fn source(&self) -> String {
        format!("postgresql {} at {}", self.server.version, self.dial.place())
    }

    fn consistency(&self) -> Consistency {
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        // The server wrote on all the time: starting the backup held nobody.
        evidence.frozen_ms = 0;
        let blocks = Reading {
            // What changes in a relation changes by the page, in files of every length.
            cut: reading.cut.of_blocks(),
            memory: reading.memory.clone(),
            ..*reading
        };
        let findings = Arc::new(Findings::default());
        let page_bytes = usize::try_from(self.server.page_bytes).unwrap_or_default();
        let pages = Pages { findings: Arc::clone(&findings), page_bytes };
        let mut gathering = Gathering {
            composer: Composer::new(reading)?,
            relations: Composer::new(&blocks)?,
            pages: self.server.checksums.then_some(pages),
            start: self.begun.start,
            segment_bytes: self.server.segment_bytes,
            tree: Directory::default(),
            arrived: BTreeMap::new(),
            label: String::new(),
            map: String::new(),
            control: None,
            unsettled: Vec::new(),
            log: Vec::new(),
            owner: (0, 0),
        };
        let ended = self.stream(&mut gathering)?;
        self.is_whole(&gathering, &ended).map_err(failed)?;
        gathering.settle(ended.stop);
        let corrupt = findings.corrupt();
        if corrupt > 0 {
            let files: Vec<String> = findings.files().into_keys().collect();
            let why =
                format!("corrupt by their checksums: {corrupt} pages of {}", files.join(", "));
            evidence.downgrade(Consistency::Crash, why);
        } else if ended.found_corrupt {
            let why = "the server found pages that do not fit their checksums; its log names them";
            evidence.downgrade(Consistency::Crash, why);
        }
        let config = self.same(evidence).map_err(failed)?;
        self.finish(gathering, (&ended, &findings), config)
    }
}

impl PgWireView {
    /// Reads the stream of the backup to its end, and looks that all of it arrived.
    fn stream(&mut self, gathering: &mut Gathering<'_>) -> Result<Ended, ProtectError> {
        let spaces = self.begun.tablespaces.clone();
        let talk = &mut self.talk;
        let (taken, heard) = std::thread::scope(|scope| {
            let (mut queue, ahead) = Queue::start(scope, talk);
            let taken = take(gathering, &mut queue, &spaces);
            // Whoever reads ahead waits for nobody now.
            drop(queue);
            (taken, ahead.join())
        });
        let Ok(heard) = heard else { return Err(ProtectError::Stopped) };
        let (manifest, ended) = match (taken, heard) {
            (Ok(manifest), Ok(Some(ended))) => (manifest, ended),
            // A stream that broke off is explained by whoever heard it.
            (Ok(_) | Err(ProtectError::Application(_)), Err(error)) => {
                return Err(application(error));
            }
            (Err(error), _) => return Err(error),
            (Ok(_), Ok(None)) => return Err(ProtectError::Stopped),
        };
        let unsaid = || application(self.talk.odd("no manifest of the backup"));
        let manifest = manifest.ok_or_else(unsaid)?;
        manifest::verify(&manifest, &gathering.arrived).map_err(application)?;
        Ok(ended)
    }

    /// Looks that a point can recover by itself, and is of one cluster on one timeline.
    fn is_whole(&self, gathering: &Gathering<'_>, ended: &Ended) -> Result<(), PgError> {
        let turned = |what, before: String, after: String| match before == after {
            true => Ok(()),
            false => Err(PgError::Turned { what, before, after }),
        };
        let Self { server, begun, .. } = self;
        let lacks = |name: &str, why: &str| PgError::Wal {
            from: begun.start,
            until: ended.stop,
            dir: "pg_wal".into(),
            name: name.to_owned(),
            why: why.to_owned(),
        };
        turned("the timeline", begun.timeline.to_string(), ended.timeline.to_string())?;
        let control = gathering.control.as_ref();
        let control = control.ok_or_else(|| lacks("global/pg_control", "did not arrive"))?;
        let identifiers = (server.system_identifier, control.system_identifier);
        turned("the system identifier", identifiers.0.to_string(), identifiers.1.to_string())?;
        if !gathering.label.contains(&begun.start.to_string()) {
            return Err(lacks("backup_label", "does not name the place where the backup began"));
        }
        for number in numbers(begun.start, ended.stop, server.segment_bytes) {
            let timeline = begun.timeline;
            let name = Segment { number, timeline }.name(server.segment_bytes);
            if !gathering.log.contains(&name) {
                return Err(lacks(&name, "did not arrive"));
            }
        }
        Ok(())
    }

    /// Looks that the member is still what it was; and reads the configuration that lies
    /// elsewhere, where the role may.
    fn same(&self, evidence: &mut Evidence) -> Result<BTreeMap<String, String>, PgError> {
        let mut client = self.dial.connect()?;
        let now = self.dial.look(&mut client)?;
        let role = |in_recovery| if in_recovery { "standby" } else { "primary" }.to_owned();
        if now.in_recovery != self.server.in_recovery {
            let (before, after) = (role(self.server.in_recovery), role(now.in_recovery));
            return Err(PgError::Turned { what: "the role of the server", before, after });
        }
        let mut config = BTreeMap::new();
        for (setting, path) in &self.server.config {
            match read_there(&mut client, path) {
                Some(text) => drop(config.insert(setting.clone(), text)),
                None => evidence.broken.push(format!(
                    "{} lies outside of the data directory and is not in the point: {} may not \
                     read it (GRANT pg_read_server_files, and EXECUTE ON FUNCTION \
                     pg_read_file(text))",
                    path.display(),
                    self.dial.user
                )),
            }
        }
        Ok(config)
    }

    fn finish(
        &self,
        mut gathering: Gathering<'_>,
        (ended, findings): (&Ended, &Findings),
        config: BTreeMap<String, String>,
    ) -> Result<Protected, ProtectError> {
        let (uid, gid) = gathering.owner;
        let mtime_ns = seconds(&*self.clock).saturating_mul(1_000_000_000);
        let own = Meta { mode: DIRECTORY_MODE, uid, gid, mtime_ns, ..Meta::default() };
        let file = Meta { mode: FILE_MODE, ..own.clone() };
        let mut kept = self.server.config.clone();
        kept.retain(|setting, _| config.contains_key(setting));
        gathering.log.sort_unstable();
        let about = self.about(&gathering, (ended, findings), kept.clone());
        for (setting, path) in kept {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = config.get(&setting).map(String::as_str).unwrap_or_default();
            let entry = gathering.composer.bytes(&name, file.clone(), text.as_bytes())?;
            gathering.tree.file(&format!("{CONFIG_DIRECTORY}/{name}"), entry);
        }
        let text = serde_json::to_vec_pretty(&about).map_err(|e| failed(unwritten(e)))?;
        let entry = gathering.composer.bytes(about::NAME, file, &text)?;
        gathering.tree.file(about::NAME, entry);
        let Gathering { composer, tree, .. } = gathering;
        let item = tree.finish(&composer, "postgres", &own)?;
        composer.finish(item)
    }

    fn about(
        &self,
        gathering: &Gathering<'_>,
        (ended, findings): (&Ended, &Findings),
        config: BTreeMap<String, PathBuf>,
    ) -> About {
        let Server { system_identifier, page_bytes, checksums, in_recovery, .. } = self.server;
        let tablespaces = self.server.tablespaces.iter().cloned();
        let tablespaces =
            tablespaces.map(|(oid, name, location)| Tablespace { oid, name, location }).collect();
        About::Cluster(Box::new(ClusterPoint {
            version: self.server.version.clone(),
            major: self.server.major,
            system_identifier,
            timeline: self.begun.timeline,
            from_standby: in_recovery,
            start_lsn: self.begun.start,
            stop_lsn: ended.stop,
            started: self.began,
            stopped: seconds(&*self.clock),
            wal_segment_bytes: self.server.segment_bytes,
            wal: gathering.log.clone(),
            page_bytes,
            checksums,
            pages_checked: findings.pages(),
            pages_torn: findings.torn(),
            pages_corrupt: findings.corrupt(),
            corrupt: findings.files(),
            tablespaces,
            config,
            settings: self.server.settings.clone(),
            tablespace_map: gathering.map.clone(),
            snapshot: false,
        }))
    }
}

/// Takes the archives of a stream; the manifest, if it came.
fn take(
    gathering: &mut Gathering<'_>,
    queue: &mut Queue,
    spaces: &[(u32, String)],
) -> Result<Option<Vec<u8>>, ProtectError> {
    let mut manifest = None;
    while let Some(part) = queue.part().map_err(application)? {
        match part {
            Part::Manifest => manifest = Some(queue.manifest().map_err(application)?),
            Part::Archive { name } => {
                let oid = name.strip_suffix(".tar").unwrap_or(&name);
                let known = spaces.iter().any(|(space, _)| space.to_string() == oid);
                let within = if known { format!("pg_tblspc/{oid}/") } else { String::new() };
                gathering.archive(queue, &within)?;
            }
        }
    }
    Ok(manifest)
}

/// A file of the server's host, where the role may read it.
fn read_there(client: &mut Client, path: &Path) -> Option<String> {
    let row = client.query_one("SELECT pg_read_file($1)", &[&path.to_str()?]);
    row.ok().and_then(|row| row.try_get(0).ok())
}
