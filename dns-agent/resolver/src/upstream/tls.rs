//! TLS to upstreams (RFC 7858).

use std::{
    io,
    sync::{Arc, OnceLock},
};

use anyhow::bail;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use rustls_native_certs::load_native_certs;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The protocol of DNS over TLS, which servers with several protocols at one port need (RFC 7858
/// section 3.1).
const PROTOCOL: &[u8] = b"dot";

/// How certificates of upstreams are checked. The authorities are read when they are first needed.
#[derive(Debug, Default)]
pub(super) struct TlsClient(OnceLock<Result<Arc<ClientConfig>, String>>);

impl TlsClient {
    /// Starts TLS on a connection to a server whose certificate must have this name.
    ///
    /// # Errors
    /// When no authority is found, the handshake fails, or the certificate can't be trusted.
    pub(super) async fn start(
        &self,
        name: &ServerName<'static>,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = self.0.get_or_init(|| {
            let authorities = find_authorities();
            let config = authorities.and_then(client_config);
            config.map_err(|error| format!("{error:#}"))
        });
        let config = config.clone().map_err(io::Error::other)?;
        let connector = TlsConnector::from(config);
        connector.connect(name.clone(), stream).await
    }

    /// A client that trusts these authorities.
    #[cfg(test)]
    pub(super) fn with_authorities(authorities: RootCertStore) -> TlsClient {
        let config = client_config(authorities).map_err(|error| format!("{error:#}"));
        TlsClient(OnceLock::from(config))
    }
}

/// The authorities that the system trusts. The environment variables `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name others.
///
/// # Errors
/// When there is none.
pub(super) fn find_authorities() -> anyhow::Result<RootCertStore> {
    let found = load_native_certs();
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(found.certs);
    if authorities.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        bail!(
            "no certificate authorities are found, so no upstream over TLS can be trusted: \
             install a bundle of authorities, or set SSL_CERT_FILE ({})",
            errors.join("; ")
        );
    }
    Ok(authorities)
}

fn client_config(authorities: RootCertStore) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
