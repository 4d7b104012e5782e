//! Queries over TLS to a server on the loopback. `authority.pem` has signed `server.pem`, the
//! certificate of `dns.example`, whose key is `server-key.pem`. They are valid until 2126.

use std::net::{Ipv4Addr, SocketAddr};

use domain::base::iana::OptRcode;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use zerohop_zone::Name;

use super::*;
use crate::{
    counters::ResolverCounters,
    response::{Response, UpstreamQuery},
    tcp,
    upstream::{ServerSet, UpstreamPool, UpstreamServer},
};

/// The name in the server's certificate.
const NAME: &str = "dns.example";

/// A server that answers each query with NXDOMAIN, and what it serves.
async fn start_server() -> (SocketAddr, JoinSet<()>) {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // The client ends the handshake if it does not trust the certificate.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            while let Ok(mut message) = tcp::read_message(&mut stream).await {
                // QR and NXDOMAIN.
                message[2] |= 0x80;
                message[3] |= 3;
                tcp::write_message(&mut stream, &message).await.unwrap();
            }
        }
    });
    (address, tasks)
}

fn authorities() -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("authority.pem")).unwrap();
    authorities.add(certificate).unwrap();
    authorities
}

/// The response of a server with this name over TLS.
async fn ask(
    server: SocketAddr,
    name: &str,
    authorities: RootCertStore,
) -> (Option<Response>, Arc<ResolverCounters>) {
    let counters = Arc::new(ResolverCounters::default());
    let tls = TlsClient::with_authorities(authorities);
    let pool = UpstreamPool::with_tls(tls, counters.clone());
    let set = ServerSet {
        servers: vec![UpstreamServer::over_tls(server, name).unwrap()],
        ..ServerSet::default()
    };
    let query = UpstreamQuery::probing(&Name::parse("a.example").unwrap());
    let mut given = None;
    pool.ask(&set, &query, |response| given = response.ok())
        .await;
    (given, counters)
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_asked_over_tls_only() {
    let (server, _tasks) = start_server().await;
    let (response, counters) = ask(server, NAME, authorities()).await;
    let rcode = response.map(|response| response.rcode());
    assert_eq!(rcode, Some(OptRcode::NXDOMAIN));
    let counts = counters.snapshot();
    let attempts = (counts.upstream_udp_attempts, counts.upstream_tcp_attempts);
    assert_eq!(attempts, (0, 1));
}

#[tokio::test]
async fn a_server_that_cant_be_trusted_gets_no_query() {
    let (server, _tasks) = start_server().await;
    let mut others = RootCertStore::empty();
    let own = CertificateDer::from_pem_slice(include_bytes!("server.pem")).unwrap();
    // The certificate is not that of an authority.
    others.add(own).unwrap();
    for (name, authorities) in [("other.example", authorities()), (NAME, others)] {
        let (response, counters) = ask(server, name, authorities).await;
        assert!(response.is_none(), "{name}: {response:?}");
        let counts = counters.snapshot();
        assert_eq!(counts.upstream_udp_attempts, 0, "{name}");
    }
}

#[test]
fn a_name_must_be_that_of_a_server() {
    let server = SocketAddr::from(([192, 0, 2, 1], 853));
    let error = UpstreamServer::over_tls(server, "a b").unwrap_err();
    assert!(error.to_string().contains("a b"), "{error}");
}
