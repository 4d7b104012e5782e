//! `/metrics`, in OpenMetrics' text form. `docs/metrics.md` says what each of them means.

mod readings;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{
        EncodeLabelSet, EncodeLabelValue, LabelValueEncoder,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        family::{Family, MetricConstructor},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use self::readings::Readings;
use super::board::Board;
use crate::cluster::ServiceKind;

/// What has been measured since the start.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    programming: Family<Programmed, Histogram, Buckets>,
    publish: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Programmed {
    service_kind: Kind,
}

/// CoreDNS's names for kinds of services.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Kind {
    ClusterIp,
    HeadlessWithSelector,
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Kind::ClusterIp => "cluster_ip",
            Kind::HeadlessWithSelector => "headless_with_selector",
        };
        name.encode(encoder)
    }
}

/// From 1 millisecond to about 9 minutes, as CoreDNS has them.
#[derive(Clone, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 20))
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let programming = Family::new_with_constructor(Buckets);
        // From a 64th of a millisecond to about half a second, a whole one among them.
        let publish = Histogram::new(exponential_buckets(0.001 / 64.0, 2.0, 16));
        let mut registry = Registry::default();
        registry.register_with_unit(
            "coredns_kubernetes_dns_programming_duration",
            "From the change of a service's endpoints in the cluster to its being served; the metric of the same name in CoreDNS",
            Unit::Seconds,
            programming.clone(),
        );
        registry.register_with_unit(
            "zerohop_publish_duration",
            "From the reading of a change to its being served by all planes",
            Unit::Seconds,
            publish.clone(),
        );
        Metrics {
            registry: Mutex::new(registry),
            programming,
            publish,
        }
    }
}

impl Metrics {
    /// A change is served, so long after it was read.
    pub fn published(&self, after: Duration) {
        self.publish.observe(after.as_secs_f64());
    }

    /// A change of a service's endpoints, made at this time, is served. Nothing is said of a
    /// service that is unknown.
    pub fn programmed(&self, kind: Option<&ServiceKind>, changed: SystemTime) {
        let service_kind = match kind {
            Some(ServiceKind::Headless | ServiceKind::HeadlessElsewhere) => {
                Kind::HeadlessWithSelector
            }
            Some(ServiceKind::ClusterIp(_)) => Kind::ClusterIp,
            Some(ServiceKind::ExternalName(_) | ServiceKind::Unreadable) | None => return,
        };
        // Clocks differ: what seems to come before its cause came at once.
        let took = changed.elapsed().unwrap_or_default();
        let programmed = Programmed { service_kind };
        let histogram = self.programming.get_or_create(&programmed);
        histogram.observe(took.as_secs_f64());
    }

    /// The text, with what `board` shows at this moment.
    ///
    /// # Errors
    /// When a metric can't be written.
    pub fn text(&self, board: &Board) -> Result<String, fmt::Error> {
        let (status, kernel) = board.measure();
        self.write(Readings { status, kernel })
    }

    fn write(&self, readings: Readings) -> Result<String, fmt::Error> {
        let mut read = Registry::default();
        read.register_collector(Box::new(readings));
        let mut text = String::new();
        encode_registry(&mut text, &read)?;
        let observed = self.registry.lock();
        encode_registry(&mut text, &observed.unwrap_or_else(PoisonError::into_inner))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}
