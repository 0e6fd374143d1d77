//! `countersign init`: writes a commented config of one route, from flags or from a few questions.
//!
//! Asks only a terminal. Writes nothing that `check` would refuse, no secret, and never over a file that is there.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Uri;

use super::draft::{Auth, Draft, Role};
use super::{BAD_CONFIG, BAD_FLAGS, FAILED, complain, say};
use crate::config::Environment;
use crate::route::upstream::region_of;

#[derive(Args, Debug, Default)]
pub(super) struct InitArgs {
    /// Where requests go.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// How they are authorised.
    #[arg(long, value_enum)]
    auth: Option<Kind>,
    /// For sigv4: region of the signature, if the upstream's name does not tell it.
    #[arg(long)]
    region: Option<String>,
    /// For sigv4: service of the signature, if not execute-api.
    #[arg(long)]
    service: Option<String>,
    /// For sigv4: AWS profile whose credentials sign.
    #[arg(long)]
    profile: Option<String>,
    /// For sigv4: role to assume.
    #[arg(long, value_name = "ARN")]
    role_arn: Option<String>,
    /// For sigv4: what the role's trust policy asks for.
    #[arg(long, value_name = "ID", requires = "role_arn")]
    external_id: Option<String>,
    /// For client-credentials: token endpoint.
    #[arg(long, value_name = "URL")]
    token_url: Option<String>,
    /// For client-credentials and cognito-user: client id.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// For client-credentials: name of the environment variable that holds the secret.
    #[arg(long, value_name = "NAME")]
    client_secret_env: Option<String>,
    /// For client-credentials: a scope to ask for; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// For cognito-user: the user pool.
    #[arg(long, value_name = "ID")]
    user_pool_id: Option<String>,
    /// For cognito-user: the user.
    #[arg(long)]
    username: Option<String>,
    /// For cognito-user: name of the environment variable that holds the password.
    #[arg(long, value_name = "NAME")]
    password_env: Option<String>,
    /// Address to listen on; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// The file to write; "-" is standard output.
    #[arg(long, value_name = "FILE", default_value = "countersign.toml")]
    output: PathBuf,
}

/// How requests are authorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Sigv4,
    ClientCredentials,
    CognitoUser,
    None,
}

pub(super) fn init(args: &InitArgs, environment: &Environment) -> ExitCode {
    let prints = args.output == Path::new("-");
    if !prints && args.output.symlink_metadata().is_ok() {
        return refuse_to_overwrite(&args.output);
    }
    let stdin = io::stdin();
    let mut lines = stdin.lock();
    let input: Option<&mut dyn BufRead> = if stdin.is_terminal() { Some(&mut lines) } else { None };
    let mut interview = Interview { input, prompts: &mut io::stderr(), missing: Vec::new() };
    let draft = match args.draft(&mut interview) {
        Ok(draft) => draft,
        Err(problem) => return complain(&problem, BAD_FLAGS),
    };
    let unset = draft.variable().filter(|name| environment.get(name).is_none());
    let known = match unset {
        Some(name) => environment.with(name, "a-secret-that-is-not-set-yet"),
        None => environment.clone(),
    };
    let document = draft.document();
    let name = args.output.display().to_string();
    if let Err(report) = document.load(&name, &known) {
        return complain(&report, BAD_CONFIG);
    }
    if prints {
        return say(document.text(), ExitCode::SUCCESS);
    }
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.output);
    match written.and_then(|mut file| file.write_all(document.text().as_bytes())) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return refuse_to_overwrite(&args.output),
        Err(error) => return complain(&format!("writing {name}: {error}"), FAILED),
    }
    let first = unset.map(|name| format!("set {name} to the secret, then ")).unwrap_or_default();
    let flag = if name == "countersign.toml" { String::new() } else { format!(" --config {name}") };
    say(
        &format!("wrote {name}\nnext: {first}countersign check --online{flag}, countersign run{flag}\n"),
        ExitCode::SUCCESS,
    )
}

