//! The client for the API server: its address, and the agent's credentials.

use std::path::Path;

use anyhow::Context;
use hyper::header::{HeaderValue, USER_AGENT};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// The user agent, which the API server's audit log shows.
const AGENT: &str = concat!("zerohop-dns-agent/", env!("CARGO_PKG_VERSION"));

/// Creates a client for the API server in `kubeconfig`. Without `kubeconfig`, the client uses the
/// ServiceAccount of the agent's Pod or, outside a Pod, the user's default kubeconfig. Sends no
/// request.
///
/// Credentials that the kubelet rotates take effect without a restart: kube reads the file of the
/// ServiceAccount's token again for the first request after 50 seconds, and the file of the API
/// server's certificate authority for the first connection after a minute.
///
/// # Errors
/// When there is no configuration or it can't be used. The error names the configuration and what
/// to do.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = with_agent_settings(match kubeconfig {
        Some(file) => from_file(file).await?,
        None => from_environment().await?,
    });
    let server = config.cluster_url.clone();
    Client::try_from(config).with_context(|| {
        format!(
            "can't use the credentials for the Kubernetes API at {server}: \
             check the Pod's ServiceAccount token, or the kubeconfig's user and certificates"
        )
    })
}

fn with_agent_settings(mut config: Config) -> Config {
    let agent = (USER_AGENT, HeaderValue::from_static(AGENT));
    config.headers.push(agent);
    // kube doesn't retry, because the feeds report each failure and decide whether to list again.
    config.default_retry = false;
    config
}

async fn from_file(file: &Path) -> anyhow::Result<Config> {
    let config = async {
        let kubeconfig = Kubeconfig::read_from(file)?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
    };
    config.await.with_context(|| {
        format!(
            "can't use the kubeconfig {}: \
             --kubeconfig takes a file such as kubectl's, with a current context",
            file.display()
        )
    })
}

/// The configuration of the Pod's cluster or, outside a Pod, of the user's default kubeconfig.
/// kube's own order is the reverse: there, a kubeconfig left in an image takes precedence.
async fn from_environment() -> anyhow::Result<Config> {
    let in_cluster = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => anyhow::Error::from(error),
    };
    let options = KubeConfigOptions::default();
    Config::from_kubeconfig(&options).await.with_context(|| {
        format!(
            "no Kubernetes API is configured, \
             neither by a Pod's ServiceAccount ({in_cluster:#}) nor by a kubeconfig: \
             run in a Pod with a ServiceAccount, or give --kubeconfig FILE"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn the_error_names_an_unusable_kubeconfig() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        for text in [
            // There is no file.
            None,
            // The file isn't a kubeconfig.
            Some("clusters: 5"),
            // The kubeconfig has no current context.
            Some("apiVersion: v1\nkind: Config\n"),
        ] {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
            }
            let error = connect(Some(&file))
                .await
                .map(|_| ())
                .expect_err("an unusable kubeconfig was accepted");
            let error = format!("{error:#}");
            assert!(
                error.contains(&file.display().to_string()),
                "the error doesn't name the file: {error}"
            );
            assert!(
                error.contains("--kubeconfig takes"),
                "the error doesn't say what to do: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_is_enough_to_connect() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        let text = "\
            {apiVersion: v1, kind: Config, current-context: a, \
            clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], \
            users: [{name: a, user: {token: x}}], \
            contexts: [{name: a, context: {cluster: a, user: a}}]}";
        fs::write(&file, text).unwrap();
        connect(Some(&file)).await.map(|_| ()).unwrap();
    }

    #[test]
    fn requests_have_a_user_agent_and_kube_does_not_retry_them() {
        let config = with_agent_settings(Config::new("https://127.0.0.1:1".parse().unwrap()));
        assert!(!config.default_retry);
        let (name, value) = &config.headers[0];
        assert_eq!(name, "user-agent");
        assert_eq!(
            value,
            concat!("zerohop-dns-agent/", env!("CARGO_PKG_VERSION"))
        );
    }
}
