//! Which device leads to which pod, as the kernel tells it.

use zerohop_contract::addresses::POD;
use zerohop_steering::{InterfaceReader, PodInterfaces};
use zerohop_tests::topology::{ANOTHER_POD, HOST_VETH, INNER, POD_DEVICE, Topology};

use super::node::read_interfaces;

#[test]
fn routed_and_bridged_pods_are_found() {
    for topology in [Topology::routed(), Topology::bridged()] {
        let topology = topology.unwrap();
        let interfaces = read(&topology);
        let veth = topology.node.index(HOST_VETH).unwrap();
        assert_eq!(POD.map(|pod| interfaces.of(pod)), [Some(veth); 2]);
    }
}

/// A namespace behind a pod has a veth only in the pod.
#[test]
fn addresses_behind_a_pod_are_not_found() {
    let topology = Topology::routed().unwrap();
    let _inner = topology.add_nested_namespace().unwrap();
    let interfaces = read(&topology);
    assert_eq!(INNER.map(|inner| interfaces.of(inner)), [None; 2]);
    assert!(interfaces.of(POD[0]).is_some());
}

/// A pod with CAP_NET_ADMIN can give itself any address. It gets no packets for another pod by
/// that, and the other pod is only not steered.
#[test]
fn an_address_of_two_pods_leads_nowhere() {
    let topology = Topology::routed().unwrap();
    let another = topology.add_pod().unwrap();
    let [pod, pod6] = POD;
    let taken = format!("{pod}/32 dev {POD_DEVICE}");
    another.ip(&[&format!("address add {taken}")]).unwrap();
    let interfaces = read(&topology);
    assert_eq!(interfaces.of(pod), None);
    let veth = topology.node.index(HOST_VETH).unwrap();
    assert_eq!(interfaces.of(pod6), Some(veth));
    let veth = topology.node.index("veth-another").unwrap();
    assert_eq!(interfaces.of(ANOTHER_POD.into()), Some(veth));

    another.ip(&[&format!("address delete {taken}")]).unwrap();
    assert!(read(&topology).of(pod).is_some());
}

/// A pod that gives itself many addresses costs no more than a read of them, once.
#[test]
fn a_pod_with_too_many_addresses_is_left_out() {
    let topology = Topology::routed().unwrap();
    let _another = topology.add_pod().unwrap();
    let lines: Vec<_> = (1..=16)
        .map(|last| format!("address add 192.0.2.{last}/32 dev {POD_DEVICE}"))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let mut reader = InterfaceReader::default();
    let before = read_interfaces(&topology.node, &mut reader);
    assert!(before.of(POD[0]).is_some());
    topology.pod.ip(&lines).unwrap();
    let after = read_interfaces(&topology.node, &mut reader);
    assert_eq!(POD.map(|pod| after.of(pod)), [None; 2]);
    assert!(after.of(ANOTHER_POD.into()).is_some());
    let lines: Vec<_> = lines
        .iter()
        .map(|it| it.replace(" add ", " delete "))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    topology.pod.ip(&lines).unwrap();
    let later = read_interfaces(&topology.node, &mut reader);
    assert_eq!(POD.map(|pod| later.of(pod)), [None; 2]);
}

fn read(topology: &Topology) -> PodInterfaces {
    read_interfaces(&topology.node, &mut InterfaceReader::default())
}
