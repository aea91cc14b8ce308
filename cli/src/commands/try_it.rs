//! `strongroom try [PATH]`: makes two sites on this machine, protects PATH, copies it to the
//! second site and to media, and restores it from each copy by itself. Exits 0 only if every
//! restore was identical with the source.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::failure::{Ending, Failure};
use crate::lab::{self, Lab, Telling, domain, machine, table};
use crate::output::Output;
use crate::session::{Session, blocking};

/// Trees found on nearly every Linux, largest first.
const USUAL_TREES: [&str; 4] = ["/usr/share/doc", "/usr/share", "/usr/lib", "/etc"];

/// Make two sites here, protect a tree, lose one site, then both, and restore each time
#[derive(Args, Debug)]
pub(crate) struct TryArgs {
    /// What is protected
    #[arg(long, value_enum, default_value_t = Kind::Files)]
    workload: Kind,
    /// With `--workload vm`: where a Debian kernel is unpacked, or put
    #[arg(long, value_name = "DIR")]
    kernel: Option<PathBuf>,
    /// With `--workload ad`: how many users the domain has; a quarter of them is lost
    #[arg(long, value_name = "COUNT", default_value_t = 400)]
    users: usize,
    /// The tree to protect; it is only read.
    path: Option<PathBuf>,
    /// Where to make the lab (a new directory); the default is beside the system's other
    /// temporary directories.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave the two sites running and say how to use them.
    #[arg(long)]
    keep: bool,
}

/// What the lab protects.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A tree of files of this host
    Files,
    /// A real server of MariaDB under load, from what is installed
    Mariadb,
    /// A real server of PostgreSQL under load, from what is installed
    Postgres,
    /// A virtual machine of the lab's own
    Vm,
    /// A domain of Samba (Active Directory) of the lab's own
    #[value(alias = "directory")]
    Ad,
}

impl TryArgs {
    /// Tells the whole story. If a stage fails, what there is stays where it is.
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let out = session.out.clone();
        blocking(move || match self.tell(&out) {
            Ok(true) => Ok(Ending::Done),
            Ok(false) => Err(Failure::new("a restore differs from the source")),
            Err(error) => Err(Failure::new(format!("{error:#}"))),
        })
        .await
    }

    fn tell(self, out: &Output) -> anyhow::Result<bool> {
        if self.workload != Kind::Files && (self.path.is_some() || self.keep) {
            bail!("PATH and --keep are for a tree of files only");
        }
        let source = match self.workload {
            Kind::Files => source(self.path)?,
            Kind::Ad | Kind::Mariadb | Kind::Postgres | Kind::Vm => PathBuf::new(),
        };
        let dir = directory(self.dir)?;
        let tell = Telling::new();
        let told = match self.workload {
            Kind::Files => story(&dir, &source, &tell, self.keep, out),
            Kind::Mariadb => application(lab::mariadb(&dir, &tell), &tell, out),
            Kind::Postgres => application(lab::postgres(&dir, &tell), &tell, out),
            Kind::Vm => machine::story(&dir, self.kernel.as_deref(), &tell, out),
            Kind::Ad => domain::story(&dir, self.users, &tell, out),
        };
        tell.end();
        match told {
            Ok(identical) => Ok(identical),
            Err(error) => {
                eprintln!("What there is lies in {}; logs are in its logs/.", dir.display());
                Err(error)
            }
        }
    }
}

fn source(path: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match path {
        Some(path) => path,
        None => {
            let found = USUAL_TREES.iter().map(Path::new).find(|path| path.is_dir());
            found.context("none of the usual trees is here; name one")?.to_owned()
        }
    };
    let real = path.canonicalize().with_context(|| format!("cannot protect {}", path.display()))?;
    if !real.is_dir() {
        bail!("cannot protect {}: it is not a directory", path.display());
    }
    Ok(real)
}

fn directory(dir: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match dir {
        Some(dir) => {
            let empty =
                std::fs::read_dir(&dir).map_or(true, |mut listing| listing.next().is_none());
            if !empty {
                bail!("{} is not empty; name a new directory for the lab", dir.display());
            }
            std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            Ok(dir.canonicalize()?)
        }
        None => {
            let made = tempfile::Builder::new().prefix("strongroom-try-").tempdir()?;
            Ok(made.keep())
        }
    }
}

