//! Partition tables, and what lies in the partitions. The body is shared with the stable slice.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = strongroom_tests::fuzzing::tables(bytes);
});
