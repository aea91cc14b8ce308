//! The freeze of a guest's file systems by libvirt, for a holder process. Promises that a guest
//! which was asked to freeze is asked to thaw until libvirt has seen it thaw, or the machine is
//! off; a guest agent that hangs costs seconds, not the run.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strongroom_protocol::Chain;

use super::virsh::{ANSWER, Virsh, VirshError};
use crate::holder::Holding;
use crate::workload::vm::guest::Frozen;

/// The word in a holder's order for this way of holding.
pub const LIBVIRT_GUEST: &str = "libvirt-guest";
/// How long the guest's agent may take for anything but a freeze: libvirt itself waits for one
/// that hangs without an end.
const GUEST: Duration = Duration::from_secs(10);
/// Where the agent of a guest says which system that is.
const OS_ID: &str = "os.id";

/// What a holder must know to freeze a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LibvirtFreeze {
    pub uri: String,
    /// The machine's UUID.
    pub machine: String,
    /// How long the freeze itself may take.
    pub limit_ms: u64,
}

/// What libvirt says when the agent refused, or was never told. An agent thaws what it froze
/// before it refuses; one that refuses a second freeze leaves alone what somebody else holds, and
/// so must whoever asked.
const NEVER_FROZE: [&str; 5] = [
    "unable to execute QEMU agent command",
    "Guest agent not available for now",
    "QEMU guest agent is not",
    "domain is not running",
    "failed to get domain",
];

/// How far a freeze has come: what was never begun need not be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Asked to freeze, by this process or another.
    Begun,
    Unbegun,
}

/// The file systems of a guest, held by a holder.
#[derive(Debug)]
struct LibvirtHolding {
    about: LibvirtFreeze,
    virsh: Virsh,
    stage: Stage,
}

/// Makes the holding an order asks for.
///
/// # Errors
/// The order cannot be read.
pub fn holding(about: &Value) -> Result<Box<dyn Holding>, String> {
    let about = LibvirtFreeze::deserialize(about).map_err(|error| error.to_string())?;
    let virsh = Virsh::of(&about.uri).map_err(|error| told(&error))?;
    Ok(Box::new(LibvirtHolding { about, virsh, stage: Stage::Begun }))
}

impl LibvirtHolding {
    /// Whether the machine is off, and its freeze with it.
    fn is_off(&self) -> bool {
        let asked = ["domstate", "--domain", &self.about.machine];
        match self.virsh.ask(&asked, ANSWER) {
            Ok(state) => matches!(state.trim(), "shut off" | "crashed"),
            // libvirt answers, and knows no such machine any more.
            Err(VirshError::Refused { .. }) => self.virsh.names().is_ok(),
            Err(_) => false,
        }
    }
}

impl Holding for LibvirtHolding {
    fn freeze(&mut self) -> Result<Value, String> {
        self.stage = Stage::Unbegun;
        let machine = self.about.machine.as_str();
        let system = match self.virsh.ask(&["guestinfo", "--domain", machine, "--os"], GUEST) {
            Ok(said) => os_id(&said),
            // It will not answer another question either.
            Err(error) if is_hung(&error) => return Err(told(&error)),
            Err(_) => None,
        };
        self.stage = Stage::Begun;
        let limit = Duration::from_millis(self.about.limit_ms);
        match self.virsh.ask(&["domfsfreeze", "--domain", machine], limit) {
            Ok(said) => {
                let frozen = Frozen { count: counted(&said), system };
                serde_json::to_value(frozen).map_err(|error| error.to_string())
            }
            Err(error) => {
                if never_froze(&error) {
                    self.stage = Stage::Unbegun;
                }
                Err(told(&error))
            }
        }
    }

    fn thaw(&mut self) -> Result<Value, String> {
        if self.stage == Stage::Unbegun {
            return Ok(Value::Null);
        }
        match self.virsh.ask(&["domfsthaw", "--domain", &self.about.machine], GUEST) {
            Ok(said) => Ok(json!({ "count": counted(&said) })),
            Err(_) if self.is_off() => Ok(json!({ "count": 0, "gone": true })),
            Err(error) => Err(told(&error)),
        }
    }
}

fn is_hung(error: &VirshError) -> bool {
    match error {
        VirshError::Refused { why, .. } => why.contains("Guest agent is not responding"),
        VirshError::Silent { .. } => true,
        _ => false,
    }
}

fn never_froze(error: &VirshError) -> bool {
    match error {
        VirshError::Refused { why, .. } => NEVER_FROZE.iter().any(|said| why.contains(said)),
        VirshError::Silent { .. } | VirshError::Process { .. } => false,
        _ => true,
    }
}

/// `Froze 2 filesystem(s)`.
fn counted(said: &str) -> u64 {
    said.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
}

/// `os.id : mswindows`.
fn os_id(said: &str) -> Option<String> {
    let pairs = said.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(key, _)| key.trim() == OS_ID);
    values.next().map(|(_, value)| value.trim().to_owned())
}

fn told(error: &VirshError) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_frozen_is_thawed() {
        let refused = |why: &str| VirshError::Refused {
            command: "domfsfreeze".to_owned(),
            why: why.to_owned(),
        };
        assert!(never_froze(&refused(
            "Guest agent is not responding: Guest agent not available \
                                      for now"
        )));
        assert!(!never_froze(&refused("Guest agent disappeared while executing command")));
        let command = "domfsfreeze".to_owned();
        assert!(!never_froze(&VirshError::Silent { command, limit: ANSWER }));
    }

    #[test]
    fn what_libvirt_says_of_a_guest_is_understood() {
        assert_eq!((counted("Froze 2 filesystem(s)\n"), counted("Thawed\n")), (2, 0));
        let said = "os.id               : mswindows\nos.name : Microsoft Windows\n";
        assert_eq!(os_id(said).as_deref(), Some("mswindows"));
        assert_eq!(os_id("os.machine : x86_64\n"), None);
    }
}
