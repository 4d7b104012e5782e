//! The status as text.

use std::fmt;

use zerohop_kubernetes::{LeftOutPod, ObjectCounts};
use zerohop_resolver::{GroupStatus, GroupUse};

use super::{
    HostsFileStatus, PolicyStatus, ResolvConfStatus, SourceStatus, Status, SteeringState,
    SteeringStatus,
};

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            version,
            missing,
            degraded,
            limits,
            // Long delays and passed objects are among the degradations.
            publication: _,
            source,
            hosts,
            problems,
            zones,
            objects,
            network_policy,
            resolver,
            steering,
            kernel,
            datapath,
        } = self;
        let ready = if missing.is_empty() {
            "ready"
        } else {
            "not ready"
        };
        writeln!(f, "dns-agent {version}: {ready}")?;
        write_lines(f, "missing", missing)?;
        write_lines(f, "degraded", degraded)?;
        write_lines(f, "limit", limits)?;
        source.fmt(f)?;
        write_lines(f, "hosts", hosts)?;
        write_lines(f, "problem", problems)?;
        let zones = zones
            .iter()
            .map(|zone| format!("{} serial {}", zone.name, zone.serial));
        write_lines(f, "zone", zones)?;
        let ObjectCounts {
            namespaces,
            services,
            endpoint_slices,
            pods,
        } = objects;
        writeln!(
            f,
            "objects    {namespaces} Namespaces, {services} Services, {endpoint_slices} \
             EndpointSlices, {pods} Pods"
        )?;
        if let Some(policy) = network_policy {
            policy.fmt(f)?;
        }
        write_lines(f, "listening", &resolver.listen)?;
        write_lines(f, "upstream", &resolver.upstreams)?;
        write_lines(f, "route", resolver.routes.iter().map(describe_route))?;
        if let Some(file) = &resolver.resolv_conf {
            write_lines(f, "node dns", [describe_resolv_conf(file)])?;
        }
        resolver.counts.fmt(f)?;
        steering.fmt(f)?;
        writeln!(f, "kernel     {}", kernel.name())?;
        match datapath {
            None => Ok(()),
            Some(datapath) => write_tree(f, datapath, 1),
        }
    }
}

/// A group of servers for names outside the cluster, on one line.
fn describe_route(group: &GroupStatus) -> String {
    let servers: Vec<String> = group.servers.iter().map(ToString::to_string).collect();
    let servers = match servers.as_slice() {
        [] => "no server".to_owned(),
        servers => servers.join(", "),
    };
    match group.state {
        GroupUse::Used => format!("{}: {servers}", group.origin),
        GroupUse::NotProven => format!(
            "{}: the cluster's DNS, because {servers} has not answered a question from this node",
            group.origin
        ),
        GroupUse::ClusterDns => format!(
            "{}: the cluster's DNS, which is among these servers: {servers}",
            group.origin
        ),
    }
}

fn describe_resolv_conf(file: &ResolvConfStatus) -> String {
    let ResolvConfStatus {
        path,
        servers,
        problem,
        note,
    } = file;
    let path = path.display();
    if !problem.is_empty() {
        return format!("{path}: can't be read ({problem})");
    }
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let servers = servers.join(", ");
    match note.as_str() {
        "" => format!("{path}: {servers}"),
        note => format!("{path}: {servers} ({note})"),
    }
}

impl fmt::Display for SteeringStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SteeringStatus {
            state,
            reason,
            device,
            served,
            pods,
            outcomes,
        } = self;
        match state {
            SteeringState::Off => return writeln!(f, "steering   off"),
            SteeringState::Unavailable | SteeringState::Waiting => writeln!(
                f,
                "steering   queries that the kernel passes go to the cluster's DNS: {reason}"
            )?,
            SteeringState::On => {
                let served: Vec<_> = served.iter().map(ToString::to_string).collect();
                writeln!(
                    f,
                    "steering   queries that the kernel passes come to this agent from {pods} \
                     addresses of pods, through {device}; to {}",
                    served.join(", ")
                )?;
            }
        }
        let counted = outcomes.iter().filter(|(_, count)| **count > 0);
        let counted: Vec<_> = counted
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        if counted.is_empty() {
            return Ok(());
        }
        writeln!(f, "steered    {}", counted.join(", "))
    }
}

