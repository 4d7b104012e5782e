//! The contract: every scenario of `tests/scenarios/` holds in the user plane and, where it does
//! not pass, in the kernel.
//!
//! They are compiled in, since the guests of the kernel matrix don't have the files.

use dns_agent::{
    datapath::object::Program,
    resolver::message::{Reply, Transport, respond},
    zone::{Model, Rdata},
};
use zerohop_tests::{
    message::Message,
    packet,
    scenario::{Kernel, Question, Scenario},
};

use super::{
    cluster::{is_right, model},
    fixture::{Ended, Fixture},
};

/// A test for each file, and the list of them all.
macro_rules! scenarios {
    ($($test:ident: $file:literal,)*) => {
        /// The files that are run.
        pub(crate) const FILES: &[&str] = &[$(concat!($file, ".scn")),*];

        $(
            #[test]
            fn $test() {
                run($file, include_str!(concat!("../../scenarios/", $file, ".scn")));
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
    rule_2_odd_queries: "rule-2-odd-queries",
    rule_3_existing_names: "rule-3-existing-names",
    rule_3_reverse_names: "rule-3-reverse-names",
    rfc1035_size: "rfc1035-size",
    rfc2308_negative_answers: "rfc2308-negative-answers",
    rfc2782_targets: "rfc2782-targets",
    rfc4343_case: "rfc4343-case",
    rfc6891_edns: "rfc6891-edns",
    rfc8020_nothing_below: "rfc8020-nothing-below",
}

fn run(file: &str, text: &str) {
    let scenario = Scenario::read(text).unwrap_or_else(|error| panic!("{file}.scn: {error:#}"));
    let flags: Vec<&str> = scenario.flags.iter().map(String::as_str).collect();
    let mut fixture = Fixture::with(model(&scenario.manifests, &flags));
    let mut faults = Vec::new();
    let mut answered = 0;
    for question in &scenario.questions {
        let mut faulty = |plane: &str, said: &[String]| {
            let Question { line, text, .. } = question;
            faults.push(format!(
                "{file}.scn:{line}: ? {text}\n  {plane} says\n    {}\n  instead of\n    {}",
                said.join("\n    "),
                question.reply.join("\n    ")
            ));
        };
        let said = question.in_its_words(user_plane(question, &fixture.model));
        if said != question.reply {
            faulty("the user plane", &said);
        }
        if question.over_tcp {
            continue;
        }
        for (query, over) in question.queries.iter().zip(["IPv4", "IPv6"]) {
            let frame = query.frame_of(&question.message);
            let plane = format!("the kernel over {over}");
            match (fixture.run(Program::TcPeer, &frame), question.kernel) {
                (Ended::Passed(outcome), Some(Kernel::Answers)) => {
                    faulty(&plane, &[format!("nothing: {}", outcome.name())]);
                }
                (Ended::Passed(_), _) => {}
                (Ended::Answered(..), Some(Kernel::Passes)) => {
                    faulty(&plane, &["something, and was to pass".to_owned()]);
                }
                (Ended::Answered(_, out), _) => {
                    answered += 1;
                    let reply = packet::reply(&frame, &out)
                        .unwrap_or_else(|error| panic!("{file}.scn: {}: {error}", question.text));
                    let said = question.in_its_words(Message::read(&reply).unwrap().lines());
                    if said != question.reply {
                        faulty(&plane, &said);
                    } else if !is_right(&question.message, &reply, &fixture.model) {
                        faulty(&plane, &[format!("this in other octets: {reply:02x?}")]);
                    }
                }
            }
        }
    }
    println!(
        "{file}: {} questions, {} answered by the kernel",
        scenario.questions.len(),
        answered / 2
    );
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What the user plane does about a question, in the words of scenarios.
fn user_plane(question: &Question, model: &Model) -> Vec<String> {
    let transport = match question.over_tcp {
        true => Transport::Tcp,
        false => Transport::Udp,
    };
    match respond(&question.message, model, transport, 0) {
        Reply::Message(reply) => Message::read(&reply).unwrap().lines(),
        Reply::Forward(_) => vec!["upstream".to_owned()],
        Reply::Ignore => vec!["ignored".to_owned()],
        Reply::Chase(chase) => {
            let mut lines = vec![format!("upstream {}", chase.target)];
            lines.extend(chase.chain.iter().map(|link| {
                let Rdata::Cname(target) = &link.data else {
                    panic!("{link:?} is no link");
                };
                format!("answer {} {} IN CNAME {target}", link.owner, link.ttl)
            }));
            lines
        }
    }
}
