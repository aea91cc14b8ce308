//! The link between the sites: how much crossed it, and what can be done to it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::distance;
use crate::lab::engine::{Lab, Place, said};

impl Lab {
    /// Takes the other site off the link.
    pub(super) fn unplug(&self) -> Result<()> {
        let (wan, proxy) = (self.wan(), self.container(Place::Proxy)?);
        self.engine.docker(&["network", "disconnect", &wan, &proxy]).map(drop)
    }

    /// Puts it back.
    pub(super) fn plug(&self) -> Result<()> {
        let (wan, proxy) = (self.wan(), self.container(Place::Proxy)?);
        self.engine.docker(&["network", "connect", "--alias", "proxy", &wan, &proxy]).map(drop)
    }

    fn wan(&self) -> String {
        format!("{}_wan", self.project)
    }

    /// What the coordinator has sent over the link since it was started, in bytes.
    pub(super) fn sent(&self) -> Result<u64> {
        let device = self.device()?;
        let count = format!("cat /sys/class/net/{device}/statistics/tx_bytes");
        Ok(self.shell(Place::Coordinator, &count)?.trim().parse()?)
    }

    /// Bounds what the coordinator can send over the link, or lets go.
    pub(super) fn narrow(&self, rate: Option<&str>) -> Result<()> {
        let device = self.device()?;
        let mut command = inside(&self.pid()?);
        command.args(["tc", "qdisc"]);
        match rate {
            Some(rate) => {
                command.args(["replace", "dev", &device, "root", "tbf", "rate", rate]);
                command.args(["burst", "1mb", "latency", "50ms"])
            }
            None => command.args(["del", "dev", &device, "root"]),
        };
        said(&mut command).map(drop)
    }

    /// Makes the link as long and as bad as [`distance`] says, for as long as the answer lives.
    ///
    /// [`distance`]: crate::lab::distance
    pub(super) fn far(&self) -> Result<Far> {
        let (pid, device) = (self.pid()?, self.device()?);
        let mut command = inside(&pid);
        // The program may have been built anew meanwhile: its file is the one that runs.
        command.arg(format!("/proc/{}/exe", std::process::id())).arg("distance");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let output = child.stdout.take().context("it has no output")?;
        let far = Far { child, pid, device };
        BufReader::new(output).read_line(&mut said)?;
        if said.trim() != distance::READY {
            bail!("no queue of packets could be had from the kernel");
        }
        far.rules("--append")?;
        Ok(far)
    }

    /// The coordinator's process.
    fn pid(&self) -> Result<String> {
        let id = self.container(Place::Coordinator)?;
        let pid = self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", &id])?;
        Ok(pid.trim().to_owned())
    }

    /// The coordinator's own end of the link.
    fn device(&self) -> Result<String> {
        let id = self.container(Place::Coordinator)?;
        let networks = "{{json .NetworkSettings.Networks}}";
        let shown = self.engine.docker(&["inspect", "--format", networks, &id])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let wan = &shown[self.wan()]["MacAddress"];
        let address = wan.as_str().context("the coordinator is not on the link")?;
        let find = format!("grep -lix {address} /sys/class/net/*/address");
        let path = self.shell(Place::Coordinator, &find)?;
        let device = path.trim().strip_prefix("/sys/class/net/");
        let device = device.and_then(|rest| rest.strip_suffix("/address"));
        device.map(str::to_owned).with_context(|| format!("no interface has {address}"))
    }
}

/// A link that is far away, at the coordinator's end of it.
pub(super) struct Far {
    child: Child,
    pid: String,
    device: String,
}

impl Far {
    /// Has every datagram of either direction go through the queue, or no longer.
    fn rules(&self, order: &str) -> Result<()> {
        for (chain, way) in [("INPUT", "--in-interface"), ("OUTPUT", "--out-interface")] {
            let mut command = inside(&self.pid);
            command.args(["iptables", "--wait", order, chain, way, &self.device]);
            command.args(["--protocol", "udp", "--jump", "NFQUEUE", "--queue-num"]);
            said(command.arg(distance::QUEUE.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Where the coordinator is gone, its rules are.
        let _ = self.rules("--delete");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in the network of a process.
fn inside(pid: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", pid, "--net"]);
    command
}
