use super::*;
use crate::foreign_programs::Owner;

/// A pod's veth.
fn device(name: &str) -> Device {
    Device {
        index: 1,
        name: name.to_owned(),
        address: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        queues: [1, 1],
        is_veth: true,
        peer_in_other_namespace: true,
        has_default_route: false,
        is_ethernet: true,
        ingress_filters: Vec::new(),
        egress_filters: Vec::new(),
        xdp_programs: Vec::new(),
    }
}

fn interface(name: &str, hook: Choice) -> Interface {
    Interface {
        name: name.to_owned(),
        hook,
    }
}

#[test]
fn shell_patterns_match_names() {
    for (pattern, name, expected) in [
        ("eth0", "eth0", true),
        ("eth0", "eth01", false),
        ("veth*", "veth", true),
        ("veth*", "vethab12", true),
        ("*0", "eth0", true),
        ("e?h0", "eth0", true),
        ("e?h0", "eh0", false),
        ("*a*b", "xaayb", true),
        ("", "eth0", false),
    ] {
        assert_eq!(
            matches_pattern(pattern.as_bytes(), name.as_bytes()),
            expected,
            "{pattern} on {name}"
        );
    }
}

#[test]
fn the_first_matching_interface_decides_the_hook() {
    let wanted = [
        interface("veth1", Choice::Xdp),
        interface("veth*", Choice::Tc),
    ];
    assert_eq!(chosen_hook(&wanted, &device("veth1")), Some(Choice::Xdp));
    assert_eq!(chosen_hook(&wanted, &device("veth2")), Some(Choice::Tc));
    assert_eq!(chosen_hook(&wanted, &device("eth0")), None);
}

#[test]
fn the_value_pods_matches_veths_with_peers_in_other_namespaces() {
    let wanted = [interface(PODS, Choice::Auto)];
    let pod = device("veth1");
    assert_eq!(chosen_hook(&wanted, &pod), Some(Choice::Auto));
    let uplink = Device {
        has_default_route: true,
        ..pod.clone()
    };
    let same_namespace = Device {
        peer_in_other_namespace: false,
        ..pod.clone()
    };
    let card = Device {
        is_veth: false,
        ..pod
    };
    for other in [uplink, same_namespace, card] {
        assert_eq!(chosen_hook(&wanted, &other), None, "{other:?}");
    }
}

#[test]
fn card_addresses_are_unique_and_only_of_cards() {
    let wanted = [interface("*", Choice::Auto)];
    let card = Device {
        address: Some([2, 0, 0, 0, 0, 9]),
        is_veth: false,
        ..device("eth0")
    };
    let tunnel = Device {
        address: None,
        ..card.clone()
    };
    // The ports of a bond share one address.
    let devices = [device("veth1"), card.clone(), tunnel, card];
    assert_eq!(card_addresses(&wanted, &devices), [[2, 0, 0, 0, 0, 9]]);
    let only_veths = [interface("veth*", Choice::Auto)];
    assert!(card_addresses(&only_veths, &devices).is_empty());
}

#[test]
fn a_card_needs_allowed_clients() {
    let card = Device {
        is_veth: false,
        ..device("eth0")
    };
    let wanted = [interface("eth*", Choice::Auto)];
    // The second argument is the number of allowed networks.
    assert!(check_cards_restricted(&wanted, 0, std::slice::from_ref(&card)).is_err());
    assert!(check_cards_restricted(&wanted, 1, &[card]).is_ok());
    let veth = device("eth0");
    assert!(check_cards_restricted(&wanted, 0, &[veth]).is_ok());
}

#[test]
fn veths_with_policy_programs_and_cards_with_xdp_programs_are_skipped() {
    let pod = device("veth1");
    let card = Device {
        index: 2,
        is_veth: false,
        ..device("eth0")
    };
    let program = |interface: &str, hook, owner| ForeignProgram {
        interface: interface.to_owned(),
        hook,
        id: Some(7),
        name: None,
        owner,
        priority: None,
        handle: None,
    };
    let cilium = Some(Owner::Cilium);
    for (foreign, expected) in [
        (vec![], vec![]),
        (
            vec![(1, program("veth1", "clsact ingress", cilium))],
            vec![1],
        ),
        (
            vec![(1, program("veth1", "tcx egress", Some(Owner::Aws)))],
            vec![1],
        ),
        (vec![(1, program("veth1", "tcx ingress", None))], vec![]),
        // The choice `Auto` means tc on a veth, so an XDP program is not in the way.
        (vec![(1, program("veth1", "xdp native", None))], vec![]),
        (vec![(2, program("eth0", "xdp native", None))], vec![2]),
        (vec![(2, program("eth0", "clsact ingress", cilium))], vec![]),
    ] {
        let wanted = [interface("*", Choice::Auto)];
        let skipped = skipped_devices(&wanted, &[pod.clone(), card.clone()], &foreign);
        let skipped: Vec<u32> = skipped.into_keys().collect();
        assert_eq!(skipped, expected, "{foreign:?}");
    }
    // A device that doesn't match is not reported as skipped.
    let wanted = [interface("other", Choice::Auto)];
    let foreign = [(1, program("veth1", "clsact ingress", cilium))];
    assert!(skipped_devices(&wanted, &[pod], &foreign).is_empty());
}
