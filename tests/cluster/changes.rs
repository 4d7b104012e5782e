//! Random changes of objects, as owners of Services and Kubernetes' controllers make them.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    cluster::LiveCluster,
    objects::{
        NamespacedName, SliceWriter, WrittenObject, alias, key, label_slice, pod, service,
        service_of, slice, writer_of,
    },
};

/// Makes random changes.
pub(crate) struct RandomChanges<'a> {
    random: &'a mut StdRng,
    zone: &'a str,
    /// Number of changes made, by kind.
    pub(crate) made: BTreeMap<&'static str, usize>,
}

/// The largest number of Services in all changing namespaces together.
const SERVICES: usize = 40;
/// Number of namespaces in which objects change.
const NAMESPACES: usize = 4;
/// One in this many changes replaces a namespace; that takes seconds.
const NAMESPACE_EVERY: usize = 250;

const PORTS: [(&str, &str); 5] = [
    ("http", "TCP"),
    ("dns", "UDP"),
    ("dns-tcp", "TCP"),
    ("odd", "SCTP"),
    ("x--y", "TCP"),
];
/// Topology zones. One has two labels.
const ZONES: [&str; 3] = ["zone-a", "zone-b", "west.zone-a"];
/// The phases of pods. Running is drawn twice as often as the others.
const PHASES: [&str; 6] = [
    "Running",
    "Running",
    "Pending",
    "Succeeded",
    "Failed",
    "Unknown",
];

