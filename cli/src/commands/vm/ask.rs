//! What boots of a machine, and what its guest is asked once it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use strongroom_agent::vmlab::{Boot, Kernel, Machine, shell};

use crate::failure::Failure;

// A doc comment here would stand as what the command is for, in each that is made of it.
#[derive(Args, Debug)]
pub(super) struct AskArgs {
    /// A shell command in the guest that must succeed; may be repeated
    #[arg(long, value_name = "COMMAND")]
    check: Vec<String>,
    /// Boot this kernel instead of what is on the disks
    #[arg(long, value_name = "FILE", requires = "boot_initrd")]
    boot_kernel: Option<PathBuf>,
    /// With --boot-kernel: its file system in memory
    #[arg(long, value_name = "FILE")]
    boot_initrd: Option<PathBuf>,
    /// With --boot-kernel: the words of its command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    boot_append: String,
    /// Boot a guest of the lab beside the disks, from a Debian kernel unpacked here
    #[arg(long, value_name = "DIR", conflicts_with = "boot_kernel")]
    lab_kernel: Option<PathBuf>,
    /// With --lab-kernel: a program of this host that the guest has too; may be repeated
    #[arg(long, value_name = "NAME", requires = "lab_kernel")]
    lab_program: Vec<String>,
    /// How long the guest may take to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,
}

/// What boots.
#[derive(Debug)]
enum Booting {
    Disk,
    Kernel { image: PathBuf, initrd: PathBuf, words: String },
    Lab(PathBuf, Vec<String>),
}

/// What boots, and what is asked.
#[derive(Debug)]
pub(super) struct Asking {
    booting: Booting,
    checks: Vec<String>,
    pub(super) patience: Duration,
}

/// What boots and what is asked, as a policy says it.
#[derive(Debug, Clone)]
pub(crate) struct MachineAsked {
    pub(crate) checks: Vec<String>,
    /// A kernel and its file system in memory, instead of what is on the disks.
    pub(crate) kernel: Option<(PathBuf, PathBuf)>,
    /// The words of its command line.
    pub(crate) words: String,
    pub(crate) patience: Duration,
    pub(crate) kvm: bool,
}

impl From<MachineAsked> for Asking {
    fn from(asked: MachineAsked) -> Self {
        let booting = match asked.kernel {
            Some((image, initrd)) => Booting::Kernel { image, initrd, words: asked.words },
            None => Booting::Disk,
        };
        Self { booting, checks: asked.checks, patience: asked.patience }
    }
}

impl AskArgs {
    pub(super) fn asking(self) -> Asking {
        let booting = match (self.boot_kernel, self.boot_initrd, self.lab_kernel) {
            (Some(image), Some(initrd), _) => {
                Booting::Kernel { image, initrd, words: self.boot_append }
            }
            (_, _, Some(dir)) => Booting::Lab(dir, self.lab_program),
            _ => Booting::Disk,
        };
        let patience = Duration::from_secs(self.patience);
        Asking { booting, checks: self.check, patience }
    }
}

impl Asking {
    /// What boots; what must be made for it is made in `place`.
    pub(super) fn boot(&self, place: &Path) -> Result<Boot, Failure> {
        Ok(match &self.booting {
            Booting::Disk => Boot::Disk,
            Booting::Kernel { image, initrd, words } => {
                Boot::Kernel { image: image.clone(), initrd: initrd.clone(), words: words.clone() }
            }
            Booting::Lab(kernel, programs) => {
                let kernel = Kernel::get(kernel)?;
                let initrd = place.join("initrd");
                let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
                kernel.initramfs(&initrd, &programs)?;
                Boot::Kernel { image: kernel.image, initrd, words: String::new() }
            }
        })
    }

    /// Asks a guest that answered after `booted`.
    pub(super) fn ask(
        &self,
        machine: &mut Machine,
        about: &Value,
        booted: Duration,
    ) -> Result<Value, Failure> {
        let mut asked = Vec::new();
        for check in &self.checks {
            let (code, said) = shell(machine.await_agent(self.patience)?, check)?;
            asked.push(json!({ "command": check, "code": code, "said": said.trim_end() }));
        }
        let proved = asked.iter().all(|check| check["code"] == 0);
        Ok(json!({
            "machine": about["machine"]["name"], "taken_unix_ms": about["taken_unix_ms"],
            "reached": about["quiet"]["reached"], "booted_seconds": booted.as_secs_f64(),
            "checks": asked, "proved": proved,
        }))
    }
}

/// What became of it, for people.
pub(super) fn told(proved: &Value) -> String {
    let seconds = proved["booted_seconds"].as_f64().unwrap_or_default();
    let name = proved["machine"].as_str().unwrap_or("the machine");
    if let Some(why) = proved["why"].as_str() {
        return format!("{name} did not answer: {why}\n");
    }
    let mut text = format!("{name} booted, and its guest answered after {seconds:.1} s\n");
    for check in proved["checks"].as_array().into_iter().flatten() {
        let command = check["command"].as_str().unwrap_or_default();
        let said = check["said"].as_str().unwrap_or_default();
        text.push_str(&match check["code"].as_i64() {
            Some(0) => format!("  passed: {command}\n"),
            code => format!("  FAILED ({}): {command}: {said}\n", code.unwrap_or(-1)),
        });
    }
    text
}
