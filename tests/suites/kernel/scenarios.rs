//! Every scenario of `tests/scenarios/` holds in the user plane and, for packets that don't pass,
//! in the kernel.
//!
//! The scenarios are compiled in, because the guests of the kernel matrix don't have the files.

use zerohop_contract::{
    message::Message,
    packet,
    scenario::{KernelAction, Scenario, ScenarioQuestion},
};
use zerohop_datapath::program::HookProgram;
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_zone::{Model, Rdata};

use super::{
    fixture::{KernelFixture, TestRunResult},
    models::{matches_user_plane, model},
};

/// Defines a test for each file, and the list of all files.
macro_rules! scenarios {
    ($($test:ident: $file:literal,)*) => {
        /// The names of all scenario files.
        pub(crate) const FILES: &[&str] = &[$(concat!($file, ".scn")),*];

        $(
            #[test]
            fn $test() {
                run_scenario($file, include_str!(concat!("../../scenarios/", $file, ".scn")));
            }
        )*
    };
}

scenarios! {
    passed_suffixes: "passed-suffixes",
    rule_1_01_names: "rule-1.01-names",
    rule_1_02_namespaces: "rule-1.02-namespaces",
    rule_1_02_exposed: "rule-1.02-exposed-namespaces",
    rule_1_02_labels: "rule-1.02-labels",
    rule_1_02_unknown: "rule-1.02-unknown-namespaces",
    rule_1_03_cluster_ip: "rule-1.03-cluster-ip",
    rule_1_03_ignore_empty_service: "rule-1.03-ignore-empty-service",
    rule_1_03_headless: "rule-1.03-headless",
    rule_1_03_unknown: "rule-1.03-unknown",
    rule_1_04_ready: "rule-1.04-ready",
    rule_1_05_endpoint_names: "rule-1.05-endpoint-names",
    rule_1_05_endpoint_pod_names: "rule-1.05-endpoint-pod-names",
    rule_1_05_nameless_endpoints: "rule-1.05-nameless-endpoints",
    rule_1_06_srv: "rule-1.06-srv",
    rule_1_07_external_name: "rule-1.07-external-name",
    rule_1_08_ptr: "rule-1.08-ptr",
    rule_1_09_pods_disabled: "rule-1.09-pods-disabled",
    rule_1_09_pods_insecure: "rule-1.09-pods-insecure",
    rule_1_09_pods_verified: "rule-1.09-pods-verified",
    rule_1_10_zonal: "rule-1.10-zonal",
    rule_1_11_apex: "rule-1.11-apex",
    rule_1_11_name_servers: "rule-1.11-name-servers",
    rule_1_13_header_and_ttl: "rule-1.13-header-and-ttl",
    rule_2_nonstandard_queries: "rule-2-nonstandard-queries",
    rule_3_existing_names: "rule-3-existing-names",
    rule_3_reverse_names: "rule-3-reverse-names",
    rfc1035_size: "rfc1035-size",
    rfc2308_negative_answers: "rfc2308-negative-answers",
    rfc2782_targets: "rfc2782-targets",
    rfc4343_case: "rfc4343-case",
    rfc6891_edns: "rfc6891-edns",
    rfc8020_nothing_below: "rfc8020-nothing-below",
}

fn run_scenario(file: &str, text: &str) {
    let scenario = Scenario::read(text).unwrap_or_else(|error| panic!("{file}.scn: {error:#}"));
    let flags: Vec<&str> = scenario.flags.iter().map(String::as_str).collect();
    let mut fixture = KernelFixture::with_model(model(&scenario.manifests, &flags));
    let mut faults = Vec::new();
    let mut answered = 0;
    for question in &scenario.questions {
        let mut report = |plane: &str, lines: &[String]| {
            let ScenarioQuestion { line, text, .. } = question;
            faults.push(format!(
                "{file}.scn:{line}: ? {text}\n  {plane} replied\n    {}\n  instead of\n    {}",
                lines.join("\n    "),
                question.reply.join("\n    ")
            ));
        };
        // Where the file gives only the number of records, they are replaced by their number.
        let lines = question.count_records_as_required(ask_user_plane(question, &fixture.model));
        if lines != question.reply {
            report("the user plane", &lines);
        }
        if question.over_tcp {
            continue;
        }
        for (query, over) in question.queries.iter().zip(["IPv4", "IPv6"]) {
            let frame = query.frame_with(&question.message);
            let plane = format!("the kernel over {over}");
            match (
                fixture.run_program(HookProgram::TcPeer, &frame),
                question.kernel_action,
            ) {
                (TestRunResult::Passed(outcome), Some(KernelAction::Answers)) => {
                    report(&plane, &[format!("with a pass: {}", outcome.name())]);
                }
                (TestRunResult::Passed(_), _) => {}
                (TestRunResult::Answered(..), Some(KernelAction::Passes)) => {
                    report(&plane, &["with an answer instead of a pass".to_owned()]);
                }
                (TestRunResult::Answered(_, out), _) => {
                    answered += 1;
                    let reply = packet::parse_reply(&frame, &out)
                        .unwrap_or_else(|error| panic!("{file}.scn: {}: {error}", question.text));
                    let lines =
                        question.count_records_as_required(Message::read(&reply).unwrap().lines());
                    if lines != question.reply {
                        report(&plane, &lines);
                    } else if !matches_user_plane(&question.message, &reply, &fixture.model) {
                        report(
                            &plane,
                            &[format!(
                                "with other bytes than the user plane: {reply:02x?}"
                            )],
                        );
                    }
                }
            }
        }
    }
    println!(
        "{file}: {} questions, {} answered by the kernel",
        scenario.questions.len(),
        // Each question is sent over IPv4 and IPv6.
        answered / 2
    );
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The user plane's reply to a question, in the lines of a scenario.
fn ask_user_plane(question: &ScenarioQuestion, model: &Model) -> Vec<String> {
    let transport = if question.over_tcp {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    // The rotation 0 is arbitrary: `lines` sorts the addresses of a name.
    match respond(&question.message, model, transport, 0) {
        QueryAction::Send(reply) => Message::read(&reply).unwrap().lines(),
        QueryAction::Forward(_) => vec!["upstream".to_owned()],
        QueryAction::Ignore => vec!["ignored".to_owned()],
        QueryAction::Chase(chase) => {
            let mut lines = vec![format!("upstream {}", chase.target)];
            lines.extend(chase.chain.iter().map(|link| {
                let Rdata::Cname(target) = &link.data else {
                    panic!("{link:?} is no CNAME");
                };
                format!("answer {} {} IN CNAME {target}", link.owner, link.ttl)
            }));
            lines
        }
    }
}
