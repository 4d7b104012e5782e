//! The kernel plane's state for the status, `/readyz`, `/healthz` and `dns-agent lookup`.

use dns_common::settings::MAX_SERVED;
use zerohop_datapath::{Datapath, hooks::FailedAttachment};

use super::{
    HOOKS_HELD_ELSEWHERE, KernelLifecycle, KernelPlane, StartCondition, TAKEOVER_TIMEOUT, lock,
};
use crate::{
    admin::state::{KernelCanary, KernelExplainer, KernelExplanation, KernelHealth},
    admin::status::{KernelStatus, PlaneState},
    admin::status_board,
};

const WAITING: &str = "the kernel plane waits for the first lists, so CoreDNS answers everything";
const IDLE: &str = "the kernel plane has no zone to answer for, so CoreDNS answers everything";

impl KernelPlane {
    /// Reasons for not being ready: attaching to some interfaces failed, or another agent has held
    /// the hooks for longer than a takeover takes. If attaching failed everywhere, the node
    /// probably does not support hooks; this must not stop a rollout, so the agent is degraded but
    /// ready.
    pub(in crate::agent) fn missing(&self) -> Vec<String> {
        match &*self.lock_lifecycle() {
            KernelLifecycle::On(datapath) if datapath.is_attached() => attach_failures(datapath),
            KernelLifecycle::Behind { since } if since.elapsed() > TAKEOVER_TIMEOUT => {
                vec![format!(
                    "another process has held the lock on this node's hooks for {} s, and a \
                     takeover normally takes {} s at most: the kernel answers only if that process \
                     is a working agent. Find the process with `lslocks` or `fuser -v \
                     {}/zerohop/net-*` and end it; then this agent takes over",
                    since.elapsed().as_secs(),
                    TAKEOVER_TIMEOUT.as_secs(),
                    self.settings.bpffs.display()
                )]
            }
            _ => Vec::new(),
        }
    }

    /// Failures of the kernel plane that do not keep the agent from being ready.
    pub(in crate::agent) fn degraded(&self) -> Vec<String> {
        match &*self.lock_lifecycle() {
            KernelLifecycle::Off | KernelLifecycle::Waiting(_) => Vec::new(),
            KernelLifecycle::Behind { .. } => vec![format!(
                "{HOOKS_HELD_ELSEWHERE}: the kernel answers while that agent runs"
            )],
            KernelLifecycle::Failed { reason, .. } => vec![reason.clone()],
            KernelLifecycle::On(datapath) => {
                let mut degraded = datapath.degradations();
                if !datapath.is_attached() {
                    degraded.extend(attach_failures(datapath));
                }
                if self.unserved_count > 0 {
                    degraded.push(format!(
                        "CoreDNS answers the queries to {} addresses of --dns-service's \
                         endpoints, because the kernel has room for {MAX_SERVED} addresses of \
                         each family",
                        self.unserved_count
                    ));
                }
                degraded.extend(self.unpinned_reason.clone());
                degraded.extend(
                    self.failed_growth
                        .iter()
                        .filter_map(|growth| growth.reason.clone()),
                );
                if self.settings.served_addresses.is_empty() {
                    degraded.push(
                        "CoreDNS answers all queries, because no Service of the cluster's DNS with a \
                         ClusterIP and a UDP port is known: name it as --dns-service, or give --serve"
                            .to_owned(),
                    );
                }
                degraded
            }
        }
    }

