//! Whatever an API says of a refusal: a hint that is short, plain, and does not repeat what stands in for a secret.

#![no_main]

use std::time::SystemTime;

use countersign::diagnosis::Evidence;
use countersign::diagnosis::answer::{Answer, Api, Auth, Base, Sent, Shown, diagnose};
use countersign::diagnosis::canonical::{compare, date_of, quoted};
use countersign::diagnosis::claims::Claims;
use libfuzzer_sys::fuzz_target;

const OURS: &str = "GET\n/prod\na=s3cret-query\nhost:x\nx-amz-date:20261121T083000Z\nx-amz-security-token:s3cret-token\n\n\
                    host;x-amz-date;x-amz-security-token\ne3b0c442";

fuzz_target!(|data: (u16, &str, &str, &str, &[u8])| {
    let (status, kind, challenge, token, body) = data;
    if [kind.as_bytes(), challenge.as_bytes(), token.as_bytes(), body].iter().any(|part| holds(part, b"s3cret")) {
        return;
    }
    let auth = Auth::Token { claims: Claims::read(token), header: "authorization".into(), scheme: "Bearer".into() };
    let keys = Auth::Signature {
        region: "eu-west-1".into(),
        service: "execute-api".into(),
        source: "keys".into(),
        key_id: Some(token.into()),
        session_token: Shown::Yes,
    };
    for auth in [Auth::None, auth, keys] {
        let answer = Answer {
            status,
            error_type: Some(kind),
            challenge: Some(challenge).filter(|text| !text.is_empty()),
            api: Api::Unknown,
            body: Some(body),
            length: None,
        };
        let sent = Sent {
            method: "GET",
            path: "/prod",
            base: Base::Path,
            host: "x",
            auth: &auth,
            api_key: Shown::No,
            client_certificate: Shown::No,
            skew: None,
            now: SystemTime::UNIX_EPOCH,
            canonical: Some(OURS),
        };
        if let Some(diagnosis) = diagnose(&answer, &sent) {
            let hint = diagnosis.hint(Evidence::Shown);
            assert!(hint.len() <= 640 && hint.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{hint}");
            assert!(!hint.contains("s3cret") || holds(body, b"\\u"), "{hint}");
        }
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let theirs = quoted(text).unwrap_or(text);
        let _date = date_of(theirs);
        assert!(!format!("{:?}", compare(OURS, theirs)).contains("s3cret"));
    }
});

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
