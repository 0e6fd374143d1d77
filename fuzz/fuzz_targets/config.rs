//! A config is taken or reported, the same way each time; a report has something to say.
#![no_main]

use countersign::config::{self, Environment, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Files that a config names may be any of this machine's.
    if text.contains("file") {
        return;
    }
    let load = || {
        let source = Source { name: "fuzz".to_owned(), text: text.to_owned(), folder: "/nonexistent".into() };
        config::load(&source, &Environment::new([("NAME".to_owned(), "value".to_owned())]))
    };
    match (load(), load()) {
        (Ok(_), Ok(_)) => {}
        (Err(one), Err(other)) => {
            let report = one.to_string();
            assert!(!report.trim().is_empty());
            assert_eq!(report, other.to_string());
        }
        _ => panic!("taken once and refused once"),
    }
});
