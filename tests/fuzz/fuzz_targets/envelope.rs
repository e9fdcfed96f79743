#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postmeter_fuzz::envelope::check(input));
