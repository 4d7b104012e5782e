//! Findings about settings that the agent refuses or ignores, or that do not fit into the kernel's
//! tables, so that queries pass.

use zerohop_datapath::{limits, settings};
use zerohop_kubernetes::{Index, ZoneSettings};

use super::{CheckRequest, Finding};

const SUBJECT: &str = "limits";

pub(super) fn limits(request: &CheckRequest) -> Vec<Finding> {
    if let Err(error) = settings::check_counts(&request.served_addresses, &request.allow) {
        return vec![Finding::fails(
            SUBJECT,
            format!("the agent won't start with these settings: {error:#}"),
        )];
    }
    let zones = ZoneSettings {
        cluster_domains: request.cluster_domains.clone(),
        reverse: request.reverse.clone(),
        passed: request.passed.clone(),
        ..ZoneSettings::default()
    };
    // No finding depends on the serial, here 0.
    let index = Index::new(zones, 0);
    let problems = index.problems();
    let problems = problems
        .iter()
        .map(|problem| Finding::fails(SUBJECT, problem.to_string()));
    let limits = limits::zone_limits(&index.view());
    let limits = limits
        .into_iter()
        .map(|limit| Finding::limited(SUBJECT, limit));
    let mut findings: Vec<Finding> = problems.chain(limits).collect();
    if findings.is_empty() {
        findings.push(Finding::works(
            SUBJECT,
            "the kernel has room for these zones and addresses; for the zones of the Corefile, see \
             the limits in `dns-agent status`",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::CheckVerdict::{Fails, Limited, Works},
        config::RunSettings,
    };
    use zerohop_zone::Name;

    #[test]
    fn settings_that_do_not_fit_are_reported() {
        let request = |domain: &str, served: u8| CheckRequest {
            cluster_domains: vec![Name::parse(domain).unwrap()],
            served_addresses: (0..served)
                .map(|last| ([10, 0, 0, last], 53).into())
                .collect(),
            ..CheckRequest::from(RunSettings::default())
        };
        // On the wire 1 + 58 + 1 + 4 + 1 = 65 bytes, one more than the kernel compares.
        let long = format!("{}.test", "a".repeat(58));
        // On the wire 42 * 6 + 1 = 253 bytes, so `svc` below it exceeds the 255 bytes of a name.
        let too_long = vec!["aaaaa"; 42].join(".");
        for (request, verdict, words) in [
            (request("cluster.local", 16), Works, "has room"),
            (request(&long, 1), Limited, "suffixes of up to 64"),
            (request(&too_long, 1), Fails, "cluster domain"),
            (request("cluster.local", 17), Fails, "at most 16 addresses"),
        ] {
            let findings = limits(&request);
            assert_eq!(findings[0].verdict, verdict, "{findings:?}");
            assert!(findings[0].text.contains(words), "{findings:?}");
        }
    }
}