fn refuse_to_overwrite(path: &Path) -> ExitCode {
    complain(&format!("{} is there already, and stays as it is; name another with --output", path.display()), FAILED)
}

/// Asks for what no flag says, if there is somebody to ask.
struct Interview<'a> {
    input: Option<&'a mut dyn BufRead>,
    prompts: &'a mut dyn Write,
    missing: Vec<&'static str>,
}

impl Interview<'_> {
    /// What must be known; asked for until it is.
    fn need(&mut self, flag: &'static str, given: Option<&String>, question: &str) -> String {
        if let Some(given) = given {
            return given.clone();
        }
        while let Some(answer) = self.ask(question) {
            if !answer.is_empty() {
                return answer;
            }
        }
        self.missing.push(flag);
        String::new()
    }

    /// What may be left out.
    fn offer(&mut self, given: Option<&String>, question: &str) -> Option<String> {
        given.cloned().or_else(|| self.ask(&format!("{question} (empty for none)")).filter(|answer| !answer.is_empty()))
    }

    /// One line; `None` when nobody answers.
    fn ask(&mut self, question: &str) -> Option<String> {
        let input = self.input.as_mut()?;
        // Who cannot read the question may know the answer.
        drop(write!(self.prompts, "{question}: ").and_then(|()| self.prompts.flush()));
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            self.input = None;
            return None;
        }
        Some(line.trim().to_owned())
    }

    fn kind(&mut self, given: Option<Kind>) -> Option<Kind> {
        if given.is_some() {
            return given;
        }
        loop {
            let question = "How are requests authorised (sigv4, client-credentials, cognito-user, none)";
            let Some(answer) = self.ask(question) else {
                self.missing.push("--auth");
                return None;
            };
            if let Ok(kind) = Kind::from_str(&answer, true) {
                return Some(kind);
            }
        }
    }
}

impl InitArgs {
    /// # Errors
    /// What is wrong with the flags, or missing among them.
    fn draft(&self, interview: &mut Interview<'_>) -> Result<Draft, Box<dyn Display>> {
        let upstream = interview.need("--upstream", self.upstream.as_ref(), "URL of the API");
        let kind = interview.kind(self.auth);
        if let Some((flag, kind)) = kind.and_then(|kind| Some((self.foreign(kind)?, kind))) {
            let kind = kind.to_possible_value().map(|kind| kind.get_name().to_owned()).unwrap_or_default();
            return Err(Box::new(format!("{flag} means nothing to --auth {kind}")));
        }
        let auth = kind.map_or(Auth::None, |kind| self.auth(kind, &upstream, interview));
        if !interview.missing.is_empty() {
            return Err(Box::new(format!("missing: {} (a terminal is asked for them)", interview.missing.join(", "))));
        }
        Ok(Draft { upstream, auth, listen: self.listen.clone(), admin: None, level: None })
    }

