//! Which of an agent's threads have capabilities: not those that read what strangers send.

use std::{collections::BTreeMap, fs};

use zerohop_tests::topology::Topology;

use super::{Agent, Manifests, WEB};

const NET_ADMIN: u64 = 1 << 12;

#[test]
fn who_speaks_to_the_kernel_has_capabilities_and_nobody_else() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let agent = Agent::start(&topology.node, &manifests, &["--listen=127.0.0.1:0"]);
    // Who answers this reads the kernel's tables.
    assert!(agent.status(&topology.node).contains("veth-pod"));

    let mut threads: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line = |line: &'_ str| {
            line.strip_prefix("CapPrm:")
                .map(str::trim)
                .map(str::to_owned)
        };
        let permitted = status.lines().find_map(line).unwrap();
        let permitted = u64::from_str_radix(&permitted, 16).unwrap();
        threads
            .entry(name.trim().to_owned())
            .or_default()
            .push(permitted);
    }
    for with in ["writer", "admin"] {
        let permitted = &threads.remove(with).unwrap_or_default();
        let has_some = permitted.iter().all(|some| some & NET_ADMIN != 0);
        assert!(!permitted.is_empty() && has_some, "{with}: {permitted:x?}");
    }
    // An operator's files may be readable to few; the second watches them.
    for reading in ["files", "notify-rs inoti"] {
        threads.remove(reading);
    }
    for without in ["dns-agent", "worker"] {
        assert!(threads.contains_key(without), "{without}: {threads:x?}");
    }
    for (name, permitted) in &threads {
        assert!(
            permitted.iter().all(|none| *none == 0),
            "{name}: {threads:x?}"
        );
    }
}
