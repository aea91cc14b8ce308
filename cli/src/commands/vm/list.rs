//! `vm list`: the machines of a libvirt on this host, as a policy would name them, and what stands
//! in the way of protecting them.

use clap::Args;
use strongroom_agent::workload::libvirt::list::{Listed, machines};

use crate::failure::{Ending, Failure};
use crate::session::{Session, blocking};

/// The connection that a host's machines usually have.
pub(super) const SYSTEM: &str = "qemu:///system";

/// List the machines of the libvirt on this host, and what of them can be protected
#[derive(Args, Debug)]
pub(super) struct VmListArgs {
    /// The libvirt of this host
    #[arg(long, value_name = "URI", default_value = SYSTEM)]
    libvirt: String,
}

impl VmListArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let all = blocking(move || Ok(machines(&self.libvirt)?)).await?;
        if session.out.is_json() {
            session.out.json(&all)?;
        } else if all.is_empty() {
            session.out.text("no machines\n")?;
        } else {
            session.out.text(&all.iter().map(told).collect::<String>())?;
        }
        Ok(Ending::Done)
    }
}

fn told(machine: &Listed) -> String {
    let mut text = format!("{}  {}  {}\n", machine.name, machine.state, machine.uuid);
    for disk in &machine.disks {
        text.push_str(&format!("  {}  {}  {}\n", disk.name, disk.format, disk.file));
    }
    for left in &machine.left_out {
        text.push_str(&format!("  {} is left out: {}\n", left.name, left.why));
    }
    for remark in &machine.remarks {
        text.push_str(&format!("  note: {remark}\n"));
    }
    text
}
