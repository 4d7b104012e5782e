//! Sends the queries of `tests/cases` to a running agent over UDP.

use dns_agent::agent::Agent;
use domain::base::iana::Rtype;
use tokio_util::sync::CancellationToken;
use zerohop_contract::cases::Cases;

use crate::support::{FakeUpstream, address_reply, ask, config, query, reply, without_delay};

#[tokio::test]
async fn every_case_is_answered_as_expected() {
    let cases = Cases::read().unwrap();
    assert_eq!(
        cases.count(),
        88,
        "the number of cases in tests/cases has changed: update it here"
    );

    // The question for the target of an alias in the cases. All other questions about names outside
    // the cluster get NXDOMAIN.
    let external = query(0, "ext.interwebs.test", Rtype::A)[12..].to_vec();
    let script = move |query_bytes: &[u8]| {
        without_delay(if query_bytes[12..] == external {
            address_reply(query_bytes, [1, 2, 3, 4])
        } else {
            // QR, RD and RA; NXDOMAIN.
            reply(query_bytes, 0x8183)
        })
    };
    let upstream = FakeUpstream::new(script, |_| Vec::new()).await;
    let upstream_flag = format!("--upstream={}", upstream.address);

    let mut wrong = Vec::new();
    for group in cases.groups() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("objects.json"), &group.manifest).unwrap();
        let mut flags: Vec<_> = group.flags.iter().map(String::as_str).collect();
        flags.push(&upstream_flag);
        let agent = Agent::start(config(directory.path(), &flags))
            .await
            .unwrap();
        for case in group.cases {
            let rtype = Rtype::from_int(case.type_number().unwrap());
            let message = ask(agent.listen()[0], &query(1, &case.name, rtype)).await;
            wrong.extend(case.describe_fault(&message));
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        agent.run(shutdown).await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
