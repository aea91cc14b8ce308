//! How the process takes and gives back memory. A node moves buffers of some hundred KiB from
//! thread to thread for days: left to itself, glibc gives each thread an arena of its own and
//! learns never to return what is large, so that what was in flight once is held for good.

#![allow(unsafe_code)]

/// Buffers from here on are mapped by themselves and given back when they are freed, bytes.
/// Smaller ones are the many that are used again at once, and page faults would cost a third of
/// the rate (docs/performance.md).
const MAPPED_BYTES_MIN: i32 = 512 << 10;
/// Free memory kept at the end of an arena before it is given back, bytes.
const KEPT_BYTES_MAX: i32 = 32 << 20;
/// Heaps that threads share.
const ARENAS_MAX: i32 = 2;

/// Sets the allocator up; to be called before there are threads. What the environment says
/// (`MALLOC_ARENA_MAX` and its like) is overruled. An allocator that is not glibc's is left alone.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX),
    ] {
        // SAFETY: mallopt takes two numbers and may be called at any time; a value it does not
        // like it refuses, and then the allocator is as it was.
        unsafe { libc::mallopt(what, value) };
    }
}
