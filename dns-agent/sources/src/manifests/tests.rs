use std::fs;

use zerohop_kubernetes::{ClientJudge, ObjectKey, Selector, ServiceKind};

use super::*;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
";

/// Reads the objects in a text. Errors have the form `line: reason`.
fn read_text(text: &str) -> Result<Objects, Vec<String>> {
    let mut objects = Objects::default();
    match read_objects(text, &Selectors::default(), &mut objects) {
        Ok(()) => Ok(objects),
        Err(errors) => Err(errors
            .into_iter()
            .map(|error| format!("{}: {}", error.line.unwrap_or(0), error.reason))
            .collect()),
    }
}

/// Checks how many namespaces, services, slices and pods a text holds.
#[track_caller]
fn check_counts(text: &str, expected: [usize; 4]) {
    let objects = read_text(text).unwrap();
    let counts = [
        objects.namespaces.len(),
        objects.services.len(),
        objects.endpoint_slices.len(),
        objects.pods.len(),
    ];
    assert_eq!(counts, expected, "{text}");
}

/// Checks the lines of a text's errors, and a part of each reason.
#[track_caller]
fn check_errors(text: &str, expected: &[(usize, &str)]) {
    let errors = read_text(text).expect_err("the text is read without errors");
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, (line, reason)) in errors.iter().zip(expected) {
        assert!(
            error.starts_with(&format!("{line}: ")),
            "not line {line}: {error}"
        );
        assert!(error.contains(reason), "no {reason:?}: {error}");
        assert!(
            !error.contains(" at line "),
            "the reason has the parser's line, too: {error}"
        );
    }
}

#[test]
fn documents_are_split_at_markers() {
    #[track_caller]
    fn check(text: &str, expected: &[(&str, usize)]) {
        let found: Vec<_> = split_documents(text)
            .iter()
            .map(|document| (document.text, document.lines_before))
            .collect();
        assert_eq!(found, expected);
    }
    check("", &[("", 0)]);
    check("a: 1\n", &[("a: 1\n", 0)]);
    check("a: 1\n---\nb: 1\n", &[("a: 1\n", 0), ("---\nb: 1\n", 1)]);
    check(
        "# c\n\n---\na: 1\n--- # d\r\n---",
        &[("# c\n\n---\na: 1\n", 0), ("--- # d\r\n", 4), ("---", 5)],
    );
    check("%YAML 1.2\n---\na: 1\n", &[("%YAML 1.2\n---\na: 1\n", 0)]);
    check(
        "a: |\n  x\n  ---\n----\n",
        &[("a: |\n  x\n  ---\n----\n", 0)],
    );
}

#[test]
fn empty_documents_hold_no_object() {
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "---\n---\n# x\n---\n",
        "null\n",
    ] {
        check_counts(text, [0, 0, 0, 0]);
    }
}

