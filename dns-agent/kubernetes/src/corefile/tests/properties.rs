//! Properties of the conclusions from arbitrary text.

use proptest::prelude::*;
use proptest::sample::Index;
use zerohop_zone::Name;

use super::{answered, corefile_with, read_text};

/// A Corefile with many features, from which settings are adopted.
const GOOD: &str = ".:53 cluster.local {
    errors
    kubernetes cluster.local other.local in-addr.arpa fd00::/8 {
        pods insecure
        labels app in (web, shop)
        fallthrough in-addr.arpa
        multicluster other.local
    }
    hosts {
        10.0.0.1 \"db.cluster.local\" # comment
        fallthrough
        no_reverse
    }
    rewrite name suffix .a.b.cluster.local .c
    template IN A x.cluster.local {
        answer \"{{ .Name }} 60 IN A 10.0.0.1\"
    }
    cache 30 {
        success 1000 20
    }
}
tls://x.cluster.local:853, y.cluster.local {
    forward . 10.0.0.1
}
";

/// Pieces of text that are special to the parser, or that are no plain letters.
const PIECES: [&str; 16] = [
    "{", "}", "\n", " ", "\"", "#", "\\", ",", ":", "/", ".", "{$X}", "import", "(a)", "\u{a0}",
    "ä",
];

proptest! {
    #[test]
    fn any_text_gives_a_reason(text in any::<String>()) {
        let conclusions = read_text(&text);
        prop_assert!(!conclusions.reasons.is_empty());
    }

    #[test]
    fn any_words_give_a_reason(words in prop::collection::vec(any_word(), 0..60)) {
        prop_assert!(!read_text(&words.concat()).reasons.is_empty());
    }

    #[test]
    fn any_mutation_gives_a_reason(
        changes in prop::collection::vec(
            (any::<Index>(), 0..20_usize, prop::sample::select(&PIECES[..])),
            1..8,
        ),
    ) {
        let mut chars: Vec<char> = GOOD.chars().collect();
        for (at, length, piece) in changes {
            let at = at.index(chars.len() + 1);
            let end = chars.len().min(at + length);
            chars.splice(at..end, piece.chars());
        }
        let conclusions = read_text(&chars.iter().collect::<String>());
        prop_assert!(!conclusions.reasons.is_empty());
        if let Some(adopted) = conclusions.adopted {
            prop_assert!(!adopted.zones.is_empty());
            for name in &adopted.passed {
                let mut zones = adopted.zones.iter();
                let is_below = |zone: &Name| name != zone && name.is_at_or_below(zone);
                prop_assert!(zones.any(|zone| is_below(&zone.name)));
            }
        }
    }

    #[test]
    fn an_unknown_plugin_makes_everything_pass(
        before in any::<bool>(),
        directive in "[a-z][a-z0-9_]{0,9}( [a-z./:0-9]{1,8}){0,3}",
    ) {
        let name = directive.split(' ').next().unwrap_or_default();
        prop_assume!(!KNOWN_PLUGINS.contains(&name));
        let text = if before {
            corefile_with("errors").replacen("errors", &directive, 1)
        } else {
            corefile_with(&directive)
        };
        prop_assert_eq!(read_text(&text).adopted, None);
    }
}

/// Plugins that may stand next to `kubernetes` without making everything pass.
const KNOWN_PLUGINS: [&str; 20] = [
    "errors",
    "log",
    "health",
    "ready",
    "prometheus",
    "loop",
    "reload",
    "forward",
    "bufsize",
    "transfer",
    "cache",
    "loadbalance",
    "hosts",
    "rewrite",
    "template",
    "file",
    "auto",
    "etcd",
    "secondary",
    "k8s_external",
];

fn any_word() -> impl Strategy<Value = String> {
    let word = prop::sample::select(GOOD.split_whitespace().collect::<Vec<_>>());
    prop_oneof![
        4 => word.prop_map(|word| format!("{word} ")),
        1 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => Just("\n".to_owned()),
    ]
}

#[test]
fn the_good_corefile_is_adopted() {
    // `other.local` is missing because of `multicluster`. A suffix in `rewrite` makes its parent
    // pass (see `rewritten_names_pass`).
    let expected = "cluster.local. in-addr.arpa. d.f.ip6.arpa. -b.cluster.local. -x.cluster.local. -y.cluster.local. -db.cluster.local.";
    assert_eq!(answered(GOOD), expected);
}
