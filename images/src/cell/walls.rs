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
        let none = SeccompCondition::new(2, SeccompCmpArgLen::Dword, masked, 0)?;
        SeccompRule::new(vec![none])
    };
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in [libc::SYS_read, libc::SYS_write] {
        calls.insert(call, vec![on_socket()?]);
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![no_code()?]);
    }
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
