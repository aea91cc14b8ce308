//! The project id of an inode (quota), by the one ioctl pair rustix does not wrap. An inode
//! without one, or a file system without projects, has project 0.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

const READ: Opcode = opcode::read::<Attributes>(b'X', 31);
const WRITE: Opcode = opcode::write::<Attributes>(b'X', 32);

fn read(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    // SAFETY: FS_IOC_FSGETXATTR fills exactly one `struct fsxattr`, which `Attributes` is.
    Ok(unsafe { ioctl(file, Getter::<READ, Attributes>::new()) }?)
}

/// The project an inode belongs to.
pub fn project_of(file: BorrowedFd<'_>) -> u32 {
    read(file).map_or(0, |attributes| attributes.project)
}

/// Puts an inode into a project.
///
/// # Errors
/// What the kernel answered.
pub fn set_project(file: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let attributes = Attributes { project, ..read(file)? };
    // SAFETY: FS_IOC_FSSETXATTR reads exactly one `struct fsxattr`, which `Attributes` is.
    Ok(unsafe { ioctl(file, Setter::<WRITE, Attributes>::new(attributes)) }?)
}
