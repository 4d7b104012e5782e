//! Findings about the cluster's admission: whether it would refuse the DaemonSet's pods, and what
//! would refuse them.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use zerohop_kubernetes::ObjectKey;
use zerohop_kubernetes_api::{Admission, AdmissionError, PodCounts, ReviewedAccount, connect};

use super::Finding;

/// The cluster to ask about admission.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// The kubeconfig. `None`: the ServiceAccount of the pod that the check runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The agents' DaemonSet, which need not exist yet.
    pub daemon_set: ObjectKey,
}

/// What the API server said.
struct AdmissionFacts {
    daemon_set: ObjectKey,
    /// The pods of the DaemonSet. `None`: it does not exist.
    pods: Result<Option<PodCounts>, AdmissionError>,
    /// The result of a dry run of a pod.
    dry_run: Result<(), AdmissionError>,
    /// The labels of the namespace. `None`: it does not exist.
    labels: Option<BTreeMap<String, String>>,
    /// Whether OpenShift's security context constraints (SCC) count, and are met.
    scc: Result<SccAccess, AdmissionError>,
}

/// Whether the SCC `privileged`, which the pods need, may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SccAccess {
    /// The cluster has no SCCs.
    NotOpenShift,
    /// SCCs don't count in the namespace.
    NotApplied,
    /// The account may use it.
    Permitted(ReviewedAccount),
    /// The account may not use it.
    Denied(ReviewedAccount),
}

const SUBJECT: &str = "admission";

/// The manifest with the pod to try.
const MANIFEST: &str = include_str!("../../../deploy/kustomize/daemon-set.yaml");

/// The ServiceAccount of the DaemonSet's pods, in every installation.
const SERVICE_ACCOUNT: &str = "zerohop";

/// The label of a namespace with the level of PodSecurity that it enforces.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// The namespaces to which OpenShift never applies SCCs (`namespaceconditions` in its API server).
const WITHOUT_SCC: [&str; 6] = [
    "default",
    "kube-public",
    "kube-system",
    "openshift",
    "openshift-infra",
    "openshift-node",
];

/// The label of further such namespaces, with the value 0 or 1.
const RUN_LEVEL: &str = "openshift.io/run-level";

/// Asks the API server whether it would admit the DaemonSet's pods. Nothing is created.
pub(super) async fn admission(request: &AdmissionRequest) -> Vec<Finding> {
    match AdmissionFacts::ask(request).await {
        Ok(facts) => facts.findings(),
        Err(error) => vec![Finding::limited(
            SUBJECT,
            format!("it isn't known whether the cluster admits the agents' pods: {error:#}"),
        )],
    }
}

