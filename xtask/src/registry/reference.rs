//! The names under which images are pushed.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Result, bail, ensure};

/// The registry of images whose names contain no host, by Docker's rules.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// A name of an image in a registry: `REGISTRY/NAME` or `REGISTRY/NAME:TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageReference {
    /// The registry's host, with its port if one is given.
    pub(super) registry: String,
    /// The repository in the registry.
    pub(super) repository: String,
    /// The tag, if one is given.
    pub(super) tag: Option<String>,
}

impl ImageReference {
    /// This reference, with this tag if it has none.
    pub(crate) fn with_default_tag(&self, tag: &str) -> ImageReference {
        ImageReference {
            tag: self.tag.clone().or_else(|| Some(tag.to_owned())),
            ..self.clone()
        }
    }

    /// The host and port of the registry's API. That of Docker Hub has another name than its
    /// images.
    pub(super) fn api_host(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            host => host,
        }
    }

    /// Whether the registry's host is `localhost` or a loopback address.
    pub(super) fn is_on_this_machine(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = |address: IpAddr| address.is_loopback();
        host == "localhost" || address.parse().is_ok_and(is_loopback)
    }
}

impl FromStr for ImageReference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<ImageReference> {
        ensure!(
            !text.contains("://"),
            "leave out the scheme: give REGISTRY/NAME[:TAG], such as registry.example.com/dns-agent"
        );
        ensure!(
            !text.contains('@'),
            "an image is pushed under a tag, and its digest follows from its contents: give \
             REGISTRY/NAME[:TAG]"
        );
        let Some((registry, name)) = text.split_once('/').filter(|(host, _)| is_host(host)) else {
            bail!(
                "no registry is given: give REGISTRY/NAME[:TAG], such as \
                 registry.example.com/dns-agent or {DOCKER_HUB}/ACCOUNT/dns-agent"
            );
        };
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        ensure!(
            is_repository(repository),
            "`{repository}` is no name of a repository: such names consist of parts with lower-case \
             letters, digits, and `.`, `_` or `-` between them, and of slashes between the parts"
        );
        if let Some(tag) = tag {
            ensure!(
                is_tag(tag),
                "`{tag}` is no tag: a tag has up to 128 letters, digits, `_`, `.` and `-`, and \
                 begins with none of the last two"
            );
        }
        Ok(ImageReference {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
        })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

/// Whether the first part of an image's name is a host, by Docker's rules.
pub(crate) fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

/// Whether a text is the name of a repository, by the OCI distribution specification, except for
/// its rules about consecutive separators. The registry checks those.
fn is_repository(text: &str) -> bool {
    text.split('/').all(|part| {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut bytes = part.bytes();
        bytes.all(|byte| is_word(byte) || b"._-".contains(&byte))
            && part.bytes().next().is_some_and(is_word)
            && part.bytes().next_back().is_some_and(is_word)
    })
}

/// Whether a text is a tag, by the OCI distribution specification.
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_registry_a_repository_and_a_tag() {
        for (text, registry, repository, tag) in [
            (
                "registry.example.com/dns-agent:v1",
                "registry.example.com",
                "dns-agent",
                Some("v1"),
            ),
            ("localhost:5000/a/b", "localhost:5000", "a/b", None),
            ("localhost/a", "localhost", "a", None),
            ("[::1]:5000/a:1.0_x-y", "[::1]:5000", "a", Some("1.0_x-y")),
        ] {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!(reference.registry, registry);
            assert_eq!(reference.repository, repository);
            assert_eq!(reference.tag.as_deref(), tag);
            assert_eq!(reference.to_string(), text);
        }
        let reference: ImageReference = "a.example/b".parse().unwrap();
        assert_eq!(
            reference.with_default_tag("dev").to_string(),
            "a.example/b:dev"
        );
    }

    #[test]
    fn other_texts_are_refused_with_a_remedy() {
        for (text, words) in [
            ("dns-agent", "no registry is given"),
            ("zerohop/dns-agent:dev", "no registry is given"),
            ("https://a.example/b", "leave out the scheme"),
            ("a.example/b@sha256:00", "under a tag"),
            ("a.example/B", "lower-case"),
            ("a.example/", "lower-case"),
            ("a.example/b/-c", "lower-case"),
            ("a.example/b:", "no tag"),
            ("a.example/b:.x", "no tag"),
        ] {
            let error = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn only_loopback_addresses_are_on_this_machine() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("192.0.2.1:5000", false),
            ("[2001:db8::1]:443", false),
        ] {
            let reference: ImageReference = format!("{registry}/a").parse().unwrap();
            assert_eq!(reference.is_on_this_machine(), expected, "{registry}");
        }
    }
}
