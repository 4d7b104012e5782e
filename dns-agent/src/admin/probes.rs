//! `/healthcheck/LABEL`: the result of the last probe of a server.
//!
//! The tasks of `agent::probes` write the results. The names in the response, and those of the
//! metrics, are the ones of the sidecar of kube-dns.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::watch;
use zerohop_resolver::HistogramCounts;

/// The least upper bound of times in milliseconds. Each further bound is the double.
const FIRST_BOUND: f64 = 0.25;
/// Number of upper bounds of times, up to 8,192 ms.
const BOUNDS: u32 = 16;

/// The states of all probes, in the order of the settings.
#[derive(Debug, Default)]
pub struct ProbeStates(Vec<Arc<ProbeState>>);

/// The state of one probe.
#[derive(Debug)]
pub struct ProbeState {
    label: String,
    results: watch::Sender<ProbeResults>,
}

/// The results of one probe since the agent's start.
#[derive(Clone, Debug)]
pub(super) struct ProbeResults {
    /// The time until the reply, or why there was none. `None` before the first probe has ended.
    last: Option<Result<Duration, String>>,
    /// Number of failures.
    pub(super) failures: u64,
    /// The times of the successes, in milliseconds.
    pub(super) latencies: HistogramCounts,
}

/// The response as JSON, with the sidecar's keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ProbeReport {
    /// Whether the last probe succeeded.
    pub(super) is_ok: bool,
    /// The time until the reply to the last probe. 0 after a failure.
    latency_seconds: f64,
    /// The reason for the failure. Empty after a success.
    err: String,
}

impl ProbeStates {
    /// The states of probes with these labels, before the first probe.
    pub fn new(labels: impl IntoIterator<Item = String>) -> ProbeStates {
        let states = labels.into_iter().map(|label| {
            Arc::new(ProbeState {
                label,
                results: watch::Sender::new(ProbeResults::none()),
            })
        });
        ProbeStates(states.collect())
    }

    /// All states.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ProbeState>> {
        self.0.iter()
    }

    /// The labels and the results of all probes.
    pub(super) fn snapshot(&self) -> Vec<(String, ProbeResults)> {
        let results = |it: &Arc<ProbeState>| (it.label.clone(), it.results.borrow().clone());
        self.iter().map(results).collect()
    }

    /// The report about the probe with this label.
    ///
    /// # Errors
    /// When there is no such probe. The text names the labels.
    pub(super) fn report(&self, label: &str) -> Result<ProbeReport, String> {
        if let Some(state) = self.iter().find(|state| state.label == label) {
            return Ok(state.results.borrow().report());
        }
        if self.0.is_empty() {
            return Err("there is no probe, because no --probe is given".to_owned());
        }
        let labels: Vec<_> = self.iter().map(|state| state.label.as_str()).collect();
        let labels = labels.join(", ");
        Err(format!(
            "no --probe has the label {label:?}; the labels are: {labels}"
        ))
    }
}

impl ProbeState {
    /// Records the result of a probe: the time until the reply, or why there was none. Returns
    /// whether `/healthcheck` changes from success to failure or back.
    pub fn record(&self, result: Result<Duration, String>) -> bool {
        self.results.send_if_modified(|results| {
            let was_ok = results.last.as_ref().map(Result::is_ok);
            let is_ok = result.is_ok();
            match &result {
                Ok(latency) => results.observe(latency.as_secs_f64() * 1000.0),
                Err(_) => results.failures += 1,
            }
            results.last = Some(result);
            was_ok != Some(is_ok)
        })
    }
}

impl ProbeResults {
    fn none() -> ProbeResults {
        let bounds = (0..BOUNDS).map(|power| FIRST_BOUND * f64::from(1 << power));
        let latencies = HistogramCounts {
            buckets: bounds
                .chain([f64::INFINITY])
                .map(|bound| (bound, 0))
                .collect(),
            sum: 0.0,
        };
        ProbeResults {
            last: None,
            failures: 0,
            latencies,
        }
    }

    fn observe(&mut self, milliseconds: f64) {
        let mut buckets = self.latencies.buckets.iter_mut();
        if let Some((_, count)) = buckets.find(|(bound, _)| milliseconds <= *bound) {
            *count += 1;
        }
        self.latencies.sum += milliseconds;
    }

    fn report(&self) -> ProbeReport {
        let failed = |reason: &str| ProbeReport {
            is_ok: false,
            latency_seconds: 0.0,
            err: reason.to_owned(),
        };
        match &self.last {
            None => failed("waiting for first probe"),
            Some(Err(reason)) => failed(reason),
            Some(Ok(latency)) => ProbeReport {
                is_ok: true,
                latency_seconds: latency.as_secs_f64(),
                err: String::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_about_the_last_probe() {
        let states = ProbeStates::new(["a".to_owned(), "b".to_owned()]);
        let json = |label: &str| serde_json::to_string(&states.report(label).unwrap()).unwrap();
        let waiting = r#"{"IsOk":false,"LatencySeconds":0.0,"Err":"waiting for first probe"}"#;
        assert_eq!(json("a"), waiting);
        let state = states.iter().next().unwrap();
        assert!(state.record(Ok(Duration::from_micros(500))));
        assert_eq!(
            json("a"),
            r#"{"IsOk":true,"LatencySeconds":0.0005,"Err":""}"#
        );
        assert!(!state.record(Ok(Duration::from_micros(501))));
        assert!(state.record(Err("is silent".to_owned())));
        assert!(!state.record(Err("is silent".to_owned())));
        let silent = r#"{"IsOk":false,"LatencySeconds":0.0,"Err":"is silent"}"#;
        assert_eq!(
            (json("a"), json("b")),
            (silent.to_owned(), waiting.to_owned())
        );
        let (_, results) = states.snapshot().remove(0);
        let filled: Vec<_> = (results.latencies.buckets.iter())
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!((filled, results.failures), (vec![&(0.5, 1), &(1.0, 1)], 2));
    }

    #[test]
    fn a_report_about_another_label_names_the_labels() {
        let states = ProbeStates::new(["a".to_owned(), "b".to_owned()]);
        let reason = states.report("c").unwrap_err();
        assert_eq!(
            reason,
            "no --probe has the label \"c\"; the labels are: a, b"
        );
        let reason = ProbeStates::default().report("c").unwrap_err();
        assert!(reason.contains("no --probe is given"), "{reason}");
    }
}
