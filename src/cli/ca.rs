//! `countersign ca`: the developer's own authority, for `connect = "intercept"`.
//!
//! Makes it for the hosts of the config's routes, and tells how programs come to trust it. Changes no trust store by
//! itself: that is its owner's decision.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::origin::ConfigFile;
use super::{BAD_CONFIG, FAILED, complain, say, source};
use crate::auth::refreshing::Chain;
use crate::clock::Clock;
use crate::config::{self, Compiled, Environment};
use crate::proxy::elsewhere::Connect;
use crate::route;
use crate::tls::{Identity, developer};

#[derive(Subcommand, Debug)]
pub(super) enum Ca {
    /// Make an authority that can vouch for the hosts of the routes alone, and tell how to trust it.
    ///
    /// Writes the files that `ca_cert` and `ca_key` name, or ca.pem and ca-key.pem beside the config; never over others.
    Init(ConfigFile),
    /// Tell how to trust the authority that there is.
    Trust(ConfigFile),
}

/// Runs it.
pub(super) fn main(command: &Ca, environment: &Environment) -> ExitCode {
    let (Ca::Init(file) | Ca::Trust(file)) = command;
    let source = match source::find(file.config.as_deref(), environment) {
        Ok(source) => source,
        Err(error) => return complain(&Chain(&error), BAD_CONFIG),
    };
    let compiled = match config::load_without_authority(&source, environment) {
        Ok(compiled) => compiled,
        Err(report) => return complain(&report, BAD_CONFIG),
    };
    let (authority, is_configured) = match &compiled.proxy.elsewhere.connect {
        Connect::Intercept { authority, .. } => (authority.clone(), true),
        Connect::Refuse | Connect::Tunnel(_) => {
            (Identity { cert: source.folder.join("ca.pem"), key: source.folder.join("ca-key.pem") }, false)
        }
    };
    match command {
        Ca::Init(_) => init(&compiled, &authority, is_configured),
        Ca::Trust(_) if authority.cert.exists() => say(&trust(&authority.cert), ExitCode::SUCCESS),
        Ca::Trust(_) => {
            complain(&format!("{} is not there; `countersign ca init` makes it", authority.cert.display()), FAILED)
        }
    }
}

fn init(compiled: &Compiled, authority: &Identity, is_configured: bool) -> ExitCode {
    let hosts = route::hosts(&compiled.routes);
    if hosts.is_empty() {
        return complain(&"no route has a host that a program could name, so there is nothing to vouch for", FAILED);
    }
    let made = match developer::create(&hosts, Clock::system().now().wall) {
        Ok(made) => made,
        Err(error) => return complain(&Chain(&error), FAILED),
    };
    let Identity { cert, key } = authority;
    if let Err(text) = write(cert, key, &made) {
        return complain(&text, FAILED);
    }
    let mut text = String::new();
    // Writing to a String cannot go wrong.
    let _infallible = writeln!(
        text,
        "made {} and {}, which nobody else may read\nvouches for {} and names under them, until {}",
        cert.display(),
        key.display(),
        hosts.join(", "),
        httpdate::fmt_http_date(made.ends)
    );
    if !is_configured {
        text += "\nIn the config:\n  [proxy.forward]\n  connect = \"intercept\"\n  ca_cert = \"ca.pem\"\n  \
                 ca_key = \"ca-key.pem\"\n";
    }
    text += "\n";
    text += &trust(cert);
    say(&text, ExitCode::SUCCESS)
}

/// Writes both files, or neither.
fn write(cert: &Path, key: &Path, made: &developer::New) -> Result<(), String> {
    let failed = |path: &Path, error: &io::Error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            format!("{} is there already; move it away first", path.display())
        } else {
            format!("writing {}: {error}", path.display())
        }
    };
    if let Ok(true) = cert.try_exists() {
        return Err(failed(cert, &io::ErrorKind::AlreadyExists.into()));
    }
    create(key, 0o600, made.key.as_bytes()).map_err(|error| failed(key, &error))?;
    create(cert, 0o644, made.certificate.as_bytes()).map_err(|error| {
        // Ours, of a moment ago.
        drop(std::fs::remove_file(key));
        failed(cert, &error)
    })
}

/// Writes a file that is not there yet.
fn create(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content).and_then(|()| file.sync_all()).inspect_err(|_unwritten| drop(std::fs::remove_file(path)))
}

/// What to type, by who is to trust.
fn trust(cert: &Path) -> String {
    let file = std::path::absolute(cert).unwrap_or_else(|_no_folder| PathBuf::from(cert));
    let file = quoted(&file);
    format!(
        "\
To trust it:
  curl       export CURL_CA_BUNDLE={file}   (then it trusts nothing else)
  Debian     sudo cp {file} /usr/local/share/ca-certificates/countersign-developer.crt && sudo update-ca-certificates
  macOS      security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db {file}
  Windows    certutil -user -addstore Root {file}
  Node       export NODE_EXTRA_CA_CERTS={file}
  Python     cat \"$(python3 -m certifi)\" {file} > bundle.pem && export SSL_CERT_FILE=$PWD/bundle.pem REQUESTS_CA_BUNDLE=$PWD/bundle.pem
  Java       keytool -importcert -noprompt -cacerts -storepass changeit -alias countersign-developer -file {file}
  Chromium   certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n countersign-developer -i {file}   (on Linux)
Programs then run with HTTPS_PROXY and HTTP_PROXY set to an address of [proxy] listen, such as http://127.0.0.1:8080.
"
    )
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
