//! Pushes images to registries, by the OCI distribution specification and without Docker.
//!
//! A push needs five kinds of requests, which ureq sends. The crate `oci-client` would also pull,
//! and needs seven times as many crates, among them an asynchronous runtime, so that xtask would
//! take minutes to build.

mod challenge;
mod credentials;
mod reference;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use docker_credential::DockerCredential;
use serde_json::Value;
use ureq::{
    Agent, Body, SendBody,
    http::{
        HeaderMap, Method, Request, Response, StatusCode, Uri,
        header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
    },
    tls::{RootCerts, TlsConfig},
};

use self::{challenge::AuthChallenge, credentials::RegistryCredentials};
pub(crate) use self::{
    credentials::CredentialFiles,
    reference::{ImageReference, is_host},
};
use crate::oci::{ImageBlob, MANIFEST_TYPE, PackedImage};

/// A repository of a registry, for pushing images to it.
pub(crate) struct RemoteRepository {
    http: Agent,
    scheme: UrlScheme,
    image: ImageReference,
    /// The credentials for the registry, if any were found.
    credentials: Option<RegistryCredentials>,
    /// The files in which credentials were looked for, for messages.
    credential_files: String,
    /// The value of the header `Authorization`, once the registry has asked for one.
    authorization: Option<String>,
}

/// The scheme of a registry's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlScheme {
    /// With TLS.
    Https,
    /// Without TLS.
    Http,
}

/// A request to the registry.
struct RegistryRequest<'a> {
    method: Method,
    url: String,
    /// The body and its type. `None`: no body.
    body: Option<(&'a str, &'a [u8])>,
}

/// The media type of every blob that is sent.
const BLOB_TYPE: &str = "application/octet-stream";

/// Time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time limit for sending a blob. The agent's image has about 10 MB, so this allows for slow lines.
const SEND_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Time limit for a response, which a registry sends after it has stored a blob.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// Maximum length of a response's body, in bytes. Tokens take up to a few kilobytes.
const MAX_BODY: u64 = 256 << 10;
/// Maximum length of an error text from the registry, in characters.
const MAX_ERROR_TEXT: usize = 300;

impl UrlScheme {
    /// The scheme of a registry: HTTP on this machine, and otherwise HTTPS.
    pub(crate) fn usual_for(image: &ImageReference) -> UrlScheme {
        if image.is_on_this_machine() {
            UrlScheme::Http
        } else {
            UrlScheme::Https
        }
    }

    fn name(self) -> &'static str {
        match self {
            UrlScheme::Https => "https",
            UrlScheme::Http => "http",
        }
    }
}

