//! Pushes to Debian's `docker-registry`.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::unpacked_program::DOCKER_REGISTRY;

/// An htpasswd line for the user `user` with the password `secret`, with the lowest cost.
const HTPASSWD: &str = "user:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// A running registry on a free port of a loopback address. It ends when it is dropped.
struct RealRegistry {
    process: Child,
    /// The host, with its port.
    host: String,
}

#[test]
fn a_registry_without_authentication_has_the_pushed_image() {
    let registry = RealRegistry::start("open", "");
    let image = small_image();
    let pushed = push_to(&registry.host, &files("open", &json!({}))).unwrap();
    let digest = image.manifest.digest();
    assert_eq!(pushed, format!("{}/a/b:1@{digest}", registry.host));
    for reference in ["1", &digest] {
        let found = registry.get(&format!("manifests/{reference}"), None);
        assert_eq!(found, image.manifest.contents);
    }
    for blob in &image.blobs {
        let found = registry.get(&format!("blobs/{}", blob.digest()), None);
        assert_eq!(found, blob.contents);
    }
    // The registry has everything, and gets the manifest again.
    let again = push_to(&registry.host, &files("open", &json!({}))).unwrap();
    assert_eq!(again, pushed);
}

#[test]
fn a_registry_with_passwords_accepts_the_right_one() {
    let folder = root().join("target/registry-test/passwords");
    fs::create_dir_all(&folder).unwrap();
    let passwords = folder.join("htpasswd");
    fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        passwords.display()
    );
    let registry = RealRegistry::start("passwords", &auth);
    let config = |auth: &str| json!({ "auths": { &registry.host: { "auth": auth } } });

    let refused = push_to(&registry.host, &files("passwords/none", &json!({})));
    expect_error(refused, &["wants credentials for"]);
    // `user:wrong`.
    let refused = push_to(
        &registry.host,
        &files("passwords/wrong", &config("dXNlcjp3cm9uZw==")),
    );
    expect_error(refused, &["rejects the credentials"]);
    push_to(
        &registry.host,
        &files("passwords/right", &config(USER_AND_SECRET)),
    )
    .unwrap();
    let authorization = format!("Basic {USER_AND_SECRET}");
    let found = registry.get("manifests/1", Some(&authorization));
    assert_eq!(found, small_image().manifest.contents);
}

impl RealRegistry {
    /// Starts a registry with an empty store in a folder of the test. `auth` is a part of its
    /// configuration.
    fn start(name: &str, auth: &str) -> RealRegistry {
        let program = DOCKER_REGISTRY.path();
        assert!(
            program.exists(),
            "docker-registry is not there: run `cargo xtask setup`"
        );
        let folder = root().join("target/registry-test").join(name);
        let store = folder.join("store");
        if store.exists() {
            fs::remove_dir_all(&store).unwrap();
        }
        fs::create_dir_all(&store).unwrap();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{auth}",
            store.display()
        );
        fs::write(&config, text).unwrap();
        let log = folder.join("log");
        let process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut registry = RealRegistry {
            process,
            host: String::new(),
        };
        registry.host = registry.wait_for_address(&log);
        registry
    }

    /// Waits until the log has the address that the registry listens on.
    fn wait_for_address(&mut self, log: &Path) -> String {
        loop {
            let text = fs::read_to_string(log).unwrap();
            // msg="listening on 127.0.0.1:40000"
            let address = text.split_once("listening on ").map(|(_, rest)| rest);
            if let Some((address, _)) = address.and_then(|rest| rest.split_once('"')) {
                return address.to_owned();
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "the registry ended: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The contents of a resource of the repository `a/b`.
    fn get(&self, path: &str, authorization: Option<&str>) -> Vec<u8> {
        let mut request = ureq::get(format!("http://{}/v2/a/b/{path}", self.host))
            .header("Accept", MANIFEST_TYPE);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.call().unwrap().body_mut().read_to_vec().unwrap()
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
