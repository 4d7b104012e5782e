//! `--probe`: a question that the agent asks a DNS server regularly.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use zerohop_zone::{Name, Rtype};

use super::Upstream;

/// The interval of a probe without one, as in kube-dns's sidecar.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// The longest interval in seconds.
const MAX_INTERVAL: u64 = 3600;
/// The longest label in bytes. Labels are parts of the metrics' names.
const MAX_LABEL: usize = 64;
/// The types that can be asked for, as in kube-dns's sidecar.
const TYPES: [Rtype; 4] = [Rtype::A, Rtype::AAAA, Rtype::ANY, Rtype::SRV];

/// A question that the agent asks a DNS server regularly, as
/// `LABEL,SERVER,NAME[,SECONDS][,TYPE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSetting {
    /// The label, which is part of the path of the result and of the metrics' names.
    pub label: String,
    /// The server.
    pub server: SocketAddr,
    /// The name that the server is asked for.
    pub name: Name,
    /// The time from a probe to the next one.
    pub interval: Duration,
    /// The type that the server is asked for.
    pub rtype: Rtype,
}

impl FromStr for ProbeSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let (label, server, name, more) = match parts[..] {
            [label, server, name, ref more @ ..] if more.len() <= 2 => (label, server, name, more),
            _ => {
                return Err(format!(
                    "{text:?} is not a probe: give LABEL,SERVER,NAME[,SECONDS][,TYPE], such as \
                     coredns,10.96.0.10,kubernetes.default.svc.cluster.local,5,A"
                ));
            }
        };
        let Upstream(server) = server.parse()?;
        Ok(ProbeSetting {
            label: parse_label(label)?,
            server,
            name: parse_name(name)?,
            interval: more
                .first()
                .map_or(Ok(DEFAULT_INTERVAL), |it| parse_interval(it))?,
            rtype: more.get(1).map_or(Ok(Rtype::ANY), |it| parse_type(it))?,
        })
    }
}

fn parse_label(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !(1..=MAX_LABEL).contains(&text.len()) || !text.bytes().all(is_valid) {
        return Err(format!(
            "{text:?} is not a label of a probe: use 1 to {MAX_LABEL} characters of a-z, A-Z, 0-9 \
             and _, because the label is part of the metrics' names"
        ));
    }
    Ok(text.to_owned())
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| {
        format!(
            "{text:?} is not a domain name ({error}): give one such as \
             kubernetes.default.svc.cluster.local"
        )
    })
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=MAX_INTERVAL) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "{text:?} is not an interval of a probe: give a number of seconds from 1 to \
             {MAX_INTERVAL}"
        )),
    }
}

fn parse_type(text: &str) -> Result<Rtype, String> {
    match text.parse() {
        Ok(rtype) if TYPES.contains(&rtype) => Ok(rtype),
        _ => Err(format!(
            "{text:?} is not a type that a probe asks for: give A, AAAA, SRV or ANY"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_and_type_are_optional() {
        let parse = |text: &str| text.parse::<ProbeSetting>().unwrap();
        let short = parse("a_B9,10.96.0.10,web.example");
        assert_eq!(short.label, "a_B9");
        assert_eq!(short.server, "10.96.0.10:53".parse().unwrap());
        assert_eq!(short.name, Name::parse("web.example.").unwrap());
        assert_eq!(
            (short.interval, short.rtype),
            (Duration::from_secs(5), Rtype::ANY)
        );
        let long = parse("a,[fd00::a]:5353,.,3600,SRV");
        assert_eq!(long.server, "[fd00::a]:5353".parse().unwrap());
        assert_eq!(
            (long.interval, long.rtype),
            (Duration::from_secs(3600), Rtype::SRV)
        );
        let with_interval = parse("a,fd00::a,web.example,1");
        assert_eq!(with_interval.server, "[fd00::a]:53".parse().unwrap());
        assert_eq!(with_interval.interval, Duration::from_secs(1));
        assert_eq!(with_interval.rtype, Rtype::ANY);
    }

    #[test]
    fn an_error_is_about_the_wrong_part() {
        let too_long = format!("{},10.0.0.1,a.example", "a".repeat(MAX_LABEL + 1));
        for (text, reason) in [
            ("a,10.0.0.1", "LABEL,SERVER,NAME[,SECONDS][,TYPE]"),
            (
                "a,10.0.0.1,b.example,5,A,more",
                "LABEL,SERVER,NAME[,SECONDS][,TYPE]",
            ),
            ("a-b,10.0.0.1,a.example", "\"a-b\" is not a label"),
            (",10.0.0.1,a.example", "\"\" is not a label"),
            (&too_long, "use 1 to 64 characters"),
            (
                "a,dns.example,a.example",
                "\"dns.example\" is not a server's address",
            ),
            (
                "a,10.0.0.1:0,a.example",
                "not the address of a single server",
            ),
            ("a,0.0.0.0,a.example", "not the address of a single server"),
            (
                "a,10.0.0.1,a..example",
                "\"a..example\" is not a domain name",
            ),
            ("a,10.0.0.1,a.example,0", "seconds from 1 to 3600"),
            ("a,10.0.0.1,a.example,3601", "seconds from 1 to 3600"),
            ("a,10.0.0.1,a.example,A", "\"A\" is not an interval"),
            ("a,10.0.0.1,a.example,5,TXT", "\"TXT\" is not a type"),
        ] {
            let error = text.parse::<ProbeSetting>().unwrap_err();
            assert!(error.contains(reason), "no {reason:?} in: {error}");
        }
    }
}
