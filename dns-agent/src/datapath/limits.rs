//! What passes because the kernel's tables and settings hold only so much of it, each with its bound.

use std::collections::BTreeSet;

use dns_common::{
    names::{MAX_NAME, MIN_NAME},
    records::MAX_ANSWER,
    settings::{MAX_CLIENTS, MAX_HARDWARE, MAX_SUFFIX, MAX_SUFFIXES},
};

use crate::zone::{Name, ZoneData};

/// What of these zones, and of the names in them that others answer, the settings can't hold.
#[must_use]
pub fn of_zones(data: &dyn ZoneData) -> Vec<String> {
    let deep = data.deep_names();
    let zones: Vec<&Name> = data.zones().iter().map(|zone| &zone.name).collect();
    let mut limits = Vec::new();
    for zone in &zones {
        let bytes = zone.wire().len();
        if bytes > MAX_SUFFIX {
            limits.push(format!(
                "{zone} takes {bytes} bytes, and the kernel compares suffixes of up to {MAX_SUFFIX}: names that don't exist \
                 there, and computed ones such as pods', pass"
            ));
        }
        if bytes < MIN_NAME {
            limits.push(format!(
                "{zone} takes {bytes} bytes, and the kernel looks up names of {MIN_NAME} to {MAX_NAME}: questions for shorter \
                 names pass"
            ));
        }
    }
    for name in deep.iter().filter(|name| name.wire().len() > MAX_SUFFIX) {
        let bytes = name.wire().len();
        for zone in zones.iter().filter(|zone| name.is_at_or_below(zone)) {
            limits.push(format!(
                "{name} passes and takes {bytes} bytes, and the kernel compares suffixes of up to {MAX_SUFFIX}: names that \
                 don't exist in {zone} pass too"
            ));
        }
    }
    let names: BTreeSet<&Name> = zones.iter().copied().chain(&deep).collect();
    let suffixes = names
        .iter()
        .filter(|name| name.wire().len() <= MAX_SUFFIX)
        .count();
    if suffixes > MAX_SUFFIXES {
        limits.push(format!(
            "there are {suffixes} zones and names that pass, and the kernel knows {MAX_SUFFIXES}, the longest ones: names that \
             don't exist in the other zones pass"
        ));
    }
    if zones.len() > MAX_SUFFIXES {
        limits.push(format!(
            "there are {} zones, and the kernel knows {MAX_SUFFIXES}: names that don't exist in the others, and types that \
             names there lack, pass",
            zones.len()
        ));
    }
    limits
}

/// Names whose answers don't all fit into their records.
pub(super) fn of_answers(names: usize) -> Option<String> {
    (names > 0).then(|| {
        format!(
            "{names} names have answers that their records can't hold, of {MAX_ANSWER} bytes at most: such questions pass"
        )
    })
}

/// Addresses that the table of clients doesn't hold.
pub(super) fn of_clients(left_out: usize) -> Option<String> {
    (left_out > 0).then(|| {
        format!(
            "{left_out} addresses of pods that may ask found no room among {MAX_CLIENTS}: their questions pass"
        )
    })
}

/// Network cards beyond those that are known by their hardware addresses.
pub(super) fn of_cards(count: usize) -> Option<String> {
    (count > MAX_HARDWARE).then(|| {
        format!(
            "{count} network cards are hooked, and the kernel knows the hardware addresses of {MAX_HARDWARE}: the others pass \
             everything"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::ModelBuilder;

    /// What is said of these zones with these names passed.
    fn limits(zones: &[&str], passed: &[String]) -> Vec<String> {
        let name = |text: &str| Name::parse(text).unwrap();
        let mut builder = ModelBuilder::new(1);
        for zone in zones {
            builder.add_zone(name(zone), 5).unwrap();
        }
        for text in passed {
            builder.pass(name(text));
        }
        of_zones(&builder.build())
    }

    #[test]
    fn what_the_settings_can_not_hold_is_told_with_its_bound() {
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
