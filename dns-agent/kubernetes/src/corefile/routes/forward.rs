//! Reads `forward` (CoreDNS, `plugin/forward`).

use std::net::{IpAddr, SocketAddr};

use zerohop_routes::{
    Forward, ForwardGroup, ForwardServer, ForwardTransport, GroupTrust, UpstreamPolicy,
};
use zerohop_zone::Name;

use super::super::finding::CorefileProblem;
use super::super::parser::{CorefileLine, Directive};
use super::super::zones::parse_zones;
use crate::container_files::KnownFile;
use crate::coredns_config::CoreDnsConfig;
use crate::resolv_conf::{self, PodResolvConf, RESOLV_CONF};

/// The most servers that CoreDNS accepts.
const MAX_SERVERS: usize = 15;
const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;

/// Schemes of transports that this agent doesn't have.
const OTHER_SCHEMES: [&str; 5] = ["https://", "https3://", "quic://", "grpc://", "unix://"];

/// The servers and their names, and why it isn't known how CoreDNS forwards, if it isn't. Fails if
/// not even the names are known.
pub(super) fn read(
    directive: &Directive,
    config: &CoreDnsConfig,
) -> Result<(Forward, Option<CorefileProblem>), CorefileProblem> {
    let head = &directive.head;
    let [zone, servers @ ..] = head.args() else {
        return Err(head.problem("`forward` has no servers"));
    };
    let zone = std::slice::from_ref(zone);
    let zones = parse_zones(zone).map_err(|cause| head.problem(cause))?;
    // CoreDNS uses only the first zone of a network.
    let zone = zones.into_iter().next().unwrap_or_else(Name::root);
    let except = directive.body.iter().filter(|it| it.name() == "except");
    let except = except.map(|line| parse_zones(line.args()).map_err(|cause| line.problem(cause)));
    let except = except.collect::<Result<Vec<_>, _>>()?.concat();
    let (group, problem) = match read_group(directive, servers, config) {
        Ok(group) => (Some(group), None),
        Err(problem) => (None, Some(problem)),
    };
    let forward = Forward {
        zone,
        except,
        group,
    };
    Ok((forward, problem))
}

fn read_group(
    directive: &Directive,
    servers: &[String],
    config: &CoreDnsConfig,
) -> Result<ForwardGroup, CorefileProblem> {
    let head = &directive.head;
    let mut policy = UpstreamPolicy::Fastest;
    let mut transport = ForwardTransport::UdpAndTcp;
    let mut server_name = None;
    for option in &directive.body {
        let args: Vec<&str> = option.args().iter().map(String::as_str).collect();
        match (option.name(), args.as_slice()) {
            ("except", [_, ..]) => {}
            ("policy", ["random"]) => policy = UpstreamPolicy::Random,
            ("policy", ["round_robin"]) => policy = UpstreamPolicy::RoundRobin,
            ("policy", ["sequential"]) => policy = UpstreamPolicy::Sequential,
            ("force_tcp", []) => transport = ForwardTransport::Tcp,
            ("tls_servername", [name]) => server_name = Some(*name),
            // Without arguments the certificate is checked with the system's authorities.
            ("tls", []) => {}
            // These options say when a server is down, and how connections are kept.
            (
                "expire"
                | "failfast_all_unhealthy_upstreams"
                | "failover"
                | "health_check"
                | "max_age"
                | "max_concurrent"
                | "max_connect_attempts"
                | "max_fails"
                | "max_idle_conns"
                | "prefer_udp"
                | "read_timeout"
                | "resolver",
                _,
            ) => {}
            _ => {
                return Err(option.problem(format!(
                    "`{option}` is not an option of `forward` that Zerohop understands"
                )));
            }
        }
    }
    let mut group = Vec::new();
    for server in servers {
        for server in read_server(head, server, server_name, config)? {
            if !group.contains(&server) {
                group.push(server);
            }
        }
    }
    if group.is_empty() || servers.len() > MAX_SERVERS {
        return Err(head.problem("CoreDNS refuses this number of servers"));
    }
    Ok(ForwardGroup {
        servers: group,
        policy,
        transport,
        trust: GroupTrust::AfterAnswer,
        origin: format!("Corefile, {}", head.place),
    })
}

/// Reads an argument: an address, or a file with addresses.
fn read_server(
    head: &CorefileLine,
    text: &str,
    server_name: Option<&str>,
    config: &CoreDnsConfig,
) -> Result<Vec<ForwardServer>, CorefileProblem> {
    if OTHER_SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
        return Err(head.problem(format!("Zerohop doesn't have the transport of `{text}`")));
    }
    if let Some(server) = text.strip_prefix("tls://") {
        // As in CoreDNS, the port follows the name.
        let (address, own_name, port) = match server.rsplit_once('%') {
            Some((address, name)) => match name.rsplit_once(':') {
                Some((name, port)) => (address, Some(name), port.parse().ok()),
                None => (address, Some(name), Some(TLS_PORT)),
            },
            None => (server, None, Some(TLS_PORT)),
        };
        let address = port.and_then(|port| read_address(address, port));
        let Some(address) = address else {
            return Err(head.problem(format!("`{text}` is not an address")));
        };
        let name = own_name.or(server_name);
        let name = name.map_or_else(|| address.ip().to_string(), str::to_owned);
        return Ok(vec![ForwardServer::Tls(address, name)]);
    }
    let text = text.strip_prefix("dns://").unwrap_or(text);
    if let Some(address) = read_address(text, DNS_PORT) {
        return Ok(vec![ForwardServer::Plain(address)]);
    }
    let servers = match config.file(text) {
        KnownFile::Text(file) => resolv_conf::read_servers(file),
        KnownFile::Absent => return Err(head.problem(format!("{text} doesn't exist"))),
        KnownFile::Unknown(_) if text == RESOLV_CONF => match &config.resolv_conf {
            PodResolvConf::Node => return Ok(vec![ForwardServer::NodeResolvConf]),
            PodResolvConf::Servers(servers) => servers.clone(),
            PodResolvConf::Unknown(reason) => return Err(head.problem(reason.clone())),
        },
        KnownFile::Unknown(reason) => return Err(head.problem(reason)),
    };
    let plain = |address| ForwardServer::Plain(SocketAddr::new(address, DNS_PORT));
    Ok(servers.into_iter().map(plain).collect())
}

/// Reads an address, with or without a port. An address with a scope is not read.
fn read_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let has_scope = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
        return (!has_scope).then_some(address);
    }
    let address = text.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = address.parse().ok()?;
    Some(SocketAddr::new(address, default_port))
}
