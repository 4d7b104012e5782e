//! Random changes of all kinds, as the owners of services and Kubernetes' controllers make them.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    objects::{Key, Object, Writer, alias, key, owned, pod, service, service_of, slice, writer},
};

/// Makes changes.
pub(crate) struct Changes<'a> {
    random: &'a mut StdRng,
    zone: &'a str,
    /// How many of each kind were made.
    pub(crate) made: BTreeMap<&'static str, usize>,
}

/// Services that come and go.
const SERVICES: usize = 40;
/// Namespaces that they are in.
const NAMESPACES: usize = 4;
/// A namespace takes seconds to be deleted.
const NAMESPACE_EVERY: usize = 250;

const PORTS: [(&str, &str); 5] = [
    ("http", "TCP"),
    ("dns", "UDP"),
    ("dns-tcp", "TCP"),
    ("odd", "SCTP"),
    ("x--y", "TCP"),
];
const ZONES: [&str; 3] = ["zone-a", "zone-b", "west.zone-a"];
const PHASES: [&str; 6] = [
    "Running",
    "Running",
    "Pending",
    "Succeeded",
    "Failed",
    "Unknown",
];

impl<'a> Changes<'a> {
    pub(crate) fn new(random: &'a mut StdRng, zone: &'a str) -> Changes<'a> {
        Changes {
            random,
            zone,
            made: BTreeMap::new(),
        }
    }

    /// Makes so many changes.
    pub(crate) fn make(&mut self, cluster: &mut Cluster, count: usize) -> Result<()> {
        for number in 0..NAMESPACES {
            let namespace = format!("{}-r{number}", cluster.prefix);
            if !cluster.objects.namespaces.contains(&namespace) {
                cluster.create_namespace(&namespace)?;
            }
        }
        for number in 1..=count {
            let what = match number % NAMESPACE_EVERY {
                0 => self.renew_namespace(cluster)?,
                _ => self.change(cluster)?,
            };
            *self.made.entry(what).or_default() += 1;
        }
        Ok(())
    }

    fn change(&mut self, cluster: &mut Cluster) -> Result<&'static str> {
        let service = self.service_key(cluster);
        let slice = self.slice_key(cluster);
        let has_service = cluster.objects.services.contains_key(&service);
        match (self.random.random_range(0..115), has_service, slice) {
            (100..110, ..) => self.change_pod(cluster),
            (110..115, ..) => cluster.turn_namespace(&service.0),
            (0..10, true, _) => {
                cluster.delete_service(&service)?;
                Ok("a service deleted")
            }
            (10..25, true, _) => {
                cluster.delete_service(&service)?;
                self.create_service(cluster, &service)?;
                Ok("a service deleted and made anew")
            }
            (25..40, true, _) => self.update_service(cluster, &service),
            (40..50, _, Some(slice)) => {
                cluster.delete_slice(&slice)?;
                Ok("a slice deleted")
            }
            (50..70, _, Some(slice)) => self.update_slice(cluster, &slice),
            (70..78, _, Some(slice)) => {
                let moved = cluster.objects.slices[&slice].clone();
                let to = (slice.0, service.1);
                self.write_slice(cluster, moved, &to)?;
                Ok("a slice moved to another service")
            }
            (_, false, _) => {
                self.create_service(cluster, &service)?;
                Ok("a service made")
            }
            _ => {
                self.create_slice(cluster, &service)?;
                Ok("a slice made")
            }
        }
    }

    fn renew_namespace(&mut self, cluster: &mut Cluster) -> Result<&'static str> {
        let (namespace, _) = self.service_key(cluster);
        cluster.delete_namespace(&namespace)?;
        cluster.create_namespace(&namespace)?;
        Ok("a namespace deleted and made anew")
    }

    fn service_key(&mut self, cluster: &Cluster) -> Key {
        let namespace = self.random.random_range(0..NAMESPACES);
        let service = self.random.random_range(0..SERVICES / NAMESPACES);
        (
            format!("{}-r{namespace}", cluster.prefix),
            format!("s{service}"),
        )
    }

    /// A slice that is there, of the namespaces that change.
    fn slice_key(&mut self, cluster: &Cluster) -> Option<Key> {
        let changing = format!("{}-r", cluster.prefix);
        let slices = cluster.objects.slices.keys();
        let slices: Vec<&Key> = slices.filter(|key| key.0.starts_with(&changing)).collect();
        let at = self.random.random_range(0..slices.len().max(1));
        slices.get(at).map(|key| (*key).clone())
    }

    /// A service of any kind. Kubernetes' controller would label the slices that are there already
    /// after it.
    fn create_service(&mut self, cluster: &mut Cluster, key: &Key) -> Result<()> {
        let spec = match self.random.random_range(0..10) {
            0..4 => json!({"ports": self.service_ports(1)}),
            4..8 => json!({"clusterIP": "None", "ports": self.service_ports(0)}),
            _ => alias(&self.target(cluster)),
        };
        cluster.write(service(key, &spec)?)?;
        let slices = cluster.objects.slices.values();
        let own: Vec<EndpointSlice> = slices
            .filter(|slice| service_of(slice).as_ref() == Some(key))
            .cloned()
            .collect();
        own.into_iter()
            .try_for_each(|slice| self.write_slice(cluster, slice, key))
    }

    /// Other ports, or another name to be an alias of.
    fn update_service(&mut self, cluster: &mut Cluster, key: &Key) -> Result<&'static str> {
        let mut changed = cluster.objects.services[key].clone();
        let target = self.target(cluster);
        let ports = self.service_ports(1);
        let Some(spec) = &mut changed.spec else {
            return Ok("nothing");
        };
        let what = match spec.type_.as_deref() {
            Some("ExternalName") => {
                spec.external_name = Some(target);
                "an alias led elsewhere"
            }
            _ => {
                spec.ports = serde_json::from_value(ports)?;
                "a service's ports changed"
            }
        };
        cluster.write(Object::Service(Box::new(changed)))?;
        Ok(what)
    }

    /// Endpoints come, go, or become ready.
    fn update_slice(&mut self, cluster: &mut Cluster, key: &Key) -> Result<&'static str> {
        let mut changed = cluster.objects.slices[key].clone();
        let at = self.random.random_range(0..changed.endpoints.len().max(1));
        let what = match (
            self.random.random_range(0..3),
            changed.endpoints.get_mut(at),
        ) {
            (0, Some(endpoint)) => {
                let conditions = endpoint.conditions.get_or_insert_default();
                conditions.ready = Some(conditions.ready == Some(false));
                "an endpoint became ready, or not"
            }
            (1, Some(_)) => {
                changed.endpoints.remove(at);
                "an endpoint went"
            }
            _ => {
                let endpoint = self.endpoint(cluster, &changed.address_type);
                changed.endpoints.push(serde_json::from_value(endpoint)?);
                "an endpoint came"
            }
        };
        cluster.write(Object::Slice(Box::new(changed)))?;
        Ok(what)
    }

    fn create_slice(&mut self, cluster: &mut Cluster, service: &Key) -> Result<()> {
        let name = format!("{}-{:06x}", service.1, self.random.random_range(0..1 << 24));
        let family = match self.random.random_range(0..20) {
            0 => "FQDN",
            1..6 => "IPv6",
            _ => "IPv4",
        };
        let count = self.random.random_range(0..6);
        let endpoints = (0..count).map(|_| self.endpoint(cluster, family)).collect();
        let mut ports = self.service_ports(0);
        // Of all ports, when there is no number.
        if self.random.random_bool(0.05)
            && let Some(port) = ports.get_mut(0)
        {
            port["port"] = Value::Null;
        }
        let key = (service.0.clone(), name);
        let new = slice(&key, family, &endpoints, &ports)?;
        let by = match self.random.random_bool(0.7) {
            true => Writer::Kubernetes,
            false => Writer::Hand,
        };
        let is_headless = cluster.objects.is_headless(service);
        cluster.write(Object::Slice(Box::new(owned(
            new,
            &service.1,
            is_headless,
            by,
        ))))
    }

    /// A pod comes, becomes another, or goes.
    fn change_pod(&mut self, cluster: &mut Cluster) -> Result<&'static str> {
        let key = self.service_key(cluster);
        if cluster.objects.pods.contains_key(&key) && self.random.random_bool(0.3) {
            cluster.delete_pod(&key)?;
            return Ok("a pod deleted");
        }
        if cluster.objects.pods.contains_key(&key) && self.random.random_bool(0.3) {
            cluster.terminate_pod(&key)?;
            return Ok("a pod being deleted");
        }
        let phase = PHASES[self.random.random_range(0..PHASES.len())];
        let address = format!("100.64.101.{}", self.random.random_range(1..40));
        let status = json!({"phase": phase, "podIP": address, "podIPs": [{"ip": address}]});
        cluster.write(pod(&key, &status)?)?;
        Ok("a pod made, or its state changed")
    }

    fn write_slice(
        &mut self,
        cluster: &mut Cluster,
        slice: EndpointSlice,
        service: &Key,
    ) -> Result<()> {
        let is_headless = cluster.objects.is_headless(service);
        let by = writer(&slice);
        let slice = owned(slice, &service.1, is_headless, by);
        debug_assert_eq!(key(&slice.metadata).0, service.0);
        cluster.write(Object::Slice(Box::new(slice)))
    }

    /// Pods are behind several services now and then.
    fn endpoint(&mut self, cluster: &Cluster, family: &str) -> Value {
        let number = self.random.random_range(1..200);
        let address = match family {
            "IPv4" => format!("100.64.100.{number}"),
            "FQDN" => self.target(cluster),
            _ if number % 8 == 0 => format!("fd00:5a48:{number:x}::"),
            _ => format!("fd00:5a48::{number:x}"),
        };
        let mut endpoint = json!({"addresses": [address]});
        let ready = [None, Some(true), Some(true), Some(false)][self.random.random_range(0..4)];
        if let Some(ready) = ready {
            endpoint["conditions"] = json!({"ready": ready});
        }
        match self.random.random_range(0..8) {
            0 => endpoint["hostname"] = format!("host-{number}").into(),
            1 => endpoint["hostname"] = "shared".into(),
            2 => endpoint["targetRef"] = json!({"kind": "Pod", "name": format!("pod-{number}")}),
            _ => {}
        }
        if self.random.random_bool(0.5) {
            endpoint["zone"] = ZONES[self.random.random_range(0..ZONES.len())].into();
        }
        endpoint
    }

    /// One port without a name, or some with names; not fewer than `least`.
    fn service_ports(&mut self, least: usize) -> Value {
        let count = self.random.random_range(least..4);
        if count == 1 && self.random.random_bool(0.5) {
            return json!([{"port": 80}]);
        }
        let first = self.random.random_range(0..PORTS.len());
        let ports = (0..count).map(|number| {
            let (name, protocol) = PORTS[(first + number) % PORTS.len()];
            json!({"name": name, "port": self.random.random_range(1..65_535), "protocol": protocol})
        });
        Value::Array(ports.collect())
    }

    /// Away, to any other service, and so in circles too, or nowhere.
    fn target(&mut self, cluster: &Cluster) -> String {
        let (namespace, name) = self.service_key(cluster);
        let zone = self.zone;
        match self.random.random_range(0..8) {
            0 => "www.example.com".to_owned(),
            1 => format!("ghost.{namespace}.svc.{zone}"),
            2 => format!("_http._tcp.{name}.{namespace}.svc.{zone}").replace('_', "x"),
            3 => format!("10-1-2-3.{namespace}.pod.{zone}"),
            4 => format!(
                "100-64-100-{}.{name}.{namespace}.svc.{zone}",
                self.random.random_range(0..200)
            ),
            _ => format!("{name}.{namespace}.svc.{zone}"),
        }
    }
}
