//! Which of an agent's threads have capabilities: none of those that parse untrusted input.

use std::{collections::BTreeMap, fs};

use zerohop_tests::topology::Topology;

use super::{AgentProcess, ManifestFolder, WEB};

const NET_ADMIN: u64 = 1 << 12;

#[test]
fn only_threads_that_use_bpf_have_capabilities() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let agent = AgentProcess::start(&topology.node, &manifests, &["--listen=127.0.0.1:0"]);
    // The thread that answers this request reads the kernel's tables, so it runs by now.
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
    for with in ["publisher", "admin"] {
        let permitted = &threads.remove(with).unwrap_or_default();
        let has_some = permitted.iter().all(|some| some & NET_ADMIN != 0);
        assert!(!permitted.is_empty() && has_some, "{with}: {permitted:x?}");
    }
    // The thread that reads manifests may need rights to the operator's files; the second watches
    // them.
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
