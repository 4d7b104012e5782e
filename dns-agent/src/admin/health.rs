//! `/healthz`: whether each plane answers, by asking it.

use std::sync::{Arc, PoisonError};

use dns_common::Outcome;
use tokio::task::{JoinError, spawn_blocking};

use super::lookup::Known;
use crate::{
    datapath::canary::Canary,
    zone::{Name, ZoneData as _},
};

/// Asks the kernel plane for the SOA record of one of these zones.
pub type KernelCanary = Box<dyn Fn(&[Name]) -> KernelHealth + Send + Sync>;

/// Whether the kernel plane answers.
#[derive(Clone, Debug)]
pub enum KernelHealth {
    /// No interface was asked for.
    Off,
    /// It does not, and why.
    Failed(String),
    /// What the attached programs did; none when the kernel has none of the names.
    On(Option<Canary>),
}

/// How a plane is; else what is wrong with it.
pub(super) type Line = Result<String, String>;

/// Asks both planes. None of these questions is in any metric.
///
/// # Errors
/// When it failed on the way.
pub(super) async fn check(known: Arc<Known>) -> Result<Vec<Line>, JoinError> {
    let zones: Vec<Name> = {
        let index = known.index.read().unwrap_or_else(PoisonError::into_inner);
        let view = index.view();
        view.zones().iter().map(|zone| zone.name.clone()).collect()
    };
    let asked = (known.clone(), zones.clone());
    // Takes the lock of the kernel plane, which its writer may hold for a while.
    let kernel = spawn_blocking(move || {
        let (known, zones) = asked;
        (known.kernel_canary)(&zones)
    });
    let mut lines = kernel_lines(kernel.await?, &known.board.troubles());
    lines.extend(user_lines(&known, zones.first()).await);
    Ok(lines)
}

fn kernel_lines(health: KernelHealth, troubles: &[String]) -> Vec<Line> {
    match health {
        KernelHealth::Off => vec![Ok("kernel: off, no --interface is given".to_owned())],
        KernelHealth::Failed(reason) => vec![Err(format!("kernel: {reason}"))],
        KernelHealth::On(None) => {
            vec![Ok(
                "kernel: there is no zone to answer for: the cluster's DNS is asked everything".to_owned()
            )]
        }
        KernelHealth::On(Some(Canary { ends, failed, .. })) if ends.is_empty() => {
            let line = format!("kernel: attached nowhere: {}", troubles.join("; "));
            // Where there is no interface, or it is somebody else's, that is as it should be.
            vec![if failed == 0 { Ok(line) } else { Err(line) }]
        }
        KernelHealth::On(Some(Canary { zone, ends, .. })) => ends
            .into_iter()
            .map(|(program, outcome)| match outcome {
                Outcome::NotPermitted => Ok(format!(
                    "kernel: {program} passes everything: NetworkPolicies let no pod of this node ask"
                )),
                outcome if outcome.is_answer() => {
                    Ok(format!("kernel: {program} answered {zone} SOA"))
                }
                outcome => Err(format!(
                    "kernel: {program} passes {zone} SOA: {}",
                    outcome.name()
                )),
            })
            .collect(),
    }
}

async fn user_lines(known: &Known, zone: Option<&Name>) -> Vec<Line> {
    if known.canaries.is_empty() {
        return vec![Ok("user: off, no --listen is given".to_owned())];
    }
    let Some(zone) = zone else {
        return vec![Ok("user: there is no zone to ask for".to_owned())];
    };
    let mut lines = Vec::new();
    for canary in &known.canaries {
        let listen = canary.listen();
        lines.push(match canary.ask(zone).await {
            Ok(()) => Ok(format!("user: {listen} answered {zone} SOA")),
            Err(reason) => Err(format!("user: {listen} {reason}")),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_or_is_nowhere_is_told() {
        let zone = Name::parse("z.example").unwrap();
        let with_failed = |ends: &[(&'static str, Outcome)], failed| {
            KernelHealth::On(Some(Canary {
                zone: zone.clone(),
                ends: ends.to_vec(),
                failed,
            }))
        };
        let on = |ends: &[(&'static str, Outcome)]| with_failed(ends, 0);
        let troubles = ["eth7 it is".to_owned()];
        for (health, is_well, said) in [
            (KernelHealth::Off, true, "off"),
            (KernelHealth::Failed("no BPF".to_owned()), false, "no BPF"),
            (KernelHealth::On(None), true, "is asked everything"),
            (on(&[]), true, "attached nowhere: eth7 it is"),
            (with_failed(&[], 1), false, "attached nowhere: eth7 it is"),
            (
                with_failed(&[("tc", Outcome::Data)], 1),
                true,
                "tc answered z.example. SOA",
            ),
            (
                on(&[("tc", Outcome::NotPermitted)]),
                true,
                "let no pod of this node ask",
            ),
            (
                on(&[("tc", Outcome::LeaseStale)]),
                false,
                "tc passes z.example. SOA: lease_stale",
            ),
        ] {
            let lines = kernel_lines(health.clone(), &troubles);
            let [line] = &lines[..] else {
                panic!("{health:?}: {lines:?}");
            };
            assert_eq!(line.is_ok(), is_well, "{health:?}: {line:?}");
            let text = line.as_ref().unwrap_or_else(|wrong| wrong);
            assert!(text.contains(said), "{health:?}: {text}");
        }
    }
}
