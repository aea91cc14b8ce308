//! A server of MariaDB, read on its own host. Promises the files of one moment: a snapshot of
//! the file system taken while nothing can commit, or the stream of mariabackup, which brings
//! the log from its own beginning. Refuses what is not MariaDB, and a copy of files that no log
//! makes whole.

pub mod about;
pub mod error;
pub mod hold;
pub mod program;
pub mod server;
pub mod session;
pub mod settings;
pub mod stream;

mod reading;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Chain, Clock, JobId};
use strongroom_store::content::{Entry, Meta};

use crate::holder::{Holder, HolderError, Holding, Order};
use crate::quiesce::{Consistency, Evidence, Freeze, Quiesced, Thaw, Unheld};
use crate::workload::btrfs::Snapshot;
use crate::workload::compose::Composer;
use crate::workload::files::rules::{Mounts, RuleSet};
use crate::workload::files::{Options, ProtectError, Protected};
use crate::workload::mariadb::about::{About, ServerPoint, Way};
use crate::workload::mariadb::error::MariaError;
use crate::workload::mariadb::hold::{Blocked, Released, Stages};
use crate::workload::mariadb::program::{Outcome, Program, Told};
use crate::workload::mariadb::reading::{failed, meta_like, scattered, streamed};
use crate::workload::mariadb::session::{Marks, Server, data_of};
use crate::workload::mariadb::settings::{Target, WantedWay};
use crate::workload::moment::{Moment, Reading};
use crate::workload::{Item, Workload};

/// Longest a stream may be under way.
const STREAM_MAX: Duration = Duration::from_secs(48 * 60 * 60);
/// `statfs` of a btrfs.
const BTRFS_MAGIC: u64 = 0x9123_683e;
/// Files of the running server alone: its process, its socket, and what it makes at each start.
const LEFT_OUT: &[&str] = &["*.pid", "*.sock", "/ibtmp*", "/#innodb_temp", "#sql-temptable*"];
/// A file whose bytes were made here.
const MODE: u32 = 0o600;

/// A way of holding, if the word is ours.
pub(crate) fn held(what: &str, about: &Value) -> Option<Result<Box<dyn Holding>, String>> {
    match what {
        hold::WHAT => Some(Stages::new(about).map(|held| Box::new(held) as Box<dyn Holding>)),
        program::WHAT => Some(Program::new(about).map(|held| Box::new(held) as Box<dyn Holding>)),
        _ => None,
    }
}

/// What a holder said, understood.
fn heard<T: DeserializeOwned>(said: Value) -> Result<T, MariaError> {
    let understood = serde_json::from_value(said);
    understood.map_err(|error| HolderError::Process(error.into()).into())
}

/// What is known of a server before its moment.
#[derive(Clone, Debug)]
struct Ready {
    server: Server,
    data: PathBuf,
    how: How,
    marks: Marks,
}

#[derive(Clone, Debug)]
enum How {
    Snapshot,
    Stream { program: PathBuf },
}

/// A server on this host.
pub struct MariaWorkload {
    target: Target,
    job: JobId,
    clock: Arc<dyn Clock>,
    ready: Mutex<Option<Ready>>,
}

impl MariaWorkload {
    /// A server as the policy says it.
    pub fn new(target: Target, job: JobId, clock: Arc<dyn Clock>) -> Self {
        Self { target, job, clock, ready: Mutex::default() }
    }

    fn look(&self) -> Result<Ready, MariaError> {
        let dial = &self.target.dial;
        let mut session = dial.connect()?;
        let server = dial.look(&mut session)?;
        // Without it neither way says where the log of changes ends.
        let marks = dial.marks(&mut session)?;
        let data = data_of(self.target.data.as_deref(), dial, &server)?;
        let how = self.how(&server, &data)?;
        Ok(Ready { server, data, how, marks })
    }

