//! Words, lines and braces.

use super::{Conclusions, answered, read_text, refusal};

#[test]
fn equivalent_spellings_are_read_alike() {
    for text in [
        "cluster.local {\nkubernetes\n}",
        "\u{feff}cluster.local\n{\nkubernetes\n}",
        "cluster.local\r\n{\r\n\tkubernetes\r\n}\r\n",
        // A text without braces is one server block.
        "cluster.local\nkubernetes",
        "cluster.local\nkubernetes {\npods insecure\n}\nerrors\n",
        "\"cluster.local\" { kubernetes\n}",
        "example.org,\ncluster.local { # zones\n# nothing\nkubernetes cluster.local # {\n}",
        "example.org, cluster.local {\nkubernetes \"cluster.local\"\n}",
        "\"\" cluster.local {\nkubernetes\n} example.org {\n}",
        "cluster.local {\nkubernetes {\n}\n}",
        "cluster.local {\nkubernetes { }\n}",
        "cluster.local {\nkubernetes { pods insecure\n}\n}",
        // A quoted word can contain line breaks. `c` is on the line on which this word ends.
        "cluster.local {\nlog \"a\nb\" c\nkubernetes\n}",
        "cluster.local {\nlog \"say \\\"import\\\" \\\\ \"\nkubernetes\n}",
        "cluster.local {\nlog import {\nclass all import\n}\nkubernetes\n}",
        "cluster.local {\nkubernetes\n}\nexample.org",
    ] {
        assert_eq!(answered(text), "cluster.local.", "{text}");
    }
    assert_eq!(answered("example.org"), "nothing");
}

#[test]
fn a_comment_after_a_word_ends_at_the_next_space() {
    // CoreDNS also reads "x.local" as a zone of the plugin.
    assert_eq!(
        answered(". {\nkubernetes cluster.local#and x.local\n}"),
        "cluster.local. x.local."
    );
    assert_eq!(
        answered(". {\nkubernetes cluster.local #and x.local\n}"),
        "cluster.local."
    );
}

#[test]
fn invalid_texts_make_everything_pass() {
    for (text, reason) in [
        ("{\nkubernetes\n}", "line 1: a server block has no zone"),
        (
            "a.local {\nkubernetes\n",
            "line 1: the opening brace is never closed",
        ),
        (
            "a.local {\nkubernetes {\npods insecure\n}\n",
            "line 1: the opening brace is never closed",
        ),
        (
            "a.local {\nkubernetes {\npods insecure\n",
            "line 2: the opening brace is never closed",
        ),
        (
            "a.local {\nlog {\nx {\n}\n",
            "line 2: the opening brace is never closed",
        ),
        (
            "a.local {\nkubernetes\n}\nimport\n",
            "line 4: `import` names no file",
        ),
        (
            "a.local {\nimport a b\nkubernetes\n}\n",
            "line 2: `import` has several arguments",
        ),
        (
            "a.local {\nkubernetes\n}\n}\n",
            "line 4: this closing brace has no opening brace",
        ),
        (
            "a.local\nkubernetes\n}\n",
            "line 3: this closing brace has no opening brace",
        ),
        (
            "a.local {\n{\n}\n}\n",
            "line 2: this opening brace must follow a plugin's name",
        ),
        (
            "a.local {\nkubernetes\n{\n}\n}\n",
            "line 3: the opening brace must be on the line of its plugin",
        ),
        (
            "a.local { kubernetes }",
            "line 1: the closing brace must be on a line of its own",
        ),
        (
            "a.local {\nlog { class all }\n}\n",
            "line 2: the closing brace must be on a line of its own",
        ),
        (
            "a.local {\nlog {\n} errors\n}\n",
            "line 3: text follows the closing brace of a plugin",
        ),
        (
            "a.local {\nlog {\n} }\n",
            "line 3: text follows the closing brace of a plugin",
        ),
        (
            "a.local, {\n}\n",
            "line 1: a zone is missing after the comma",
        ),
        ("a.local,\n", "line 1: a zone is missing after the comma"),
        (
            "a.local {\nlog \"x\n}\n",
            "line 2: the quotes are never closed",
        ),
        (
            "a.local {\nlog \"x\\",
            "line 2: the quotes are never closed",
        ),
        (
            "{$ZONE} {\n}\n",
            "line 1: `{$ZONE}` among the zones includes text that Zerohop can't read",
        ),
        (
            "a.local,\nimport x\n{\n}\n",
            "line 2: `import` among the zones includes text that Zerohop can't read",
        ),
    ] {
        assert_eq!(
            refusal(text),
            format!("{reason}, so everything passes"),
            "{text}"
        );
    }
}

