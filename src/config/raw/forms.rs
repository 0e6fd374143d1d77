//! Values with forms of their own: secrets, credentials, log levels.

use std::net::SocketAddr;

use toml::de::DeValue;

use super::{
    CREDENTIALS_KEYS, Literal, PROFILE, RawAssumeRole, RawCredentials, RawFieldValue, RawIdentityPool, RawListen,
    RawRoles, RawSecret, RawSigner, RawStatic, RawStored, RawWay, STATIC, UserId,
};
use crate::auth::spec::UserToken;
use crate::config::read::{At, FromToml, Reader, Table, Text, Type, Value};
use crate::secret::Secret;
use crate::telemetry::level::{self, LEVELS};
use crate::telemetry::log::Level;
use crate::telemetry::traces::sampling::Share;

const SECRET_FORMS: &str = "write { env = \"NAME\" }, { file = \"path\" }, { secretsmanager = \"NAME\", key = \"KEY\" } or { ssm = \"/NAME\" }";
const CREDENTIALS_FORMS: &str = "write \"default\", \"environment\", \"container\", \"instance\", \"web-identity\", { profile = \"NAME\" }, { static = { access_key_id = …, secret_access_key = … } } or { identity_pool = { id = …, login = … } }";

impl FromToml for Level {
    const TYPE: Type = Type::Text;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let text = Text::read(reader, key, value)?;
        match (level::misspelt(&text), text.parse()) {
            (None, Ok(level)) => Some(level),
            (part, _) => {
                reader.unknown_value(key, value, &text.part(part.unwrap_or_default()), &LEVELS);
                None
            }
        }
    }
}

impl FromToml for RawListen {
    const TYPE: Type = Type::Address;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        // Only a literal "unix:" is one: a whole address may come from the environment.
        if !value.get_ref().as_str().is_some_and(|text| text.starts_with("unix:")) {
            return SocketAddr::read(reader, key, value).map(Self::Tcp);
        }
        let path = Text::read(reader, key, value)?.behind("unix:")?;
        if path.is_empty() {
            let span = reader.span(value);
            let problem = reader.problems.error(span, "\"unix:\" has no path behind it");
            problem.help("write the path of the socket, as in \"unix:/run/countersign/proxy.sock\"");
            return None;
        }
        Some(Self::Unix(path))
    }
}

impl FromToml for UserId {
    const TYPE: Type = Type::Id;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            reader.wrong_type(key, value, "a whole number").help("`id -u NAME` prints it");
            return None;
        };
        let id = u32::from_str_radix(number.as_str(), number.radix()).ok();
        if id.is_none() {
            let span = reader.span(value);
            reader.problems.error(span, format!("{key} must be between 0 and {}", u32::MAX));
        }
        id.map(Self)
    }
}

impl FromToml for Share {
    const TYPE: Type = Type::Share;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                reader.wrong_type(key, value, "a number from 0 to 1");
                return None;
            }
        };
        let share = number.and_then(Self::new);
        if share.is_none() {
            let span = reader.span(value);
            reader.problems.error(span, format!("`{key}` must be between 0 and 1")).help("0.1 is every tenth");
        }
        share
    }
}

impl FromToml for RawSecret {
    const TYPE: Type = Type::Secret;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        const PLACES: [&str; 5] = ["env", "file", "value", "secretsmanager", "ssm"];
        let span = reader.span(value);
        let Some(entries) = value.get_ref().as_table() else {
            let message = if value.get_ref().is_str() {
                format!("`{key}` is a secret, and stands here as plain text")
            } else {
                format!("`{key}` must be a table that says where the secret is")
            };
            reader.problems.error(span, message).help(SECRET_FORMS);
            return None;
        };
        let stored = entries.contains_key("secretsmanager") || entries.contains_key("ssm");
        let is_known =
            |name: &str| PLACES.contains(&name) || stored && RawStored::KEYS.iter().any(|key| key.name == name);
        let mut known = true;
        for name in entries.keys().filter(|name| !is_known(name.get_ref())) {
            known = false;
            let problem = reader.problems.error(name.span().into(), format!("unknown key `{}`", name.get_ref()));
            problem.label(format!("not a way to give the secret `{key}`")).help(SECRET_FORMS);
        }
        let mut given = entries.iter().filter(|(name, _)| PLACES.contains(&&**name.get_ref()));
        match (given.next(), given.next()) {
            (Some((name, value)), None) => match name.get_ref().as_ref() {
                "env" => reader.at(key, value).map(Self::Env),
                "file" => reader.at(key, value).map(Self::File),
                "secretsmanager" | "ssm" => {
                    let table = Table { name: key, span, entries };
                    Some(Self::Stored(Box::new(RawStored::take(reader, &table, None))))
                }
                _ => {
                    let text: At<Text> = reader.at(key, value)?;
                    let filled_in = text.value.is_filled_in();
                    let secret = Secret::new(text.value.into_string());
                    let value = if filled_in { Literal::FromEnvironment(secret) } else { Literal::InFile(secret) };
                    Some(Self::Value(At { value, span: text.span }))
                }
            },
            (Some(_), Some(_)) => {
                reader.problems.error(span, format!("`{key}` says twice where the secret is")).help("keep one of them");
                None
            }
            (None, _) => {
                if known {
                    let message = format!("`{key}` does not say where the secret is");
                    reader.problems.error(span, message).help(SECRET_FORMS);
                }
                None
            }
        }
    }
}

