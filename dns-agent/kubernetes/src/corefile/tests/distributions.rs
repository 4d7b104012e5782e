//! The Corefiles of Kubernetes distributions.

use super::{Conclusions, kubeadm_settings, name, read_text};

/// The conclusions from a Corefile that is adopted whole.
const ADOPTED: [&str; 2] = [
    "Zerohop answers cluster.local., with NXDOMAIN for names that `kubernetes` doesn't have",
    "Zerohop answers in-addr.arpa. and ip6.arpa., except names that `kubernetes` doesn't have, which pass",
];

/// `ADOPTED` for a `kubernetes` plugin on this line.
fn reasons(line: usize) -> Vec<String> {
    ADOPTED.map(|text| format!("line {line}: {text}")).to_vec()
}

#[test]
fn the_corefile_of_kubeadm_is_adopted() {
    let text = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";
    let conclusions = Conclusions {
        adopted: Some(kubeadm_settings(30)),
        reasons: reasons(7),
    };
    assert_eq!(read_text(text), conclusions);
}

#[test]
fn the_corefile_of_eks_is_adopted() {
    let text = ".:53 {
    errors
    health {
        lameduck 5s
      }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
";
    let conclusions = Conclusions {
        adopted: Some(kubeadm_settings(5)),
        reasons: reasons(7),
    };
    assert_eq!(read_text(text), conclusions);
}

#[test]
fn stub_domains_inside_the_zones_pass() {
    let text = ".:53 {
    errors
    health
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 60
    }
    forward . 8.8.8.8 8.8.4.4
    cache 30
}
consul.local:53 {
    errors
    cache 30
    forward . 10.0.0.1
}
# Below a zone of the plugin.
mesh.cluster.local:53 {
    forward . 10.0.0.2
}
168.192.in-addr.arpa:53 {
    forward . 10.0.0.3
}
";
    let mut adopted = kubeadm_settings(30);
    adopted.uncapped_ttl = Some(60);
    adopted.passed = vec![name("mesh.cluster.local"), name("168.192.in-addr.arpa")];
    adopted.passed.sort();
    let mut reasons = reasons(4);
    reasons.extend(
        [
            "line 10: `cache` caps TTLs, so TTLs are at most 30 s instead of 60 s",
            "line 18: the server block for mesh.cluster.local. receives the queries for this name and the names below it, so mesh.cluster.local. passes",
            "line 21: the server block for 168.192.in-addr.arpa. receives the queries for this name and the names below it, so 168.192.in-addr.arpa. passes",
        ]
        .map(str::to_owned),
    );
    let conclusions = Conclusions {
        adopted: Some(adopted),
        reasons,
    };
    assert_eq!(read_text(text), conclusions);
}

#[test]
fn the_corefile_of_openshift_is_adopted() {
    let text = "# foo
example.org:5353 {
    prometheus 127.0.0.1:9153
    forward . 1.1.1.1 2.2.2.2:5353 {
        policy random
    }
    errors
    log . {
        class error
    }
    bufsize 1232
    cache 900 {
        denial 9984 30
    }
}
.:5353 {
    bufsize 1232
    errors
    log . {
        class error
    }
    health {
        lameduck 20s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    prometheus 127.0.0.1:9153
    forward . /etc/resolv.conf {
        policy sequential
    }
    cache 900 {
        denial 9984 30
    }
    reload
}
hostname.bind:5353 {
    chaos
}
";
    let conclusions = Conclusions {
        adopted: Some(kubeadm_settings(5)),
        reasons: reasons(26),
    };
    assert_eq!(read_text(text), conclusions);
}

#[test]
fn the_corefile_of_k3s_without_its_files_makes_everything_pass() {
    let text = ".:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
      ttl 60
      reload 15s
      fallthrough
    }
    prometheus :9153
    cache 30
    loop
    reload
    loadbalance
    import /etc/coredns/custom/*.override
    forward . /etc/resolv.conf
}
import /etc/coredns/custom/*.server
";
    let reasons = [
        "line 9: `hosts` answers PTR queries for addresses in a file that Zerohop doesn't read, so in-addr.arpa. and ip6.arpa. pass",
        "line 9: `hosts` has names from a file, and /etc/coredns/NodeHosts is not in a ConfigMap, so everything passes",
        "line 19: `import /etc/coredns/custom/*.override` includes text that Zerohop can't read (/etc/coredns/custom is not in a ConfigMap), so everything passes",
        "line 22: `import /etc/coredns/custom/*.server` includes text that Zerohop can't read (/etc/coredns/custom is not in a ConfigMap), so everything passes",
    ];
    let conclusions = Conclusions {
        adopted: None,
        reasons: reasons.map(str::to_owned).to_vec(),
    };
    assert_eq!(read_text(text), conclusions);
}

#[test]
fn the_documented_example_has_the_documented_conclusions() {
    let documentation = include_str!("../../../../../docs/coredns.md");
    // Every second piece is the content of a code block.
    let mut examples = documentation.split("```\n").skip(1).step_by(2);
    let (text, reasons) = (examples.next().unwrap(), examples.next().unwrap());
    assert_eq!(read_text(text).reasons.join("\n"), reasons.trim_end());
}
