//! How Services' addresses are turned into endpoints': by kube-proxy, or by Cilium before the packet is made.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use tokio::time::timeout;

use super::{DnsEndpoints, Finding};
use crate::{admin::client, datapath::others::Owner};

/// Where kube-proxy tells its mode: its `metricsBindAddress` by default.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const PATIENCE: Duration = Duration::from_secs(1);
/// Octets of a mode at most.
const LONGEST: usize = 64;

/// kube-proxy's mode, or why it is not known.
pub(super) type Mode = Result<String, String>;

/// Asks kube-proxy on this node.
pub(super) async fn ask() -> Mode {
    let asked = timeout(PATIENCE, get()).await;
    match asked {
        Ok(mode) => mode.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nobody answers at {ADDRESS} within {PATIENCE:?}")),
    }
}

async fn get() -> anyhow::Result<String> {
    let (code, body) = client::get(ADDRESS, "/proxyMode")
        .await
        .with_context(|| format!("nobody answers at {ADDRESS}"))?;
    ensure!(code == StatusCode::OK, "{ADDRESS} answers {code}");
    let strange = || format!("{ADDRESS} answers no mode");
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body
        .map_err(anyhow::Error::from_boxed)
        .with_context(strange)?;
    let mode = String::from_utf8(body.to_bytes().to_vec()).with_context(strange)?;
    let mode = mode.trim();
    let is_word = !mode.is_empty() && mode.bytes().all(|octet| octet.is_ascii_alphanumeric());
    ensure!(is_word, strange());
    Ok(mode.to_owned())
}

pub(super) fn proxy(mode: &Mode, owners: &BTreeSet<Owner>, endpoints: DnsEndpoints) -> Finding {
    const SUBJECT: &str = "kube-proxy";
    let reason = match mode {
        Ok(mode) => {
            let text = format!(
                "mode {mode}; a pod's query is answered before it comes to that, whatever the mode"
            );
            return Finding::works(SUBJECT, text);
        }
        Err(reason) => reason,
    };
    match (owners.contains(&Owner::Cilium), endpoints) {
        (true, DnsEndpoints::Passed) => Finding::limited(
            SUBJECT,
            format!(
                "not known: {reason}, and Cilium is here. Where Cilium takes its place, pods' queries carry the address of \
                 a CoreDNS pod, and pass: give --serve-dns-endpoints"
            ),
        ),
        (true, DnsEndpoints::Served) => Finding::works(
            SUBJECT,
            format!(
                "not known: {reason}, and Cilium is here. Where it takes its place, pods' queries carry the address of a \
                 CoreDNS pod, which --serve-dns-endpoints is for"
            ),
        ),
        (false, _) => Finding::works(
            SUBJECT,
            format!(
                "not known: {reason}. It matters only where something replaces it, as Cilium does: give \
                 --serve-dns-endpoints there"
            ),
        ),
    }
}
