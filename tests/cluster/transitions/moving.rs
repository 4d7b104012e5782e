//! A marker that moves: who knows where it is now knows all that was written before.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use crate::{
    ask::Asker,
    cluster::Cluster,
    objects::{Key, Object, Writer, owned, service, slice},
    pod::PASSED,
    questions::{Edns, Question},
    reply::Reply,
};

/// Parts of every feed of Services and slices, in a namespace of their own.
pub(crate) struct Moving {
    namespace: String,
    zone: String,
    number: u32,
}

/// What every server is asked about the marker.
struct Place {
    /// A Service's newest port.
    port: Question,
    /// A headless Service with two slices, one of the controller manager and one written by hand.
    endpoints: Question,
    addresses: [String; 2],
}

/// How long it may take until every server knows of a write.
const LIMIT: Duration = Duration::from_secs(120);

impl Moving {
    pub(crate) fn new(cluster: &mut Cluster, zone: &str) -> Result<Moving> {
        let moving = Moving {
            namespace: format!("{}-tm", cluster.prefix),
            zone: zone.to_owned(),
            number: 0,
        };
        cluster.create_namespace(&moving.namespace)?;
        cluster.write(service(
            &moving.key("ports"),
            &json!({"ports": moving.ports()}),
        )?)?;
        let headless = json!({"clusterIP": "None"});
        cluster.write(service(&moving.key("marker"), &headless)?)?;
        for (name, writer, address) in moving.slices() {
            let endpoints = json!([{"addresses": [address]}]);
            let slice = slice(&moving.key(name), "IPv4", &endpoints, &Value::Null)?;
            let slice = owned(slice, "marker", Some(true), writer);
            cluster.write(Object::Slice(Box::new(slice)))?;
        }
        Ok(moving)
    }

    /// Moves the marker, and waits until all know. Meanwhile `look` is called again and again.
    pub(crate) fn pass_by(
        &mut self,
        cluster: &Cluster,
        askers: &[&Asker],
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.number += 1;
        let ports = json!({"spec": {"ports": self.ports()}});
        let moved = cluster.patch::<Service>(&self.key("ports"), &ports)?;
        ensure!(moved.is_some(), "the marker is gone");
        for (name, _, address) in self.slices() {
            let endpoints = json!({"endpoints": [{"addresses": [address]}]});
            let moved = cluster.patch::<EndpointSlice>(&self.key(name), &endpoints)?;
            ensure!(moved.is_some(), "the marker is gone");
        }
        let place = self.place();
        let start = Instant::now();
        let mut ignorant = askers.to_vec();
        while !ignorant.is_empty() {
            look()?;
            let mut still = Vec::new();
            for asker in ignorant {
                if !place.is_known(asker, &self.zone)? {
                    still.push(asker);
                }
            }
            ignorant = still;
            if start.elapsed() > LIMIT {
                bail!(
                    "{} servers did not learn of a write in {LIMIT:?}",
                    ignorant.len()
                );
            }
        }
        Ok(())
    }

    fn place(&self) -> Place {
        let question = |name: String, rtype| Question {
            name,
            rtype,
            edns: Edns::Without,
        };
        let Moving {
            namespace,
            zone,
            number,
        } = self;
        Place {
            port: question(format!("_p{number}._tcp.ports.{namespace}.svc.{zone}"), SRV),
            endpoints: question(format!("marker.{namespace}.svc.{zone}"), A),
            addresses: self.slices().map(|(_, _, address)| address),
        }
    }

    fn ports(&self) -> Value {
        json!([{"name": format!("p{}", self.number), "port": 80}])
    }

    fn slices(&self) -> [(&'static str, Writer, String); 2] {
        let [high, low] = [self.number / 250, self.number % 250 + 1];
        [
            (
                "labelled",
                Writer::Kubernetes,
                format!("100.66.{high}.{low}"),
            ),
            ("written", Writer::Hand, format!("100.67.{high}.{low}")),
        ]
    }

    fn key(&self, name: &str) -> Key {
        (self.namespace.clone(), name.to_owned())
    }
}

impl Place {
    /// A kernel that passes what it need not pass has not learned yet.
    fn is_known(&self, asker: &Asker, zone: &str) -> Result<bool> {
        let ask = |question: &Question| -> Result<Option<Reply>> {
            let reply = asker.ask(&question.message())?;
            match reply.get(3).is_none_or(|octet| octet & 15 == PASSED) {
                true => Ok(None),
                false => Reply::read(&reply, zone).map(Some),
            }
        };
        let Some(port) = ask(&self.port)? else {
            return Ok(false);
        };
        let Some(endpoints) = ask(&self.endpoints)? else {
            return Ok(false);
        };
        let addresses = endpoints.answer().iter().map(|record| &record.data);
        Ok(port.has_data() && addresses.eq(&self.addresses))
    }
}

const A: u16 = 1;
const SRV: u16 = 33;