    /// By which way, decided once.
    fn how(&self, server: &Server, data: &Path) -> Result<How, MariaError> {
        let obstacle = match self.target.way {
            WantedWay::Stream => Some((data.to_owned(), "the policy wants the stream".to_owned())),
            WantedWay::Auto | WantedWay::Snapshot => obstacle(server, data)?,
        };
        let Some((path, why)) = obstacle else { return Ok(How::Snapshot) };
        if self.target.way == WantedWay::Snapshot {
            return Err(MariaError::Scattered { path, why });
        }
        let found = program::find(self.target.program.as_deref());
        let why = format!("{}: {why}", path.display());
        let program = found.ok_or(MariaError::ProgramMissing { why })?;
        let unrun = |source| MariaError::File { path: program.clone(), source };
        let its = program::series_of(&program).map_err(unrun)?;
        if its != Some(server.series) {
            let its =
                its.map_or_else(|| "none that is known".to_owned(), |(a, b)| format!("{a}.{b}"));
            let (program, server) = (program.display().to_string(), server.version.clone());
            return Err(MariaError::ProgramVersion { program, its, server });
        }
        Ok(How::Stream { program })
    }

    fn ready(&self) -> Result<Ready, MariaError> {
        let known = self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(|| self.look(), Ok)
    }

    fn keep(&self, ready: Ready) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready);
    }
}

/// Why no snapshot of a data directory holds all of a server; none if it does.
fn obstacle(server: &Server, data: &Path) -> Result<Option<(PathBuf, String)>, MariaError> {
    let unread = |source| MariaError::File { path: data.to_owned(), source };
    if let Some((setting, path)) = server.elsewhere.first_key_value() {
        return Ok(Some((path.clone(), format!("{setting} says that files lie there"))));
    }
    let place = rustix::fs::statfs(data).map_err(|errno| unread(errno.into()))?;
    #[expect(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
    if (place.f_type as u64) & 0xffff_ffff != BTRFS_MAGIC {
        return Ok(Some((data.to_owned(), "it does not lie on btrfs".to_owned())));
    }
    scattered(data).map_err(unread)
}

/// A server whose transactions wait.
struct Waiting(Option<Holder>);

impl Freeze for Waiting {
    fn thaw(&mut self, _evidence: &mut Evidence) -> Thaw {
        let Some(holder) = self.0.take() else { return Thaw::Observed };
        let lost = |why: &str| Thaw::Lost { why: why.to_owned() };
        match holder.release().map(heard::<Released>) {
            Ok(Ok(Released { held: true })) => Thaw::Observed,
            Ok(Ok(Released { held: false })) => {
                lost("the session that kept transactions from committing had ended before")
            }
            Ok(Err(error)) => Thaw::Unseen { why: error.to_string() },
            Err(HolderError::Expired { .. }) => lost("transactions went on at the deadline"),
            Err(error) => Thaw::Unseen { why: error.to_string() },
        }
    }
}

impl Workload for MariaWorkload {
    type View = MariaView;
    type Error = MariaError;

    fn discover(&self) -> Result<Vec<Item>, MariaError> {
        let ready = self.look()?;
        let item = Item {
            name: ready.data.display().to_string(),
            consistency_max: Consistency::Application,
            place: format!("mariadb {}", ready.server.version),
        };
        self.keep(ready);
        Ok(vec![item])
    }

    /// For a snapshot nothing can commit; mariabackup comes to that by itself, at its end.
    fn quiesce(&self) -> Result<Quiesced, MariaError> {
        let mut ready = self.ready()?;
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        if matches!(ready.how, How::Stream { .. }) {
            return Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence));
        }
        let order = hold::order(&self.target.dial, self.target.commits_wait_max);
        let order = order.map_err(|error| HolderError::Process(error.into()))?;
        let holder = Holder::hold(&order)?;
        let blocked: Blocked = heard(holder.seen.clone())?;
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(blocked.since_ms)).unwrap_or(now);
        ready.marks = blocked.marks;
        self.keep(ready);
        Ok(Quiesced::new(Box::new(Waiting(Some(holder))), since, evidence))
    }

    fn view(&self) -> Result<MariaView, MariaError> {
        let started = seconds(self.clock.as_ref());
        let ready = self.ready()?;
        let snapshot = match ready.how {
            How::Snapshot => Some(Snapshot::create(&ready.data, self.job)?),
            How::Stream { .. } => None,
        };
        let (clock, target) = (Arc::clone(&self.clock), self.target.clone());
        Ok(MariaView { clock, target, ready, started, snapshot })
    }

    fn refusal(error: &MariaError) -> RefusalKind {
        error.refusal()
    }
}

fn seconds(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().unix_ms() / 1000).unwrap_or_default()
}

/// The moment of a server, or what gives it.
pub struct MariaView {
    clock: Arc<dyn Clock>,
    target: Target,
    ready: Ready,
    started: i64,
    snapshot: Option<Snapshot>,
}

