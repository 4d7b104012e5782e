//! What the kernel plane says of itself: to the status, to `dns-agent lookup`, and to `/healthz`.

use dns_common::settings::MAX_SERVED;

use super::{BEHIND, HAND_OVER, Kernel, Plane, WaitsFor, lock};
use crate::{
    admin::{
        board,
        health::{KernelCanary, KernelHealth},
        lookup::{Explain, KernelPlane},
        status::{KernelStatus, PlaneState},
    },
    datapath::{Datapath, hooks::Failed},
};

const WAITING: &str =
    "the kernel plane waits for the first lists of objects: the cluster's DNS is asked everything";
const IDLE: &str =
    "the kernel plane has no zone to answer for: the cluster's DNS is asked everything";

impl Kernel {
    /// What keeps the agent from being ready: interfaces that no hook could be put on, and hooks that
    /// another agent has for longer than a hand-over takes. Where no interface could be attached to,
    /// the node can't, which is no reason to stop a rollout.
    pub(in crate::agent) fn missing(&self) -> Vec<String> {
        match &*self.lock() {
            Plane::On(datapath) if datapath.is_attached() => unattached(datapath),
            Plane::Behind { since } if since.elapsed() > HAND_OVER => vec![format!(
                "another process has the lock on this node's hooks for {} s, and a hand-over takes {} s at most: the kernel answers \
                 only if that is an agent that works. `lslocks` or `fuser -v {}/zerohop/net-*` names it; end it, and this agent takes over",
                since.elapsed().as_secs(),
                HAND_OVER.as_secs(),
                self.settings.bpffs.display()
            )],
            _ => Vec::new(),
        }
    }

    /// What does not work though the agent is ready.
    pub(in crate::agent) fn degraded(&self) -> Vec<String> {
        match &*self.lock() {
            Plane::Off | Plane::Waiting(_) => Vec::new(),
            Plane::Behind { .. } => vec![format!("{BEHIND}, and answers as long as it runs")],
            Plane::Failed { reason, .. } => vec![reason.clone()],
            Plane::On(datapath) => {
                let mut degraded = datapath.degraded();
                if !datapath.is_attached() {
                    degraded.extend(unattached(datapath));
                }
                if self.unserved > 0 {
                    degraded.push(format!(
                        "{} addresses of --dns-service's endpoints are not answered for: the kernel has room for {MAX_SERVED} of each family",
                        self.unserved
                    ));
                }
                degraded.extend(self.unpinned.clone());
                degraded.extend(
                    self.ungrown
                        .iter()
                        .filter_map(|ungrown| ungrown.reason.clone()),
                );
                if self.settings.serve.is_empty() {
                    degraded.push(
                        "the kernel answers for no address: --dns-service is no Service with a ClusterIP and a UDP port"
                            .to_owned(),
                    );
                }
                degraded
            }
        }
    }

    /// What passes because there is no room for it in the kernel, each with its bound.
    pub(in crate::agent) fn limits(&self) -> Vec<String> {
        match &*self.lock() {
            Plane::On(datapath) => datapath.limits(),
            _ => Vec::new(),
        }
    }

    /// How to ask it about a question.
    pub(in crate::agent) fn explainer(&self) -> Explain {
        let plane = self.plane.clone();
        Box::new(move |name, rtype| match &*lock(&plane) {
            Plane::Off => KernelPlane::Off,
            Plane::On(datapath) => KernelPlane::On(datapath.explain(name, rtype)),
            silent => KernelPlane::Failed(silent.why()),
        })
    }

    /// How to see whether it answers.
    pub(in crate::agent) fn canary(&self) -> KernelCanary {
        let plane = self.plane.clone();
        Box::new(move |zones| match &mut *lock(&plane) {
            Plane::Off => KernelHealth::Off,
            // As it should be.
            Plane::Waiting(WaitsFor::Zones) => KernelHealth::On(None),
            Plane::On(datapath) => match datapath.canary(zones) {
                Ok(canary) => KernelHealth::On(canary),
                Err(reason) => KernelHealth::Failed(format!("{reason:#}")),
            },
            silent => KernelHealth::Failed(silent.why()),
        })
    }

    /// How to read its state.
    pub(in crate::agent) fn reader(&self) -> board::Kernel {
        let plane = self.plane.clone();
        Box::new(move || match &*lock(&plane) {
            Plane::Off => KernelStatus::Without(PlaneState::Off),
            Plane::Waiting(WaitsFor::Lists) => KernelStatus::Without(PlaneState::Waiting),
            Plane::Waiting(WaitsFor::Zones) => KernelStatus::Without(PlaneState::Idle),
            Plane::Behind { .. } => KernelStatus::Without(PlaneState::Behind),
            Plane::Failed { .. } => KernelStatus::Without(PlaneState::Failed),
            Plane::On(datapath) => match datapath.status() {
                Ok(status) => KernelStatus::On(Box::new(status)),
                Err(reason) => KernelStatus::Unreadable(format!("{reason:#}")),
            },
        })
    }
}

impl Plane {
    /// Why it does not answer.
    fn why(&self) -> String {
        match self {
            Plane::Off => "no interface was asked for".to_owned(),
            Plane::Waiting(WaitsFor::Lists) => WAITING.to_owned(),
            Plane::Waiting(WaitsFor::Zones) => IDLE.to_owned(),
            Plane::Behind { .. } => format!("{BEHIND}: it answers, not this agent"),
            Plane::Failed { reason, .. } => reason.clone(),
            Plane::On(_) => "it answers".to_owned(),
        }
    }
}

fn unattached(datapath: &Datapath) -> Vec<String> {
    let failed = datapath.failed();
    let lines = failed.map(|failed| {
        let Failed {
            interface, reason, ..
        } = failed;
        format!("interface {interface} is not attached: {reason}")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{config::Config, datapath::Clients};

    #[test]
    fn who_waits_for_longer_than_a_hand_over_is_not_ready() {
        let settings = crate::config::Settings {
            manifests: Some("/objects".into()),
            ..crate::config::Settings::default()
        };
        let config = Config::new(settings).unwrap();
        let kernel = Kernel::new(&config, &Clients::Any).unwrap();
        let now = Instant::now();
        for (since, is_missing) in [(Some(now), false), (now.checked_sub(2 * HAND_OVER), true)] {
            let since = since.expect("the machine has just started");
            *kernel.lock() = Plane::Behind { since };
            let missing = kernel.missing();
            assert_eq!(!missing.is_empty(), is_missing, "{missing:?}");
            assert!(missing.iter().all(|it| it.contains("/sys/fs/bpf/zerohop")));
            assert!(kernel.degraded()[0].contains(BEHIND));
        }
    }
}
