//! An XFS with changes where its structures lie. The body is shared with the stable slice.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = strongroom_tests::fuzzing::xfs(bytes);
});
