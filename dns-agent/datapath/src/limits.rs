//! Descriptions of the size limits of tables and settings that are exceeded, and of what passes
//! because of each.

use std::collections::BTreeSet;

use dns_common::{
    names::{MAX_NAME, MIN_NAME},
    records::MAX_ANSWER_LENGTH,
    settings::{MAX_CLIENTS, MAX_HARDWARE, MAX_SUFFIX_LENGTH, MAX_SUFFIXES},
};
use zerohop_zone::{Name, ZoneData};

/// The limits that zones and delegated names exceed in the settings.
#[must_use]
pub fn zone_limits(data: &dyn ZoneData) -> Vec<String> {
    let passed = data.pass_suffixes();
    let zones: Vec<&Name> = data.zones().iter().map(|zone| &zone.name).collect();
    let mut limits = Vec::new();
    for zone in &zones {
        let bytes = zone.wire().len();
        if bytes > MAX_SUFFIX_LENGTH {
            limits.push(format!(
                "{zone} takes {bytes} bytes, and the kernel compares suffixes of up to {MAX_SUFFIX_LENGTH}: names that don't exist \
                 there pass, and so do computed names such as pods'"
            ));
        }
        if bytes < MIN_NAME {
            limits.push(format!(
                "{zone} takes {bytes} bytes, and the kernel looks up names of {MIN_NAME} to {MAX_NAME}: queries for shorter \
                 names pass"
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
                "{name} passes and takes {bytes} bytes, and the kernel compares suffixes of up to {MAX_SUFFIX_LENGTH}: names that \
                 don't exist in {zone} pass too"
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
            "there are {suffixes} zones and names that pass, and the settings hold the {MAX_SUFFIXES} longest: names that \
             don't exist in the other zones pass"
        ));
    }
    if zones.len() > MAX_SUFFIXES {
        limits.push(format!(
            "there are {} zones, and the settings hold {MAX_SUFFIXES}: in the other zones, queries for names that don't \
             exist and for types that a name lacks pass",
            zones.len()
        ));
    }
    limits
}

/// The limit exceeded by `names` names whose answers don't all fit into their records.
pub(super) fn answer_limit(names: usize) -> Option<String> {
    (names > 0).then(|| {
        format!(
            "{names} names have answers that their records can't hold, because they are longer than {MAX_ANSWER_LENGTH} bytes or \
             too many: queries for those answers pass"
        )
    })
}

/// The limit exceeded when `left_out` addresses don't fit into the map of clients.
pub(super) fn client_limit(left_out: usize) -> Option<String> {
    (left_out > 0).then(|| {
        format!(
            "{left_out} addresses of allowed pods don't fit into the kernel's map of {MAX_CLIENTS} clients: their queries pass"
        )
    })
}

/// The limit exceeded when `count` network cards have a hook.
pub(super) fn card_limit(count: usize) -> Option<String> {
    (count > MAX_HARDWARE).then(|| {
        format!(
            "{count} network cards have a hook, and the settings hold the hardware addresses of {MAX_HARDWARE}: all queries \
             on the other cards pass"
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
        // 62 characters and 64 bytes still fit.
        let fits = format!("{}.test", "a".repeat(57));
        assert_eq!(limits(&[&fits], &[]), [""; 0]);
        let long = limits(&[&format!("a{fits}")], &[]);
        assert!(
            long[0].contains("takes 65 bytes") && long[0].contains("64"),
            "{long:?}"
        );

        let short = limits(&["k8s"], &[]);
        assert!(short[0].contains("takes 5 bytes"), "{short:?}");

        let passed = format!("{}.zone.test", "a".repeat(63));
        let passed = limits(&["zone.test"], &[passed]);
        assert!(
            passed[0].contains("names that don't exist in zone.test."),
            "{passed:?}"
        );

        let many: Vec<String> = (0..64).map(|it| format!("p{it}.zone.test")).collect();
        assert_eq!(limits(&["zone.test"], &many[1..]), [""; 0]);
        let many = limits(&["zone.test"], &many);
        assert!(many[0].contains("65 zones and names that pass"), "{many:?}");
    }
}
