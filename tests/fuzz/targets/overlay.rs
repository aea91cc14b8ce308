//! The map of an overlay. The body is shared with the stable slice.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = strongroom_tests::fuzzing::overlay(bytes);
});