impl AdmissionFacts {
    async fn ask(request: &AdmissionRequest) -> anyhow::Result<AdmissionFacts> {
        let admission = Admission::new(connect(request.kubeconfig.as_deref()).await?);
        let daemon_set = request.daemon_set.clone();
        let namespace = &*daemon_set.namespace;
        // Without this answer there will be no others, so that an API server that can't be reached
        // costs one time limit.
        let labels = admission.namespace_labels(namespace).await;
        let labels = labels
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("can't read the namespace {namespace}"))?;
        let account = match request.kubeconfig {
            Some(_) => ReviewedAccount::ServiceAccount(ObjectKey::new(namespace, SERVICE_ACCOUNT)),
            None => ReviewedAccount::Own,
        };
        Ok(AdmissionFacts {
            pods: admission.daemon_set_pods(&daemon_set).await,
            dry_run: admission.try_pod(namespace, &pod(namespace)?).await,
            scc: scc_access(&admission, account, namespace, labels.as_ref()).await,
            labels,
            daemon_set,
        })
    }

    fn findings(&self) -> Vec<Finding> {
        let namespace = &self.daemon_set.namespace;
        let Some(labels) = &self.labels else {
            let text = format!("the namespace {namespace} does not exist: create it");
            return vec![Finding::fails(SUBJECT, text)];
        };
        let mut findings = Vec::new();
        findings.extend(self.existing_pods());
        findings.push(match &self.dry_run {
            Ok(()) => Finding::works(
                SUBJECT,
                format!(
                    "a dry run of a pod like those of the DaemonSet was admitted in the namespace \
                     {namespace}"
                ),
            ),
            Err(AdmissionError::Refused(text)) => Finding::fails(
                SUBJECT,
                format!(
                    "the cluster refuses the agents' pods: {text}; {}",
                    remedy(text, namespace)
                ),
            ),
            Err(AdmissionError::NotPermitted(_) | AdmissionError::Failed(_)) => {
                self.pod_security(labels.get(POD_SECURITY).map(String::as_str))
            }
        });
        findings.extend(self.scc());
        findings
    }

    /// The finding about the DaemonSet's pods. `None` if it does not exist, or may not be read.
    fn existing_pods(&self) -> Option<Finding> {
        let PodCounts { desired, existing } = self.pods.as_ref().ok()?.as_ref()?;
        let ObjectKey { namespace, name } = &self.daemon_set;
        let advice = format!(
            "`kubectl --namespace {namespace} describe daemonset {name}` shows what refuses them"
        );
        Some(match existing {
            existing if existing >= desired => Finding::works(
                SUBJECT,
                format!(
                    "the DaemonSet {namespace}/{name} has a pod on each of its {desired} nodes"
                ),
            ),
            0 => Finding::fails(
                SUBJECT,
                format!(
                    "the DaemonSet {namespace}/{name} has no pod on any of its {desired} nodes, as when \
                     the cluster refuses them: {advice}"
                ),
            ),
            existing => Finding::limited(
                SUBJECT,
                format!(
                    "the DaemonSet {namespace}/{name} has pods on {existing} of its {desired} \
                     nodes: if more don't follow, {advice}"
                ),
            ),
        })
    }

    /// The finding about the namespace's level of PodSecurity, where a dry run is not possible.
    fn pod_security(&self, level: Option<&str>) -> Finding {
        let namespace = &self.daemon_set.namespace;
        let not_tried = "a dry run of a pod needs the right to create pods, which the agents don't \
                         have: give an administrator's --kubeconfig to try it";
        match level {
            Some("privileged") => Finding::works(
                SUBJECT,
                format!(
                    "the namespace {namespace} has the level privileged of PodSecurity, which \
                     admits the agents' pods. Policies of other software are not known: {not_tried}"
                ),
            ),
            Some(level) => Finding::fails(
                SUBJECT,
                format!(
                    "the namespace {namespace} has the level {level} of PodSecurity, which refuses \
                     pods on the host's network: {}",
                    pod_security_remedy(namespace)
                ),
            ),
            None if self.has_all_pods() => Finding::works(
                SUBJECT,
                format!(
                    "the namespace {namespace} has no level of PodSecurity of its own, and the \
                     pods that exist were admitted"
                ),
            ),
            None => Finding::limited(
                SUBJECT,
                format!(
                    "the namespace {namespace} has no level of PodSecurity of its own. The API does \
                     not show the cluster's default level; {not_tried}"
                ),
            ),
        }
    }

    fn has_all_pods(&self) -> bool {
        let pods = self.pods.as_ref().ok().and_then(Option::as_ref);
        pods.is_some_and(|pods| pods.desired > 0 && pods.existing >= pods.desired)
    }

    /// The finding about OpenShift's SCCs. `None` on other clusters.
    fn scc(&self) -> Option<Finding> {
        const SUBJECT: &str = "SCC";
        let namespace = &self.daemon_set.namespace;
        let question = format!(
            "`oc auth can-i use scc/privileged --namespace {namespace} \
             --as system:serviceaccount:{namespace}:{SERVICE_ACCOUNT}`"
        );
        Some(match &self.scc {
            Ok(SccAccess::NotOpenShift) => return None,
            Ok(SccAccess::NotApplied) => Finding::works(
                SUBJECT,
                format!(
                    "OpenShift does not apply security context constraints to the namespace \
                     {namespace}"
                ),
            ),
            Ok(SccAccess::Permitted(account)) => Finding::works(
                SUBJECT,
                format!("{} may use the SCC privileged", account_text(account)),
            ),
            Ok(SccAccess::Denied(account)) => Finding::fails(
                SUBJECT,
                format!(
                    "{} may not use the SCC privileged, so OpenShift refuses the agents' pods \
                     unless an SCC of yours admits them: add `components/openshift` to your \
                     kustomization, or set the chart's `openshift.scc: always`",
                    account_text(account)
                ),
            ),
            Err(AdmissionError::NotPermitted(text)) => Finding::limited(
                SUBJECT,
                format!(
                    "this account may not ask whether the agents' ServiceAccount may use the SCC \
                     privileged ({text}): an administrator can ask with {question}"
                ),
            ),
            Err(error) => Finding::limited(
                SUBJECT,
                format!(
                    "it isn't known whether the agents' ServiceAccount may use the SCC privileged \
                     ({error}): ask with {question}"
                ),
            ),
        })
    }
}

