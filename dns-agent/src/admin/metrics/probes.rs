//! The metrics of probes, with the names of kube-dns's sidecar.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::page::MetricsPage;
use crate::admin::probes::{ProbeResults, ProbeStates};

/// The labels and results of all probes at the time of a scrape.
#[derive(Debug)]
pub(super) struct ProbeReadings(Vec<(String, ProbeResults)>);

impl ProbeReadings {
    pub(super) fn new(states: &ProbeStates) -> ProbeReadings {
        ProbeReadings(states.snapshot())
    }
}

impl Collector for ProbeReadings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut MetricsPage::new(encoder);
        for (label, results) in &self.0 {
            page.write_histograms(
                &format!("kubedns_probe_{label}_latency"),
                &Unit::Other("ms".to_owned()),
                &format!("Time until the reply to the probe {label}"),
                [(Vec::new(), results.latencies.clone())],
            )?;
            page.write_unsuffixed_count(
                &format!("kubedns_probe_{label}_errors"),
                &format!("Failures of the probe {label}"),
                results.failures,
            )?;
        }
        Ok(())
    }
}
