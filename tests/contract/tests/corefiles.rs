//! The Corefiles of `tests/corefiles`: whether they have the numbers of the sample that they stand
//! for, and the table in the documentation. `UPDATE_DOCS=1 cargo test -p zerohop-contract` writes
//! the table.

#![forbid(unsafe_code)]

use std::{env, fs, path::Path};

use zerohop_contract::corefile_shapes::{CoreDnsVerdict, CorefileShape, ShapeKind};

const START: &str = "<!-- corefiles -->\n";
const END: &str = "<!-- /corefiles -->\n";

/// Words that lines of the server block with `kubernetes` begin with, and in how many of the 44
/// Corefiles of the sample they do. Plugins that are not listed are in none.
const BEGINNINGS: [(&str, usize); 37] = [
    ("errors", 42),
    ("health", 42),
    ("lameduck", 30),
    ("ready", 33),
    ("prometheus", 42),
    ("cache", 43),
    ("reload", 41),
    ("loop", 36),
    ("loadbalance", 40),
    ("forward", 37),
    ("proxy", 7),
    ("upstream", 9),
    ("disable success cluster.local", 5),
    ("success", 2),
    ("cache 10", 1),
    ("cache 60", 1),
    ("cache 300", 1),
    ("hosts {", 6),
    ("hosts /", 5),
    ("rewrite", 5),
    ("rewrite name suffix", 1),
    ("rewrite name shop.example.com", 1),
    ("import", 2),
    ("log", 7),
    ("log . \"", 1),
    ("class error", 3),
    ("bufsize", 1),
    ("dnssec", 1),
    ("k8s_gateway", 1),
    ("pods", 44),
    ("pods verified", 1),
    ("ttl 0", 1),
    ("ttl 33", 1),
    ("ttl 120", 1),
    ("tls", 0),
    ("autopath", 0),
    ("template", 0),
];

#[test]
fn the_shapes_have_the_numbers_of_the_sample() {
    let shapes = CorefileShape::all();
    let of_kind = |kind| shapes.iter().filter(move |shape| shape.kind == kind);
    let clusters: Vec<&CorefileShape> = of_kind(ShapeKind::Cluster).collect();
    let count = |is_counted: &dyn Fn(&CorefileShape) -> bool| {
        let clusters = clusters.iter();
        clusters.filter(|shape| is_counted(shape)).count()
    };
    assert_eq!(clusters.len(), 44);
    assert_eq!(count(&CorefileShape::is_obsolete), 9);
    let lacks_plugin =
        |shape: &CorefileShape| matches!(shape.verdict, CoreDnsVerdict::LacksPlugin(_));
    assert_eq!(count(&lacks_plugin), 1);
    for (beginning, wanted) in BEGINNINGS {
        let has_line = |shape: &CorefileShape| {
            let mut lines = cluster_block(shape).into_iter();
            lines.any(|line| has_beginning(line, beginning))
        };
        assert_eq!(count(&has_line), wanted, "{beginning}");
    }
    let has_text =
        |text: &str| count(&|shape| cluster_block(shape).iter().any(|line| line.contains(text)));
    assert_eq!(has_text("name regex"), 3);
    let is_fixed = |line: &&str| {
        let to = line.strip_prefix("forward . ");
        to.is_some_and(|to| to.starts_with(|first: char| first.is_ascii_digit()))
    };
    assert_eq!(count(&|shape| cluster_block(shape).iter().any(is_fixed)), 9);
    let has_other_block = |shape: &CorefileShape| {
        let lines = shape.coredns["Corefile"].lines();
        let opened = lines.filter(|line| !line.starts_with(' ') && line.ends_with('{'));
        opened.count() > 1
    };
    assert_eq!(count(&has_other_block), 6);

    let has_key = |shape: &&CorefileShape, end: &str| {
        let mut keys = shape.custom.keys();
        keys.any(|key| key.ends_with(end))
    };
    let custom = || of_kind(ShapeKind::Custom);
    assert_eq!(custom().count(), 16);
    assert_eq!(
        custom().filter(|shape| has_key(shape, ".server")).count(),
        8
    );
    assert_eq!(
        custom().filter(|shape| has_key(shape, ".override")).count(),
        8
    );
}

#[test]
fn the_documented_table_is_that_of_the_shapes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coredns.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{START}{}{END}{after}", CorefileShape::table());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, wanted).unwrap();
        return;
    }
    assert!(
        text == wanted,
        "the table in docs/coredns.md is outdated: run `UPDATE_DOCS=1 cargo test -p \
         zerohop-contract`"
    );
}

/// The lines of the server block with `kubernetes`, without indentation.
fn cluster_block(shape: &CorefileShape) -> Vec<&str> {
    let text = shape.coredns["Corefile"].as_str();
    let mut blocks = text.split("\n}\n");
    let block = blocks.find(|block| block.contains("    kubernetes "));
    let lines = block.unwrap_or_default().lines();
    lines.map(str::trim).collect()
}

/// Whether a line has these words at its beginning. The last one may be a part of a word if it is
/// not one of letters and digits.
fn has_beginning(line: &str, beginning: &str) -> bool {
    let Some(rest) = line.strip_prefix(beginning) else {
        return false;
    };
    let is_whole = rest.is_empty() || rest.starts_with(' ');
    is_whole || !beginning.ends_with(|last: char| last.is_ascii_alphanumeric())
}
