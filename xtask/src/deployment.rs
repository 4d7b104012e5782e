//! Tools that check the manifests and the chart: kustomize, helm and kubeconform, with Kubernetes'
//! own OpenAPI description. All of them come from the Go module proxy, and need Go.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    packages::Verbosity,
    process::{find_program, output, root},
};

/// The tools, each with its Go module.
const TOOLS: [(&str, &str); 3] = [
    ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5@v5.8.0"),
    ("helm", "helm.sh/helm/v3/cmd/helm@v3.19.0"),
    (
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    ),
];

/// The Kubernetes release whose API the manifests are checked against.
const KUBERNETES: &str = "v1.35.8";

/// Finds the tools and the schemas that check the manifests, or installs them in this repository.
///
/// # Errors
///
/// If Go is not installed, or a tool or the schemas can't be installed. The manifests can't be
/// checked then.
pub(crate) fn ensure(verbosity: Verbosity) -> Result<()> {
    ensure!(
        find_program("go").is_some(),
        "Go is not installed: install it, because it installs kustomize, helm and kubeconform"
    );
    for (name, module) in TOOLS {
        let program = tool(name);
        if program.exists() {
            if verbosity == Verbosity::Everything {
                println!("{name}: found {}", program.display());
            }
            continue;
        }
        println!("{name}: installing {module} with Go (up to two minutes)");
        output(
            Command::new("go")
                .args(["install", module])
                .env("GOBIN", root().join(BINARIES)),
        )?;
    }
    if !schemas().exists() {
        println!("schemas of Kubernetes {KUBERNETES}: downloading with Go");
        write_schemas()?;
    }
    Ok(())
}

/// The directory of tools that are installed inside this repository.
const BINARIES: &str = "target/tools/bin";

fn tool(name: &str) -> PathBuf {
    root().join(BINARIES).join(name)
}

fn schemas() -> PathBuf {
    root().join("target/tools/schemas").join(KUBERNETES)
}

/// Writes a schema for each kind, under kubeconform's file names, from the OpenAPI description.
fn write_schemas() -> Result<()> {
    let module = format!("k8s.io/kubernetes@{KUBERNETES}");
    let module = output(Command::new("go").args(["mod", "download", "-json", &module]))?;
    let module: Value =
        serde_json::from_str(&module).context("Go printed invalid JSON about the module")?;
    let folder = module["Dir"]
        .as_str()
        .context("Go did not print the folder of k8s.io/kubernetes")?;
    let path = Path::new(folder).join("api/openapi-spec/swagger.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut api: Value =
        serde_json::from_slice(&text).context("cannot parse the OpenAPI description")?;
    let definitions = api["definitions"]
        .as_object_mut()
        .context("the OpenAPI description has no definitions")?;
    definitions.values_mut().for_each(make_strict);

    let partial = schemas().with_extension("partial");
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    for (name, definition) in &*definitions {
        // Definitions without a kind are parts of objects. Those with a kind in several API groups,
        // such as DeleteOptions, are not in manifests.
        let Some([kind]) = definition["x-kubernetes-group-version-kind"]
            .as_array()
            .map(Vec::as_slice)
        else {
            continue;
        };
        let word = |key: &str| kind[key].as_str().unwrap_or_default().to_lowercase();
        let group = word("group");
        let group = group.split('.').next().unwrap_or_default();
        let words = [&word("kind"), group, &word("version")];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let mut needed = BTreeSet::new();
        collect_definitions(name, &|name| definitions.get(name), &mut needed);
        let needed: serde_json::Map<_, _> = needed
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), definitions.get(name)?.clone())))
            .collect();
        let schema = json!({ "$ref": format!("{REFERENCE}{name}"), "definitions": needed });
        let file = partial.join(words.join("-") + ".json");
        fs::write(&file, schema.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    fs::rename(&partial, schemas()).context("cannot move the schemas to their place")
}

const REFERENCE: &str = "#/definitions/";

/// Makes a definition reject unknown fields, and accept numbers for `int-or-string`.
fn make_strict(definition: &mut Value) {
    if definition["format"] == "int-or-string" {
        *definition = json!({ "type": ["integer", "string"] });
        return;
    }
    if definition.get("properties").is_some() {
        definition["additionalProperties"] = json!(false);
    }
}