impl RemoteRepository {
    /// Connects to the registry of an image, and checks that images can be pushed to its
    /// repository.
    pub(crate) fn open(
        image: ImageReference,
        scheme: UrlScheme,
        files: &CredentialFiles,
    ) -> Result<RemoteRepository> {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
        let mut config = Agent::config_builder()
            // Errors have a body that says more.
            .http_status_as_error(false)
            .tls_config(tls.build())
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_body(Some(SEND_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_recv_body(Some(RESPONSE_TIMEOUT));
        if image.is_on_this_machine() {
            // A proxy would look for the registry on its own machine.
            config = config.proxy(None);
        }
        let mut repository = RemoteRepository {
            http: config.build().new_agent(),
            scheme,
            credentials: files.find(&image)?,
            credential_files: files.list(),
            authorization: None,
            image,
        };
        repository
            .check_access()
            .with_context(|| format!("cannot push to {}", repository.image))?;
        Ok(repository)
    }

    /// Pushes an image under the reference's tag. Blobs that the repository has are not sent.
    /// Returns the image's name with its tag and digest.
    pub(crate) fn push(&mut self, image: &PackedImage) -> Result<String> {
        let name = self.image.to_string();
        self.push_each(image)
            .with_context(|| format!("cannot push {name}"))?;
        Ok(format!("{name}@{}", image.manifest.digest()))
    }

    /// Begins an upload and cancels it.
    fn check_access(&mut self) -> Result<()> {
        let url = self.begin_upload()?;
        // The registry would also remove the upload after some time.
        let cancel = RegistryRequest::new(Method::DELETE, url);
        self.send(&cancel).map(drop)
    }

    fn push_each(&mut self, image: &PackedImage) -> Result<()> {
        for blob in &image.blobs {
            self.push_blob(blob)
                .with_context(|| format!("the blob {}", blob.digest()))?;
        }
        let tag = self.image.tag.as_deref();
        let tag = tag.context("the image's name has no tag")?;
        let request = RegistryRequest {
            method: Method::PUT,
            url: self.url(&format!("manifests/{tag}")),
            body: Some((MANIFEST_TYPE, &image.manifest.contents)),
        };
        let response = self.send(&request)?;
        let response = self.expect(response, &[StatusCode::CREATED])?;
        check_digest(&response, &image.manifest)
    }

    fn push_blob(&mut self, blob: &ImageBlob) -> Result<()> {
        let url = self.url(&format!("blobs/{}", blob.digest()));
        let response = self.send(&RegistryRequest::new(Method::HEAD, url))?;
        let response = self.expect(response, &[StatusCode::OK, StatusCode::NOT_FOUND])?;
        if response.status() == StatusCode::OK {
            return Ok(());
        }
        let upload = self.begin_upload()?;
        let separator = if upload.contains('?') { '&' } else { '?' };
        let request = RegistryRequest {
            method: Method::PUT,
            url: format!("{upload}{separator}digest={}", blob.digest()),
            body: Some((BLOB_TYPE, &blob.contents)),
        };
        let response = self.send(&request)?;
        let response = self.expect(response, &[StatusCode::CREATED])?;
        check_digest(&response, blob)
    }

    /// Begins an upload, and returns its address.
    fn begin_upload(&mut self) -> Result<String> {
        let request = RegistryRequest {
            method: Method::POST,
            url: self.url("blobs/uploads/"),
            body: Some((BLOB_TYPE, &[])),
        };
        let response = self.send(&request)?;
        let response = self.expect(response, &[StatusCode::ACCEPTED])?;
        let location = header(response.headers(), LOCATION.as_str());
        let location =
            location.context("the registry doesn't say where to upload to (Location)")?;
        if location.starts_with('/') {
            return Ok(format!("{}{location}", self.origin()));
        }
        Ok(location.to_owned())
    }

    /// Sends a request. If the registry wants authentication, authenticates and sends the request
    /// again: tokens expire during long pushes.
    fn send(&mut self, request: &RegistryRequest) -> Result<Response<Body>> {
        let response = self.send_once(request)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.authorization = Some(self.authorize(response.headers())?);
        self.send_once(request)
    }

    fn send_once(&self, request: &RegistryRequest) -> Result<Response<Body>> {
        let mut built = Request::builder()
            .method(request.method.clone())
            .uri(&request.url);
        // An upload may be at another host, such as that of a storage service.
        let is_registry = request.url.starts_with(&format!("{}/", self.origin()));
        if let Some(authorization) = self.authorization.as_ref().filter(|_| is_registry) {
            built = built.header(AUTHORIZATION, authorization);
        }
        if let Some((content_type, _)) = request.body {
            built = built.header(CONTENT_TYPE, content_type);
        }
        let invalid = || format!("the registry gave the invalid address {}", request.url);
        let response = match request.body {
            Some((_, body)) => self.http.run(built.body(body).with_context(invalid)?),
            None => self
                .http
                .run(built.body(SendBody::none()).with_context(invalid)?),
        };
        response.map_err(|error| self.explain_failure(&request.url, error))
    }

    /// The value of the header `Authorization` that a challenge asks for.
    fn authorize(&self, headers: &HeaderMap) -> Result<String> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|challenge| challenge.to_str().ok());
        let secret = self.credentials.as_ref().map(|found| &found.secret);
        match (AuthChallenge::parse(challenges)?, secret) {
            (AuthChallenge::Bearer { realm, service }, _) => {
                let token = self.request_token(&realm, service.as_deref());
                let token = token.with_context(|| format!("no token from {realm}"))?;
                Ok(format!("Bearer {token}"))
            }
            (AuthChallenge::Basic, Some(DockerCredential::UsernamePassword(user, password))) => {
                Ok(basic_authorization(user, password))
            }
            (AuthChallenge::Basic, Some(DockerCredential::IdentityToken(_))) => bail!(
                "the registry wants a user and a password, but {} has an identity token: log in \
                 to {} with a password",
                self.credential_source(),
                self.image.registry
            ),
            (AuthChallenge::Basic, None) => Err(self.explain_unauthorized()),
        }
    }

