use std::time::Duration;

use serde::Deserialize;

use super::*;

/// A login as pycognito computes it; tests/data/srp/generate.py.
#[derive(Deserialize)]
struct Vector {
    note: String,
    pool_id: String,
    user: String,
    password: String,
    secret: String,
    salt: String,
    public: String,
    block: String,
    time: u64,
    expected_public: String,
    expected_timestamp: String,
    expected_signature: String,
}

impl Vector {
    fn challenge(&self) -> Challenge<'_> {
        let Self { pool_id, user, salt, public, block, .. } = self;
        Challenge { pool_id, user, salt, public, block }
    }

    fn login(&self) -> Login {
        Login::with_secret(U1024::from_be_slice(&hex(&self.secret).unwrap()))
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.time)
    }
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../tests/data/srp/vectors.json")).unwrap()
}

#[test]
fn another_implementations_logins_come_out_the_same() {
    let vectors = vectors();
    assert!(vectors.len() >= 30);
    for vector in &vectors {
        let login = vector.login();
        assert_eq!(login.public(), vector.expected_public, "{}", vector.note);
        let proof = login.prove(&vector.challenge(), &Secret::from(&*vector.password), vector.now()).unwrap();
        assert_eq!(proof.timestamp, vector.expected_timestamp, "{}", vector.note);
        assert_eq!(proof.signature, vector.expected_signature, "{}", vector.note);
    }
}

#[test]
fn another_password_or_user_or_pool_or_time_gives_another_signature() {
    let vector = &vectors()[0];
    let login = vector.login();
    let proof = |challenge: &Challenge<'_>, password: &str, now| login.prove(challenge, &password.into(), now).unwrap();
    let right = proof(&vector.challenge(), &vector.password, vector.now());
    for wrong in [
        proof(&vector.challenge(), "wrong", vector.now()),
        proof(&Challenge { user: "other", ..vector.challenge() }, &vector.password, vector.now()),
        proof(&Challenge { pool_id: "eu-west-1_other", ..vector.challenge() }, &vector.password, vector.now()),
        proof(&vector.challenge(), &vector.password, vector.now() + Duration::from_secs(1)),
    ] {
        assert_ne!(wrong.signature, right.signature);
    }
    // The region is no part of it.
    let (_, name) = vector.pool_id.split_once('_').unwrap();
    let moved = format!("us-east-1_{name}");
    let moved = proof(&Challenge { pool_id: &moved, ..vector.challenge() }, &vector.password, vector.now());
    assert_eq!(moved, right);
}

#[test]
fn a_pool_whose_numbers_would_give_the_password_away_is_not_answered() {
    let vector = &vectors()[0];
    let prime = MODULUS.to_lowercase();
    let above = format!("{}0", prime.strip_suffix('f').unwrap());
    for (public, error) in [
        ("0", SrpError::Unsafe),
        (&*"0".repeat(768), SrpError::Unsafe),
        (&prime, SrpError::Unsafe),
        (&"f".repeat(768), SrpError::Unsafe),
        ("", SrpError::Unsafe),
        (&"1".repeat(769), SrpError::Malformed("SRP_B")),
        ("xyz", SrpError::Malformed("SRP_B")),
    ] {
        let outcome = vector.login().prove(&Challenge { public, ..vector.challenge() }, &"pw".into(), vector.now());
        assert_eq!(outcome, Err(error), "{public}");
    }
    assert!(
        vector.login().prove(&Challenge { public: &above, ..vector.challenge() }, &"pw".into(), vector.now()).is_ok()
    );
    for salt in ["", "zz", &"1".repeat(200)] {
        let outcome = vector.login().prove(&Challenge { salt, ..vector.challenge() }, &"pw".into(), vector.now());
        assert_eq!(outcome, Err(SrpError::Malformed("SALT")));
    }
    let outcome = vector.login().prove(&Challenge { block: "!", ..vector.challenge() }, &"pw".into(), vector.now());
    assert_eq!(outcome, Err(SrpError::Malformed("SECRET_BLOCK")));
}

#[test]
fn every_login_has_a_secret_of_its_own_and_does_not_print_it() {
    let (one, other) = (Login::random().unwrap(), Login::random().unwrap());
    assert_ne!(one.public(), other.public());
    assert_eq!(format!("{one:?}"), "srp::Login");
}

#[test]
fn numbers_are_padded_as_javas_are() {
    for (given, expected) in [
        (&[][..], &[0][..]),
        (&[0, 0], &[0]),
        (&[0x7f], &[0x7f]),
        (&[0x80], &[0, 0x80]),
        (&[0, 0, 0xff, 1], &[0, 0xff, 1]),
    ] {
        assert_eq!(padded(given).as_slice(), expected);
    }
    assert_eq!(hex("abc"), Some(vec![0x0a, 0xbc]));
    assert_eq!(hex("é1"), None);
}

#[test]
fn random_logins_are_all_met_and_wrong_passwords_never() {
    random_logins(1_000);
}

/// Ten minutes of two cores: `cargo test --lib ten_thousand -- --ignored`.
#[test]
#[ignore = "the thousand above find a padding error that shows in one login of 256 with a chance of 98 %"]
fn ten_thousand_random_logins_are_all_met() {
    random_logins(10_000);
}

/// Logins against a pool that computes its half with another library.
fn random_logins(number: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < number {
                    one_random_login();
                }
            });
        }
    });
}

fn one_random_login() {
    let text = |longest: usize| -> String {
        std::iter::repeat_with(|| fastrand::char(' '..'\u{2fff}')).take(fastrand::usize(1..=longest)).collect()
    };
    let (user, password) = (text(40), text(40));
    let pool_id = format!("eu-west-1_{}", std::iter::repeat_with(fastrand::alphanumeric).take(9).collect::<String>());
    let verifier = standin::srp::Verifier::new(&pool_id, &user, &password);
    let login = Login::random().unwrap();
    let session = verifier.challenge(&login.public()).unwrap();
    let challenge = Challenge {
        pool_id: &pool_id,
        user: &user,
        salt: verifier.salt(),
        public: session.public(),
        block: session.block(),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(fastrand::u64(0..4_000_000_000));
    let proof = login.prove(&challenge, &Secret::from(&*password), now).unwrap();
    assert!(session.verify(&proof.signature, &proof.timestamp), "{user:?} {password:?} {pool_id}");
    // Twice the work, so not every time.
    if fastrand::u8(..16) == 0 {
        let wrong = login.prove(&challenge, &Secret::from(&*format!("{password}x")), now).unwrap();
        assert!(!session.verify(&wrong.signature, &wrong.timestamp));
    }
}