/// Collects a definition and all definitions that it refers to, directly or indirectly.
fn collect_definitions<'a>(
    name: &'a str,
    definition: &impl Fn(&str) -> Option<&'a Value>,
    needed: &mut BTreeSet<&'a str>,
) {
    let Some(found) = definition(name).filter(|_| needed.insert(name)) else {
        return;
    };
    let mut values = vec![found];
    while let Some(value) = values.pop() {
        match value {
            Value::Object(fields) => {
                let reference = fields.get("$ref").and_then(Value::as_str);
                let reference = reference.and_then(|text| text.strip_prefix(REFERENCE));
                if let Some(name) = reference {
                    collect_definitions(name, definition, needed);
                }
                values.extend(fields.values());
            }
            Value::Array(elements) => values.extend(elements),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io::Write,
        process::{Output, Stdio},
    };

    use super::*;

    /// A kustomization with the components that every cluster can have.
    const OVERLAY: &str = "
resources: [../../../deploy/kustomize]
components:
  - ../../../deploy/kustomize/components/monitoring
  - ../../../deploy/kustomize/components/dashboard
";

    /// What the overlay of a cluster with a private registry adds, on OpenShift.
    const WITH_REGISTRY: &str = "
  - ../../../deploy/kustomize/components/registry
  - ../../../deploy/kustomize/components/pull-secret
  - ../../../deploy/kustomize/components/openshift
images:
  - name: zerohop/dns-agent
    newName: registry.example.com/dns-agent
    digest: sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
";

    /// The values of the chart for the same cluster. The chart finds OpenShift by itself.
    const REGISTRY_VALUES: [&str; 4] = [
        "--set=image.repository=registry.example.com/dns-agent",
        "--set=image.digest=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "--set=imagePullSecrets[0].name=zerohop-registry",
        "--api-versions=security.openshift.io/v1",
    ];

    /// The names of the objects that the tests look at.
    const DAEMON_SET: &str = "\"DaemonSet\" zerohop";
    const SCC_BINDING: &str = "\"RoleBinding\" zerohop-scc";

    #[test]
    fn chart_and_kustomize_make_the_same_objects() {
        expect_same(&kustomize("plain", OVERLAY), &chart(&[]));
    }

    #[test]
    fn the_nodes_resolv_conf_is_mounted_with_its_directory() {
        let component = "\n  - ../../../deploy/kustomize/components/node-resolv-conf\n";
        let overlay = format!("{}{component}", OVERLAY.trim_end());
        let systemd = "--set=nodeResolvConf=/run/systemd/resolve/resolv.conf";
        expect_same(&kustomize("resolv-conf", &overlay), &chart(&[systemd]));
        let other = chart(&["--set=nodeResolvConf=/etc/node/resolv.conf"]);
        assert!(
            other.contains("resolv-conf: /etc/node/resolv.conf"),
            "{other}"
        );
        assert!(other.contains("mountPath: /etc/node\n"), "{other}");
    }

    #[test]
    fn steering_adds_one_capability() {
        let component = "\n  - ../../../deploy/kustomize/components/steering\n";
        let overlay = format!("{}{component}", OVERLAY.trim_end());
        let chart = chart(&["--set=steering=true"]);
        expect_same(&kustomize("steering", &overlay), &chart);
        let container = &objects(&chart)[DAEMON_SET]["spec"]["template"]["spec"]["containers"][0];
        let added = container["securityContext"]["capabilities"]["add"].as_array();
        assert!(added.unwrap().contains(&"SYS_ADMIN".into()), "{container}");
        assert_eq!(
            container["securityContext"]["allowPrivilegeEscalation"],
            false
        );
    }

    #[test]
    fn a_registry_and_openshift_need_no_edits() {
        let kustomize = kustomize(
            "registry",
            &format!("{}{}", OVERLAY.trim_end(), WITH_REGISTRY),
        );
        let chart = chart(&REGISTRY_VALUES);
        expect_same(&kustomize, &chart);
        let objects = objects(&chart);
        assert!(objects.contains_key(SCC_BINDING), "{:?}", objects.keys());
        let pod = &objects[DAEMON_SET]["spec"]["template"]["spec"];
        assert_eq!(pod["imagePullSecrets"][0]["name"], "zerohop-registry");
        let container = &pod["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        let image = container["image"].as_str().unwrap();
        assert!(
            image.starts_with("registry.example.com/dns-agent@sha256:0011"),
            "{image}"
        );
    }

    #[test]
    fn the_nodes_never_pull_an_image_of_that_name_from_docker_hub() {
        for objects in [objects(&kustomize("plain", OVERLAY)), objects(&chart(&[]))] {
            let container = &objects[DAEMON_SET]["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["image"], "zerohop/dns-agent:dev");
            assert_eq!(container["imagePullPolicy"], "Never");
        }
    }

    #[test]
    fn the_binding_for_openshift_depends_on_the_cluster_and_the_value() {
        let openshift = "--api-versions=security.openshift.io/v1";
        for (options, is_bound) in [
            (&[][..], false),
            (&[openshift], true),
            (&["--set=openshift.scc=always"], true),
            (&[openshift, "--set=openshift.scc=never"], false),
        ] {
            let has_binding = objects(&chart(options)).contains_key(SCC_BINDING);
            assert_eq!(has_binding, is_bound, "{options:?}");
        }
    }

    #[test]
    fn a_namespace_of_its_own_has_the_objects_and_admits_privileged_pods() {
        let components = "
  - ../../../deploy/kustomize/components/openshift
  - ../../../deploy/kustomize/components/namespace
";
        let text = kustomize("namespace", &format!("{}{components}", OVERLAY.trim_end()));
        conform(&text);
        assert!(!text.contains("kube-system"), "{text}");
        let objects = objects(&text);
        let level = "/metadata/labels/pod-security.kubernetes.io~1enforce";
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let namespace = documents
            .iter()
            .find(|object| object["kind"] == "Namespace")
            .unwrap();
        assert_eq!(namespace.pointer(level), Some(&json!("privileged")));
        assert_eq!(objects[SCC_BINDING]["subjects"][0]["namespace"], "zerohop");
    }

    #[test]
    fn the_pods_need_no_writable_root_and_have_a_type_for_selinux() {
        let objects = objects(&chart(&[]));
        let container = &objects[DAEMON_SET]["spec"]["template"]["spec"]["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seLinuxOptions"], json!({ "type": "spc_t" }));
        let text = chart(&["--set=seLinuxOptions=null"]);
        assert!(!text.contains("seLinuxOptions"), "{text}");
    }

    #[test]
    fn objects_conform_to_the_kubernetes_api() {
        conform(&kustomize("plain", OVERLAY));
        conform(&chart(&[]));
        conform(&chart(&REGISTRY_VALUES));
        conform(&chart(&[
            "--set=extraCapabilities={SYS_RESOURCE}",
            "--set=podAnnotations.a=b",
            "--set=priorityClassName=",
            "--set=maxUnavailable=10%",
            "--set=seLinuxOptions.level=s0",
            "--set=configMaps={dns,dns-custom}",
        ]));
    }

    #[test]
    fn invalid_values_are_rejected() {
        for (value, complaint) in [
            // The chart has no such value.
            ("--set=tolerance=1", "tolerance"),
            ("--set=config.admin=somewhere", "pattern"),
            // The probes would still use 127.0.0.1.
            ("--set=config.admin=192.0.2.1:9153", "pattern"),
            ("--set=image.digest=sha256:1", "pattern"),
            ("--set=openshift.scc=yes", "openshift"),
        ] {
            let output = helm(&[value]);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains(complaint), "{value}: {errors}");
        }
    }

    #[track_caller]
    fn expect_same(kustomize: &str, chart: &str) {
        let (kustomize, chart) = (objects(kustomize), objects(chart));
        let names = |objects: &BTreeMap<String, Value>| -> Vec<String> {
            objects.keys().cloned().collect()
        };
        assert_eq!(names(&kustomize), names(&chart));
        for (name, object) in kustomize {
            assert_eq!(object, chart[&name], "{name}");
        }
    }

    /// The objects of an overlay. Each has a folder of its own, because tests run side by side.
    fn kustomize(name: &str, overlay: &str) -> String {
        let folder = root().join("target/deployment").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("kustomization.yaml"), overlay).unwrap();
        let mut command = Command::new(found("kustomize"));
        output(command.arg("build").arg(folder)).unwrap()
    }

    fn chart(options: &[&str]) -> String {
        let output = helm(options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn helm(options: &[&str]) -> Output {
        Command::new(found("helm"))
            .args(["template", "zerohop", "--namespace=kube-system"])
            .args(["--kube-version", KUBERNETES])
            .args(["--set=image.tag=dev", "--set=podMonitor.enabled=true"])
            .args(["--set=dashboard.enabled=true"])
            .args(options)
            .arg(root().join("deploy/helm/zerohop"))
            .output()
            .unwrap()
    }

    fn conform(objects: &str) {
        let schemas = schemas().join("{{.ResourceKind}}{{.KindSuffix}}.json");
        let mut child = Command::new(found("kubeconform"))
            // PodMonitor is a kind of the Prometheus operator, so Kubernetes has no schema for it.
            .args(["-strict", "-summary", "-skip=PodMonitor"])
            .arg("-schema-location")
            .arg(schemas)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(objects.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("Errors: 0, Skipped: 1"), "{text}");
    }

    fn found(name: &str) -> PathBuf {
        let program = tool(name);
        assert!(
            program.exists(),
            "{name} is not installed: run `cargo xtask setup`"
        );
        program
    }

    /// Objects by kind and name, without the fields that may differ.
    fn objects(text: &str) -> BTreeMap<String, Value> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let named = objects.into_iter().map(|mut object| {
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("labels");
            let name = metadata["name"].as_str().unwrap();
            let name = without_hash(name).to_owned();
            metadata["name"] = json!(name);
            if let Some(config) = object.pointer_mut("/data/config.yaml") {
                *config = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
            }
            if let Some(metadata) = object.pointer_mut("/spec/template/metadata") {
                metadata.as_object_mut().unwrap().remove("annotations");
            }
            if let Some(name) = object.pointer_mut("/spec/template/spec/volumes/0/configMap/name") {
                *name = json!(without_hash(name.as_str().unwrap()));
            }
            (format!("{} {name}", object["kind"]), object)
        });
        named.collect()
    }

    /// kustomize ends the name of the ConfigMap with a hash of its contents, ten characters long.
    fn without_hash(name: &str) -> &str {
        match name.rsplit_once('-') {
            Some((plain, hash)) if hash.len() == 10 => plain,
            _ => name,
        }
    }
}
