//! Whole models: objects in, answers out.

mod cases;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::Value;

use crate::zone::{Answer, Apex, Model, Name, Rdata, Record, Rtype};

use super::{Object, Objects, ZoneSettings, build};

/// The objects of a JSON list, in the API's form.
fn objects(list: &Value) -> Objects {
    let mut objects = Objects::default();
    for value in list.as_array().expect("a list of objects") {
        objects.insert(object(value.clone()));
    }
    objects
}

fn object(value: Value) -> Object {
    match value["kind"].as_str() {
        Some("Namespace") => read::<core::Namespace>(value),
        Some("Service") => read::<core::Service>(value),
        Some("EndpointSlice") => read::<discovery::EndpointSlice>(value),
        Some("Pod") => read::<core::Pod>(value),
        kind => panic!("no such kind here: {kind:?}"),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Object
where
    Object: TryFrom<T, Error = super::ObjectError>,
{
    let read: T = serde_json::from_value(value).expect("the API's form");
    Object::try_from(read).expect("an object that makes sense")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a domain name")
}

/// A model without problems, with serial 3.
fn model(objects: &Objects, settings: &ZoneSettings) -> Model {
    let (model, problems) = build(objects, settings, 3);
    assert_eq!(problems, []);
    model
}

/// An answer as text, sorted: the rcode or what stands for it, then the records of
/// the three sections, with `>` before a CNAME's target that is not ours.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    rcode: &'static str,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

fn ask(model: &Model, question: &str, rtype: Rtype) -> Reply {
    let (rcode, answer, authority, additional) = match model.answer(&name(question), rtype) {
        Answer::Data { answer, additional } => ("NOERROR", answer, None, additional),
        Answer::NoData { zone } => ("NOERROR", vec![], Some(zone), vec![]),
        Answer::NxDomain { zone } => ("NXDOMAIN", vec![], Some(zone), vec![]),
        Answer::Alias { chain, .. } => ("ALIAS", chain, None, vec![]),
        Answer::NotOurs => ("NOT OURS", vec![], None, vec![]),
    };
    Reply {
        rcode,
        answer: sorted(answer.iter().map(text)),
        authority: sorted(authority.iter().map(|zone| soa(&model.zones()[*zone]))),
        additional: sorted(additional.iter().map(text)),
    }
}

fn sorted(records: impl Iterator<Item = String>) -> Vec<String> {
    let mut records: Vec<String> = records.collect();
    records.sort();
    records
}

/// A record as a line of a zone file.
fn text(record: &Record) -> String {
    let Record { owner, ttl, data } = record;
    let data = match data {
        Rdata::A(address) => format!("A {address}"),
        Rdata::Aaaa(address) => format!("AAAA {address}"),
        Rdata::Cname(name) => format!("CNAME {name}"),
        Rdata::Ns(name) => format!("NS {name}"),
        Rdata::Ptr(name) => format!("PTR {name}"),
        Rdata::Soa(soa) => format!(
            "SOA {} {} {} {} {} {} {}",
            soa.mname, soa.rname, soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum
        ),
        Rdata::Srv(srv) => format!(
            "SRV {} {} {} {}",
            srv.priority, srv.weight, srv.port, srv.target
        ),
        Rdata::Txt(text) => format!("TXT {:?}", String::from_utf8_lossy(text)),
    };
    format!("{owner} {ttl} IN {data}")
}

fn soa(apex: &Apex) -> String {
    text(&Record {
        owner: apex.name.clone(),
        ttl: apex.negative_ttl,
        data: Rdata::Soa(apex.soa.clone()),
    })
}
