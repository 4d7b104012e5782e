//! Descriptions of exceeded size limits of the tables and settings, and of the queries that pass
//! because of each limit.

use std::collections::BTreeSet;

use dns_common::{
    names::{MAX_NAME, MIN_NAME},
    records::MAX_ANSWER_LENGTH,
    settings::{MAX_CLIENTS, MAX_HARDWARE, MAX_SUFFIX_LENGTH, MAX_SUFFIXES},
};
use zerohop_zone::{Name, ZoneData};

/// Descriptions of the limits that the zones and pass suffixes of `data` exceed.
#[must_use]
pub fn zone_limits(data: &dyn ZoneData) -> Vec<String> {
    let passed = data.pass_suffixes();
    let zones: Vec<&Name> = data.zones().iter().map(|zone| &zone.name).collect();
    let mut limits = Vec::new();
    for zone in &zones {
        let bytes = zone.wire().len();
        if bytes > MAX_SUFFIX_LENGTH {
            limits.push(format!(
                "the name of the zone {zone} has {bytes} bytes, and the kernel compares suffixes \
                 of up to {MAX_SUFFIX_LENGTH} bytes: CoreDNS answers names that don't exist in \
                 the zone, and computed names such as those of pods"
            ));
        }
        if bytes < MIN_NAME {
            limits.push(format!(
                "the name of the zone {zone} has {bytes} bytes, and the kernel looks up names of \
                 {MIN_NAME} to {MAX_NAME} bytes: CoreDNS answers shorter names of the zone"
            ));
        }
    }
    for name in passed
        .iter()
        .filter(|name| name.wire().len() > MAX_SUFFIX_LENGTH)
    {
        let bytes = name.wire().len();
        for zone in zones.iter().filter(|zone| name.is_at_or_below(zone)) {
            limits.push(format!(
                "queries for absent names below {name} must pass, but it has {bytes} bytes, and \
                 the kernel compares suffixes of up to {MAX_SUFFIX_LENGTH} bytes: CoreDNS also \
                 answers names that don't exist in {zone}, and computed names such as those of pods"
            ));
        }
    }
    let names: BTreeSet<&Name> = zones.iter().copied().chain(&passed).collect();
    let suffixes = names
        .iter()
        .filter(|name| name.wire().len() <= MAX_SUFFIX_LENGTH)
        .count();
    if suffixes > MAX_SUFFIXES {
        limits.push(format!(
            "there are {suffixes} zones and names that pass, and the kernel has room for the \
             {MAX_SUFFIXES} longest: in the other zones, CoreDNS answers names that don't exist, \
             and computed names such as those of pods"
        ));
    }
    if zones.len() > MAX_SUFFIXES {
        limits.push(format!(
            "there are {} zones, and the kernel has room for {MAX_SUFFIXES}: in the other zones, \
             CoreDNS answers queries for names that don't exist and for types that a name lacks",
            zones.len()
        ));
    }
    limits
}

/// The description for `names` names with answers that don't fit into their records. `None` if
/// `names` is 0.
pub(super) fn answer_limit(names: usize) -> Option<String> {
    (names > 0).then(|| {
        format!(
            "{names} names have more answers than their records can hold, or answers longer than \
             {MAX_ANSWER_LENGTH} bytes: CoreDNS answers the queries for these answers"
        )
    })
}

/// The description for `left_out` addresses that could not be added to the map of clients. `None`
/// if `left_out` is 0.
pub(super) fn client_limit(left_out: usize) -> Option<String> {
    (left_out > 0).then(|| {
        format!(
            "{left_out} addresses of permitted pods could not be added to the kernel's map, which \
             has room for {MAX_CLIENTS} clients: CoreDNS answers their queries"
        )
    })
}

/// The description for `count` hardware addresses of matching network cards. `None` if the settings
/// have room for all.
pub(super) fn card_limit(count: usize) -> Option<String> {
    (count > MAX_HARDWARE).then(|| {
        format!(
            "--interface matches network cards with {count} hardware addresses, and the kernel has \
             room for {MAX_HARDWARE}: CoreDNS answers all queries to cards with other addresses"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerohop_zone::ModelBuilder;

    /// The exceeded limits of these zones with these names delegated.
    fn limits(zones: &[&str], passed: &[String]) -> Vec<String> {
        let name = |text: &str| Name::parse(text).unwrap();
        let mut builder = ModelBuilder::new(1);
        for zone in zones {
            builder.add_zone(name(zone), 5).unwrap();
        }
        for text in passed {
            builder.delegate(name(text));
        }
        zone_limits(&builder.build())
    }

    #[test]
    fn exceeded_limits_are_described_with_their_bounds() {
        let ordinary = limits(&["cluster.local", "10.in-addr.arpa"], &[]);
        assert!(ordinary.is_empty(), "{ordinary:?}");
        // 62 characters and 64 bytes, which is `MAX_SUFFIX_LENGTH`.
        let fits = format!("{}.test", "a".repeat(57));
        assert_eq!(limits(&[&fits], &[]), [""; 0]);
        let long = limits(&[&format!("a{fits}")], &[]);
        assert!(
            long[0].contains("has 65 bytes") && long[0].contains("64"),
            "{long:?}"
        );

        let short = limits(&["k8s"], &[]);
        assert!(short[0].contains("has 5 bytes"), "{short:?}");

        // 75 bytes, more than `MAX_SUFFIX_LENGTH`.
        let passed = format!("{}.zone.test", "a".repeat(63));
        let passed = limits(&["zone.test"], &[passed]);
        assert!(
            passed[0].contains("names that don't exist in zone.test."),
            "{passed:?}"
        );

        // The zone itself needs one of the suffixes.
        let many: Vec<String> = (0..MAX_SUFFIXES)
            .map(|it| format!("p{it}.zone.test"))
            .collect();
        assert_eq!(limits(&["zone.test"], &many[1..]), [""; 0]);
        let many = limits(&["zone.test"], &many);
        assert!(
            many[0].contains("129 zones and names that pass"),
            "{many:?}"
        );
    }
}
