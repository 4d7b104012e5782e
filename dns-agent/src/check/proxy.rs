//! The finding about kube-proxy, which replaces the address of a Service in a packet with the
//! address of an endpoint. Cilium may do this instead, when a socket sends the packet.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use tokio::time::timeout;
use zerohop_datapath::foreign_programs::Owner;

use super::{DnsEndpoints, Finding};
use crate::admin::client;

/// The address at which kube-proxy reports its mode: the default of its `metricsBindAddress`.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum length of a mode, in bytes.
const MAX_MODE_LENGTH: usize = 64;

/// The mode of kube-proxy. The error says why the mode is not known.
pub(super) type ProxyMode = Result<String, String>;

/// Requests the mode from kube-proxy on this node.
pub(super) async fn request_mode() -> ProxyMode {
    match timeout(TIMEOUT, get_mode()).await {
        Ok(mode) => mode.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer from {ADDRESS} within {TIMEOUT:?}")),
    }
}

async fn get_mode() -> anyhow::Result<String> {
    let (code, body) = client::get(ADDRESS, "/proxyMode")
        .await
        .with_context(|| format!("no answer from {ADDRESS}"))?;
    ensure!(code == StatusCode::OK, "{ADDRESS} answers {code}");
    let not_a_mode = || format!("the answer from {ADDRESS} is not a mode");
    let body = Limited::new(body, MAX_MODE_LENGTH).collect().await;
    let body = body
        .map_err(anyhow::Error::from_boxed)
        .with_context(not_a_mode)?;
    let mode = String::from_utf8(body.to_bytes().to_vec()).with_context(not_a_mode)?;
    let mode = mode.trim();
    let is_word = !mode.is_empty() && mode.bytes().all(|byte| byte.is_ascii_alphanumeric());
    ensure!(is_word, not_a_mode());
    Ok(mode.to_owned())
}

pub(super) fn proxy(
    mode: &ProxyMode,
    owners: &BTreeSet<Owner>,
    endpoints: DnsEndpoints,
) -> Finding {
    const SUBJECT: &str = "kube-proxy";
    let reason = match mode {
        Ok(mode) => {
            let text = format!(
                "mode {mode}; in any mode, the kernel answers pods' queries before kube-proxy \
                 handles them"
            );
            return Finding::works(SUBJECT, text);
        }
        Err(reason) => reason,
    };
    match (owners.contains(&Owner::Cilium), endpoints) {
        (true, DnsEndpoints::Passed) => Finding::limited(
            SUBJECT,
            format!(
                "the mode is not known ({reason}), and Cilium is on this node. If Cilium replaces \
                 kube-proxy, queries on the interfaces that are not skipped have the address of a \
                 CoreDNS pod, so CoreDNS answers them: give --serve-dns-endpoints"
            ),
        ),
        (true, DnsEndpoints::Served) => Finding::works(
            SUBJECT,
            format!(
                "the mode is not known ({reason}), and Cilium is on this node. If Cilium replaces \
                 kube-proxy, queries on the interfaces that are not skipped have the address of a \
                 CoreDNS pod, and the kernel answers them because of --serve-dns-endpoints"
            ),
        ),
        (false, _) => Finding::works(
            SUBJECT,
            format!(
                "the mode is not known ({reason}). The mode matters only if other software, such \
                 as Cilium, replaces kube-proxy: in that case give --serve-dns-endpoints"
            ),
        ),
    }
}
