//! Several server blocks, their keys and ports.

use super::{answered, read_text, refusal};

const KUBERNETES: &str = "{\nkubernetes cluster.local in-addr.arpa\n}\n";
/// What is answered if nothing passes.
const ALL: &str = "cluster.local. in-addr.arpa.";

#[test]
fn names_of_other_server_blocks_pass() {
    for (own, other, wanted) in [
        (".", "example.org", ALL.to_owned()),
        (
            ".:53",
            "x.cluster.local",
            format!("{ALL} -x.cluster.local."),
        ),
        (
            ".:53",
            "x.cluster.local:5353",
            format!("{ALL} -x.cluster.local."),
        ),
        (
            ".:53",
            "x.cluster.local, 10.0.0.0/8",
            format!("{ALL} -x.cluster.local. -10.in-addr.arpa."),
        ),
        // The other block receives all queries.
        (".", "cluster.local", "nothing".to_owned()),
        (".", "local", "nothing".to_owned()),
        (".", "in-addr.arpa", "cluster.local.".to_owned()),
        // The Service may lead to the other port.
        (".", "arpa:5353", "cluster.local.".to_owned()),
        (".", ".:5353", "nothing".to_owned()),
        ("cluster.local in-addr.arpa", ".:5353", "nothing".to_owned()),
        (
            "cluster.local:5353 in-addr.arpa:5353",
            "dns://.:53",
            "nothing".to_owned(),
        ),
        (".:53 .:5353", "example.org:5353", ALL.to_owned()),
        (".:53 .:5353", "local:5353", "nothing".to_owned()),
        // On one port, the block with the longest key receives all queries except DS queries, which
        // the block with the shortest key other than the root receives.
        ("cluster.local in-addr.arpa", ".:53", ALL.to_owned()),
        ("cluster.local in-addr.arpa", "local", "nothing".to_owned()),
        // Zerohop answers no queries over other transports.
        (".", "tls://.", ALL.to_owned()),
        (
            ".",
            "https://cluster.local grpc://. quic://. https3://. unix://x",
            ALL.to_owned(),
        ),
        (". tls://.", "example.org", ALL.to_owned()),
    ] {
        // The blocks' order and the other block's plugins don't matter.
        for text in [
            format!("{own} {KUBERNETES}{other} {{\nforward . 10.0.0.1\n}}\n"),
            format!("{other} {{\nimport x\n}}\n{own} {KUBERNETES}"),
        ] {
            assert_eq!(
                sorted(&answered(&text)),
                sorted(&wanted),
                "{own} and {other}"
            );
        }
    }
    let text = format!(". {KUBERNETES}.:5353 {{\n}}\nlocal {{\n}}\n");
    let expected = [
        "line 4: the server block for . listens on port 5353, and the DNS Service may use that port, so everything passes",
        "line 6: the server block for local. receives the queries for these names, so cluster.local. passes",
    ];
    assert_eq!(read_text(&text).reasons, expected);
}

#[test]
fn plugins_of_other_server_blocks_do_not_count() {
    for plugins in [
        "k8s_gateway x.example",
        "acl {\n block\n}",
        "header {\n response set ra\n}",
    ] {
        let other = format!("example.org {{\n{plugins}\n forward . 10.0.0.1\n}}\n");
        assert_eq!(
            answered(&format!(". {KUBERNETES}{other}")),
            ALL,
            "{plugins}"
        );
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split(' ').collect();
    words.sort_unstable();
    words
}

#[test]
fn zones_outside_their_server_block_pass() {
    assert_eq!(
        answered(&format!("cluster.local {KUBERNETES}")),
        "cluster.local."
    );
    assert_eq!(answered(&format!("in-addr.arpa {KUBERNETES}")), "nothing");
    assert_eq!(
        answered(&format!("tls://. cluster.local {KUBERNETES}")),
        "cluster.local."
    );
    let reasons = read_text(&format!("cluster.local {KUBERNETES}")).reasons;
    let expected = [
        "line 2: Zerohop answers cluster.local., with NXDOMAIN for names that `kubernetes` doesn't have",
        "line 2: `kubernetes` has zones that its server block does not serve over plain DNS, so in-addr.arpa. passes",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn exactly_one_kubernetes_plugin_is_required() {
    for (text, reason) in [
        (
            "",
            "no server block for plain DNS has a `kubernetes` plugin, so everything passes",
        ),
        (
            ".:53 {\nforward . 10.0.0.1\n}\n",
            "no server block for plain DNS has a `kubernetes` plugin, so everything passes",
        ),
        (
            "tls://. {\nkubernetes cluster.local\n}\n",
            "no server block for plain DNS has a `kubernetes` plugin, so everything passes",
        ),
        (
            ". {\nkubernetes a.local\n}\nb.local {\nkubernetes\n}\n",
            "line 5: there is a second `kubernetes` plugin, so everything passes",
        ),
        (
            ". {\nkubernetes a.local\nkubernetes b.local\n}\n",
            "line 3: there is a second `kubernetes` plugin, so everything passes",
        ),
    ] {
        assert_eq!(refusal(text), reason);
    }
    let both = format!(". {KUBERNETES}tls://. {KUBERNETES}");
    assert_eq!(answered(&both), ALL);
}

#[test]
fn unreadable_keys_make_everything_pass() {
    for key in [
        "a..b",
        "foo://x",
        "x:",
        ":53",
        "10.0.0.0/33",
        "::/0",
        "::ffff:10.0.0.0/104",
        "x:70000",
        r"x\.y",
        "ä",
    ] {
        let text = format!("{key} {{\n}}\n. {KUBERNETES}");
        let reason =
            format!("line 1: `{key}` is not a zone that Zerohop understands, so everything passes");
        assert_eq!(refusal(&text), reason);
    }
}
