//! The whole against its peers, on the same trees in the same run: protect, again, after a
//! change, restore, verify. Ours crosses the wire and a second site; theirs write into a
//! directory. Every figure goes into a table of medians with ratios; it judges nothing.

mod bare;
mod data;
mod fresh;
mod measure;
mod ours;
mod peer;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sites::Profile;
use data::Data;

use peer::Peer;
use table::Row;
pub(crate) use table::median;

pub(crate) use measure::{Cost, bytes_below, cpu_seconds, peak_bytes, run as measured};

/// What the measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which trees
    #[arg(long, value_enum, value_delimiter = ',', default_value = "d1,d3,d4")]
    data: Vec<Data>,
    /// Which peers; those that are not installed are said and left out
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "restic,borg,bupstash,conserve,rustic,tar,rsync"
    )]
    peers: Vec<Peer>,
    /// Runs of everything; the table has medians
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Which steps; those before a step are run in any case
    #[arg(long, value_enum)]
    until: Option<Step>,
    /// Where trees, repositories and restores are made; the trees stay for the next time
    #[arg(long, default_value = "/var/tmp/strongroom-bench")]
    dir: PathBuf,
    /// Peers that no package brings, as DIR/NAME/bin/NAME
    #[arg(long)]
    tools: Option<PathBuf>,
    /// This program, instead of building one
    #[arg(long)]
    exe: Option<PathBuf>,
    /// Do not wait until others leave the processors alone
    #[arg(long)]
    busy: bool,
    /// A file that rows are appended to; the table is of all rows in it
    #[arg(long)]
    rows: Option<PathBuf>,
    /// Only print the table of the rows that are there
    #[arg(long, requires = "rows")]
    table: bool,
    /// What the bare machine does, for a process that is measured
    #[arg(long, hide = true)]
    bare: Option<String>,
    #[arg(hide = true)]
    paths: Vec<PathBuf>,
}

/// What is measured, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Step {
    First,
    Replicate,
    Again,
    Changed,
    Restore,
    InPlace,
    Verify,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::First,
        Self::Replicate,
        Self::Again,
        Self::Changed,
        Self::Restore,
        Self::InPlace,
        Self::Verify,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first protect",
            Self::Replicate => "replicate and read back",
            Self::Again => "again, nothing changed",
            Self::Changed => "again, a little changed",
            Self::Restore => "restore, empty directory",
            Self::InPlace => "restore in place, v1 to v2",
            Self::Verify => "verify everything",
        }
    }
}

/// What a step of a tool came to.
struct Figures {
    cost: Cost,
    stored_bytes: u64,
    note: String,
}

impl Figures {
    /// A restore is done when it is on the disk: what a tool left to the kernel is counted too.
    fn until_synced(&mut self, restored: &Path) -> Result<()> {
        let began = Instant::now();
        rustix::fs::syncfs(std::fs::File::open(restored)?)?;
        let seconds = began.elapsed().as_secs_f64();
        self.cost.seconds += seconds;
        self.note = format!("{} sync {seconds:.1} s", self.note).trim().to_owned();
        Ok(())
    }
}

/// Whatever can be measured: a peer, ourselves, the bare machine.
trait Tool {
    /// Runs one step; none if the tool has no such thing.
    fn step(&mut self, step: Step) -> Result<Option<Figures>>;
}

/// Where a tool works: everything in it is made for it and removed behind it.
struct Place {
    /// What is protected: v1, later v2, always under this path.
    tree: PathBuf,
    restored: PathBuf,
    own: PathBuf,
}

/// The bounded slice that every checkout passes: ourselves and the bare machine on a tiny tree,
/// so that the measurement itself keeps working and what it restores is compared.
pub(crate) fn slice() -> Result<()> {
    let dir = tempfile::tempdir()?;
    run(&Arguments {
        data: vec![Data::Tiny],
        peers: Vec::new(),
        runs: 1,
        until: None,
        dir: dir.path().to_owned(),
        tools: None,
        exe: Some(Profile::Dev.build()?),
        busy: true,
        rows: None,
        table: false,
        bare: None,
        paths: Vec::new(),
    })
}

