//! The finding about kube-proxy, which translates Services' addresses to endpoints'. Cilium may do
//! so instead, before the packet is made.

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

/// The default of kube-proxy's `metricsBindAddress`, where it serves its mode.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum length of a mode, in bytes.
const MAX_MODE_LENGTH: usize = 64;

/// The mode of kube-proxy, or why it is not known.
pub(super) type ProxyMode = Result<String, String>;

/// Requests the mode from kube-proxy on this node.
pub(super) async fn request_mode() -> ProxyMode {
    let asked = timeout(TIMEOUT, get_mode()).await;
    match asked {
        Ok(mode) => mode.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer from {ADDRESS} within {TIMEOUT:?}")),
    }
}

async fn get_mode() -> anyhow::Result<String> {
    let (code, body) = client::get(ADDRESS, "/proxyMode")
        .await
        .with_context(|| format!("no answer from {ADDRESS}"))?;
    ensure!(code == StatusCode::OK, "{ADDRESS} answers {code}");
    let strange = || format!("the answer from {ADDRESS} is not a mode");
    let body = Limited::new(body, MAX_MODE_LENGTH).collect().await;
    let body = body
        .map_err(anyhow::Error::from_boxed)
        .with_context(strange)?;
    let mode = String::from_utf8(body.to_bytes().to_vec()).with_context(strange)?;
    let mode = mode.trim();
    let is_word = !mode.is_empty() && mode.bytes().all(|byte| byte.is_ascii_alphanumeric());
    ensure!(is_word, strange());
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
                "mode {mode}; pods' queries are answered before kube-proxy handles them, in any mode"
            );
            return Finding::works(SUBJECT, text);
        }
        Err(reason) => reason,
    };
    match (owners.contains(&Owner::Cilium), endpoints) {
        (true, DnsEndpoints::Passed) => Finding::limited(
            SUBJECT,
            format!(
                "not known: {reason}, and Cilium is here. Where Cilium replaces kube-proxy, pods' queries carry the address \
                 of a CoreDNS pod, and pass: give --serve-dns-endpoints"
            ),
        ),
        (true, DnsEndpoints::Served) => Finding::works(
            SUBJECT,
            format!(
                "not known: {reason}, and Cilium is here. Where Cilium replaces kube-proxy, pods' queries carry the address \
                 of a CoreDNS pod, which the kernel answers because of --serve-dns-endpoints"
            ),
        ),
        (false, _) => Finding::works(
            SUBJECT,
            format!(
                "not known: {reason}. The mode matters only where kube-proxy is replaced, as by Cilium: give \
                 --serve-dns-endpoints there"
            ),
        ),
    }
}