    /// A flag that the other kinds have.
    fn foreign(&self, kind: Kind) -> Option<&'static str> {
        let (aws, client, user) = (kind == Kind::Sigv4, kind == Kind::ClientCredentials, kind == Kind::CognitoUser);
        let flags = [
            ("--region", self.region.is_some(), aws),
            ("--service", self.service.is_some(), aws),
            ("--profile", self.profile.is_some(), aws),
            ("--role-arn", self.role_arn.is_some(), aws),
            ("--token-url", self.token_url.is_some(), client),
            ("--client-id", self.client_id.is_some(), client || user),
            ("--client-secret-env", self.client_secret_env.is_some(), client),
            ("--scope", !self.scopes.is_empty(), client),
            ("--user-pool-id", self.user_pool_id.is_some(), user),
            ("--username", self.username.is_some(), user),
            ("--password-env", self.password_env.is_some(), user),
        ];
        flags.into_iter().find(|(_, given, fits)| *given && !fits).map(|(flag, ..)| flag)
    }

    fn auth(&self, kind: Kind, upstream: &str, interview: &mut Interview<'_>) -> Auth {
        const CLIENT_ID: &str = "Client id";
        match kind {
            Kind::None => Auth::None,
            Kind::Sigv4 => {
                let host = upstream.parse::<Uri>().ok().and_then(|url| Some(url.host()?.to_owned()));
                let region = match host.as_deref().and_then(region_of) {
                    Some(_inferred) => self.region.clone(),
                    None => interview.offer(self.region.as_ref(), "Region, if not that of the AWS profile"),
                };
                let profile = interview.offer(self.profile.as_ref(), "AWS profile");
                let role = interview.offer(self.role_arn.as_ref(), "ARN of a role to assume");
                let external_id = self.external_id.clone();
                let role = role.map(|arn| Role { arn, external_id });
                Auth::SigV4 { region, service: self.service.clone(), profile, role }
            }
            Kind::ClientCredentials => {
                let token_url = interview.need("--token-url", self.token_url.as_ref(), "URL of the token endpoint");
                let client_id = interview.need("--client-id", self.client_id.as_ref(), CLIENT_ID);
                let question = "Name of the environment variable that holds the client's secret";
                let secret_variable = interview.need("--client-secret-env", self.client_secret_env.as_ref(), question);
                Auth::ClientCredentials { token_url, client_id, secret_variable, scopes: self.scopes.clone() }
            }
            Kind::CognitoUser => {
                let user_pool_id = interview.need("--user-pool-id", self.user_pool_id.as_ref(), "User pool id");
                let client_id = interview.need("--client-id", self.client_id.as_ref(), CLIENT_ID);
                let username = interview.need("--username", self.username.as_ref(), "User name");
                let question = "Name of the environment variable that holds the password";
                let password_variable = interview.need("--password-env", self.password_env.as_ref(), question);
                Auth::CognitoUser { user_pool_id, client_id, username, password_variable }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(args: &InitArgs, answers: &str) -> (Result<Draft, String>, String) {
        let (mut input, mut prompts) = (answers.as_bytes(), Vec::new());
        let mut interview = Interview { input: Some(&mut input), prompts: &mut prompts, missing: Vec::new() };
        let draft = args.draft(&mut interview).map_err(|problem| problem.to_string());
        (draft, String::from_utf8(prompts).unwrap())
    }

    #[test]
    fn a_terminal_is_asked_for_what_no_flag_says() {
        let args = InitArgs { client_id: Some("abc".to_owned()), ..InitArgs::default() };
        let answers = "https://a.example/prod\nsomehow\nclient-credentials\n\nhttps://t.example/token\nSECRET\n";
        let (draft, prompts) = asked(&args, answers);
        let draft = draft.unwrap();
        assert_eq!(draft.variable(), Some("SECRET"));
        let text = draft.document().text().to_owned();
        for line in
            ["upstream = \"https://a.example/prod\"", "client_id = \"abc\"", "token_url = \"https://t.example/token\""]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
        // Asked again after nonsense and after nothing; not asked for what a flag said.
        assert_eq!(prompts.matches("How are requests").count(), 2, "{prompts}");
        assert_eq!(prompts.matches("token endpoint").count(), 2, "{prompts}");
        assert!(!prompts.contains("Client id"), "{prompts}");
    }

    #[test]
    fn a_region_is_asked_for_where_the_name_does_not_tell_it() {
        for (url, answers, region) in [
            ("https://a.execute-api.eu-west-1.amazonaws.com/prod", "\n\n", None),
            ("https://api.example.com", "eu-west-3\n\n\n", Some("eu-west-3")),
        ] {
            let (draft, prompts) = asked(&InitArgs::default(), &format!("{url}\nsigv4\n{answers}"));
            let Auth::SigV4 { region: found, profile: None, role: None, .. } = draft.unwrap().auth else {
                panic!("{prompts}")
            };
            assert_eq!(found.as_deref(), region);
        }
    }

    #[test]
    fn a_terminal_that_hangs_up_leaves_things_missing() {
        let (draft, _prompts) = asked(&InitArgs::default(), "https://a.example\ncognito-user\n");
        let problem = draft.unwrap_err();
        assert!(problem.contains("--user-pool-id, --client-id, --username, --password-env"), "{problem}");
    }
}
