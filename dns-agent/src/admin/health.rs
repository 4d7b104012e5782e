//! `/healthz`: sends a query to each plane and reports whether it is answered.
//!
//! A plane that does not answer is healthy if it is off or has no zone to answer for. So is a
//! kernel plane that may answer no client, and one that is attached to no interface because none
//! matches or foreign programs own those that match. Failures to attach count only while no program
//! is attached.

use std::sync::Arc;

use dns_common::Outcome;
use tokio::task::{JoinError, spawn_blocking};
use zerohop_datapath::canary::CanaryReport;
use zerohop_zone::{Name, ZoneData as _};

use super::state::{AdminState, KernelHealth};

/// One line of the response: `Ok` for a success, `Err` for a failure.
pub(super) type HealthLine = Result<String, String>;

/// Queries both planes. No metric counts these queries.
///
/// # Errors
/// When the task that queries the kernel plane panicked.
pub(super) async fn query_planes(
    admin_state: Arc<AdminState>,
) -> Result<Vec<HealthLine>, JoinError> {
    let zones: Vec<Name> = {
        let providers = admin_state.providers.read();
        let union = providers.union();
        union.zones().iter().map(|zone| zone.name.clone()).collect()
    };
    let canary_input = (admin_state.clone(), zones.clone());
    // On a blocking thread, because the publisher may hold the kernel plane's lock for long.
    let kernel = spawn_blocking(move || {
        let (admin_state, zones) = canary_input;
        (admin_state.kernel_canary)(&zones)
    });
    let missing_and_degraded = admin_state.board.missing_and_degraded();
    let mut lines = kernel_lines(kernel.await?, &zones, &missing_and_degraded);
    lines.extend(user_lines(&admin_state, zones.first()).await);
    Ok(lines)
}

fn kernel_lines(
    health: KernelHealth,
    zones: &[Name],
    missing_and_degraded: &[String],
) -> Vec<HealthLine> {
    match health {
        KernelHealth::Off => vec![Ok("kernel: off, no --interface is given".to_owned())],
        KernelHealth::Failed(reason) => vec![Err(format!("kernel: {reason}"))],
        KernelHealth::On(None) if !zones.is_empty() => vec![Err(format!(
            "kernel: it passes all names of the zones, so CoreDNS answers them: {}",
            missing_and_degraded.join("; ")
        ))],
        KernelHealth::On(None) => {
            vec![Ok(
                "kernel: it answers for no zone, so CoreDNS answers everything".to_owned(),
            )]
        }
        KernelHealth::On(Some(CanaryReport {
            outcomes, failed, ..
        })) if outcomes.is_empty() => {
            let line = format!(
                "kernel: attached to no interface, so CoreDNS answers everything: {}",
                missing_and_degraded.join("; ")
            );
            // Without failed attachments, either no interface matches, or foreign programs own all
            // matching interfaces. Neither is a failure.
            vec![if failed == 0 { Ok(line) } else { Err(line) }]
        }
        KernelHealth::On(Some(CanaryReport { zone, outcomes, .. })) => outcomes
            .into_iter()
            .map(|(program, outcome)| match outcome {
                Outcome::NotPermitted => Ok(format!(
                    "kernel: {program} passes everything, because no client may be answered: see \
                     the policies in `dns-agent status`"
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

async fn user_lines(admin_state: &AdminState, zone: Option<&Name>) -> Vec<HealthLine> {
    if admin_state.resolver_canaries.is_empty() {
        return vec![Ok("user: off, no --listen is given".to_owned())];
    }
    let Some(zone) = zone else {
        return vec![Ok("user: there is no zone to query".to_owned())];
    };
    let mut lines = Vec::new();
    for canary in &admin_state.resolver_canaries {
        let listen = canary.server_address();
        lines.push(match canary.query_soa(zone).await {
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
    fn failures_of_the_kernel_plane_are_reported() {
        let zone = Name::parse("z.example").unwrap();
        let with_failed = |outcomes: &[(&'static str, Outcome)], failed| {
            KernelHealth::On(Some(CanaryReport {
                zone: zone.clone(),
                outcomes: outcomes.to_vec(),
                failed,
            }))
        };
        let on = |outcomes: &[(&'static str, Outcome)]| with_failed(outcomes, 0);
        let missing_and_degraded = ["eth7 is gone".to_owned()];
        for (health, is_success, expected) in [
            (KernelHealth::Off, true, "off"),
            (KernelHealth::Failed("no BPF".to_owned()), false, "no BPF"),
            (KernelHealth::On(None), true, "answers everything"),
            (on(&[]), true, "answers everything: eth7 is gone"),
            (
                with_failed(&[], 1),
                false,
                "answers everything: eth7 is gone",
            ),
            (
                with_failed(&[("tc", Outcome::Data)], 1),
                true,
                "tc answered z.example. SOA",
            ),
            (
                on(&[("tc", Outcome::NotPermitted)]),
                true,
                "no client may be answered",
            ),
            (
                on(&[("tc", Outcome::LeaseStale)]),
                false,
                "tc passes z.example. SOA: lease_stale",
            ),
        ] {
            let lines = kernel_lines(health.clone(), &[], &missing_and_degraded);
            let [line] = &lines[..] else {
                panic!("{health:?} gives other than one line: {lines:?}");
            };
            assert_eq!(line.is_ok(), is_success, "{health:?}: {line:?}");
            let text = line.as_ref().unwrap_or_else(|failure| failure);
            assert!(text.contains(expected), "{health:?}: {text}");
        }
    }
}
