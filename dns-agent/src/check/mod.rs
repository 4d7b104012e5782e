//! `dns-agent check`: what works on this node, what does not, and why.
//!
//! [`check_node`] collects facts, some of them by trials in [`zerohop_datapath::probe`]. The
//! functions that derive findings from the facts are in one file for each subject. Nothing is
//! attached, and a running agent is not disturbed. Addresses of `--listen` are bound for a moment.
//! With `--kubernetes` the API server is asked about the admission of the agents' pods, by dry runs
//! that create nothing.

mod admission;
mod confinement;
mod foreign_programs;
mod interfaces;
mod kernel;
mod kernel_config;
mod limits;
mod listen;
mod pins;
mod programs;
mod proxy;
mod report;
mod rights;
mod steering;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

pub use admission::AdmissionRequest;
use confinement::Confinement;
use ipnet::IpNet;
use kernel::KernelVersion;
use rights::ProcessRights;
use serde::Serialize;
use zerohop_datapath::{
    Persistence,
    hooks::PODS,
    interfaces::Devices,
    probe::{self, KernelRefusal, Trial},
};
use zerohop_kubernetes::ObjectKey;
use zerohop_zone::Name;

use crate::{
    KERNEL_OBJECT,
    config::{
        Cidr, DelegatedName, Domain, HookChoice, Interface, ListenAddress, ObjectName, RunSettings,
        ServedAddress, Steer,
    },
};

/// The configuration to check.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// The interfaces that would get hooks.
    pub interfaces: Vec<Interface>,
    /// The networks whose clients would be answered on network cards.
    pub allow: Vec<IpNet>,
    /// The addresses that the resolver would listen on; empty if it would be off.
    pub listen: Vec<SocketAddr>,
    /// Whether the kernel would also answer queries to endpoints of the cluster's DNS.
    pub endpoints: DnsEndpoints,
    /// Whether hooks would outlive the agent.
    pub persistence: Persistence,
    /// The mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// The addresses of `--serve`, at which the kernel would answer queries.
    pub served_addresses: Vec<SocketAddr>,
    /// Whether queries that the kernel passes would go to the agent's resolver.
    pub steer: Steer,
    /// The cluster domains of the settings, or the default one.
    pub cluster_domains: Vec<Name>,
    /// The networks whose reverse zones would be authoritative.
    pub reverse: Vec<IpNet>,
    /// The names that would be delegated to CoreDNS.
    pub passed: Vec<Name>,
    /// The cluster that would have to admit the agents' pods. `None` without `--kubernetes`.
    pub admission: Option<AdmissionRequest>,
}

/// Whether the kernel answers queries to the endpoints of the cluster's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsEndpoints {
    /// The queries pass.
    Passed,
    /// The queries are answered.
    Served,
}

/// All findings.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst verdict of all findings.
    pub verdict: CheckVerdict,
    /// The findings, in the order of the output.
    pub findings: Vec<Finding>,
}

/// One result of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject, such as `kernel` or `listen`.
    pub subject: &'static str,
    /// Whether the subject works.
    pub verdict: CheckVerdict,
    /// The observation, its consequence, and a remedy if something does not work.
    pub text: String,
}

/// Whether something works. The verdicts are in order, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckVerdict {
    /// It works.
    Works,
    /// It works with restrictions, or it isn't known whether all of it works.
    Limited,
    /// It does not work.
    Fails,
}

/// Whether the kernel has tcx. The error says why the answer is not known.
type Tcx = Result<bool, String>;

