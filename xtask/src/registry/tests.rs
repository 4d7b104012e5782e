//! Pushes to a fake registry, which shows the requests, and to a real one.

mod fake;
mod real;

use std::{fs, path::Path};

use serde_json::json;

use self::fake::{FakeRegistry, FakeRequest, FakeResponse};
use super::*;
use crate::{
    oci::{Image, Layer},
    process::root,
};

/// `user:secret`, as in the files of `podman login` and `docker login`.
const USER_AND_SECRET: &str = "dXNlcjpzZWNyZXQ=";

#[test]
fn a_token_server_gets_the_credentials_and_the_registry_the_token() {
    let registry = FakeRegistry::start(|request, address| match request.path.as_str() {
        path if path.starts_with("/token?") => {
            FakeResponse::new(200).with_body(r#"{"token": "first"}"#)
        }
        _ if request.authorization.as_deref() == Some("Bearer first") => accept(request),
        _ => want_token(address),
    });
    let auths = json!({ registry.host(): { "auth": USER_AND_SECRET } });
    let pushed = push("token", &registry, &json!({ "auths": auths })).unwrap();
    assert!(pushed.starts_with(&registry.host()), "{pushed}");

    let requests = registry.requests();
    let tokens: Vec<_> = requests
        .iter()
        .filter(|request| request.path.starts_with("/token"))
        .collect();
    let [token] = tokens.as_slice() else {
        panic!("not exactly one request for a token: {requests:?}");
    };
    assert_eq!(
        token.path,
        "/token?scope=repository%3Aa%2Fb%3Apull%2Cpush&service=fake"
    );
    let basic = format!("Basic {USER_AND_SECRET}");
    assert_eq!(token.authorization.as_deref(), Some(basic.as_str()));
    // Only the token server gets the password.
    let others = requests
        .iter()
        .filter(|request| !request.path.starts_with("/token"));
    for request in others {
        let authorization = request.authorization.as_deref();
        assert!(
            matches!(authorization, None | Some("Bearer first")),
            "{request:?}"
        );
    }
}

#[test]
fn an_identity_token_is_exchanged_for_a_token() {
    let registry = FakeRegistry::start(|request, address| match request.path.as_str() {
        "/token" if request.body.contains("refresh_token=from-login") => {
            FakeResponse::new(200).with_body(r#"{"access_token": "second"}"#)
        }
        _ if request.authorization.as_deref() == Some("Bearer second") => accept(request),
        _ => want_token(address),
    });
    let login = json!({ "auth": USER_AND_SECRET, "identitytoken": "from-login" });
    let auths = json!({ registry.host(): login });
    push("identity", &registry, &json!({ "auths": auths })).unwrap();
    let requests = registry.requests();
    let exchange = requests
        .iter()
        .find(|request| request.path == "/token")
        .unwrap();
    for parameter in [
        "grant_type=refresh_token",
        "service=fake",
        "scope=repository%3Aa%2Fb%3A",
    ] {
        assert!(exchange.body.contains(parameter), "{exchange:?}");
    }
}

#[test]
fn a_token_that_expires_during_a_push_is_replaced() {
    // Each token is good for three requests.
    let registry = FakeRegistry::start(|request, address| {
        if request.path.starts_with("/token?") {
            let token = format!(r#"{{"token": "{}"}}"#, request.number);
            return FakeResponse::new(200).with_body(&token);
        }
        let token = request.authorization.as_deref().unwrap_or_default();
        let issued: Option<usize> = token
            .strip_prefix("Bearer ")
            .and_then(|number| number.parse().ok());
        match issued {
            Some(issued) if request.number <= issued + 3 => accept(request),
            _ => want_token(address),
        }
    });
    push("expiry", &registry, &json!({})).unwrap();
    let requests = registry.requests();
    let tokens = requests
        .iter()
        .filter(|request| request.path.starts_with("/token"));
    assert!(tokens.count() > 1, "{requests:?}");
}

#[test]
fn blobs_that_the_registry_has_are_not_sent() {
    let registry = FakeRegistry::start(|request, _| match request.method.as_str() {
        "HEAD" => FakeResponse::new(200),
        _ => accept(request),
    });
    push("present", &registry, &json!({})).unwrap();
    let requests = registry.requests();
    let puts: Vec<_> = requests
        .iter()
        .filter(|request| request.method == "PUT")
        .collect();
    let [manifest] = puts.as_slice() else {
        panic!("not only the manifest was sent: {requests:?}");
    };
    assert_eq!(manifest.path, "/v2/a/b/manifests/1");
}

#[test]
fn credentials_are_sent_to_no_other_host() {
    let storage = FakeRegistry::start(|request, _| accept(request));
    let elsewhere = format!("http://{}/upload", storage.host());
    let registry = FakeRegistry::start(move |request, _| match &request.authorization {
        None => FakeResponse::new(401).with_header("WWW-Authenticate", "Basic realm=\"a\""),
        Some(_) if request.method == "POST" => {
            FakeResponse::new(202).with_header("Location", &elsewhere)
        }
        Some(_) => accept(request),
    });
    let auths = json!({ registry.host(): { "auth": USER_AND_SECRET } });
    push("storage", &registry, &json!({ "auths": auths })).unwrap();
    let uploads = storage.requests();
    assert!(
        uploads.iter().any(|request| request.method == "PUT"),
        "{uploads:?}"
    );
    for upload in uploads {
        assert_eq!(upload.authorization, None, "{upload:?}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let denied = r#"{"errors": [{"code": "DENIED", "message": "not your repository"}]}"#;
    let basic = || FakeResponse::new(401).with_header("WWW-Authenticate", "Basic realm=\"a\"");
    let login = |registry: &FakeRegistry| {
        let auths = json!({ registry.host(): { "auth": USER_AND_SECRET } });
        json!({ "auths": auths })
    };
    let answer = |response: FakeResponse| FakeRegistry::start(move |_, _| response.clone());
    for (name, registry, has_login, words) in [
        (
            "401-anonymous",
            answer(basic()),
            false,
            &["podman login", "there are none in", "config.json"][..],
        ),
        (
            "401",
            answer(basic()),
            true,
            &[
                "rejects the credentials from",
                "config.json",
                "podman login",
            ],
        ),
        (
            "403",
            answer(FakeResponse::new(403).with_body(denied)),
            true,
            &["right to push", "a/b", "not your repository"],
        ),
        (
            "404",
            answer(FakeResponse::new(404)),
            true,
            &["no repository a/b", "create the repository"],
        ),
        (
            "429",
            answer(FakeResponse::new(429)),
            true,
            &["try again later"],
        ),
        (
            "500",
            answer(FakeResponse::new(500).with_body("disk full")),
            true,
            &["500", "disk full"],
        ),
        (
            "200",
            answer(FakeResponse::new(200)),
            true,
            &["answers 200"],
        ),
        (
            "location",
            answer(FakeResponse::new(202)),
            true,
            &["Location"],
        ),
    ] {
        let config = if has_login {
            login(&registry)
        } else {
            json!({})
        };
        expect_error(push(name, &registry, &config), words);
    }
}

#[test]
fn a_registry_that_stores_other_bytes_is_reported() {
    let registry = FakeRegistry::start(|request, _| match request.method.as_str() {
        "PUT" => FakeResponse::new(201).with_header("Docker-Content-Digest", "sha256:00"),
        _ => accept(request),
    });
    expect_error(
        push("digest", &registry, &json!({})),
        &["stored sha256:00 instead of"],
    );
}

#[test]
fn failed_connections_say_what_to_do() {
    let files = files("connections", &json!({}));
    // The listener is dropped, so nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let image: ImageReference = format!("{address}/a/b:1").parse().unwrap();
    let opened = RemoteRepository::open(image, UrlScheme::Http, &files);
    expect_error(opened, &["no response from", "name and port"]);

    // A registry without TLS.
    let registry = FakeRegistry::start(|request, _| accept(request));
    let image: ImageReference = format!("{}/a/b:1", registry.host()).parse().unwrap();
    let opened = RemoteRepository::open(image, UrlScheme::Https, &files);
    expect_error(opened, &["TLS fails", "SSL_CERT_FILE", "--plain-http"]);
}

#[test]
fn credentials_are_not_sent_without_tls_on_behalf_of_a_registry_with_tls() {
    let files = files("realm", &json!({}));
    let image: ImageReference = "localhost/a/b:1".parse().unwrap();
    let repository = RemoteRepository {
        http: Agent::new_with_defaults(),
        scheme: UrlScheme::Https,
        image,
        credentials: None,
        credential_files: files.list(),
        authorization: None,
    };
    expect_error(
        repository.request_token("http://localhost/token", None),
        &["no TLS"],
    );
}

/// The response of a registry that accepts everything and has nothing.
fn accept(request: &FakeRequest) -> FakeResponse {
    match request.method.as_str() {
        "POST" => FakeResponse::new(202).with_header("Location", "/upload?state=a"),
        "PUT" => FakeResponse::new(201),
        "DELETE" => FakeResponse::new(204),
        _ => FakeResponse::new(404),
    }
}

fn want_token(address: &str) -> FakeResponse {
    let challenge = format!(r#"Bearer realm="http://{address}/token",service="fake""#);
    FakeResponse::new(401).with_header("WWW-Authenticate", &challenge)
}

/// Pushes a small image as `a/b:1`. `config` is the text of Docker's file, and `name` is that of
/// the test.
fn push(name: &str, registry: &FakeRegistry, config: &Value) -> Result<String> {
    push_to(&registry.host(), &files(name, config))
}

fn push_to(host: &str, files: &CredentialFiles) -> Result<String> {
    let image: ImageReference = format!("{host}/a/b:1").parse().unwrap();
    RemoteRepository::open(image, UrlScheme::Http, files)?.push(&small_image())
}

fn small_image() -> PackedImage {
    let mut layer = Layer::default();
    layer.add_contents(Path::new("/etc/text"), "text");
    let image = Image {
        name: "zerohop/test:1",
        entrypoint: "/text",
        environment: &[],
        labels: json!({}),
        layer,
    };
    image.pack().unwrap()
}

/// A file with credentials, in a folder of a test.
fn files(name: &str, config: &Value) -> CredentialFiles {
    let folder = root().join("target/registry-test").join(name);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    CredentialFiles(vec![path])
}

#[track_caller]
fn expect_error<T>(result: Result<T>, words: &[&str]) {
    let Err(error) = result else {
        panic!("no error, but one with {words:?} was expected");
    };
    let error = format!("{error:#}");
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
}
