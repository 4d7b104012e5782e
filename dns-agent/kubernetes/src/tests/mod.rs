//! Tests of this crate. Most of them build a model from objects and check its answers.

mod aliases;
mod changes;
mod conversion;
mod coverage;
mod deviations;
mod endpoints;
mod exposure;
mod name_servers;
mod nonstandard_endpoints;
mod passed_names;
mod properties;
mod provenance;
mod provider_changes;
mod reverse;
mod scenarios;
mod selectors;
mod unreadable;
mod walk;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::{Value, json};
use zerohop_zone::{Answer, Apex, Model, Name, Rdata, Record, Rtype, ZoneData};

use super::{ApiPod, Object, Objects, ZoneSettings, build_model};

/// The objects of a JSON list. The JSON values have the API's form.
fn objects(list: Value) -> Objects {
    let Value::Array(list) = list else {
        panic!("not a list of objects: {list}");
    };
    let mut objects = Objects::default();
    for value in list {
        objects.insert(object(value));
    }
    objects
}

fn object(value: Value) -> Object {
    match value["kind"].as_str() {
        Some("Namespace") => read::<core::Namespace>(value),
        Some("Service") => read::<core::Service>(value),
        Some("EndpointSlice") => read::<discovery::EndpointSlice>(value),
        Some("Pod") => read::<ApiPod>(value),
        kind => panic!("no test has objects of kind {kind:?}"),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Object
where
    Object: TryFrom<T, Error = super::ObjectError>,
{
    let read: T = serde_json::from_value(value).expect("the value has the API's form");
    Object::try_from(read).expect("the object is valid")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a domain name")
}

/// Builds a model with serial 3, and asserts that there are no problems.
fn model(objects: &Objects, settings: &ZoneSettings) -> Model {
    let (model, problems) = build_model(objects, settings, 3);
    assert_eq!(problems, []);
    model
}

/// A Namespace.
fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name}})
}

/// A Service in the namespace `default`.
fn service(name: &str, spec: Value) -> Value {
    let mut service =
        json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}});
    service["spec"] = spec;
    service
}

/// An EndpointSlice of a Service in the namespace `default`.
fn slice(name: &str, service: &str, endpoints: Value, ports: Value) -> Value {
    let mut slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}
        }
    });
    slice["endpoints"] = endpoints;
    slice["ports"] = ports;
    slice
}

/// The model of these objects and a Namespace `default`, with the default settings of the command
/// line.
fn default_model(list: Value) -> Model {
    model_with(list, &ZoneSettings::default())
}

fn model_with(list: Value, settings: &ZoneSettings) -> Model {
    let mut all = objects(list);
    all.insert(object(namespace("default")));
    model(&all, settings)
}

/// The data of the answer section, in order; or `NODATA`, `NXDOMAIN`, `NOT YET KNOWN`, `PASSES`.
/// `...` follows an alias chain that leads out of the zones or to a delegated name. `question` is
/// relative to `svc.cluster.local` unless it ends with a dot.
fn answer_text(model: &impl ZoneData, question: &str, rtype: Rtype) -> String {
    let data = |records: &[Record]| {
        let data: Vec<String> = records
            .iter()
            .map(|record| rdata_text(&record.data))
            .collect();
        data.join(", ")
    };
    match model.answer(&name(&absolute(question)), rtype) {
        Answer::Data { answer, .. } => data(&answer),
        Answer::Alias { chain, .. } => format!("{} ...", data(&chain)),
        Answer::NoData { .. } | Answer::NoDataAtName { .. } => "NODATA".into(),
        Answer::NxDomain { .. } => "NXDOMAIN".into(),
        Answer::NotYetKnown => "NOT YET KNOWN".into(),
        Answer::NotAuthoritative => "PASSES".into(),
    }
}

fn absolute(question: &str) -> String {
    if question.ends_with('.') {
        question.into()
    } else {
        format!("{question}.svc.cluster.local.")
    }
}

/// An answer as text, the records of each section sorted.
#[derive(Debug, PartialEq, Eq)]
struct ReplyText {
    /// The response code; or `ALIAS`, `NOT YET KNOWN` or `PASSES` if the model decides none.
    rcode: &'static str,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

fn reply_text(model: &Model, question: &str, rtype: Rtype) -> ReplyText {
    let (rcode, answer, authority, additional) = match model.answer(&name(question), rtype) {
        Answer::Data { answer, additional } => ("NOERROR", answer, None, additional),
        Answer::NoData { zone } => ("NOERROR", vec![], Some(zone), vec![]),
        Answer::NxDomain { zone } => ("NXDOMAIN", vec![], Some(zone), vec![]),
        Answer::Alias { chain, .. } => ("ALIAS", chain, None, vec![]),
        Answer::NoDataAtName { soa } => panic!("a Kubernetes object made {soa}"),
        Answer::NotYetKnown => ("NOT YET KNOWN", vec![], None, vec![]),
        Answer::NotAuthoritative => ("PASSES", vec![], None, vec![]),
    };
    ReplyText {
        rcode,
        answer: sorted(answer.iter().map(record_text)),
        authority: sorted(
            authority
                .iter()
                .map(|zone| negative_soa_text(&model.zones()[*zone])),
        ),
        additional: sorted(additional.iter().map(record_text)),
    }
}

fn sorted(records: impl Iterator<Item = String>) -> Vec<String> {
    let mut records: Vec<String> = records.collect();
    records.sort();
    records
}

/// A record as a line of a zone file.
fn record_text(record: &Record) -> String {
    format!(
        "{} {} IN {}",
        record.owner,
        record.ttl,
        rdata_text(&record.data)
    )
}

fn rdata_text(data: &Rdata) -> String {
    match data {
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
        Rdata::Opaque(..) => panic!("an index makes no opaque records"),
    }
}

fn negative_soa_text(apex: &Apex) -> String {
    record_text(&Record {
        owner: apex.name.clone(),
        ttl: apex.negative_ttl,
        data: Rdata::Soa(apex.soa.clone()),
    })
}

/// A valid name of 253 bytes on the wire. Names have at most 255 bytes, so `svc` doesn't fit below
/// it.
fn too_long_domain() -> Name {
    name(&["aaaaa"; 42].join("."))
}
