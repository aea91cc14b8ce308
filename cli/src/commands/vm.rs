//! `vm`: a point of a virtual machine made a machine again: its disks in a format of choice, the
//! proof that it boots and that its guest answers, and the machine itself, straight from its
//! point; and the machines that a libvirt has.

mod ask;
mod boot;
mod drill;
mod list;
mod prove;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use strongroom_agent::vmlab::{LabDisk, convert};
use strongroom_agent::workload::libvirt::define::{CONFIG, Defined, Placed, define};
use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_protocol::admin::PointRef;

use crate::commands::restore::{CopyArgs, Overwrite, RestoreArgs};
use crate::failure::{Ending, Failure, While};
use crate::point_at::{PointAt, point};
use crate::session::{Session, blocking};

pub(crate) use ask::MachineAsked;
pub(crate) use drill::drill_machine;

/// List and restore virtual machines, and prove that they boot
#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    Restore(VmRestoreArgs),
    Prove(prove::VmProveArgs),
    Boot(boot::VmBootArgs),
    List(list::VmListArgs),
}

/// Restore the disks and the configuration of a machine into a directory
#[derive(Args, Debug)]
struct VmRestoreArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// The directory of this host to restore into
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Only this disk; may be repeated
    #[arg(long, value_name = "NAME")]
    disk: Vec<String>,
    /// The format of the images
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    format: ImageFormat,
    /// Define it in libvirt under this name, without starting it: as another machine, or under
    /// its own name as itself
    #[arg(long, value_name = "NAME", conflicts_with = "disk")]
    define: Option<String>,
    /// With --define: the libvirt of this host
    #[arg(long, value_name = "URI", requires = "define", default_value = list::SYSTEM)]
    libvirt: String,
    #[command(flatten)]
    copy: CopyArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum ImageFormat {
    Qcow2,
    Raw,
}

impl VmArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.action {
            Action::Restore(args) => args.run(session).await,
            Action::Prove(args) => args.run(session).await,
            Action::Boot(args) => args.run(session).await,
            Action::List(args) => args.run(session).await,
        }
    }
}

fn restore(copy: CopyArgs, point: PointRef, to: &Path, select: Vec<String>) -> RestoreArgs {
    RestoreArgs {
        at: PointAt { point, path: Vec::new(), inside: None },
        to: Some(to.to_owned()),
        select,
        copy,
        overwrite: Overwrite::IfDifferent,
        wait: None,
        on: None,
    }
}

impl VmRestoreArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let mut select: Vec<String> =
            self.disk.iter().map(|name| format!("/{DISKS}/{name}.raw")).collect();
        if !select.is_empty() {
            select.push(format!("/{DESCRIPTION}"));
        }
        let restore = restore(self.copy, self.point, &self.to, select);
        let ending = restore.run(session).await?;
        let (to, wanted, format) = (self.to, self.disk, self.format);
        let named = self.define.map(|name| (self.libvirt, name));
        let (ending, defined) = blocking(move || {
            let known = described(&to)?;
            if let Some(name) = wanted.iter().find(|name| !known.iter().any(|d| d.name == **name)) {
                let all: Vec<&str> = known.iter().map(|disk| disk.name.as_str()).collect();
                return Err(Failure::new(format!("the machine has no disk {name}"))
                    .hint(format!("it has {}", all.join(", "))));
            }
            if format == ImageFormat::Qcow2 {
                let here = known.iter().filter(|disk| disk.path.exists());
                here.map(|disk| &disk.path).try_for_each(|path| {
                    convert((path, "raw"), (&path.with_extension("qcow2"), "qcow2"))?;
                    std::fs::remove_file(path).doing(format!("{}", path.display()))
                })?;
            }
            let defined = named.map(|(uri, name)| defined(&to, &known, format, (&uri, &name)));
            Ok((ending, defined.transpose()?))
        })
        .await?;
        for remark in defined.into_iter().flatten() {
            session.out.remark(&remark);
        }
        Ok(ending)
    }
}

/// Defines what was restored into `dir` in libvirt; what a person is to know of it.
fn defined(
    dir: &Path,
    disks: &[LabDisk],
    format: ImageFormat,
    (uri, name): (&str, &str),
) -> Result<Vec<String>, Failure> {
    let dir = std::path::absolute(dir).doing(format!("{}", dir.display()))?;
    let format = match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
    };
    let placed = |disk: &LabDisk| {
        let file = dir.join(DISKS).join(format!("{}.{format}", disk.name));
        Placed { name: disk.name.clone(), file, format }
    };
    let placed: Vec<Placed> = disks.iter().map(placed).collect();
    let Defined { without, remarks } = define(uri, &dir, name, &placed)?;
    let_through(&dir).doing(format!("{}", dir.display()))?;
    let without = without.iter().map(|disk| format!("it lacks disk {disk}, which no point holds"));
    let defined = format!("defined in libvirt at {uri} as {name}: start it with `virsh start`");
    Ok(std::iter::once(defined).chain(without).chain(remarks).collect())
}

/// QEMU is another user's under libvirt, which gives it the disks when it starts: it has to get
/// there, and to the variables of its firmware. What is in the files stays their owner's.
fn let_through(dir: &Path) -> std::io::Result<()> {
    let set = |dir: &Path, mode| std::fs::set_permissions(dir, Permissions::from_mode(mode));
    let config = dir.join(CONFIG);
    for entry in std::fs::read_dir(&config)? {
        let entry = entry?;
        let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
        set(&entry.path(), mode)?;
    }
    [config, dir.join(DISKS), dir.to_owned()].iter().try_for_each(|dir| set(dir, 0o711))
}

/// The disks of a machine that was restored into `dir`.
fn described(dir: &Path) -> Result<Vec<LabDisk>, Failure> {
    let about = description(dir)?;
    let disks = about["disks"].as_array().cloned().unwrap_or_default();
    let disk = |told: Value| {
        let name = told["name"].as_str()?.to_owned();
        let path = dir.join(DISKS).join(format!("{name}.raw"));
        Some(LabDisk { path, format: "raw".to_owned(), name })
    };
    Ok(disks.into_iter().filter_map(disk).collect())
}

fn description(dir: &Path) -> Result<Value, Failure> {
    let path = dir.join(DESCRIPTION);
    let wrong = || Failure::new("that is no point of a virtual machine");
    let text =
        std::fs::read(&path).map_err(|_| wrong().hint("`strongroom restore` restores it"))?;
    let about: Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
    match about["kind"] == "vm" {
        true => Ok(about),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_of_machines_are_booted() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = described(dir.path()).unwrap_err().to_string();
        assert!(wrong.contains("no point of a virtual machine"), "{wrong}");
        let path = dir.path().join(DESCRIPTION);
        std::fs::write(&path, r#"{"kind":"postgres"}"#).unwrap();
        assert!(described(dir.path()).is_err());
        std::fs::write(&path, r#"{"kind":"vm","disks":[{"name":"vda"},{"name":"vdb"}]}"#).unwrap();
        let disks = described(dir.path()).unwrap();
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[1].path, dir.path().join("disks/vdb.raw"));
    }
}