impl fmt::Display for PolicyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.permitted {
            None if self.mode == "ignore" => {
                writeln!(f, "policies   ignored: the kernel may answer every pod")?;
            }
            None => writeln!(
                f,
                "policies   none for egress or for the cluster's DNS: the kernel may answer every \
                 pod"
            )?,
            Some(count) => writeln!(
                f,
                "policies   the kernel may answer {count} permitted pod addresses, and CoreDNS \
                 answers all others"
            )?,
        }
        for left_out in &self.left_out {
            let LeftOutPod {
                pod,
                addresses,
                reason,
            } = left_out;
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "left out   Pod {pod} ({}): {reason}",
                addresses.join(", ")
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for SourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kubernetes = match self {
            SourceStatus::Manifests(manifests) => {
                let path = manifests.path.display();
                match manifests.loaded.as_str() {
                    "" => writeln!(f, "source     {path}, not loaded yet")?,
                    loaded => {
                        let age = manifests.age_seconds.unwrap_or_default();
                        writeln!(
                            f,
                            "source     {path}, loaded {loaded}, checked {age:.0} s ago"
                        )?;
                    }
                }
                return write_lines(f, "stale", &manifests.errors);
            }
            SourceStatus::Kubernetes(kubernetes) => kubernetes,
        };
        match kubernetes.age_seconds {
            Some(age) => writeln!(
                f,
                "source     the Kubernetes API, current to within {age:.0} s"
            )?,
            None => writeln!(f, "source     the Kubernetes API, not all listed yet")?,
        }
        for feed in &kubernetes.feeds {
            let last_received = match feed.age_seconds {
                Some(age) => format!("last received {age:.0} s ago"),
                None => "not listed yet".to_owned(),
            };
            let state = match &feed.error {
                Some(error) => format!("{}: {error}", feed.state.name()),
                None => feed.state.name().to_owned(),
            };
            writeln!(
                f,
                "feed       {}: {state} for {:.0} s, {last_received}, {} objects received, {} \
                 unusable",
                feed.name, feed.since_seconds, feed.applied, feed.unusable
            )?;
        }
        let requests: Vec<_> = kubernetes
            .requests
            .iter()
            .map(|(verb, count)| format!("{verb} {count}"))
            .collect();
        writeln!(f, "requests   {}", requests.join(", "))?;
        write_lines(f, "because", &kubernetes.reasons)
    }
}

impl fmt::Display for HostsFileStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostsFileStatus {
            path,
            names,
            loaded,
            error,
        } = self;
        write!(f, "{}: {names} names", path.display())?;
        match loaded.as_str() {
            "" => write!(f, ", not read yet")?,
            loaded => write!(f, ", read {loaded}")?,
        }
        match error {
            Some(error) => write!(f, "; {error}"),
            None => Ok(()),
        }
    }
}

/// Writes one line for each value.
fn write_lines<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    values: impl IntoIterator<Item = T>,
) -> fmt::Result {
    values
        .into_iter()
        .try_for_each(|value| writeln!(f, "{label:<10} {value}"))
}

/// Writes nested values, indented.
fn write_tree(f: &mut fmt::Formatter<'_>, value: &serde_json::Value, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    let mut entry = |label: &str, value: &serde_json::Value| match value {
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
            writeln!(f, "{indent}{label}")?;
            write_tree(f, value, depth + 1)
        }
        serde_json::Value::String(text) => writeln!(f, "{indent}{label} {text}"),
        scalar => writeln!(f, "{indent}{label} {scalar}"),
    };
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .try_for_each(|(name, value)| entry(&name.replace('_', " "), value)),
        serde_json::Value::Array(values) => values.iter().try_for_each(|value| entry("-", value)),
        scalar => writeln!(f, "{indent}{scalar}"),
    }
}