    /// Descriptions of the queries that pass because of a size limit of the kernel's tables. Two
    /// are reported by [`KernelPlane::degraded`] instead: names that full tables have no room for,
    /// and too many addresses of --dns-service's endpoints.
    pub(in crate::agent) fn limits(&self) -> Vec<String> {
        match &*self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => datapath.limits(),
            _ => Vec::new(),
        }
    }

    /// A function that explains what the kernel plane does with a query.
    pub(in crate::agent) fn explainer(&self) -> KernelExplainer {
        let plane = self.lifecycle.clone();
        Box::new(move |name, rtype| match &*lock(&plane) {
            KernelLifecycle::Off => KernelExplanation::Off,
            KernelLifecycle::On(datapath) => {
                KernelExplanation::On(datapath.explain_question(name, rtype))
            }
            silent => KernelExplanation::Failed(silent.why_silent()),
        })
    }

    /// A function that queries the kernel plane, and reports whether it answers.
    pub(in crate::agent) fn canary(&self) -> KernelCanary {
        let plane = self.lifecycle.clone();
        Box::new(move |zones| match &mut *lock(&plane) {
            KernelLifecycle::Off => KernelHealth::Off,
            // Having no zone is not a failure.
            KernelLifecycle::Waiting(StartCondition::Zones) => KernelHealth::On(None),
            KernelLifecycle::On(datapath) => match datapath.run_canary(zones) {
                Ok(canary) => KernelHealth::On(canary),
                Err(reason) => KernelHealth::Failed(format!("{reason:#}")),
            },
            silent => KernelHealth::Failed(silent.why_silent()),
        })
    }

    /// A function that reads the kernel plane's state.
    pub(in crate::agent) fn status_reader(&self) -> status_board::KernelStatusReader {
        let plane = self.lifecycle.clone();
        Box::new(move || match &*lock(&plane) {
            KernelLifecycle::Off => KernelStatus::Without(PlaneState::Off),
            KernelLifecycle::Waiting(StartCondition::Lists) => {
                KernelStatus::Without(PlaneState::Waiting)
            }
            KernelLifecycle::Waiting(StartCondition::Zones) => {
                KernelStatus::Without(PlaneState::Idle)
            }
            KernelLifecycle::Behind { .. } => KernelStatus::Without(PlaneState::Behind),
            KernelLifecycle::Failed { .. } => KernelStatus::Without(PlaneState::Failed),
            KernelLifecycle::On(datapath) => match datapath.status() {
                Ok(status) => KernelStatus::On(Box::new(status)),
                Err(reason) => KernelStatus::Unreadable(format!("{reason:#}")),
            },
        })
    }
}

impl KernelLifecycle {
    /// Why the kernel plane does not answer. The callers handle `Off` and `On` themselves.
    fn why_silent(&self) -> String {
        match self {
            KernelLifecycle::Off => "no --interface is given".to_owned(),
            KernelLifecycle::Waiting(StartCondition::Lists) => WAITING.to_owned(),
            KernelLifecycle::Waiting(StartCondition::Zones) => IDLE.to_owned(),
            KernelLifecycle::Behind { .. } => {
                format!("{HOOKS_HELD_ELSEWHERE}, so that agent answers")
            }
            KernelLifecycle::Failed { reason, .. } => reason.clone(),
            KernelLifecycle::On(_) => "the kernel plane runs".to_owned(),
        }
    }
}

fn attach_failures(datapath: &Datapath) -> Vec<String> {
    let failed = datapath.failed_attachments();
    let lines = failed.map(|failed| {
        let FailedAttachment {
            interface, reason, ..
        } = failed;
        format!("interface {interface} is not attached, so CoreDNS answers its queries: {reason}")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::agent::permitted_queries::PermittedQueries;
    use crate::config::Config;

    #[test]
    fn an_agent_that_waits_longer_than_a_takeover_takes_is_not_ready() {
        let settings = crate::config::RunSettings {
            manifests: Some("/objects".into()),
            ..crate::config::RunSettings::default()
        };
        let config = Config::new(settings).unwrap();
        let kernel = KernelPlane::new(&config, &PermittedQueries::default(), None).unwrap();
        let now = Instant::now();
        for (since, is_missing) in [
            (Some(now), false),
            (now.checked_sub(2 * TAKEOVER_TIMEOUT), true),
        ] {
            let since = since.expect("the machine has run for less than two minutes");
            *kernel.lock_lifecycle() = KernelLifecycle::Behind { since };
            let missing = kernel.missing();
            assert_eq!(!missing.is_empty(), is_missing, "{missing:?}");
            let names_folder = missing.iter().all(|it| it.contains("/sys/fs/bpf/zerohop"));
            assert!(names_folder, "{missing:?}");
            assert!(kernel.degraded()[0].contains(HOOKS_HELD_ELSEWHERE));
        }
    }
}
