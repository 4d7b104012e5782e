//! `/metrics` in the OpenMetrics text format. `docs/metrics.md` describes each metric.

mod coredns;
mod page;
mod panics;
mod probes;
mod process;
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
use zerohop_kubernetes::ServiceKind;
use zerohop_resolver::TrafficCounts;

pub use self::panics::count_panics;
use self::{
    coredns::{CoreDnsReadings, with_bounds_as_in_coredns},
    probes::ProbeReadings,
    readings::Readings,
};
use super::{probes::ProbeStates, status_board::StatusBoard};

/// Durations measured since the agent's start.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Time from a change of endpoints in the cluster until it is published.
    programming: Family<ProgrammingLabels, Histogram, ProgrammingBuckets>,
    /// Time from reading a change until it is published.
    publish: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ProgrammingLabels {
    service_kind: ServiceKindLabel,
}

/// CoreDNS's label values for the kinds of Services that are recorded.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum ServiceKindLabel {
    ClusterIp,
    HeadlessWithSelector,
}

impl EncodeLabelValue for ServiceKindLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            ServiceKindLabel::ClusterIp => "cluster_ip",
            ServiceKindLabel::HeadlessWithSelector => "headless_with_selector",
        };
        name.encode(encoder)
    }
}

/// CoreDNS's buckets: from 1 millisecond to about 9 minutes.
#[derive(Clone, Debug)]
struct ProgrammingBuckets;

impl MetricConstructor<Histogram> for ProgrammingBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 20))
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let programming = Family::new_with_constructor(ProgrammingBuckets);
        // From 1/64 of a millisecond to about half a second, including 1 millisecond.
        let publish = Histogram::new(exponential_buckets(0.001 / 64.0, 2.0, 16));
        let mut registry = Registry::default();
        registry.register_with_unit(
            "coredns_kubernetes_dns_programming_duration",
            "Time from the change of a Service's endpoints in the cluster until it is published; \
             same as the CoreDNS metric of this name",
            Unit::Seconds,
            programming.clone(),
        );
        registry.register_with_unit(
            "zerohop_publish_duration",
            "Time from reading a change until each plane that is on answers from the changed data",
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
    /// Records the time from reading a change to publishing it.
    pub fn observe_publication(&self, after: Duration) {
        self.publish.observe(after.as_secs_f64());
    }

    /// Records the time from a change of a Service's endpoints in the cluster, at `changed`, until
    /// now. Only ClusterIP and headless Services are recorded; `kind` is `None` for a Service that
    /// is not known.
    pub fn observe_programming(&self, kind: Option<&ServiceKind>, changed: SystemTime) {
        let service_kind = match kind {
            // Only the controller of Services with a selector writes the time of a change.
            Some(ServiceKind::Headless | ServiceKind::HeadlessWithoutSlices) => {
                ServiceKindLabel::HeadlessWithSelector
            }
            Some(ServiceKind::ClusterIp(_)) => ServiceKindLabel::ClusterIp,
            Some(ServiceKind::ExternalName(_) | ServiceKind::Unreadable) | None => return,
        };
        // If the clocks differ, the change may seem to be in the future. The duration is 0 then.
        let duration = changed.elapsed().unwrap_or_default();
        let labels = ProgrammingLabels { service_kind };
        let histogram = self.programming.get_or_create(&labels);
        histogram.observe(duration.as_secs_f64());
    }

    /// All metrics as text, with the current state of `board` and the results of `probes`.
    ///
    /// # Errors
    /// When a metric can't be encoded.
    pub fn text(&self, board: &StatusBoard, probes: &ProbeStates) -> Result<String, fmt::Error> {
        let (status, kernel) = board.read_with_kernel();
        let readings = Readings { status, kernel };
        self.write(readings, board.traffic(), ProbeReadings::new(probes))
    }

    fn write(
        &self,
        readings: Readings,
        traffic: TrafficCounts,
        probes: ProbeReadings,
    ) -> Result<String, fmt::Error> {
        let mut coredns = Registry::default();
        let traffic = CoreDnsReadings::new(&readings.status, &readings.kernel, traffic);
        coredns.register_collector(Box::new(traffic));
        coredns.register_collector(Box::new(probes));
        let mut current = Registry::default();
        current.register_collector(Box::new(readings));
        let mut text = String::new();
        encode_registry(&mut text, &coredns)?;
        text = with_bounds_as_in_coredns(&text);
        encode_registry(&mut text, &current)?;
        let measured = self.registry.lock();
        encode_registry(&mut text, &measured.unwrap_or_else(PoisonError::into_inner))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}
