//! Names of addresses: labels with dashes, and reverse names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Name;

/// The label of an address: its text with dashes in place of dots and colons. If it would end in a
/// dash, a `0` is appended, as in CoreDNS, because a host name must not end in a dash (RFC 952).
pub fn dashed(address: IpAddr) -> String {
    if let IpAddr::V4(address) = address {
        let [a, b, c, d] = address.octets();
        return format!("{a}-{b}-{c}-{d}");
    }
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

/// The address of a label, in any valid spelling. `None` if the label is not an address.
///
/// A label with exactly three dashes, none of them adjacent, is read as an IPv4 address. Any other
/// label is read as an IPv6 address. An IPv4-mapped address becomes the IPv4 address.
pub fn undashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    if dashes == 3 && !text.contains("--") {
        return text.replace('-', ".").parse().ok().map(IpAddr::V4);
    }
    // A label may contain dots and colons. Such a label must not be parsed as an address.
    if text.contains(['.', ':']) {
        return None;
    }
    let address: Ipv6Addr = text.replace('-', ":").parse().ok()?;
    Some(IpAddr::V6(address).to_canonical())
}

/// The reverse name of an address, in `in-addr.arpa` (RFC 1035 §3.5) or `ip6.arpa` (RFC 3596 §2.5).
pub fn reverse_name(address: IpAddr) -> Name {
    match address {
        IpAddr::V4(address) => reverse_v4(address, 32),
        IpAddr::V6(address) => reverse_v6(address, 128),
    }
}

/// The range of addresses whose reverse names are at or below `name`. `None` if there are no such
/// addresses, or if `name` is above both `in-addr.arpa` and `ip6.arpa`.
pub fn reverse_range(name: &Name) -> Option<RangeInclusive<IpAddr>> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    labels.reverse();
    match labels.as_slice() {
        [b"arpa", b"in-addr", parts @ ..] if parts.len() <= 4 => {
            let (mut first, mut last) = ([0; 4], [255; 4]);
            for (at, label) in parts.iter().enumerate() {
                let text = std::str::from_utf8(label).ok()?;
                let byte: u8 = text.parse().ok()?;
                // Leading zeros and signs are not part of a reverse name.
                if byte.to_string() != text {
                    return None;
                }
                (first[at], last[at]) = (byte, byte);
            }
            Some(IpAddr::from(first)..=IpAddr::from(last))
        }
        [b"arpa", b"ip6", nibbles @ ..] if nibbles.len() <= 32 => {
            let (mut first, mut last) = (0, u128::MAX);
            for (at, label) in nibbles.iter().enumerate() {
                let nibble = match label {
                    [digit @ b'0'..=b'9'] => digit - b'0',
                    [digit @ b'a'..=b'f'] => digit - b'a' + 10,
                    _ => return None,
                };
                let shift = 124 - 4 * at;
                let mask = !(0xf << shift);
                first = first & mask | u128::from(nibble) << shift;
                last = last & mask | u128::from(nibble) << shift;
            }
            Some(IpAddr::V6(first.into())..=IpAddr::V6(last.into()))
        }
        _ => None,
    }
}

/// The network of a reverse zone. `None` if `zone` is not a reverse zone.
pub fn reverse_network(zone: &Name) -> Option<IpNet> {
    let range = reverse_range(zone)?;
    // Without `in-addr.arpa` or `ip6.arpa`.
    let address_labels = zone.labels().count() - 2;
    let bits = match range.start() {
        IpAddr::V4(_) => 8 * address_labels,
        IpAddr::V6(_) => 4 * address_labels,
    };
    IpNet::new(*range.start(), u8::try_from(bits).ok()?).ok()
}

/// The reverse zones that make up a network. Zones are cut at bytes of IPv4 addresses and at
/// nibbles of IPv6 addresses. A network whose prefix ends between two cuts has several zones:
/// `10.96.0.0/12` has the sixteen zones from `96.10.in-addr.arpa` to `111.10.in-addr.arpa`.
pub fn reverse_zones(network: IpNet) -> Vec<Name> {
    match network {
        IpNet::V4(network) => v4_parts(network)
            .map(|part| reverse_v4(part.network(), part.prefix_len()))
            .collect(),
        IpNet::V6(network) => v6_parts(network)
            .map(|part| reverse_v6(part.network(), part.prefix_len()))
            .collect(),
    }
}

fn v4_parts(network: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
    // `subnets` can't fail, because the cut is at least as long as the prefix and no longer than an
    // address.
    let cut = network.prefix_len().next_multiple_of(8);
    network.trunc().subnets(cut).into_iter().flatten()
}

fn v6_parts(network: Ipv6Net) -> impl Iterator<Item = Ipv6Net> {
    let cut = network.prefix_len().next_multiple_of(4);
    network.trunc().subnets(cut).into_iter().flatten()
}