impl Moment for MariaView {
    fn source(&self) -> String {
        format!("mariadb {} in {}", self.ready.server.version, self.ready.data.display())
    }

    fn consistency(&self) -> Consistency {
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        let own = meta_like(&self.ready.data).map_err(failed)?;
        let mut composer = Composer::new(reading)?;
        let mut marks = self.ready.marks.clone();
        let (data, way) = match (&self.snapshot, &self.ready.how) {
            (Some(snapshot), _) => {
                let options = self.options(reading, snapshot.path());
                (composer.tree(about::DATA, "", &options)?, Way::Snapshot)
            }
            (None, How::Stream { program }) => {
                let given = self.stream(program, &composer, &own, &mut marks)?;
                evidence.frozen_ms = given.1;
                (given.0, Way::Stream)
            }
            (None, How::Snapshot) => return Err(ProtectError::Stopped),
        };
        let about = self.about(way, marks, evidence.frozen_ms);
        let text = serde_json::to_vec_pretty(&about);
        let text = text.map_err(|error| failed(HolderError::Process(error.into())))?;
        let file = composer.bytes(about::NAME, Meta { mode: MODE, ..own.clone() }, &text)?;
        let item = composer.directory("mariadb", own, vec![data, file])?;
        composer.finish(item)
    }
}

impl MariaView {
    fn options(&self, reading: &Reading<'_>, root: &Path) -> Options {
        let exclude = LEFT_OUT.iter().map(|glob| (*glob).to_owned()).collect();
        let rules = RuleSet { exclude, mounts: Mounts::Stop, ..RuleSet::default() };
        Options { rules, ..reading.options(root, "data") }
    }

    /// The stream of mariabackup, put together; and how long commits waited for it.
    fn stream(
        &self,
        program: &Path,
        composer: &Composer<'_>,
        own: &Meta,
        marks: &mut Marks,
    ) -> Result<(Entry, u64), ProtectError> {
        let place = tempfile::Builder::new().prefix("strongroom-mariadb-").tempdir();
        let unmade = |source| failed(MariaError::File { path: std::env::temp_dir(), source });
        let place = place.map_err(unmade)?;
        let listener = UnixListener::bind(place.path().join(program::SOCKET)).map_err(unmade)?;
        let milliseconds = |of: Duration| u64::try_from(of.as_millis()).unwrap_or(u64::MAX);
        let told = Told {
            dial: self.target.dial.clone(),
            program: program.to_owned(),
            place: place.path().to_owned(),
            commits_wait_max_ms: milliseconds(self.target.commits_wait_max),
        };
        let about = serde_json::to_value(told);
        let about = about.map_err(|error| failed(HolderError::Process(error.into())))?;
        let deadline_ms = milliseconds(STREAM_MAX);
        let order = Order { what: program::WHAT.to_owned(), about, deadline_ms, note: None };
        let mut holder = Holder::hold(&order).map_err(failed)?;
        let (from, _) = listener.accept().map_err(unmade)?;
        let given = streamed(composer, from, &self.ready.data, own);
        if let Err(error @ (ProtectError::Stopped | ProtectError::Sink(_))) = given {
            return Err(error);
        }
        // Its own words explain more than a stream that was cut.
        let outcome: Outcome =
            holder.ask(&Value::Null).map_err(MariaError::from).and_then(heard).map_err(failed)?;
        if !outcome.well {
            let mut said = outcome.said;
            said.extend(given.err().map(|error| Chain(&error).to_string()));
            let (program, said) = (program.display().to_string(), said.join(" | "));
            return Err(failed(MariaError::Program { program, said }));
        }
        let given = given?;
        (marks.binlog, marks.gtid_binlog) = (given.binlog, given.gtid_binlog);
        Ok((given.data, outcome.commits_waited_ms))
    }

    fn about(&self, way: Way, marks: Marks, commits_waited_ms: u64) -> About {
        let server = self.ready.server.clone();
        About::Server(Box::new(ServerPoint {
            version: server.version,
            way,
            server_id: server.server_id,
            server_uid: server.server_uid,
            data: self.ready.data.clone(),
            binlog: marks.binlog,
            gtid_binlog: marks.gtid_binlog,
            gtid_slave: marks.gtid_slave,
            commits_waited_ms,
            started: self.started,
            taken: seconds(self.clock.as_ref()),
            settings: server.settings,
        }))
    }
}