    /// Requests a token that permits pushing to the repository, as Docker's specification of token
    /// servers describes it. Without credentials the token is anonymous.
    fn request_token(&self, realm: &str, service: Option<&str>) -> Result<String> {
        let realm_uri: Uri = realm.parse().context("the address is invalid")?;
        ensure!(
            self.scheme == UrlScheme::Http || realm_uri.scheme_str() == Some("https"),
            "the address has no TLS, so credentials are not sent there"
        );
        let scope = format!("repository:{}:pull,push", self.image.repository);
        let mut query = vec![("scope", scope.as_str())];
        query.extend(service.map(|service| ("service", service)));
        let response = match self.credentials.as_ref().map(|found| &found.secret) {
            Some(DockerCredential::IdentityToken(token)) => {
                query.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "zerohop"),
                    ("refresh_token", token),
                ]);
                self.http.post(realm).send_form(query)
            }
            Some(DockerCredential::UsernamePassword(user, password)) => {
                let authorization = basic_authorization(user, password);
                let request = self.http.get(realm).query_pairs(query);
                request.header(AUTHORIZATION, authorization).call()
            }
            None => self.http.get(realm).query_pairs(query).call(),
        };
        let response = response.map_err(|error| self.explain_failure(realm, error))?;
        let mut response = self.expect(response, &[StatusCode::OK])?;
        let tokens: Value = serde_json::from_str(&read_body(&mut response))
            .context("the response is not valid JSON")?;
        // Servers give the token one of these names, or both.
        let token = ["token", "access_token"].map(|name| tokens[name].as_str());
        let token = token.into_iter().flatten().next();
        Ok(token.context("the response has no token")?.to_owned())
    }

    /// Fails if the status of a response is not one of the expected ones.
    fn expect(
        &self,
        mut response: Response<Body>,
        expected: &[StatusCode],
    ) -> Result<Response<Body>> {
        let status = response.status();
        if expected.contains(&status) {
            return Ok(response);
        }
        let text = error_text(&read_body(&mut response));
        let ImageReference {
            registry,
            repository,
            ..
        } = &self.image;
        let error = match status {
            StatusCode::UNAUTHORIZED => self.explain_unauthorized(),
            StatusCode::FORBIDDEN => anyhow!(
                "the registry doesn't permit pushing to {repository} with {}: give this account \
                 the right to push, or log in to {registry} with another one",
                self.credential_source()
            ),
            StatusCode::NOT_FOUND => anyhow!(
                "{registry} has no repository {repository}, or is no registry: check the name, \
                 and create the repository where the registry doesn't do so by itself"
            ),
            StatusCode::TOO_MANY_REQUESTS => {
                anyhow!("the registry limits the number of requests: try again later")
            }
            other => anyhow!("the registry answers {other}"),
        };
        if text.is_empty() {
            return Err(error);
        }
        Err(anyhow!("{error} (the registry says: {text})"))
    }

    fn explain_unauthorized(&self) -> Error {
        let registry = &self.image.registry;
        match &self.credentials {
            Some(_) => anyhow!(
                "the registry rejects {}: log in to {registry} again, for example with `podman \
                 login {registry}` or `docker login {registry}`",
                self.credential_source()
            ),
            None => anyhow!(
                "the registry wants credentials for {registry}, and there are none in {}: log in, \
                 for example with `podman login {registry}` or `docker login {registry}`",
                self.credential_files
            ),
        }
    }

    /// The origin of the credentials, for messages.
    fn credential_source(&self) -> String {
        match &self.credentials {
            Some(found) => format!("the credentials from {}", found.file.display()),
            None => "no credentials".to_owned(),
        }
    }

    /// What a failed connection means, and what to do.
    fn explain_failure(&self, url: &str, error: ureq::Error) -> Error {
        let is_tls = match &error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
            // rustls reports refused certificates, and servers without TLS, like this.
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            _ => false,
        };
        let advice = if is_tls {
            "TLS fails: install the certificate of the registry's authority on this machine, or \
             name its file in SSL_CERT_FILE; for a registry without TLS give --plain-http"
        } else {
            "check the registry's name and port, and the network; a proxy is taken from \
             HTTPS_PROXY and NO_PROXY"
        };
        Error::from(error).context(format!("no response from {url}; {advice}"))
    }

    /// The address of a resource of the repository.
    fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.origin(), self.image.repository)
    }

    fn origin(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.image.api_host())
    }
}

impl RegistryRequest<'_> {
    /// A request without a body.
    fn new(method: Method, url: String) -> RegistryRequest<'static> {
        RegistryRequest {
            method,
            url,
            body: None,
        }
    }
}

/// Fails if the registry stored other bytes than those that were sent. Registries need not send
/// the digest.
fn check_digest(response: &Response<Body>, blob: &ImageBlob) -> Result<()> {
    let stored = header(response.headers(), "docker-content-digest");
    let sent = blob.digest();
    match stored.filter(|stored| *stored != sent) {
        Some(stored) => bail!("the registry stored {stored} instead of {sent}: push again"),
        None => Ok(()),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The beginning of a response's body. A body that breaks off counts as far as it came.
fn read_body(response: &mut Response<Body>) -> String {
    let body = response.body_mut().with_config().limit(MAX_BODY);
    body.lossy_utf8(true).read_to_string().unwrap_or_default()
}

/// The messages of an error response, or its text if it has another form.
fn error_text(body: &str) -> String {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    let errors = parsed["errors"].as_array().map(Vec::as_slice);
    let messages = errors.unwrap_or_default().iter().filter_map(|error| {
        let message = error["message"].as_str().filter(|text| !text.is_empty());
        message.or(error["code"].as_str())
    });
    let messages: Vec<_> = messages.collect();
    let text = match messages.as_slice() {
        [] => body.trim().to_owned(),
        messages => messages.join("; "),
    };
    text.chars().take(MAX_ERROR_TEXT).collect()
}

/// The value of the header `Authorization` for a user and a password (RFC 7617).
fn basic_authorization(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