#[test]
fn every_kind_is_read() {
    let text = format!(
        "{SERVICE}---
kind: Namespace
apiVersion: v1
metadata: {{name: shop}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {{name: web-1, namespace: shop}}
endpoints: [{{addresses: [10.1.0.1]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: web-0, namespace: shop}}
status: {{podIP: 10.1.0.1}}
"
    );
    check_counts(&text, [1, 1, 1, 1]);
}

#[test]
fn other_kinds_are_ignored() {
    check_counts(
        "apiVersion: apps/v1\nkind: Deployment\nspec: {a: [1, {b: null}]}\n",
        [0, 0, 0, 0],
    );
    check_counts(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n",
        [0, 0, 0, 0],
    );
    check_counts(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {ports: what}\n",
        [0, 0, 0, 0],
    );
    check_counts(
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nendpoints: what\n",
        [0, 0, 0, 0],
    );
    check_counts(
        "apiVersion: v1\nkind: ConfigMap\nitems: what\n",
        [0, 0, 0, 0],
    );
}

#[test]
fn policies_of_unsupported_kinds_restrict_clients() {
    let served = ["10.96.0.10:53".parse().unwrap()];
    let is_restricted = |text: &str| {
        let mut facts = read_text(text).unwrap().facts;
        let verdicts = ClientJudge::default().judge(&mut facts, &served);
        verdicts.permitted.is_some()
    };
    let policy =
        "kind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: b}\nspec: {egress: []}\n";
    let list = "kind: AdminNetworkPolicyList\nitems: [{metadata: {name: a}, spec: {}}]\n";
    for (version, text, expected) in [
        ("cilium.io/v2", policy, true),
        ("cilium.io/v9", policy, true),
        ("example.org/v2", policy, false),
        ("policy.networking.k8s.io/v1alpha1", list, true),
        (
            "policy.networking.k8s.io/v1alpha1",
            "kind: AdminNetworkPolicyList\n",
            false,
        ),
    ] {
        let text = format!("apiVersion: {version}\n{text}");
        assert_eq!(is_restricted(&text), expected, "{text}");
    }
    let nameless = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {}\n";
    check_errors(nameless, &[(1, "metadata.name")]);
}

#[test]
fn lists_are_read() {
    check_counts(
        "apiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
         - {apiVersion: apps/v1, kind: Deployment}\n\
         - {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]}\n",
        [1, 0, 0, 1],
    );
    check_counts(
        "items: [{metadata: {name: a}}, {metadata: {name: b}}]\nkind: NamespaceList\napiVersion: v1\n",
        [2, 0, 0, 0],
    );
    check_counts(
        "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}, spec: {}}]\n",
        [0, 1, 0, 0],
    );
    check_counts(
        "apiVersion: v1\nkind: PodList\nmetadata: {}\nitems: []\n",
        [0, 0, 0, 0],
    );
    check_counts(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems: [{metadata: {name: a}, addressType: IPv4, endpoints: null}]\n",
        [0, 0, 1, 0],
    );
}

#[test]
fn json_is_read() {
    check_counts(
        "{\n\t\"apiVersion\": \"v1\",\n\t\"items\": [\n\t\t{\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n\t\t\"metadata\": {\"name\": \"a\", \"annotations\": {\"x\": \"\\ud83d\\ude00 \\/\"}}}\n\t],\n\t\"kind\": \"List\"\n}\n",
        [1, 0, 0, 0],
    );
    check_errors(
        "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\"status\": {\"podIPs\": 5}}]}",
        &[(3, "expected sequence")],
    );
}

#[test]
fn errors_name_the_line_of_the_file() {
    check_errors("a: [\n", &[(1, "unclosed")]);
    check_errors("kind: Service\n", &[(1, "apiVersion")]);
    check_errors("\n\nmetadata: {}\n", &[(3, "kind")]);
    check_errors("- a\n", &[(1, "mapping")]);
    check_errors("hello\n", &[(1, "mapping")]);
    check_errors(
        &format!(
            "{SERVICE}---\n{SERVICE}---\napiVersion: v1\nkind: Service\nspec:\n  ports:\n  - port: many\n"
        ),
        &[(15, "i32")],
    );
    check_errors(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  spec: 5\n",
        &[(6, "")], // any reason
    );
    check_errors(
        "apiVersion: v1\nkind: List\nitems:\n- a\n",
        &[(4, "mapping")],
    );
    check_errors(
        "apiVersion: v1\nkind: Pod\nkind: Service\n",
        &[(3, "duplicate")],
    );
}

#[test]
fn every_broken_document_and_object_is_reported() {
    let text = format!(
        "a: [\n---\n{SERVICE}---\napiVersion: v1\nkind: List\nitems:\n\
         - apiVersion: v1\n  kind: Service\n  metadata: {{name: a}}\n  spec: {{clusterIP: nonsense}}\n\
         - apiVersion: v1\n  kind: Pod\n  metadata: {{}}\n"
    );
    check_errors(&text, &[(1, "unclosed"), (11, "nonsense"), (15, "name")]);
}

#[test]
fn a_directory_is_read_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    put("b.yaml", SERVICE);
    put("a.yml", &SERVICE.replace("10.0.0.1", "10.0.0.2"));
    put(
        "c.json",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}"#,
    );
    put("notes.txt", "a: [");
    put(".hidden.yaml", "a: [");
    fs::create_dir(directory.path().join("d.yaml")).unwrap();
    let objects = load(directory.path(), &Selectors::default()).unwrap();
    assert_eq!(objects.namespaces.len(), 1);
    assert_eq!(objects.services.len(), 1);
    let service = format!("{:?}", objects.services);
    assert!(
        service.contains("10.0.0.1"),
        "the earlier file won: {service}"
    );

    put("z.yaml", "a: [\n");
    std::os::unix::fs::symlink("nowhere", directory.path().join("y.yaml")).unwrap();
    let errors = load(directory.path(), &Selectors::default()).unwrap_err();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("y.yaml: can't be read"), "{errors:?}");
    assert!(errors[1].contains("z.yaml:1: "), "{errors:?}");
}

#[test]
fn only_regular_files_within_limits_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let errors = |limits| {
        let errors = load_within(limits, directory.path(), &Selectors::default());
        let errors = errors.err().unwrap_or_default();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        errors
    };
    fs::write(at("a.yaml"), SERVICE).unwrap();
    let size = SERVICE.len() as u64;
    let limits = ManifestLimits {
        files: 2,
        file: size,
        all: 2 * size,
    };
    assert_eq!(errors(limits), Vec::<String>::new());
    let smaller = ManifestLimits {
        file: size - 1,
        ..limits
    };
    assert!(
        errors(smaller)[0].contains("a.yaml: can't be read: it is larger than"),
        "{:?}",
        errors(smaller)
    );
    fs::write(at("b.yaml"), SERVICE).unwrap();
    assert_eq!(errors(limits), Vec::<String>::new());
    let smaller = ManifestLimits {
        all: 2 * size - 1,
        ..limits
    };
    let too_large = "b.yaml: with this file, all files together are larger than";
    assert!(
        errors(smaller)[0].contains(too_large),
        "{:?}",
        errors(smaller)
    );
    let fewer = ManifestLimits { files: 1, ..limits };
    assert!(
        errors(fewer)[0].contains("holds 2 manifest files, but the limit is 1"),
        "{:?}",
        errors(fewer)
    );

    // Reading the FIFO would block, and reading the device would never end.
    nix::unistd::mkfifo(&at("y.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("z.yaml")).unwrap();
    let errors = errors(LIMITS);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].contains("y.yaml: can't be read: it is a FIFO"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("z.yaml: can't be read: it is a device"),
        "{errors:?}"
    );
    let errors = load(&at("y.yaml"), &Selectors::default()).unwrap_err();
    assert!(errors[0].reason.contains("it is a FIFO"), "{errors:?}");
}

