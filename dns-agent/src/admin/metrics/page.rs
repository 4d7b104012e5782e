//! Writes families of metrics to prometheus-client's encoder.

use std::fmt;

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeExemplarValue, MetricEncoder, NoLabelSet,
    },
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};
use zerohop_resolver::HistogramCounts;

/// Writes metrics to an encoder.
pub(super) struct MetricsPage<'a>(DescriptorEncoder<'a>);

/// The labels and the value of a sample.
pub(super) type Sample<T> = (Vec<(&'static str, String)>, T);

impl<'a> MetricsPage<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> MetricsPage<'a> {
        MetricsPage(encoder)
    }

    pub(super) fn write_info(
        &mut self,
        name: &str,
        help: &str,
        label: (&str, &String),
    ) -> fmt::Result {
        let mut metric = self.metric(name, None, help, MetricType::Info)?;
        metric.encode_info(&[label])
    }

    pub(super) fn write_gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        self.write_gauges(name, None, help, [(Vec::new(), value as f64)])
    }

    pub(super) fn write_gauges(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = Sample<f64>>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit, help, MetricType::Gauge)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                metric.encode_gauge(&value)?;
            } else {
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    /// Writes a family of counters. The encoder adds `_total` to the name.
    pub(super) fn write_counters<T>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<T>>,
    ) -> fmt::Result
    where
        T: EncodeCounterValue + EncodeExemplarValue,
    {
        let mut metric = self.metric(name, None, help, MetricType::Counter)?;
        for (labels, value) in samples {
            let no_exemplar: Option<&Exemplar<NoLabelSet, T>> = None;
            if labels.is_empty() {
                metric.encode_counter(&value, no_exemplar)?;
            } else {
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter(&value, no_exemplar)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_histograms(
        &mut self,
        name: &str,
        unit: &Unit,
        help: &str,
        samples: impl IntoIterator<Item = Sample<HistogramCounts>>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, Some(unit), help, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            let (sum, count, buckets) = (histogram.sum, histogram.count(), &histogram.buckets);
            if labels.is_empty() {
                metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)?;
            } else {
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)?;
            }
        }
        Ok(())
    }

    /// Writes a count whose name must not end with `_total`. OpenMetrics requires this ending of
    /// counters, so the type is `unknown`, as Go's client of Prometheus writes such a counter.
    pub(super) fn write_unsuffixed_count(
        &mut self,
        name: &str,
        help: &str,
        count: u64,
    ) -> fmt::Result {
        let mut metric = self.metric(name, None, help, MetricType::Unknown)?;
        // The samples of a gauge have the name of their family.
        metric.encode_gauge(&count)
    }

    fn metric<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }
}