impl FromToml for RawRoles {
    const TYPE: Type = Type::Tables(RawAssumeRole::KEYS);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        if value.get_ref().is_array() {
            return Vec::read(reader, key, value).map(Self);
        }
        reader.at(key, value).map(|role| Self(vec![role]))
    }
}

impl FromToml for UserToken {
    const TYPE: Type = Type::Choice(&["access", "id"]);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        match value.get_ref().as_str() {
            Some("access") => Some(Self::Access),
            Some("id") => Some(Self::Id),
            _ => {
                // Not quoted: it may be a token.
                let span = reader.span(value);
                let problem = reader.problems.error(span, format!("this is not a value of `{key}`"));
                problem.help("write \"access\" or \"id\"; the token itself is fetched");
                None
            }
        }
    }
}

impl FromToml for RawFieldValue {
    const TYPE: Type = Type::TextOrSecret;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        if value.get_ref().is_table() {
            return RawSecret::read(reader, key, value).map(Self::Secret);
        }
        if value.get_ref().is_str() {
            return Text::read(reader, key, value).map(Self::Text);
        }
        reader.wrong_type(key, value, "a string or a secret").help(SECRET_FORMS);
        None
    }
}

impl FromToml for RawWay {
    const TYPE: Type = Type::TextOrSecret;

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        if value.get_ref().is_table() || value.get_ref().is_str() {
            return RawFieldValue::read(reader, key, value).map(Self);
        }
        // Not as a name alone, which is that of a table.
        let problem = reader.wrong_type("`proxy` of an upstream", value, "a string or a secret");
        problem.help("write \"env\", \"none\", \"http://proxy.example:3128\" or { env = \"NAME\" }");
        None
    }
}

impl FromToml for RawCredentials {
    const TYPE: Type = Type::ChoiceOrTable(&["default"], CREDENTIALS_KEYS);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        let span = reader.span(value);
        match value.get_ref().as_str() {
            Some("default") => return Some(Self::Default),
            Some("environment") => return Some(Self::Environment),
            Some("container") => return Some(Self::Container),
            Some("instance") => return Some(Self::Instance),
            Some("web-identity") => return Some(Self::WebIdentity),
            Some(_) | None => {}
        }
        let Some(entries) = value.get_ref().as_table() else {
            reader.problems.error(span, format!("this is not a value of `{key}`")).help(CREDENTIALS_FORMS);
            return None;
        };
        reader.refuse_unknown(&Table { name: key, span, entries }, &[CREDENTIALS_KEYS]);
        let given = CREDENTIALS_KEYS.iter().filter_map(|key| Some((key.name, entries.get(key.name)?)));
        match given.collect::<Vec<_>>().as_slice() {
            [("profile", profile)] => reader.at("profile", profile).map(Self::Profile),
            [("static", keys)] => RawStatic::read(reader, "static", keys).map(Self::Static),
            [(_, pool)] => RawIdentityPool::read(reader, "identity_pool", pool).map(Self::IdentityPool),
            [(one, _), (other, _), ..] => {
                let message = format!("`{key}` has both `{one}` and `{other}`");
                reader.problems.error(span, message).help("keep one of them");
                None
            }
            [] => {
                let message = format!("`{key}` does not say where the credentials come from");
                reader.problems.error(span, message).help(CREDENTIALS_FORMS).absence();
                None
            }
        }
    }
}

impl FromToml for RawSigner {
    const TYPE: Type = Type::ChoiceOrTable(&["default"], &[PROFILE, STATIC]);

    fn read(reader: &mut Reader<'_>, key: &str, value: &Value<'_>) -> Option<Self> {
        RawCredentials::read(reader, key, value).map(Self)
    }
}
