//! The header `WWW-Authenticate`, by which a registry says how to authenticate.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// How a registry wants requests to be authenticated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AuthChallenge {
    /// By a user name and a password (RFC 7617).
    Basic,
    /// By a token of a token server (RFC 6750, and Docker's specification of token servers).
    Bearer {
        /// The token server's address.
        realm: String,
        /// The name by which the token server knows the registry, if there is one.
        service: Option<String>,
    },
}

impl AuthChallenge {
    /// The challenge in the headers of a response. A registry may offer both schemes, and only
    /// tokens say what they permit, so the first one with a token server is used.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Result<AuthChallenge> {
        let mut is_basic = false;
        let mut other = None;
        for header in headers {
            let (scheme, parameters) = header.split_once(' ').unwrap_or((header, ""));
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    let mut parameters = parse_parameters(parameters);
                    let realm = parameters
                        .remove("realm")
                        .with_context(|| format!("`{header}` names no token server (realm)"))?;
                    let service = parameters.remove("service");
                    return Ok(AuthChallenge::Bearer { realm, service });
                }
                "basic" => is_basic = true,
                _ => other = Some(header),
            }
        }
        match other {
            _ if is_basic => Ok(AuthChallenge::Basic),
            Some(header) => {
                bail!("the registry wants `{header}`, but only Basic and Bearer are known")
            }
            None => bail!("the registry doesn't say how to authenticate"),
        }
    }
}

/// The parameters `name=value` and `name="value"`, separated by commas. Names are lower-case.
fn parse_parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, rest) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
        };
        parameters.insert(name, value);
        text = rest;
    }
    parameters
}

/// Splits a text after its opening quote into the quoted value and the rest after the closing
/// quote. A backslash quotes one character (RFC 9110 section 5.6.4).
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, quoted)| quoted)),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> AuthChallenge {
        AuthChallenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push",error="insufficient_scope""#;
        for (headers, expected) in [
            (
                &[hub][..],
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (&[r#"Basic realm="Registry Realm""#], AuthChallenge::Basic),
            (&["basic"], AuthChallenge::Basic),
            (
                &[
                    r#"Basic realm="a""#,
                    "bearer realm=https://t.example/, service=s",
                ],
                bearer("https://t.example/", Some("s")),
            ),
            (
                &[r#"Bearer Realm = "https://t.example/?a=b,c=\"d\"""#],
                bearer("https://t.example/?a=b,c=\"d\"", None),
            ),
        ] {
            let challenge = AuthChallenge::parse(headers.iter().copied());
            assert_eq!(challenge.unwrap(), expected);
        }
    }

    #[test]
    fn unusable_challenges_are_errors() {
        for (headers, words) in [
            (&[][..], "doesn't say"),
            (&["Negotiate"], "Negotiate"),
            (&[r#"Bearer service="a""#], "no token server"),
        ] {
            let error = AuthChallenge::parse(headers.iter().copied()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