/// Runs everything, or one piece of it for somebody who measures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let (Some(what), [from, to]) = (&arguments.bare, arguments.paths.as_slice()) {
        return bare::act(what, from, to);
    }
    if let (true, Some(rows)) = (arguments.table, &arguments.rows) {
        return table::print(&table::read(rows)?);
    }
    let exe = arguments.exe.clone().map_or_else(|| Profile::Release.build(), Ok)?;
    let mut peers = Vec::new();
    for peer in &arguments.peers {
        match peer.find(arguments.tools.as_deref()) {
            Some(program) => {
                println!("peer: {} ({})", peer.as_str(), peer.version(&program));
                peers.push((*peer, program));
            }
            None => println!("peer: {} is not installed and is left out", peer.as_str()),
        }
    }
    let top = arguments.dir.join("data");
    let mut rows = Vec::new();
    for run in 0..arguments.runs {
        for data in &arguments.data {
            let made = data.make(&top)?;
            let bench = Bench { arguments, made: &made, data: *data, run };
            // Ourselves last and the first peer before it: what is compared most is measured
            // at most minutes apart.
            for (peer, program) in peers.iter().rev() {
                let begin = |place: &Place| -> Result<Vec<Row>> {
                    let mut tool = peer::AtWork::begin(*peer, program.clone(), place)?;
                    bench.steps(peer.as_str(), &mut tool, place)
                };
                // A peer that fails is left out from there on; what it did before counts.
                match bench.tool(begin) {
                    Ok(more) => rows.extend(more),
                    Err(error) => println!("{} is left out: {error:#}", peer.as_str()),
                }
            }
            rows.extend(bench.tool(|place| {
                bench.steps("strongroom", &mut ours::Ours::begin(&exe, place)?, place)
            })?);
            rows.extend(
                bench.tool(|place| bench.steps("bare", &mut bare::Bare::begin(place), place))?,
            );
        }
    }
    let all = match &arguments.rows {
        Some(file) => table::read(file)?,
        None => rows,
    };
    table::print(&all)
}

/// One run over one data set.
struct Bench<'a> {
    arguments: &'a Arguments,
    made: &'a Path,
    data: Data,
    run: u32,
}

impl Bench<'_> {
    /// Gives a tool its place and takes everything away behind it.
    fn tool(&self, work: impl FnOnce(&Place) -> Result<Vec<Row>>) -> Result<Vec<Row>> {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&self.arguments.dir)?;
        // The tree stays for the next tool: what has not changed keeps its inode and its ctime.
        let tree = self.arguments.dir.join("tree").join(self.data.as_str());
        let (restored, own) = (dir.path().join("restored"), dir.path().join("own"));
        std::fs::create_dir_all(&own)?;
        // A tiny tree shows that the measurement works, wherever it is restored.
        let fresh = match self.data {
            Data::Tiny => None,
            _ => Some(fresh::Fresh::mount(&restored)?),
        };
        let place = Place { tree, restored, own };
        data::bring(&self.made.join("v1"), &place.tree)?;
        let rows = work(&place);
        drop(fresh);
        drop(dir);
        rustix::fs::sync();
        rows
    }

    /// All steps of one tool, each once everything is quiet and warm.
    fn steps(&self, tool: &str, doing: &mut dyn Tool, place: &Place) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let last = self.arguments.until.unwrap_or(Step::Verify);
        for step in Step::ALL.into_iter().filter(|step| *step <= last) {
            match step {
                Step::Changed => data::bring(&self.made.join("v2"), &place.tree)?,
                Step::InPlace => self.make_old(tool, place)?,
                _ => {}
            }
            // A copy to the other site begins by itself: it is not waited for.
            if step != Step::Replicate {
                rustix::fs::sync();
                data::warm(&place.tree)?;
                if !self.arguments.busy {
                    measure::quiet()?;
                }
            }
            let figures = doing
                .step(step)
                .with_context(|| format!("{tool}, {}, {}", self.data.as_str(), step.as_str()))?;
            let Some(mut figures) = figures else { continue };
            if matches!(step, Step::Restore | Step::InPlace) {
                figures.until_synced(&place.restored)?;
            }
            let row = Row::new(self.run, self.data, tool, step, figures);
            row.say();
            if let Some(file) = &self.arguments.rows {
                row.append(file)?;
            }
            rows.push(row);
            if matches!(step, Step::Restore | Step::InPlace) {
                self.compare(tool, step, place)?;
            }
        }
        Ok(rows)
    }

    /// For a restore in place: what was restored, gone back to v1.
    fn make_old(&self, tool: &str, place: &Place) -> Result<()> {
        match (tool, restored_root(place)) {
            ("strongroom", Some(root)) => data::bring(&self.made.join("v1"), &root),
            _ => Ok(()),
        }
    }

    /// What came back is what was there; a restore in place removes nothing of its own accord.
    fn compare(&self, tool: &str, step: Step, place: &Place) -> Result<()> {
        let Some(root) = restored_root(place) else { bail!("{tool} restored nothing") };
        let mut diff = Command::new("diff");
        diff.args(["-r", "-q", "--no-dereference"]).arg(&root).arg(&place.tree);
        let text = String::from_utf8(diff.output()?.stdout)?;
        let left = format!("Only in {}", root.display());
        let more = |line: &&str| step != Step::InPlace || !line.starts_with(&left);
        let found: Vec<&str> = text.lines().filter(more).take(3).collect();
        if !found.is_empty() {
            bail!("{tool} restored something else: {}", found.join("; "));
        }
        Ok(())
    }
}

/// Where below the target the tree itself begins: some keep the path above it.
fn restored_root(place: &Place) -> Option<PathBuf> {
    let below = |path: &Path| place.restored.join(path.strip_prefix("/").unwrap_or(path));
    let name = place.tree.file_name()?;
    let places = [below(&place.tree), place.restored.join(name), place.restored.clone()];
    places.into_iter().find(|path| path.is_dir())
}
