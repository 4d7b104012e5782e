//! Checks that a request's host is a loopback address or `localhost`.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{Request, header::HOST, uri::Authority};

/// Whether a request's host is `localhost` or a loopback address, and not a name found by DNS. The
/// request target and the `Host` header may both name a host (RFC 9112 section 3.2.2). At least
/// one of them must name a host, and all named hosts must be `localhost` or a loopback address.
pub(super) fn is_loopback<B>(request: &Request<B>) -> bool {
    let target = request.uri().authority().map(Authority::as_str);
    let headers = request.headers().get_all(HOST).iter();
    // A header that is not text counts as an empty host, which is refused.
    let headers = headers.map(|value| value.to_str().unwrap_or_default());
    let mut hosts = target.into_iter().chain(headers).peekable();
    hosts.peek().is_some() && hosts.all(is_loopback_host)
}

/// Whether a host, with or without a port, is `localhost` or a loopback address.
fn is_loopback_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => match text.split_once(']') {
            Some((host, port)) => (host.parse().map(Host::V6), port),
            None => return false,
        },
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            match host.parse() {
                Ok(address) => (Ok(Host::V4(address)), port),
                Err(_) => (Ok(Host::Name(host)), port),
            }
        }
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(is_number);
    is_port(port) && host.is_ok_and(|host| host.is_loopback())
}

/// A host, parsed.
enum Host<'a> {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Name(&'a str),
}

impl Host<'_> {
    fn is_loopback(&self) -> bool {
        match self {
            Host::V4(address) => address.is_loopback(),
            Host::V6(address) => address.to_canonical().is_loopback(),
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.eq_ignore_ascii_case("localhost")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_loopback_addresses_are_loopback_hosts() {
        for host in [
            "localhost",
            "LocalHost:80",
            "localhost.",
            "127.0.0.1",
            "127.9.9.9:9153",
            "[::1]",
            "[::1]:9153",
            "[::ffff:127.0.0.1]:1",
            "localhost:",
        ] {
            assert!(is_loopback_host(host), "{host:?} is refused");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "localhost:80@evil.example",
            "evil@localhost",
            "127.0.0.1:80:80",
            "[::2]",
            "[::1",
            "[::1]x",
            "::1",
            "127.1",
            "0.0.0.0",
            "10.0.0.1",
            ":80",
        ] {
            assert!(!is_loopback_host(host), "{host:?} is accepted");
        }
    }
}
