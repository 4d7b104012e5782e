//! The servers that a question may be sent to, and how they are asked.

use std::net::SocketAddr;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use zerohop_routes::{ForwardGroup, ForwardServer, ForwardTransport, UpstreamPolicy};

use super::tls::find_authorities;

/// Servers that know the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerSet {
    /// The servers, in the configured order.
    pub servers: Vec<UpstreamServer>,
    /// The order in which they are asked.
    pub policy: UpstreamPolicy,
    /// How servers without TLS are asked.
    pub transport: ForwardTransport,
}

/// An upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamServer {
    /// Its address.
    pub address: SocketAddr,
    /// The name in the certificate of a server that is asked over TLS only.
    tls_name: Option<ServerName<'static>>,
}

/// The transports by which a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    UdpAndTcp,
    /// TCP or TLS.
    Stream,
}

impl ServerSet {
    /// Servers over UDP and TCP, in this order of preference.
    pub fn plain(addresses: impl IntoIterator<Item = SocketAddr>) -> ServerSet {
        let servers = addresses.into_iter().map(UpstreamServer::plain);
        ServerSet {
            servers: servers.collect(),
            ..ServerSet::default()
        }
    }

    /// The servers of a group of routes.
    ///
    /// # Errors
    /// When the name of a server over TLS is not the name of a certificate.
    pub fn of_group(group: &ForwardGroup) -> anyhow::Result<ServerSet> {
        let servers = group.servers.iter().filter_map(|server| match server {
            ForwardServer::Plain(address) => Some(Ok(UpstreamServer::plain(*address))),
            ForwardServer::Tls(address, name) => Some(UpstreamServer::over_tls(*address, name)),
            ForwardServer::NodeResolvConf => None,
        });
        Ok(ServerSet {
            servers: servers.collect::<anyhow::Result<_>>()?,
            policy: group.policy,
            transport: group.transport,
        })
    }

    /// Checks that the certificates of servers over TLS can be checked.
    ///
    /// # Errors
    /// When a server is asked over TLS, and no certificate authority is found.
    pub fn check_authorities(&self) -> anyhow::Result<()> {
        if self.servers.iter().any(|server| server.tls_name.is_some()) {
            find_authorities()?;
        }
        Ok(())
    }

    /// The addresses of the servers, in the configured order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// The addresses of the servers that can be asked over UDP.
    pub(crate) fn datagram_addresses(&self) -> Vec<SocketAddr> {
        let servers = self.servers.iter();
        let servers = servers.filter(|server| self.channel(server) == Channel::UdpAndTcp);
        servers.map(|server| server.address).collect()
    }

    pub(super) fn channel(&self, server: &UpstreamServer) -> Channel {
        match (&server.tls_name, self.transport) {
            (None, ForwardTransport::UdpAndTcp) => Channel::UdpAndTcp,
            _ => Channel::Stream,
        }
    }
}

impl UpstreamServer {
    /// A server over UDP and TCP.
    pub fn plain(address: SocketAddr) -> UpstreamServer {
        UpstreamServer {
            address,
            tls_name: None,
        }
    }

    /// A server over TLS. Its certificate must have this name, and must be signed by an authority
    /// that the system trusts.
    ///
    /// # Errors
    /// When `name` is not the name of a certificate.
    pub fn over_tls(address: SocketAddr, name: &str) -> anyhow::Result<UpstreamServer> {
        let parsed = ServerName::try_from(name.to_owned());
        let parsed = parsed.with_context(|| format!("{name:?} is not the name of a server"))?;
        Ok(UpstreamServer {
            address,
            tls_name: Some(parsed),
        })
    }

    pub(super) fn tls_name(&self) -> Option<&ServerName<'static>> {
        self.tls_name.as_ref()
    }
}