/// The reverse name of the first `prefix` bits of an address. `prefix` is a multiple of 8.
fn reverse_v4(address: Ipv4Addr, prefix: u8) -> Name {
    let bytes = address.octets();
    let reversed = bytes[..usize::from(prefix / 8)].iter().rev();
    let labels: Vec<String> = reversed.map(u8::to_string).collect();
    Name::from_labels(
        labels.iter().map(String::as_bytes),
        b"\x07in-addr\x04arpa\0",
    )
}

/// The reverse name of the first `prefix` bits of an address. `prefix` is a multiple of 4.
fn reverse_v6(address: Ipv6Addr, prefix: u8) -> Name {
    let bytes = address.octets();
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let nibbles: Vec<u8> = nibbles.take(usize::from(prefix / 4)).collect();
    let labels = nibbles.iter().rev();
    Name::from_labels(
        labels.map(|nibble| &b"0123456789abcdef"[usize::from(*nibble)..][..1]),
        b"\x03ip6\x04arpa\0",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reverse_names_convert_to_ranges_and_networks() {
        let range = |text: &str| reverse_range(&Name::parse(text).unwrap());
        for (name, first, last) in [
            ("in-addr.arpa", "0.0.0.0", "255.255.255.255"),
            ("96.10.in-addr.arpa", "10.96.0.0", "10.96.255.255"),
            ("7.0.96.10.in-addr.arpa", "10.96.0.7", "10.96.0.7"),
            ("ip6.arpa", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (
                "d.f.ip6.arpa",
                "fd00::",
                "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(range(name), Some(ip(first)..=ip(last)), "{name}");
            let zone = Name::parse(name).unwrap();
            let network = reverse_network(&zone).unwrap();
            assert_eq!(reverse_zones(network), [zone], "{network}");
        }
        let address = ip("fd00::1:a");
        let name = reverse_name(address);
        assert_eq!(reverse_range(&name), Some(address..=address));
        for name in [
            "arpa",
            "1.2.3.4.5.in-addr.arpa",
            "256.in-addr.arpa",
            "01.in-addr.arpa",
            "+1.in-addr.arpa",
            "g.ip6.arpa",
            "10.ip6.arpa",
            "cluster.local",
        ] {
            assert_eq!(range(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_convert_to_labels_and_back() {
        for (address, label) in [
            ("172.0.0.2", "172-0-0-2"),
            ("5678:abcd::1", "5678-abcd--1"),
            ("::1", "--1"),
            ("10::", "10--0"),
        ] {
            assert_eq!(dashed(ip(address)), label);
            assert_eq!(undashed(label.as_bytes()), Some(ip(address)));
        }
        assert_eq!(undashed(b"10--"), Some(ip("10::")));
        assert_eq!(undashed(b"10-0-0-0-0-0-0-0"), Some(ip("10::")));
        assert_eq!(undashed(b"--ffff-102-304"), Some(ip("1.2.3.4")));
    }

    #[test]
    fn malformed_labels_are_not_addresses() {
        for label in [
            "blah",
            "1-2-3",
            "1-2-3-256",
            "01-2-3-4",
            "1-2-3-4-5",
            "-1-2-3",
            "1--2--3",
            "g--1",
            "1-2-3-4-5-6-7-8-9",
            "12345--1",
            "1.2.3.4",
            "--1.2.3.4",
            "1:2:3-4-5-6-7-8",
            "",
        ] {
            assert_eq!(undashed(label.as_bytes()), None, "{label}");
        }
        assert_eq!(undashed(&[0xff]), None);
    }

    #[test]
    fn addresses_have_reverse_names() {
        assert_eq!(
            reverse_name(ip("10.0.1.2")).to_string(),
            "2.1.0.10.in-addr.arpa."
        );
        assert_eq!(
            reverse_name(ip("1234:abcd::1")).to_string(),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa."
        );
    }

    #[test]
    fn networks_are_cut_at_bytes_and_nibbles() {
        let zones = |network: &str| {
            reverse_zones(network.parse().unwrap())
                .iter()
                .map(Name::to_string)
                .collect::<Vec<_>>()
        };
        let twelve = zones("10.96.0.0/12");
        assert_eq!(twelve.len(), 16);
        assert_eq!(twelve[0], "96.10.in-addr.arpa.");
        assert_eq!(twelve[15], "111.10.in-addr.arpa.");
        assert_eq!(zones("10.96.7.1/16"), ["96.10.in-addr.arpa."]);
        assert_eq!(zones("0.0.0.0/0"), ["in-addr.arpa."]);
        assert_eq!(zones("10.0.0.128/25").len(), 128);
        assert_eq!(zones("10.0.0.1/32"), ["1.0.0.10.in-addr.arpa."]);
        assert_eq!(zones("fd00::/8"), ["d.f.ip6.arpa."]);
        assert_eq!(zones("fd00::/7"), ["c.f.ip6.arpa.", "d.f.ip6.arpa."]);
        assert_eq!(zones("::/0"), ["ip6.arpa."]);
        // Sixteen nibbles, each with a dot.
        assert_eq!(
            zones("fd00:77:30::/64")[0].len(),
            16 * 2 + "ip6.arpa.".len()
        );
    }
}
