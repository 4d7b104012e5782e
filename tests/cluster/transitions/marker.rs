//! A marker that changes again and again. A server that knows the marker's current state knows all
//! earlier writes of Services and slices, because its watches report changes in order. The slices
//! of a Service that has just become headless are an exception: an agent with
//! `--endpoints=headless` lists them later.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use crate::{
    client::RetryingClient,
    cluster::LiveCluster,
    objects::{NamespacedName, SliceWriter, WrittenObject, label_slice, service, slice},
    pod::is_passed,
    questions::{A, ComparedQuestion, EdnsChoice, SRV},
    reply::ComparedReply,
};

/// A Service with a port, and a headless Service with two slices, in a namespace of their own. Each
/// move increments a number, which determines the port's name and the addresses.
pub(crate) struct MovingMarker {
    namespace: String,
    zone: String,
    number: u32,
}

/// The questions that show whether a server knows the marker's current state.
struct MarkerProbe {
    /// Asks for the SRV record of the Service's current port.
    port: ComparedQuestion,
    /// Asks for the addresses of the headless Service.
    endpoints: ComparedQuestion,
    /// The expected addresses: from the slice labelled as the controller manager's, then from the
    /// slice without a label that names a writer. This is also their order in a [`ComparedReply`],
    /// which is sorted.
    addresses: [String; 2],
}

/// The time after a move within which every server must answer with the new state.
const LIMIT: Duration = Duration::from_secs(120);

impl MovingMarker {
    pub(crate) fn new(cluster: &mut LiveCluster, zone: &str) -> Result<MovingMarker> {
        let moving = MovingMarker {
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
            // `Some(true)`: the Service `marker` is headless.
            let slice = label_slice(slice, "marker", Some(true), writer);
            cluster.write(WrittenObject::Slice(Box::new(slice)))?;
        }
        Ok(moving)
    }

    /// Moves the marker, and waits until all servers know its new state. Calls `observe` in each
    /// round. Rounds have no pause, so that `observe` misses few states.
    pub(crate) fn move_and_wait(
        &mut self,
        cluster: &LiveCluster,
        clients: &[&RetryingClient],
        mut observe: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        self.number += 1;
        let ports = json!({"spec": {"ports": self.ports()}});
        let moved = cluster.patch::<Service>(&self.key("ports"), &ports)?;
        ensure!(moved.is_some(), "the marker's Service does not exist");
        for (name, _, address) in self.slices() {
            let endpoints = json!({"endpoints": [{"addresses": [address]}]});
            let moved = cluster.patch::<EndpointSlice>(&self.key(name), &endpoints)?;
            ensure!(moved.is_some(), "slice {name} of the marker does not exist");
        }
        let probe = self.probe();
        let start = Instant::now();
        let mut pending = clients.to_vec();
        while !pending.is_empty() {
            observe()?;
            let mut still_pending = Vec::new();
            for client in pending {
                if !probe.is_known(client, &self.zone)? {
                    still_pending.push(client);
                }
            }
            pending = still_pending;
            if start.elapsed() > LIMIT {
                bail!(
                    "{} servers do not know the marker {LIMIT:?} after it moved",
                    pending.len()
                );
            }
        }
        Ok(())
    }

    fn probe(&self) -> MarkerProbe {
        let question = |name: String, rtype| ComparedQuestion {
            name,
            rtype,
            edns: EdnsChoice::Without,
        };
        let MovingMarker {
            namespace,
            zone,
            number,
        } = self;
        MarkerProbe {
            port: question(format!("_p{number}._tcp.ports.{namespace}.svc.{zone}"), SRV),
            endpoints: question(format!("marker.{namespace}.svc.{zone}"), A),
            addresses: self.slices().map(|(_, _, address)| address),
        }
    }

    fn ports(&self) -> Value {
        json!([{"name": format!("p{}", self.number), "port": 80}])
    }

    /// Name, writer and address of both slices.
    fn slices(&self) -> [(&'static str, SliceWriter, String); 2] {
        let [high, low] = [self.number / 250, self.number % 250 + 1];
        [
            (
                "labelled",
                SliceWriter::Kubernetes,
                format!("100.66.{high}.{low}"),
            ),
            ("written", SliceWriter::Hand, format!("100.67.{high}.{low}")),
        ]
    }

    fn key(&self, name: &str) -> NamespacedName {
        (self.namespace.clone(), name.to_owned())
    }
}

impl MarkerProbe {
    /// Whether the server knows the marker's state. A kernel that passes a query counts as one that
    /// does not know it yet.
    fn is_known(&self, client: &RetryingClient, zone: &str) -> Result<bool> {
        let ask = |question: &ComparedQuestion| -> Result<Option<ComparedReply>> {
            let reply = client.ask(&question.message())?;
            if is_passed(&reply) {
                Ok(None)
            } else {
                ComparedReply::read(&reply, zone).map(Some)
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
