//! `countersign env`: the lines that have a shell's programs call the proxy.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::front::Front;
use super::origin::{Origin, Purpose};
use super::{BAD_CONFIG, FAILED, complain, say};
use crate::auth::refreshing::Chain;
use crate::config::Environment;

#[derive(Args, Debug)]
pub(super) struct EnvArgs {
    /// Whose lines [default: that of `$SHELL`].
    #[arg(long, value_enum)]
    shell: Option<Shell>,
    #[command(flatten)]
    origin: Origin,
}

/// A shell, by how it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Sh,
    Fish,
    Powershell,
}

pub(super) fn env(args: &EnvArgs, environment: &Environment) -> ExitCode {
    let compiled = match args.origin.load(environment, Purpose::Service) {
        Ok(compiled) => compiled,
        Err(error) => return complain(&Chain(&error), BAD_CONFIG),
    };
    let Some(listener) = compiled.server.listen.first().copied() else {
        return complain(&"the config has Unix sockets alone, which no variable can name", FAILED);
    };
    if listener.port() == 0 {
        return complain(&"the first of `listen` has port 0, so the port is chosen at start: give it a number", FAILED);
    }
    let front = Front::of(&compiled);
    if let Some(warning) = front.warning() {
        let _stays = complain(&warning, 0);
    }
    let shell = args.shell.unwrap_or_else(|| Shell::named(environment.get("SHELL").unwrap_or_default()));
    let mut lines = String::new();
    for (name, value) in front.variables(listener, environment) {
        // Writing to a String cannot go wrong.
        let _infallible = writeln!(lines, "{}", shell.line(name, &value));
    }
    say(&lines, ExitCode::SUCCESS)
}

impl Shell {
    /// By the path of its program.
    fn named(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("fish") => Self::Fish,
            Some("pwsh" | "powershell") => Self::Powershell,
            Some(_) | None => Self::Sh,
        }
    }

    fn line(self, name: &str, value: &str) -> String {
        match self {
            Self::Sh => format!("export {name}='{}'", value.replace('\'', "'\\''")),
            Self::Fish => format!("set -gx {name} '{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
            Self::Powershell => format!("$env:{name} = '{}'", value.replace('\'', "''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_quotes_in_its_own_way() {
        let value = r"a'b\c$d";
        for (path, line) in [
            ("/bin/bash", r"export X='a'\''b\c$d'"),
            ("/usr/bin/fish", r"set -gx X 'a\'b\\c$d'"),
            ("/usr/bin/pwsh", r"$env:X = 'a''b\c$d'"),
            ("", r"export X='a'\''b\c$d'"),
        ] {
            assert_eq!(Shell::named(path).line("X", value), line);
        }
    }
}