/// Checks what an agent with this configuration can do on this node. Takes a few seconds, most of
/// them in the verifier. Blocks the calling thread, which must be in the agent's network namespace.
pub async fn check_node(request: &CheckRequest) -> Report {
    let kernel = KernelVersion::read();
    let rights = ProcessRights::read();
    let trial: Result<Trial, KernelRefusal> = probe::try_kernel(KERNEL_OBJECT);
    let tcx: Tcx = probe::has_tcx().map_err(|error| error.to_string());
    let pinned = zerohop_datapath::pins::inspect_folder(&request.bpffs);
    let proxy = proxy::request_mode().await;
    let mut owners = zerohop_datapath::foreign_programs::pin_owners(&request.bpffs);

    let mut findings = vec![
        kernel::kernel(&kernel, &trial),
        kernel::btf(),
        kernel_config::config(kernel_config::read(&kernel).as_ref(), &tcx),
        rights::rights(&rights, &tcx),
    ];
    findings.extend(rights::locked_memory(&kernel, &rights, &trial));
    findings.extend(programs::programs(&kernel, &rights, &trial));
    findings.push(kernel::tc(&tcx));
    findings.push(pins::pins(&pinned, request));
    let confinement = Confinement::read();
    findings.push(confinement::confinement(
        &confinement,
        &trial,
        &pinned,
        request,
    ));

    let mut devices = Devices::default();
    match devices.list().await {
        Err(error) => findings.push(Finding::fails(
            "interfaces",
            format!("the network interfaces can't be read: {error:#}"),
        )),
        Ok(devices) => {
            let allowed_networks = request.allow.len();
            let survey = probe::survey_devices(
                &request.interfaces,
                allowed_networks,
                devices,
                &request.bpffs,
            );
            findings.extend(interfaces::interfaces(&survey.prospects, &tcx));
            findings.extend(interfaces::unmatched(&request.interfaces, devices));
            findings.extend(foreign_programs::foreign_programs(
                &survey.foreign_programs,
                &rights,
                &pinned,
            ));
            owners.extend(
                survey
                    .foreign_programs
                    .iter()
                    .filter_map(|other| other.owner),
            );
        }
    }
    findings.push(foreign_programs::pod_network(&owners));
    findings.push(proxy::proxy(&proxy, &owners, request.endpoints));
    findings.extend(listen::listen(&request.listen, &rights, &pinned));
    findings.extend(steering::steering(request.steer, &rights).await);
    findings.extend(limits::limits(request));
    if let Some(cluster) = &request.admission {
        findings.extend(admission::admission(cluster).await);
    }
    findings.push(interfaces::host_network());
    Report::new(findings)
}

impl From<RunSettings> for CheckRequest {
    /// Without `--interface`, the interfaces are the pods' veths.
    fn from(settings: RunSettings) -> CheckRequest {
        let is_kubernetes = settings.kubernetes || settings.kubeconfig.is_some();
        let admission = is_kubernetes.then(|| AdmissionRequest {
            kubeconfig: settings.kubeconfig,
            daemon_set: settings
                .daemon_set
                .map_or_else(default_daemon_set, |ObjectName(key)| key),
        });
        let mut interfaces = settings.interface;
        if interfaces.is_empty() {
            interfaces.push(Interface {
                name: PODS.to_owned(),
                hook: HookChoice::Auto,
            });
        }
        CheckRequest {
            interfaces,
            allow: inner_values(settings.allow, |Cidr(network)| network),
            listen: inner_values(settings.listen, |ListenAddress(address)| address),
            endpoints: if settings.serve_dns_endpoints {
                DnsEndpoints::Served
            } else {
                DnsEndpoints::Passed
            },
            persistence: if settings.persist {
                Persistence::Pinned
            } else {
                Persistence::UntilAgentStops
            },
            bpffs: settings.bpffs,
            served_addresses: inner_values(settings.serve, |ServedAddress(address)| address),
            steer: settings.steer,
            cluster_domains: inner_values(settings.cluster_domain, |Domain(name)| name),
            reverse: inner_values(settings.reverse, |Cidr(network)| network),
            passed: inner_values(settings.pass, |DelegatedName(name)| name),
            admission,
        }
    }
}

/// The DaemonSet of an installation by the manifests' defaults.
fn default_daemon_set() -> ObjectKey {
    ObjectKey::new("kube-system", "zerohop")
}

/// The inner values of a repeatable setting.
fn inner_values<T, U>(setting: Vec<T>, unwrap: impl FnMut(T) -> U) -> Vec<U> {
    setting.into_iter().map(unwrap).collect()
}

impl Finding {
    fn works(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, CheckVerdict::Works, text)
    }

    fn limited(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, CheckVerdict::Limited, text)
    }

    fn fails(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(subject, CheckVerdict::Fails, text)
    }

    fn new(subject: &'static str, verdict: CheckVerdict, text: impl Into<String>) -> Finding {
        Finding {
            subject,
            verdict,
            text: text.into(),
        }
    }
}
