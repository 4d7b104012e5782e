//! Label selectors: parsing, matching and writing.

use proptest::prelude::*;

use crate::Selector;
use crate::selector::Labels;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

#[test]
fn a_selector_matches_labels_by_its_operators() {
    let web = labels(&[("app", "web"), ("example.org/tier", "front"), ("empty", "")]);
    for (text, selected) in [
        ("app=web", true),
        ("app==web", true),
        (" app = web ", true),
        ("app=db", false),
        ("app=Web", false),
        ("other=web", false),
        ("app!=db", true),
        ("app!=web", false),
        ("other!=web", true),
        ("app in (db, web)", true),
        ("app in (db)", false),
        ("app in(web)", true),
        ("other in (web)", false),
        ("app notin (db)", true),
        ("app notin (db,web)", false),
        ("other notin (web)", true),
        ("app", true),
        ("other", false),
        ("!app", false),
        ("! other", true),
        ("example.org/tier=front", true),
        ("tier=front", false),
        ("empty=", true),
        ("app=", false),
        ("empty in (,a)", true),
        ("app=web,!other,empty notin (a)", true),
        ("app=web,other", false),
        // Operators are valid keys.
        ("in=web", false),
        ("notin notin (in)", true),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.matches(&web), selected, "{text}");
    }
    assert!(Selector::default().matches(&web));
    assert!(Selector::default().matches(&labels(&[])));
}

#[test]
fn invalid_selectors_are_rejected_with_a_reason() {
    // A name or a value has at most 63 characters.
    let long = "a".repeat(64);
    for (text, reason) in [
        ("", "a label key is missing at the end"),
        ("app=web,", "a label key is missing at the end"),
        (",app", "a label key is missing before \",app\""),
        ("=web", "a label key is missing before \"=web\""),
        ("!", "a label key is missing at the end"),
        (
            "app in",
            "a list of values in parentheses is missing at the end",
        ),
        (
            "app in web",
            "a list of values in parentheses is missing before \"web\"",
        ),
        (
            "app in (web",
            "a comma or a closing parenthesis is missing at the end",
        ),
        (
            "app in (web) x",
            "a comma or the end is missing before \"x\"",
        ),
        ("app web", "\"web\" is not an operator"),
        ("app>1", "\"app>1\" is not a label key"),
        ("app=a b", "a comma or the end is missing before \"b\""),
        ("app=web=db", "a comma or the end is missing before \"=db\""),
        ("app=-a", "\"-a\" is not a label value"),
        ("a/b/c", "\"a/b/c\" is not a label key"),
        ("/a", "\"/a\" is not a label key"),
        ("A.b/c", "\"A.b/c\" is not a label key"),
        (long.as_str(), "is not a label key"),
        (&format!("a={long}"), "is not a label value"),
        ("ä=a", "\"ä\" is not a label key"),
    ] {
        let error = text.parse::<Selector>().expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(error.contains("give one such as"), "{text}: {error}");
    }
}

/// The text of a valid selector, with varying white space.
fn selector_text() -> impl Strategy<Value = String> {
    let key = "([a-z][a-z0-9]{0,3}(\\.[a-z]{1,3})?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,4}[A-Za-z0-9])?";
    let value = "([A-Za-z0-9]([-_.A-Za-z0-9]{0,4}[A-Za-z0-9])?)?";
    let values = proptest::collection::vec(value, 1..4);
    let single = prop_oneof![Just("="), Just("=="), Just(" = "), Just("!="), Just(" != ")];
    let set = prop_oneof![Just(" in "), Just(" notin ")];
    let requirement = prop_oneof![
        key.prop_map(|key| key),
        key.prop_map(|key| format!("!{key}")),
        (key, single, value).prop_map(|(key, sign, value)| format!("{key}{sign}{value}")),
        (key, set, values, prop_oneof![Just(","), Just(" , ")])
            .prop_map(|(key, word, values, comma)| format!("{key}{word}({})", values.join(comma))),
    ];
    proptest::collection::vec(requirement, 1..5).prop_map(|all| all.join(","))
}

proptest! {
    #[test]
    fn a_written_selector_parses_to_the_same_selector(text in selector_text()) {
        let selector: Selector = text.parse().unwrap();
        let written = selector.to_string();
        prop_assert_eq!(written.parse::<Selector>(), Ok(selector), "{:?} as {:?}", text, written);
    }
}

#[test]
fn a_selector_is_written_in_the_form_of_the_api() {
    for (text, written) in [
        ("app == web", "app=web"),
        (" app != web , ! tier", "app!=web,!tier"),
        ("env in ( a , b ),x notin (,c)", "env in (a,b),x notin (,c)"),
        ("app in (web, web)", "app in (web)"),
        ("example.org/x,empty=", "example.org/x,empty="),
    ] {
        assert_eq!(text.parse::<Selector>().unwrap().to_string(), written);
    }
    assert_eq!(Selector::default().to_string(), "");
}
