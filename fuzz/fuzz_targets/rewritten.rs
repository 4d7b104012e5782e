#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    zerohop_fuzz::rewritten::check(input);
});
