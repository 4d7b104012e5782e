//! `dns-agent check`: what will work on this node, what won't, and why.
//!
//! Facts are read here or tried out by [`datapath::probe`]; that findings follow from facts is pure, one
//! file for each subject. Nothing is attached, and nothing of a running agent is disturbed.

mod config;
mod interfaces;
mod kernel;
mod limits;
mod listen;
mod others;
mod pins;
mod programs;
mod proxy;
mod report;
mod rights;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    cluster::ZoneSettings,
    config::{Domain, Hook, Interface, Network, Passed, Server, Settings, Socket},
    datapath::{
        Persistence,
        hooks::PODS,
        interfaces::Devices,
        pins::BPFFS,
        probe::{self, Refusal, Trial},
    },
    zone::Name,
};
use kernel::Kernel;
use rights::Rights;

/// What an agent would be asked to do here.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where hooks would go.
    pub interfaces: Vec<Interface>,
    /// Clients that would be answered on network cards.
    pub allow: Vec<IpNet>,
    /// Where the agent itself would answer.
    pub listen: Vec<SocketAddr>,
    /// Whether the kernel would answer for the endpoints of the cluster's DNS too.
    pub endpoints: DnsEndpoints,
    /// Whether hooks would stay over a stop.
    pub persistence: Persistence,
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
    /// What the kernel would answer for.
    pub serve: Vec<SocketAddr>,
    /// The zones that would be answered, as far as the settings say them.
    pub cluster_domains: Vec<Name>,
    /// The networks whose reverse zones would be answered.
    pub reverse: Vec<IpNet>,
    /// Names that would pass.
    pub passed: Vec<Name>,
}

/// Whether the kernel answers queries that carry the address of an endpoint of the cluster's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsEndpoints {
    /// They pass.
    Passed,
    /// They are answered too.
    Served,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of them.
    pub verdict: Verdict,
    /// What was found, in the order in which it is to be read.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub subject: &'static str,
    /// What follows from it.
    pub verdict: Verdict,
    /// What was seen, what follows for the user, and what may be done about it.
    pub text: String,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing stands in the way.
    Works,
    /// It works, but not everywhere or not as well as it could.
    Limited,
    /// What was asked for does not work.
    Fails,
}

/// Whether the kernel has tcx, or why that is not known.
type Tcx = Result<bool, String>;

/// Finds out what an agent that is asked this can do on this node. Takes some seconds at most, most of it the
/// verifier's. The calling thread is in the network namespace that the agent would be in, and is blocked at times.
pub async fn check(asked: &Asked) -> Report {
    let kernel = Kernel::read();
    let rights = Rights::read();
    let trial: Result<Trial, Refusal> = probe::try_out();
    let tcx: Tcx = probe::has_tcx().map_err(|error| error.to_string());
    let pinned = crate::datapath::pins::look(&asked.bpffs);
    let proxy = proxy::ask().await;
    let mut owners = crate::datapath::others::owners(&asked.bpffs);

    let mut findings = vec![
        kernel::kernel(&kernel, &trial),
        kernel::btf(),
        config::config(config::read(&kernel).as_ref(), &tcx),
        rights::rights(&rights, &tcx),
    ];
    findings.extend(rights::locked_memory(&kernel, &rights, &trial));
    findings.extend(programs::programs(&kernel, &rights, &trial));
    findings.push(kernel::tc(&tcx));
    findings.push(pins::pins(&pinned, asked));

    let mut devices = Devices::default();
    match devices.list().await {
        Err(error) => findings.push(Finding::fails(
            "interfaces",
            format!("the kernel does not list them: {error:#}"),
        )),
        Ok(devices) => {
            let allowed = asked.allow.len();
            let survey = probe::survey(&asked.interfaces, allowed, devices, &asked.bpffs);
            findings.extend(interfaces::interfaces(&survey.prospects, &tcx));
            findings.extend(interfaces::unmatched(&asked.interfaces, devices));
            findings.extend(others::others(&survey.others, &rights, &pinned));
            owners.extend(survey.others.iter().filter_map(|other| other.owner));
        }
    }
    findings.push(others::network(&owners));
    findings.push(proxy::proxy(&proxy, &owners, asked.endpoints));
    findings.extend(listen::listen(&asked.listen, &rights, &pinned));
    findings.extend(limits::limits(asked));
    findings.push(interfaces::uncrossed());
    Report::new(findings)
}

impl From<Settings> for Asked {
    /// Pods' veths, unless it is said which.
    fn from(settings: Settings) -> Asked {
        let pods = || Interface {
            name: PODS.to_owned(),
            hook: Hook::Auto,
        };
        let allow = settings.allow.unwrap_or_default();
        let listen = settings.listen.unwrap_or_default();
        Asked {
            interfaces: settings.interface.unwrap_or_else(|| vec![pods()]),
            allow: allow.into_iter().map(|Network(network)| network).collect(),
            listen: listen.into_iter().map(|Socket(address)| address).collect(),
            endpoints: match settings.serve_dns_endpoints {
                true => DnsEndpoints::Served,
                false => DnsEndpoints::Passed,
            },
            persistence: match settings.persist {
                true => Persistence::Pinned,
                false => Persistence::None,
            },
            bpffs: settings.bpffs.unwrap_or_else(|| BPFFS.into()),
            serve: inner(settings.serve, |Server(address)| address),
            cluster_domains: match settings.cluster_domain {
                None => ZoneSettings::default().cluster_domains,
                domains => inner(domains, |Domain(name)| name),
            },
            reverse: inner(settings.reverse, |Network(network)| network),
            passed: inner(settings.pass, |Passed(name)| name),
        }
    }
}

/// What is inside each value of a repeatable setting.
fn inner<T, U>(given: Option<Vec<T>>, inside: impl FnMut(T) -> U) -> Vec<U> {
    given.unwrap_or_default().into_iter().map(inside).collect()
}

impl Finding {
    fn works(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, Verdict::Works, text)
    }

    fn limited(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, Verdict::Limited, text)
    }

    fn fails(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, Verdict::Fails, text)
    }

    fn new(subject: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
        Finding {
            subject,
            verdict,
            text: text.into(),
        }
    }
}
