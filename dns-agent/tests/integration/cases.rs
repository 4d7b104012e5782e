//! The checked cases, asked of a running agent over UDP.

use std::collections::BTreeMap;

use dns_agent::agent::Agent;
use domain::{
    base::{
        Message, Name, ParsedName, RecordSection,
        iana::{Rcode, Rtype},
    },
    rdata::AllRecordData,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Upstream, a, ask, at_once, config, query, reply};

#[derive(Deserialize)]
struct File {
    objects: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    objects: String,
    flags: Vec<String>,
    name: String,
    #[serde(rename = "type")]
    rtype: String,
    rcode: String,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

#[tokio::test]
async fn every_case() {
    let file = include_str!("../../../tests/cases/cases.json");
    let file: File = serde_json::from_str(file).unwrap();
    assert_eq!(file.cases.len(), 88);

    let external = query(0, "ext.interwebs.test", Rtype::A)[12..].to_vec();
    let script = move |asked: &[u8]| {
        at_once(if asked[12..] == external {
            a(asked, [1, 2, 3, 4])
        } else {
            reply(asked, 0x8183)
        })
    };
    let upstream = Upstream::new(script, |_| Vec::new()).await;
    let upstream_flag = format!("--upstream={}", upstream.address);

    let mut setups: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
    for case in &file.cases {
        setups
            .entry((&case.objects, &case.flags))
            .or_default()
            .push(case);
    }
    let mut wrong = Vec::new();
    for ((objects, flags), cases) in setups {
        let directory = tempfile::tempdir().unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": file.objects[objects]});
        std::fs::write(directory.path().join("objects.json"), list.to_string()).unwrap();
        let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
        flags.push(&upstream_flag);
        let agent = Agent::start(config(directory.path(), &flags))
            .await
            .unwrap();
        for case in cases {
            let rtype: Rtype = case.rtype.parse().unwrap();
            let message = ask(agent.listen()[0], &query(1, &case.name, rtype)).await;
            wrong.extend(compare(case, &message));
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        agent.run(shutdown).await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a reply, if anything.
fn compare(case: &Case, message: &[u8]) -> Option<String> {
    let message = Message::from_slice(message).unwrap();
    let (_, answer, authority, additional) = message.sections().unwrap();
    let rcode = match message.header().rcode() {
        Rcode::NOERROR => "NOERROR",
        Rcode::NXDOMAIN => "NXDOMAIN",
        _ => "another",
    };
    let found = [texts(answer), texts(authority), texts(additional)];
    let expected = [&case.answer, &case.authority, &case.additional].map(|records| {
        sorted(
            records
                .iter()
                .map(|record| without_serial(record))
                .collect(),
        )
    });
    let right = rcode == case.rcode && found == expected && message.header().aa();
    (!right).then(|| {
        format!(
            "{:?} {} {}: {rcode} {found:?}",
            case.flags, case.name, case.rtype
        )
    })
}

fn texts(section: RecordSection<'_, [u8]>) -> Vec<String> {
    let records = section.into_records::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
    let texts = records
        .map(|record| {
            let record = record.unwrap();
            let text = format!(
                "{} {} IN {} {}",
                dotted(record.owner()),
                record.ttl().as_secs(),
                record.rtype(),
                data(record.data())
            );
            without_serial(&text)
        })
        .collect();
    sorted(texts)
}

fn data(data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> String {
    match data {
        AllRecordData::Cname(cname) => dotted(cname.cname()),
        AllRecordData::Ptr(ptr) => dotted(ptr.ptrdname()),
        AllRecordData::Ns(ns) => dotted(ns.nsdname()),
        AllRecordData::Srv(srv) => {
            format!(
                "{} {} {} {}",
                srv.priority(),
                srv.weight(),
                srv.port(),
                dotted(srv.target())
            )
        }
        AllRecordData::Soa(soa) => format!(
            "{} {} {} {} {} {} {}",
            dotted(soa.mname()),
            dotted(soa.rname()),
            soa.serial(),
            soa.refresh().as_secs(),
            soa.retry().as_secs(),
            soa.expire().as_secs(),
            soa.minimum().as_secs()
        ),
        other => other.to_string(),
    }
}

fn dotted(name: &ParsedName<&[u8]>) -> String {
    let name: Name<Vec<u8>> = domain::base::ToName::to_name(name);
    format!("{name}.")
}

/// Serials are not compared.
fn without_serial(record: &str) -> String {
    let mut fields: Vec<_> = record.split(' ').collect();
    if fields[3] == "SOA" {
        fields[6] = "*";
    }
    fields.join(" ")
}

fn sorted(mut records: Vec<String>) -> Vec<String> {
    records.sort();
    records
}