/// A pod like those of the DaemonSet.
fn pod(namespace: &str) -> anyhow::Result<Value> {
    let mut daemon_set: Value =
        serde_saphyr::from_str(MANIFEST).context("the agent's own manifest can't be read")?;
    let mut spec = daemon_set["spec"]["template"]["spec"].take();
    // The ServiceAccount may not exist yet, which would be another reason for a refusal.
    spec["serviceAccountName"] = json!("default");
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "zerohop-check-", "namespace": namespace },
        "spec": spec,
    }))
}

async fn scc_access(
    admission: &Admission,
    account: ReviewedAccount,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Result<SccAccess, AdmissionError> {
    if !admission.has_sccs().await? {
        return Ok(SccAccess::NotOpenShift);
    }
    let run_level = labels.and_then(|labels| labels.get(RUN_LEVEL));
    let is_exempt = run_level.is_some_and(|level| level == "0" || level == "1");
    if is_exempt || WITHOUT_SCC.contains(&namespace) {
        return Ok(SccAccess::NotApplied);
    }
    let is_permitted = admission.may_use_privileged_scc(&account, namespace);
    if is_permitted.await? {
        Ok(SccAccess::Permitted(account))
    } else {
        Ok(SccAccess::Denied(account))
    }
}

fn account_text(account: &ReviewedAccount) -> String {
    match account {
        ReviewedAccount::Own => "the account of this check".to_owned(),
        ReviewedAccount::ServiceAccount(ObjectKey { namespace, name }) => {
            format!("the ServiceAccount {namespace}/{name}")
        }
    }
}

/// What to do about a refusal, by the API server's text.
fn remedy(text: &str, namespace: &str) -> String {
    if text.contains("PodSecurity") {
        return pod_security_remedy(namespace);
    }
    if text.contains("security context constraint") {
        return "add `components/openshift` to your kustomization, or set the chart's \
                `openshift.scc: always`"
            .to_owned();
    }
    if text.contains("exceeded quota") {
        return format!("raise the quota of the namespace {namespace}, or use another namespace");
    }
    format!(
        "exempt the namespace {namespace} from the policy that the message names, or use another \
         namespace"
    )
}

fn pod_security_remedy(namespace: &str) -> String {
    format!("run `kubectl label namespace {namespace} {POD_SECURITY}=privileged --overwrite`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckVerdict::{self, Fails, Limited, Works};

    fn not_permitted() -> AdmissionError {
        AdmissionError::NotPermitted("pods is forbidden".to_owned())
    }

    /// The facts of a cluster that says nothing and forbids nothing.
    fn facts() -> AdmissionFacts {
        AdmissionFacts {
            daemon_set: ObjectKey::new("dns", "zerohop"),
            pods: Ok(None),
            dry_run: Err(not_permitted()),
            labels: Some(BTreeMap::new()),
            scc: Ok(SccAccess::NotOpenShift),
        }
    }

    fn with_level(level: &str) -> AdmissionFacts {
        AdmissionFacts {
            labels: Some(BTreeMap::from([(
                POD_SECURITY.to_owned(),
                level.to_owned(),
            )])),
            ..facts()
        }
    }

    fn refused_with(text: &str) -> AdmissionFacts {
        AdmissionFacts {
            dry_run: Err(AdmissionError::Refused(text.to_owned())),
            ..facts()
        }
    }

    /// Expects exactly one finding.
    #[track_caller]
    fn expect_one(facts: &AdmissionFacts, verdict: CheckVerdict, words: &[&str]) {
        let findings = facts.findings();
        let [finding] = findings.as_slice() else {
            panic!("not exactly one finding: {findings:?}");
        };
        expect(finding, verdict, words);
    }

    #[track_caller]
    fn expect(finding: &Finding, verdict: CheckVerdict, words: &[&str]) {
        assert_eq!(finding.verdict, verdict, "{finding}");
        for word in words {
            assert!(finding.text.contains(word), "no {word:?} in: {finding}");
        }
    }

    #[test]
    fn a_dry_run_decides() {
        let admitted = AdmissionFacts {
            dry_run: Ok(()),
            // A level that is not in force, for example because the namespace is exempt.
            ..with_level("restricted")
        };
        expect_one(&admitted, Works, &["dry run", "was admitted", "dns"]);
        for (text, words) in [
            (
                "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces",
                "kubectl label namespace dns pod-security.kubernetes.io/enforce=privileged",
            ),
            (
                "admission webhook \"validation.gatekeeper.sh\" denied the request: [no-host]",
                "exempt the namespace dns",
            ),
            (
                "pods \"a\" is forbidden: unable to validate against any security context constraint",
                "components/openshift",
            ),
            (
                "pods \"a\" is forbidden: exceeded quota: small, requested: pods=1",
                "raise the quota",
            ),
        ] {
            expect_one(
                &refused_with(text),
                Fails,
                &["refuses the agents' pods", text, words],
            );
        }
    }

    #[test]
    fn without_a_dry_run_the_level_of_the_namespace_decides() {
        expect_one(&with_level("privileged"), Works, &["level privileged"]);
        for level in ["baseline", "restricted"] {
            let words = [level, "kubectl label namespace dns"];
            expect_one(&with_level(level), Fails, &words);
        }
        expect_one(&facts(), Limited, &["does not show", "--kubeconfig"]);
        let missing = AdmissionFacts {
            labels: None,
            ..facts()
        };
        expect_one(&missing, Fails, &["does not exist"]);
    }

    #[test]
    fn missing_pods_of_the_daemon_set_are_reported() {
        let counted = |existing| AdmissionFacts {
            pods: Ok(Some(PodCounts {
                desired: 3,
                existing,
            })),
            ..facts()
        };
        for (existing, verdict, words) in [
            (3, Works, "on each of its 3 nodes"),
            (1, Limited, "describe daemonset zerohop"),
            (0, Fails, "describe daemonset zerohop"),
        ] {
            expect(&counted(existing).findings()[0], verdict, &[words]);
        }
        // Existing pods show what the cluster's default level is.
        expect(&counted(3).findings()[1], Works, &["were admitted"]);
        expect(&counted(1).findings()[1], Limited, &["does not show"]);
    }

    #[test]
    fn on_openshift_the_right_to_use_the_scc_is_reported() {
        let account = || ReviewedAccount::ServiceAccount(ObjectKey::new("dns", "zerohop"));
        for (scc, verdict, words) in [
            (Ok(SccAccess::NotApplied), Works, "does not apply"),
            (
                Ok(SccAccess::Permitted(account())),
                Works,
                "the ServiceAccount dns/zerohop may use",
            ),
            (
                Ok(SccAccess::Permitted(ReviewedAccount::Own)),
                Works,
                "the account of this check",
            ),
            (
                Ok(SccAccess::Denied(account())),
                Fails,
                "openshift.scc: always",
            ),
            (
                Err(not_permitted()),
                Limited,
                "oc auth can-i use scc/privileged",
            ),
        ] {
            let facts = AdmissionFacts { scc, ..facts() };
            let findings = facts.findings();
            expect(&findings[1], verdict, &[words]);
            assert_eq!(findings[1].subject, "SCC");
        }
    }

    #[test]
    fn the_tried_pod_is_that_of_the_manifest() {
        let pod = pod("dns").unwrap();
        assert_eq!(pod["metadata"]["namespace"], "dns");
        assert_eq!(pod["spec"]["hostNetwork"], true);
        let added = &pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
        assert!(added.to_string().contains("NET_ADMIN"), "{added}");
    }
}
