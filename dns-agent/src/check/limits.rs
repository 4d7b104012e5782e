//! Findings about settings that do not fit into the kernel's tables, so that names pass.

use zerohop_datapath::{limits, settings};
use zerohop_kubernetes::{Index, ZoneSettings};

use super::{CheckRequest, Finding};

const SUBJECT: &str = "limits";

pub(super) fn limits(asked: &CheckRequest) -> Vec<Finding> {
    if let Err(error) = settings::check_counts(&asked.serve, &asked.allow) {
        return vec![Finding::fails(
            SUBJECT,
            format!("an agent won't start with these: {error:#}"),
        )];
    }
    let zones = ZoneSettings {
        cluster_domains: asked.cluster_domains.clone(),
        reverse: asked.reverse.clone(),
        passed: asked.passed.clone(),
        ..ZoneSettings::default()
    };
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
            "the kernel has room for these zones and addresses; `dns-agent status` shows what a Corefile adds",
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
        let asked = |domain: &str, served: u8| CheckRequest {
            cluster_domains: vec![Name::parse(domain).unwrap()],
            serve: (0..served)
                .map(|last| ([10, 0, 0, last], 53).into())
                .collect(),
            ..CheckRequest::from(RunSettings::default())
        };
        let long = format!("{}.test", "a".repeat(58));
        let too_long = vec!["aaaaa"; 42].join(".");
        for (asked, verdict, words) in [
            (asked("cluster.local", 16), Works, "has room"),
            (asked(&long, 1), Limited, "suffixes of up to 64"),
            (asked(&too_long, 1), Fails, "cluster domain"),
            (asked("cluster.local", 17), Fails, "at most 16 addresses"),
        ] {
            let findings = limits(&asked);
            assert_eq!(findings[0].verdict, verdict, "{findings:?}");
            assert!(findings[0].text.contains(words), "{findings:?}");
        }
    }
}