impl<'a> RandomChanges<'a> {
    pub(crate) fn new(random: &'a mut StdRng, zone: &'a str) -> RandomChanges<'a> {
        RandomChanges {
            random,
            zone,
            made: BTreeMap::new(),
        }
    }

    /// Makes `count` changes.
    pub(crate) fn make_changes(&mut self, cluster: &mut LiveCluster, count: usize) -> Result<()> {
        for number in 0..NAMESPACES {
            let namespace = format!("{}-r{number}", cluster.prefix);
            if !cluster.objects.namespaces.contains(&namespace) {
                cluster.create_namespace(&namespace)?;
            }
        }
        for number in 1..=count {
            let kind = match number % NAMESPACE_EVERY {
                0 => self.replace_namespace(cluster)?,
                _ => self.make_change(cluster)?,
            };
            *self.made.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn make_change(&mut self, cluster: &mut LiveCluster) -> Result<&'static str> {
        let service = self.random_key(cluster);
        let slice = self.random_slice_key(cluster);
        let has_service = cluster.objects.services.contains_key(&service);
        // The ranges are weights. From 78 to 99, or if the drawn object does not exist, a Service
        // or slice is made.
        match (self.random.random_range(0..115), has_service, slice) {
            (100..110, ..) => self.change_pod(cluster),
            (110..115, ..) => cluster.toggle_hidden(&service.0),
            (0..10, true, _) => {
                cluster.delete_service(&service)?;
                Ok("a service deleted")
            }
            (10..25, true, _) => {
                cluster.delete_service(&service)?;
                self.create_service(cluster, &service)?;
                Ok("a service deleted and made again")
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

    fn replace_namespace(&mut self, cluster: &mut LiveCluster) -> Result<&'static str> {
        let (namespace, _) = self.random_key(cluster);
        cluster.delete_namespace(&namespace)?;
        cluster.create_namespace(&namespace)?;
        Ok("a namespace deleted and made again")
    }

    /// The key of a Service or pod, which may be absent, in one of the changing namespaces.
    fn random_key(&mut self, cluster: &LiveCluster) -> NamespacedName {
        let namespace = self.random.random_range(0..NAMESPACES);
        let service = self.random.random_range(0..SERVICES / NAMESPACES);
        (
            format!("{}-r{namespace}", cluster.prefix),
            format!("s{service}"),
        )
    }

    /// An existing slice in one of the changing namespaces. `None` if there is none.
    fn random_slice_key(&mut self, cluster: &LiveCluster) -> Option<NamespacedName> {
        let changing = format!("{}-r", cluster.prefix);
        let slices = cluster.objects.slices.keys();
        let slices: Vec<&NamespacedName> =
            slices.filter(|key| key.0.starts_with(&changing)).collect();
        let at = self.random.random_range(0..slices.len().max(1));
        slices.get(at).map(|key| (*key).clone())
    }

    /// Makes a Service of any kind. Writes its existing slices again, because a label tells whether
    /// their Service is headless.
    fn create_service(&mut self, cluster: &mut LiveCluster, key: &NamespacedName) -> Result<()> {
        let spec = match self.random.random_range(0..10) {
            0..4 => json!({"ports": self.service_ports(1)}),
            4..8 => json!({"clusterIP": "None", "ports": self.service_ports(0)}),
            _ => alias(&self.alias_target(cluster)),
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

    /// Changes a Service's ports, or an alias's target.
    fn update_service(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
    ) -> Result<&'static str> {
        let mut changed = cluster.objects.services[key].clone();
        let target = self.alias_target(cluster);
        let ports = self.service_ports(1);
        let Some(spec) = &mut changed.spec else {
            return Ok("nothing");
        };
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => {
                spec.external_name = Some(target);
                "an alias's target changed"
            }
            _ => {
                spec.ports = serde_json::from_value(ports)?;
                "a service's ports changed"
            }
        };
        cluster.write(WrittenObject::Service(Box::new(changed)))?;
        Ok(kind)
    }

    /// Adds or removes an endpoint, or changes whether it is ready.
    fn update_slice(
        &mut self,
        cluster: &mut LiveCluster,
        key: &NamespacedName,
    ) -> Result<&'static str> {
        let mut changed = cluster.objects.slices[key].clone();
        let at = self.random.random_range(0..changed.endpoints.len().max(1));
        let kind = match (
            self.random.random_range(0..3),
            changed.endpoints.get_mut(at),
        ) {
            (0, Some(endpoint)) => {
                let conditions = endpoint.conditions.get_or_insert_default();
                conditions.ready = Some(conditions.ready == Some(false));
                "an endpoint's readiness changed"
            }
            (1, Some(_)) => {
                changed.endpoints.remove(at);
                "an endpoint removed"
            }
            _ => {
                let endpoint = self.endpoint(cluster, &changed.address_type);
                changed.endpoints.push(serde_json::from_value(endpoint)?);
                "an endpoint added"
            }
        };
        cluster.write(WrittenObject::Slice(Box::new(changed)))?;
        Ok(kind)
    }

    fn create_slice(&mut self, cluster: &mut LiveCluster, service: &NamespacedName) -> Result<()> {
        let name = format!("{}-{:06x}", service.1, self.random.random_range(0..1 << 24));
        let family = match self.random.random_range(0..20) {
            0 => "FQDN",
            1..6 => "IPv6",
            _ => "IPv4",
        };
        let count = self.random.random_range(0..6);
        let endpoints = (0..count).map(|_| self.endpoint(cluster, family)).collect();
        let mut ports = self.service_ports(0);
        // Kubernetes accepts a port without a number, which stands for all ports.
        if self.random.random_bool(0.05)
            && let Some(port) = ports.get_mut(0)
        {
            port["port"] = Value::Null;
        }
        let key = (service.0.clone(), name);
        let new = slice(&key, family, &endpoints, &ports)?;
        let writer = if self.random.random_bool(0.7) {
            SliceWriter::Kubernetes
        } else {
            SliceWriter::Hand
        };
        let is_headless = cluster.objects.is_headless(service);
        cluster.write(WrittenObject::Slice(Box::new(label_slice(
            new,
            &service.1,
            is_headless,
            writer,
        ))))
    }

    /// Makes, changes, terminates or deletes a pod.
    fn change_pod(&mut self, cluster: &mut LiveCluster) -> Result<&'static str> {
        let key = self.random_key(cluster);
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

    /// Writes a slice with the labels that its writer would give it as a slice of `service`.
    fn write_slice(
        &mut self,
        cluster: &mut LiveCluster,
        slice: EndpointSlice,
        service: &NamespacedName,
    ) -> Result<()> {
        let is_headless = cluster.objects.is_headless(service);
        let writer = writer_of(&slice);
        let slice = label_slice(slice, &service.1, is_headless, writer);
        debug_assert_eq!(
            key(&slice.metadata).0,
            service.0,
            "a slice must be in the namespace of its Service"
        );
        cluster.write(WrittenObject::Slice(Box::new(slice)))
    }

    /// An endpoint. Its IP address is one of 199 in each family, so that Services may share
    /// addresses. An FQDN endpoint has a domain name instead.
    fn endpoint(&mut self, cluster: &LiveCluster, family: &str) -> Value {
        let number = self.random.random_range(1..200);
        let address = match family {
            "IPv4" => format!("100.64.100.{number}"),
            "FQDN" => self.alias_target(cluster),
            // The DNS label of such an address would end with a dash, so the servers append a 0.
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

    /// One port without a name, or `least` to three ports with names. A Service with a ClusterIP
    /// needs a port, so `least` is 1 there.
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

    /// A target outside the cluster, the name of an absent Service or port, a pod's name, a name of
    /// an endpoint that may exist, or the name of any Service, so that aliases may form a loop.
    fn alias_target(&mut self, cluster: &LiveCluster) -> String {
        let (namespace, name) = self.random_key(cluster);
        let zone = self.zone;
        match self.random.random_range(0..8) {
            0 => "www.example.com".to_owned(),
            1 => format!("ghost.{namespace}.svc.{zone}"),
            2 => format!("xhttp.xtcp.{name}.{namespace}.svc.{zone}"),
            3 => format!("10-1-2-3.{namespace}.pod.{zone}"),
            4 => format!(
                "100-64-100-{}.{name}.{namespace}.svc.{zone}",
                self.random.random_range(0..200)
            ),
            _ => format!("{name}.{namespace}.svc.{zone}"),
        }
    }
}
