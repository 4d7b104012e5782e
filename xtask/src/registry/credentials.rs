//! Credentials for registries, in the files that Docker and Podman write at a login.

use std::{
    env,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};

use super::reference::{DOCKER_HUB, ImageReference};

/// Credentials for one registry.
pub(super) struct RegistryCredentials {
    /// The user and password, or the identity token.
    pub(super) secret: DockerCredential,
    /// The file that has them, or that names the credential helper that gave them.
    pub(super) file: PathBuf,
}

/// The files in which credentials are looked for, in this order. They need not exist.
pub(crate) struct CredentialFiles(pub(super) Vec<PathBuf>);

impl CredentialFiles {
    /// The files of Podman and Docker, as their documentation describes them.
    pub(crate) fn of_this_user() -> CredentialFiles {
        CredentialFiles::from_environment(|name| env::var_os(name))
    }

    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> CredentialFiles {
        let path = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let below = |name: &str, file: &str| path(name).map(|folder| folder.join(file));
        let podman =
            path("REGISTRY_AUTH_FILE").or_else(|| below("XDG_RUNTIME_DIR", "containers/auth.json"));
        let docker =
            below("DOCKER_CONFIG", "config.json").or_else(|| below("HOME", ".docker/config.json"));
        CredentialFiles(podman.into_iter().chain(docker).collect())
    }

    /// The credentials for the registry of an image. `None` if no file has any.
    pub(super) fn find(&self, image: &ImageReference) -> Result<Option<RegistryCredentials>> {
        for path in self.0.iter().filter(|path| path.exists()) {
            for server in servers(&image.registry) {
                if let Some(secret) = read(path, server)? {
                    let file = path.clone();
                    return Ok(Some(RegistryCredentials { secret, file }));
                }
            }
        }
        Ok(None)
    }

    /// The files' paths, for messages.
    pub(super) fn list(&self) -> String {
        let paths: Vec<_> = self
            .0
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(" and ")
    }
}

/// The names under which the files may have a registry. That of Docker Hub differs from the name
/// in images for historical reasons.
fn servers(registry: &str) -> Vec<&str> {
    match registry {
        DOCKER_HUB => vec!["https://index.docker.io/v1/", DOCKER_HUB],
        other => vec![other],
    }
}

fn read(path: &Path, server: &str) -> Result<Option<DockerCredential>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let error = match get_credential_from_reader(file, server) {
        Ok(secret) => return Ok(Some(secret)),
        Err(error) => error,
    };
    if is_absence(&error) {
        return Ok(None);
    }
    let advice = match error {
        CredentialRetrievalError::ConfigReadError => "the file is not valid: repair it",
        CredentialRetrievalError::HelperCommunicationError => {
            "the file names a credential helper: install docker-credential-NAME in PATH"
        }
        _ => "log in to the registry again",
    };
    let path = path.display();
    Err(anyhow!("{error}"))
        .with_context(|| format!("no credentials for {server} from {path}: {advice}"))
}

/// Whether an error only says that there are no credentials. Helpers report that by this text, in
/// docker-credential-helpers' `credentials.NewErrCredentialsNotFound`.
fn is_absence(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => [stdout, stderr]
            .iter()
            .any(|text| text.contains("credentials not found")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::process::root;

    /// Looks for credentials with these files: a name of a variable, the text, and the registry.
    fn find(name: &str, text: &str, registry: &str) -> Result<Option<RegistryCredentials>> {
        let folder = root().join("target/registry-test/credentials").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), text).unwrap();
        let files = CredentialFiles::from_environment(|variable| {
            (variable == "DOCKER_CONFIG").then(|| folder.clone().into_os_string())
        });
        files.find(&format!("{registry}/a").parse().unwrap())
    }

    fn user(user: &str, password: &str) -> DockerCredential {
        DockerCredential::UsernamePassword(user.to_owned(), password.to_owned())
    }

    #[test]
    fn credentials_of_each_form_are_found() {
        // `a:b` and `c:d`.
        let text = r#"{"auths": {
            "registry.example.com:5000": {"auth": "YTpi"},
            "https://index.docker.io/v1/": {"auth": "Yzpk"},
            "azure.example.com": {"auth": "YTpi", "identitytoken": "token"}
        }}"#;
        let token = DockerCredential::IdentityToken("token".to_owned());
        for (registry, expected) in [
            ("registry.example.com:5000", Some(user("a", "b"))),
            ("docker.io", Some(user("c", "d"))),
            ("azure.example.com", Some(token)),
            ("registry.example.com", None),
        ] {
            let found = find("forms", text, registry).unwrap();
            assert_eq!(found.map(|found| found.secret), expected, "{registry}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        for (name, text, words) in [
            ("json", "{", "repair it"),
            (
                "base64",
                r#"{"auths": {"a.example": {"auth": "%"}}}"#,
                "log in",
            ),
            (
                "helper",
                r#"{"credHelpers": {"a.example": "zerohop-none"}}"#,
                "install docker-credential-NAME",
            ),
        ] {
            let Err(error) = find(name, text, "a.example") else {
                panic!("{name}: no error");
            };
            let error = format!("{error:#}");
            assert!(error.contains(words), "{name}: {error}");
            assert!(error.contains("config.json"), "{name}: {error}");
        }
    }

    #[test]
    fn a_helper_without_credentials_is_no_error() {
        let failure = |stdout: &str| CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-pass".to_owned(),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        assert!(is_absence(&failure(
            "credentials not found in native keychain\n"
        )));
        assert!(!is_absence(&failure("the key ring is locked")));
    }

    #[test]
    fn files_are_looked_for_where_podman_and_docker_write_them() {
        let paths = |given: &[(&str, &str)]| {
            let files = CredentialFiles::from_environment(|name| {
                let mut given = given.iter();
                let (_, value) = given.find(|(variable, _)| *variable == name)?;
                Some(OsString::from(value))
            });
            files.list()
        };
        assert_eq!(
            paths(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/1")]),
            "/run/user/1/containers/auth.json and /home/a/.docker/config.json"
        );
        assert_eq!(
            paths(&[
                ("HOME", "/home/a"),
                ("XDG_RUNTIME_DIR", "/run/user/1"),
                ("REGISTRY_AUTH_FILE", "/auth"),
                ("DOCKER_CONFIG", "/docker"),
            ]),
            "/auth and /docker/config.json"
        );
        assert_eq!(
            paths(&[("HOME", "/home/a"), ("DOCKER_CONFIG", "")]),
            "/home/a/.docker/config.json"
        );
    }
}
