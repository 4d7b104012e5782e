use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Reads a list that arrives in chunks. `lengths` has the lengths of the chunks in bytes, and is
/// repeated as necessary. Returns the resource version and the items.
fn read_list(body: &str, lengths: &[usize]) -> Result<(String, Vec<String>), Failure> {
    let mut list = ListSplitter::default();
    let mut items = Vec::new();
    for chunk in split_body(body.as_bytes(), lengths) {
        list.push(chunk)?;
        while let Some(item) = list.next()? {
            items.push(String::from_utf8(item.to_vec()).unwrap());
        }
    }
    Ok((list.finish()?, items))
}

/// Splits a body into chunks, as in [`read_list`].
fn split_body<'a>(mut body: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        if body.is_empty() {
            break;
        }
        let (chunk, rest) = body.split_at((*length).min(body.len()));
        chunks.push(chunk);
        body = rest;
    }
    chunks
}

/// A JSON value. Its strings often contain the characters that delimit JSON.
fn json_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![any::<String>(), "[\\[\\]{}\",:\\\\ a]{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(text.clone(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn items_are_found_wherever_the_body_is_split(
        items in proptest::collection::vec(json_value(), 0..5),
        other in json_value(),
        pretty in any::<bool>(),
        lengths in proptest::collection::vec(1_usize..9, 1..5),
    ) {
        let list = json!({
            "kind": "List",
            "a": other,
            "metadata": {"resourceVersion": "7"},
            "items": items,
            "z": other
        });
        let body = if pretty {
            serde_json::to_string_pretty(&list)
        } else {
            serde_json::to_string(&list)
        };
        let (version, found) = read_list(&body.unwrap(), &lengths).unwrap();
        let found = found.iter().map(|item| serde_json::from_str(item).unwrap());
        let found: Vec<Value> = found.collect();
        prop_assert_eq!(version, "7");
        prop_assert_eq!(found, items);
    }

    #[test]
    fn a_list_that_breaks_off_is_an_error(
        items in proptest::collection::vec(json_value(), 0..3), kept in 0.0..1.0_f64,
    ) {
        let body = json!({"metadata": {"resourceVersion": "7"}, "items": items}).to_string();
        let mut end = (body.len() as f64 * kept) as usize;
        while !body.is_char_boundary(end) {
            end -= 1;
        }
        prop_assert!(read_list(&body[..end], &[5]).is_err());
    }

    #[test]
    fn malformed_bodies_do_not_panic(
        body in "[\\[\\]{}\",:\\\\ a]{0,40}",
        lengths in proptest::collection::vec(1_usize..9, 1..5),
    ) {
        let _ = read_list(&body, &lengths);
        let _ = read_list(&format!("{{\"items\":[{body}]}}"), &lengths);
    }

    #[test]
    fn lines_are_found_wherever_the_body_is_split(
        lines in proptest::collection::vec("[a-z]{1,9}", 0..5),
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n")],
        lengths in proptest::collection::vec(1_usize..9, 1..5),
    ) {
        let body: String = lines.iter().map(|line| format!("{line}{ending}")).collect();
        let mut found = Vec::new();
        let mut reader = LineSplitter::default();
        for chunk in split_body(body.as_bytes(), &lengths) {
            reader.push(chunk).unwrap();
            while let Some(line) = reader.next() {
                found.push(String::from_utf8(line.to_vec()).unwrap().trim_end().to_owned());
            }
        }
        prop_assert!(reader.finish().is_ok());
        prop_assert_eq!(found, lines);
    }
}

#[test]
fn a_malformed_item_does_not_affect_its_neighbours() {
    let body =
        r#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":tru},{5},nul,{"c":1}]}"#;
    let (_, items) = read_list(body, &[3]).unwrap();
    assert_eq!(
        items,
        [r#"{"a":1}"#, r#"{"b":tru}"#, "{5}", "nul", r#"{"c":1}"#]
    );
}

#[test]
fn malformed_lists_are_refused() {
    for (body, reason) in [
        ("", "broke off"),
        ("<html>", "isn't a single JSON object"),
        (r#"{"items":[]}"#, "no resource version"),
        (r#"{"metadata":{},"items":[]}"#, "resourceVersion"),
        (
            r#"{"metadata":{"resourceVersion":"7"},"items":[}"#,
            "missing",
        ),
        (
            r#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1}"#,
            "broke off",
        ),
        (
            r#"{"metadata":{"resourceVersion":"7"},"items":[]}x"#,
            "isn't a single JSON object",
        ),
    ] {
        let error = read_list(body, &[4]).expect_err(body).to_string();
        assert!(error.contains(reason), "{body}: {error}");
    }
    let empty = r#"{"metadata":{"resourceVersion":"7"},"items":null}"#;
    assert_eq!(read_list(empty, &[4]).unwrap(), ("7".into(), vec![]));
}

#[test]
fn an_incomplete_last_line_is_an_error() {
    let mut lines = LineSplitter::default();
    lines.push(b"whole\npar").unwrap();
    assert_eq!(lines.next(), Some(&b"whole"[..]));
    assert_eq!(lines.next(), None);
    assert!(lines.finish().is_err());
}

#[test]
fn an_object_of_more_than_32_mib_is_refused() {
    let mut list = ListSplitter::default();
    list.push(br#"{"items":[""#).unwrap();
    // The chunks hold 64 MiB in total.
    let chunk = vec![b'a'; 1 << 20];
    let refused = (0..64).any(|_| list.push(&chunk).is_err() || list.next().is_err());
    assert!(refused, "an item of 64 MiB was accepted");
}