fn story(
    dir: &Path,
    source: &Path,
    tell: &Telling,
    keep: bool,
    out: &Output,
) -> anyhow::Result<bool> {
    let mut lab = Lab::raise(dir, source, tell)?;
    lab.apply_policy(tell)?;
    lab.protect(tell, "protect", "tree@host1")?;
    lab.await_copy(tell, "secondary snap at site b, read back", "secondary", "readable")?;
    lab.await_copy(tell, "aux copy on media, read back", "tape", "hash-verified")?;
    lab.protect(tell, "protect again, nothing changed", "tree@host1")?;
    lab.show_increment(tell)?;
    lab.restore(tell, "restore from the primary snap", "primary", &["--from", "a"])?;
    lab.lose_site_a(tell)?;
    lab.restore(tell, "site a lost: restore from the secondary", "secondary", &["--from", "b"])?;
    let media = lab.lose_site_b(tell)?;
    let (media, key) = (media.to_string_lossy().into_owned(), dir.join("recovery-key"));
    let key = key.to_string_lossy().into_owned();
    let how = ["--media", media.as_str(), "--recovery-key-file", key.as_str()];
    lab.restore(tell, "both sites lost: restore from media alone", "media", &how)?;
    lab.put_back()?;
    let running = if keep { lab.leave_running()? } else { Vec::new() };
    tell.end();
    if out.is_json() {
        out.json(&serde_json::json!({ "stages": lab.rows, "differences": lab.differences }))?;
        return Ok(lab.differences == 0);
    }
    println!("{}", table(&lab.rows));
    println!("peak memory: {}\n", lab.peaks.join(", "));
    farewell(&lab, &running);
    Ok(lab.differences == 0)
}

/// What came of the story of an application.
fn application(told: anyhow::Result<Lab>, tell: &Telling, out: &Output) -> anyhow::Result<bool> {
    let lab = told?;
    tell.end();
    if out.is_json() {
        out.json(&serde_json::json!({ "stages": lab.rows, "differences": lab.differences }))?;
        return Ok(lab.differences == 0);
    }
    println!("{}", table(&lab.rows));
    println!("peak memory: {}\n", lab.peaks.join(", "));
    let dir = lab.dir.display();
    match lab.differences {
        0 => println!("Every restore started, recovered and passed its checks."),
        count => println!("{count} restores are NOT as they should be."),
    }
    println!("  {dir}/policy.toml      the storage policy: read it, edit it");
    println!("  {dir}/logs             what the nodes said\nTo remove the lab:  rm -r {dir}");
    Ok(lab.differences == 0)
}

fn farewell(lab: &Lab, running: &[u32]) {
    let dir = lab.dir.display();
    match lab.differences {
        0 => println!("Every restore is identical with {}.", lab.source.display()),
        count => println!("{count} DIFFERENCES between the restores and the source."),
    }
    println!();
    println!("  {dir}/policy.toml      the storage policy: read it, edit it");
    println!("  {dir}/a/coordinator    site a: repository, catalog, audit log");
    println!("  {dir}/b/proxy          site b: secondary repository, library/ with the cartridges");
    println!("  {dir}/restored         what was restored from each copy");
    println!("  {dir}/logs             what the nodes said");
    if running.is_empty() {
        println!("\nRun it again with --keep to leave both sites running. To remove the lab:");
        println!("  rm -r {dir}");
        return;
    }
    let processes: Vec<String> = running.iter().map(u32::to_string).collect();
    println!("\nBoth sites are running. Look around:");
    println!("  export STRONGROOM_HOME={dir}/operator");
    for command in [
        "strongroom status",
        "strongroom points",
        "strongroom ls latest:tree@host1",
        "strongroom jobs list",
        "strongroom why latest:tree@host1",
        "strongroom --site b points",
        "strongroom audit",
    ] {
        println!("  {command}");
    }
    println!("To end it:  kill {} && rm -r {dir}", processes.join(" "));
}
