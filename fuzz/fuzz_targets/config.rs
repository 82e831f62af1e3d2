//! Whatever stands in `gem.toml`: a configuration or an error, and never a panic.
#![no_main]

use gem_types::config::{Config, Given, format_duration, format_size, parse_duration, parse_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Config::resolve(&Given { file: Some(text.into()), ..Given::default() });
    if let Ok(bytes) = parse_size(text) {
        assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }
    if let Ok(time) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(time)), Ok(time));
    }
});
