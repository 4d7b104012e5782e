use super::*;
use crate::datapath::others::Owner;

fn device(name: &str) -> Device {
    Device {
        index: 1,
        name: name.to_owned(),
        address: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        queues: [1, 1],
        is_veth: true,
        peer_is_elsewhere: true,
        is_default_route: false,
        is_ethernet: true,
        filters: Vec::new(),
        egress_filters: Vec::new(),
        xdp: Vec::new(),
    }
}

fn interface(name: &str, hook: Choice) -> Interface {
    Interface {
        name: name.to_owned(),
        hook,
    }
}

#[test]
fn shell_patterns() {
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
            matches(pattern.as_bytes(), name.as_bytes()),
            expected,
            "{pattern} on {name}"
        );
    }
}

#[test]
fn the_first_match_decides() {
    let wanted = [
        interface("veth1", Choice::Xdp),
        interface("veth*", Choice::Tc),
    ];
    assert_eq!(choice(&wanted, &device("veth1")), Some(Choice::Xdp));
    assert_eq!(choice(&wanted, &device("veth2")), Some(Choice::Tc));
    assert_eq!(choice(&wanted, &device("eth0")), None);
}

#[test]
fn pods_are_veths_that_lead_elsewhere() {
    let wanted = [interface(PODS, Choice::Auto)];
    let pod = device("veth1");
    assert_eq!(choice(&wanted, &pod), Some(Choice::Auto));
    let own = Device {
        is_default_route: true,
        ..pod.clone()
    };
    let here = Device {
        peer_is_elsewhere: false,
        ..pod.clone()
    };
    let card = Device {
        is_veth: false,
        ..pod
    };
    for other in [own, here, card] {
        assert_eq!(choice(&wanted, &other), None, "{other:?}");
    }
}

#[test]
fn cards_have_hardware_addresses_that_are_ours() {
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
    // Two ports of one bridge may have its address.
    let devices = [device("veth1"), card.clone(), tunnel, card];
    assert_eq!(hardware(&wanted, &devices), [[2, 0, 0, 0, 0, 9]]);
    let none = [interface("veth*", Choice::Auto)];
    assert!(hardware(&none, &devices).is_empty());
}

#[test]
fn a_card_needs_allowed_clients() {
    let card = Device {
        is_veth: false,
        ..device("eth0")
    };
    let wanted = [interface("eth*", Choice::Auto)];
    assert!(check(&wanted, 0, std::slice::from_ref(&card)).is_err());
    assert!(check(&wanted, 1, &[card]).is_ok());
    assert!(check(&wanted, 0, &[device("eth0")]).is_ok());
}

#[test]
fn a_veth_is_left_to_what_enforces_policy_and_a_card_to_its_xdp_program() {
    let pod = device("veth1");
    let card = Device {
        index: 2,
        is_veth: false,
        ..device("eth0")
    };
    let other = |interface: &str, hook, owner| Other {
        interface: interface.to_owned(),
        hook,
        id: Some(7),
        name: None,
        owner,
        priority: None,
        handle: None,
    };
    let cilium = Some(Owner::Cilium);
    for (others, expected) in [
        (vec![], vec![]),
        (vec![(1, other("veth1", "clsact ingress", cilium))], vec![1]),
        (
            vec![(1, other("veth1", "tcx egress", Some(Owner::Aws)))],
            vec![1],
        ),
        (vec![(1, other("veth1", "tcx ingress", None))], vec![]),
        // tc goes on beside XDP.
        (vec![(1, other("veth1", "xdp native", None))], vec![]),
        (vec![(2, other("eth0", "xdp native", None))], vec![2]),
        (vec![(2, other("eth0", "clsact ingress", cilium))], vec![]),
    ] {
        let wanted = [interface("*", Choice::Auto)];
        let left = leave_alone(&wanted, &[pod.clone(), card.clone()], &others);
        let left: Vec<u32> = left.into_keys().collect();
        assert_eq!(left, expected, "{others:?}");
    }
    let wanted = [interface("other", Choice::Auto)];
    let others = [(1, other("veth1", "clsact ingress", cilium))];
    assert!(leave_alone(&wanted, &[pod], &others).is_empty());
}
