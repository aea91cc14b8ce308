//! The walls of the process that reads images. Once they stand it can read from and write to one
//! descriptor, take and give back memory in bounds, and end; any other call ends it at once.

use std::collections::BTreeMap;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// All memory that the process may have, in bytes, the program itself with it.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Memory that may be carried out as code.
const PROT_EXEC: u64 = 4;

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WallsError {
    /// The rules cannot be made for this processor.
    #[error("no rules can be made for this processor")]
    Rules(#[from] seccompiler::BackendError),
    /// The kernel does not take them.
    #[error("the kernel takes no rules for system calls (seccomp)")]
    Kernel(#[from] seccompiler::Error),
    /// A bound cannot be set.
    #[error("a bound of the process cannot be set")]
    Bound(#[from] rustix::io::Errno),
}

/// Raises them around this process, for good.
///
/// # Errors
///
/// [`WallsError`]; the process must not read anything then.
pub(super) fn raise() -> Result<(), WallsError> {
    let rules = rules()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    for (resource, limit) in [
        (Resource::As, MEMORY_BYTES_MAX),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Memlock, 0),
        (Resource::Nproc, 0),
    ] {
        let (current, maximum) = (Some(limit), Some(limit));
        rustix::process::setrlimit(resource, Rlimit { current, maximum })?;
    }
    // This also sees to it that no program it might start would have more rights.
    Ok(seccompiler::apply_filter(&rules)?)
}

fn rules() -> Result<BpfProgram, WallsError> {
    let on_socket = || {
        let zero = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?;
        SeccompRule::new(vec![zero])
    };
    let no_code = || {
        let masked = SeccompCmpOp::MaskedEq(PROT_EXEC);
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, masked, 0)
    };
    // Memory that is of no file: descriptors that who started us left open are of no use.
    let no_file = || {
        let none = u64::from(u32::MAX);
        SeccompCondition::new(4, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, none)
    };
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in [libc::SYS_read, libc::SYS_write] {
        calls.insert(call, vec![on_socket()?]);
    }
    calls.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![no_code()?, no_file()?])?]);
    calls.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![no_code()?])?]);
    for call in [
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
    ] {
        calls.insert(call, Vec::new());
    }
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    let (wrong, right) = (SeccompAction::KillProcess, SeccompAction::Allow);
    Ok(SeccompFilter::new(calls, wrong, right, target)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const WITHIN: &str = "STRONGROOM_TEST_WITHIN_WALLS";

    /// What the process does once the walls stand; by itself it does nothing.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is a process of its own, with its own code")]
    fn within() {
        let Ok(deed) = std::env::var(WITHIN) else { return };
        raise().unwrap();
        match deed.as_str() {
            "open" => drop(std::fs::File::open("/etc/passwd")),
            "connect" => drop(std::net::TcpStream::connect("127.0.0.1:1")),
            "start" => drop(Command::new("/bin/true").status()),
            "write" => drop(rustix::io::write(rustix::stdio::stdout(), b"no")),
            "think" => {
                let many = vec![1_u8; 1 << 20];
                std::process::exit(many.iter().map(|one| i32::from(*one)).sum::<i32>() >> 20);
            }
            _ => {}
        }
        std::process::exit(7);
    }

    #[test]
    fn whatever_reaches_out_ends_the_process() {
        let run = |deed: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "cell::walls::tests::within", "--nocapture"]);
            command.env(WITHIN, deed).output().unwrap().status
        };
        for deed in ["open", "connect", "start", "write"] {
            assert_eq!(run(deed).signal(), Some(libc::SIGSYS), "{deed}");
        }
        assert_eq!(run("think").code(), Some(1));
    }
}