#[test]
fn stamps_differ_when_files_change() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let stamp = || FileStamps::read(directory.path()).unwrap();
    let empty = stamp();
    fs::write(at("a.yaml"), SERVICE).unwrap();
    let one = stamp();
    assert_ne!(one, empty);
    assert_eq!(one, stamp());
    fs::write(at("notes.txt"), "").unwrap();
    assert_eq!(one, stamp());
    // The new file has the same length and the same modification time.
    let written = fs::metadata(at("a.yaml")).unwrap().modified().unwrap();
    fs::write(at("new"), SERVICE).unwrap();
    fs::rename(at("new"), at("a.yaml")).unwrap();
    let file = fs::File::options().write(true).open(at("a.yaml")).unwrap();
    file.set_modified(written).unwrap();
    assert_ne!(one, stamp());
    assert!(FileStamps::read(&at("nowhere")).is_err());
}

#[test]
fn headless_services_without_any_slice_are_marked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    // Endpoints are ignored, so they don't replace an EndpointSlice.
    let objects = "\
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db, namespace: shop}
subsets: [{addresses: [{ip: 10.1.0.1}]}]
";
    let slice = "\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: []
";
    let kind = |text: &str| {
        fs::write(&file, text).unwrap();
        let objects = load(&file, &Selectors::default()).unwrap();
        objects.services[&ObjectKey::new("shop", "db")].kind.clone()
    };
    assert_eq!(kind(objects), ServiceKind::HeadlessWithoutSlices);
    assert_eq!(kind(&format!("{objects}{slice}")), ServiceKind::Headless);
}

#[test]
fn a_missing_path_is_an_error() {
    let errors = load(Path::new("/nonexistent/objects"), &Selectors::default()).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .starts_with("/nonexistent/objects: can't be read"),
        "{errors:?}"
    );
}

#[test]
fn unselected_objects_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let objects = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {env: prod}}
---
apiVersion: v1
kind: Namespace
metadata: {name: test, labels: {env: test}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {clusterIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.0.0.2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, namespace: shop, labels: {app: web, kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [172.0.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-b, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [172.0.0.2]}]
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
";
    let file = directory.path().join("a.yaml");
    fs::write(&file, objects).unwrap();
    let mut selectors = Selectors {
        namespaces: "env=prod".parse().unwrap(),
        objects: "app=web".parse().unwrap(),
    };
    let selected = load(&file, &selectors).unwrap();
    assert!(selected.namespaces.iter().map(|name| &**name).eq(["shop"]));
    let names = |keys: Vec<&ObjectKey>| {
        keys.iter()
            .map(|key| key.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(selected.services.keys().collect()), ["web"]);
    assert_eq!(names(selected.endpoint_slices.keys().collect()), ["web-a"]);
    assert!(
        selected.pods.is_empty() && selected.namespaces_known,
        "{selected:?}"
    );
    let slice = selected.endpoint_slices.values().next().unwrap();
    assert_eq!(slice.service.as_deref(), Some("web"));

    // No Namespace is selected, so none exists.
    selectors.namespaces = "env=none".parse().unwrap();
    let none = load(&file, &selectors).unwrap();
    assert!(
        none.namespaces.is_empty() && none.namespaces_known,
        "{none:?}"
    );

    // The later version of the object counts, although it is not selected.
    let later = directory.path().join("b.yaml");
    fs::write(&later, SERVICE).unwrap();
    selectors.namespaces = Selector::default();
    let selected = load(directory.path(), &selectors).unwrap();
    assert!(selected.services.is_empty(), "{:?}", selected.services);

    // `later` has no Namespace. A namespace without a Namespace counts as having no labels.
    selectors.namespaces = "!env".parse().unwrap();
    assert!(!load(&later, &selectors).unwrap().namespaces_known);
    selectors.namespaces = "env".parse().unwrap();
    assert!(load(&later, &selectors).unwrap().namespaces_known);
}

#[test]
fn a_slice_with_a_noncanonical_address_is_loaded() {
    let slice = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
endpoints: [{addresses: ['2001:DB8::5']}]
";
    let objects = read_text(slice).unwrap();
    let key = ObjectKey::new("shop", "db-1");
    assert_eq!(objects.endpoint_slices[&key].endpoints.len(), 1);
}

#[test]
fn a_policy_with_an_unknown_policy_type_is_an_error() {
    // The type is `Egress`, with a capital letter.
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec: {podSelector: {}, policyTypes: [egress]}
";
    let errors = read_text(policy).unwrap_err();
    assert!(errors[0].contains("policyTypes"), "{errors:?}");
}