#[test]
fn unknown_imports_make_everything_pass() {
    let text = ". {\n    kubernetes cluster.local\n    import common\n}\n(common) {\n    log\n}\nimport more\n";
    let Conclusions { adopted, reasons } = read_text(text);
    assert_eq!(adopted, None);
    let expected = [
        "line 3: `import common` includes text that Zerohop can't read (it may be a snippet that follows later), so everything passes",
        "line 8: `import more` includes text that Zerohop can't read (it isn't known in which directory the Corefile is), so everything passes",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn snippets_are_inserted() {
    let corefile = |snippet: &str, block: &str, rest: &str| {
        format!("(common) {{\n{snippet}\n}}\n. {{\n kubernetes cluster.local\n{block}\n}}\n{rest}")
    };
    for (snippet, block, rest, wanted) in [
        (
            "errors\nlog {\n}",
            "import common\nreload",
            "",
            "cluster.local.",
        ),
        // The snippet's lines have lower numbers than the line before.
        (
            "rewrite name a.cluster.local b",
            "reload\nimport common\nerrors",
            "",
            "cluster.local. -a.cluster.local.",
        ),
        ("dns64", "errors\nimport common", "", "cluster.local."),
        ("minimal_x", "errors\nimport common", "", "nothing"),
        ("minimal_x", "errors", "", "cluster.local."),
        // After an `import` line that inserts nothing, too.
        (
            "",
            "errors\nimport common\nrewrite name a.cluster.local b",
            "",
            "cluster.local. -a.cluster.local.",
        ),
        // Whole server blocks.
        (
            "x.cluster.local {\n forward . 10.0.0.1\n}",
            "errors",
            "import common\n",
            "cluster.local. -x.cluster.local.",
        ),
        (
            "errors",
            "import outer",
            "(outer) {\n import common\n}\n",
            "nothing",
        ),
        ("import common", "errors", "", "nothing"),
        (
            "errors",
            "import common",
            "(common) {\n log\n}\n",
            "nothing",
        ),
        // CoreDNS reads `expire` as an argument of `max_fails`.
        (
            "expire 10s",
            "forward . 10.0.0.1 {\n max_fails 3\n import common\n}",
            "",
            "nothing",
        ),
        // A server block without braces.
        ("errors", "import common", "a.local\nlog {\n}\n", "nothing"),
        ("errors", "}", "", "nothing"),
    ] {
        let text = corefile(snippet, block, rest);
        assert_eq!(answered(&text), wanted, "{text}");
    }
    // The lines of an inserted snippet have lower numbers than the line before, and its first line
    // inserts nothing.
    let empty = "(none) {\n}\n(extra) {\n import none\n rewrite name a.cluster.local b\n}\n. {\n kubernetes cluster.local\n errors\n import extra\n}\n";
    assert_eq!(answered(empty), "cluster.local. -a.cluster.local.");
    for name in ["({$X})", "{$X}", "\"\" (foo)"] {
        let text = format!("{name} {{\n errors\n}}\n. {{\n kubernetes cluster.local\n}}\n");
        assert_eq!(answered(&text), "nothing", "{text}");
    }
    let nested = "(a) {\n errors\n}\n(b) {\n import a\n rewrite name x.cluster.local y\n}\n. {\n kubernetes cluster.local\n import b\n}\n";
    assert_eq!(answered(nested), "cluster.local. -x.cluster.local.");
    // Each snippet inserts the one before twice.
    let doubled =
        (1..20).map(|at| format!("(s{at}) {{\n import s{}\n import s{}\n}}\n", at - 1, at - 1));
    let doubled: String = doubled.collect();
    let text =
        format!("(s0) {{\n log\n}}\n{doubled}. {{\n kubernetes cluster.local\n import s19\n}}\n");
    assert!(refusal(&text).contains("more than 100 imports"));
}
