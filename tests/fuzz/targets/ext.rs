//! A file system of ext2, ext3 or ext4. The body is shared with the stable slice.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = strongroom_tests::fuzzing::ext(bytes);
});
