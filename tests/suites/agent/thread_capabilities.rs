//! The capabilities of the agent's threads: those that parse what clients and servers send have
//! none.

use std::{collections::BTreeMap, fs};

use zerohop_tests::topology::Topology;

use super::{ManifestFolder, WEB, start_agent};

/// The bit of CAP_NET_ADMIN (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn only_publisher_admin_and_file_threads_have_capabilities() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let agent = start_agent(&topology.node, &manifests, &["--listen=127.0.0.1:0"]);
    // The thread `admin` answers this request and reads the kernel's tables, so it runs by now.
    assert!(agent.status().unwrap().contains("veth-pod"));

    let mut threads = permitted_capabilities(agent.process_id());
    for name in ["publisher", "admin"] {
        let permitted = &threads.remove(name).unwrap_or_default();
        let all_have_it = permitted.iter().all(|set| set & NET_ADMIN != 0);
        assert!(
            !permitted.is_empty() && all_have_it,
            "no thread is named `{name}`, or one lacks CAP_NET_ADMIN: {permitted:x?}"
        );
    }
    // `files` reads manifests and may need rights to the operator's files. `notify-rs inoti`, a
    // name cut to 15 bytes, watches these files.
    for name in ["files", "notify-rs inoti"] {
        threads.remove(name);
    }
    for name in ["dns-agent", "udp", "worker"] {
        assert!(
            threads.contains_key(name),
            "no thread is named `{name}`: {threads:x?}"
        );
    }
    for (name, permitted) in &threads {
        assert!(
            permitted.iter().all(|set| *set == 0),
            "a thread `{name}` has capabilities: {permitted:x?}"
        );
    }
}

/// The permitted capability sets of a process's threads, by the threads' names.
pub(super) fn permitted_capabilities(process: u32) -> BTreeMap<String, Vec<u64>> {
    let mut threads: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = u64::from_str_radix(permitted.unwrap().trim(), 16).unwrap();
        threads
            .entry(name.trim().to_owned())
            .or_default()
            .push(permitted);
    }
    threads
}
