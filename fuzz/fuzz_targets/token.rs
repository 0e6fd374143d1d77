//! Whatever a token endpoint answers: a token fit for a header, with a life in bounds, or a problem that quotes nothing.

#![no_main]

use std::time::Duration;

use countersign::auth::oauth::read_token;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| match read_token(answer) {
    Ok(token) => {
        assert!((Duration::from_secs(10)..=Duration::from_hours(24)).contains(&token.life));
        assert!(!token.value.expose().is_empty() && token.value.expose().len() <= 16_384);
        let field = HeaderValue::try_from(format!("Bearer {}", token.value.expose())).expect("a field can hold it");
        assert!(field.to_str().is_ok_and(|text| !text.contains(['\r', '\n'])));
    }
    Err(problem) => assert!(problem.is_ascii() && problem.len() < 200, "it quotes: {problem}"),
});
