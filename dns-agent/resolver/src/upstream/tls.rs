//! TLS to upstreams (RFC 7858).

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use rustls_native_certs::load_native_certs;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The protocol of DNS over TLS, which servers with several protocols at one port need (RFC 7858
/// section 3.1).
const PROTOCOL: &[u8] = b"dot";

/// The upstreams that are queried over TLS only, and how their certificates are checked.
#[derive(Clone, Debug)]
pub struct TlsUpstreams {
    /// The name that each server's certificate must have.
    names: BTreeMap<SocketAddr, ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl TlsUpstreams {
    /// Servers whose certificates must have these names, and must be signed by an authority that
    /// the system trusts. The environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name other
    /// authorities.
    ///
    /// # Errors
    /// When a name is not a name of a certificate, or no authority is found.
    pub fn new(servers: &[(SocketAddr, String)]) -> anyhow::Result<TlsUpstreams> {
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
        TlsUpstreams::with_authorities(servers, authorities)
    }

    fn with_authorities(
        servers: &[(SocketAddr, String)],
        authorities: RootCertStore,
    ) -> anyhow::Result<TlsUpstreams> {
        let parse = |(address, name): &(SocketAddr, String)| {
            let parsed = ServerName::try_from(name.clone());
            let parsed = parsed.with_context(|| format!("{name:?} is not the name of a server"))?;
            Ok((*address, parsed))
        };
        let names = servers.iter().map(parse).collect::<anyhow::Result<_>>()?;
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities)
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        let config = Arc::new(config);
        Ok(TlsUpstreams { names, config })
    }

    /// Whether a server is queried over TLS.
    pub(crate) fn has(&self, server: SocketAddr) -> bool {
        self.names.contains_key(&server)
    }

    /// Starts TLS on a connection to a server that is queried over TLS.
    ///
    /// # Errors
    /// When the handshake fails, or the certificate can't be trusted.
    pub(super) async fn start(
        &self,
        server: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.names.get(&server).ok_or(io::ErrorKind::NotFound)?;
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(name.clone(), stream).await
    }
}

#[cfg(test)]
mod tests;
