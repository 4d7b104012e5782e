//! Finds out whether CoreDNS is proven to run behind a DNS Service that is not the cluster's DNS.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use zerohop_kubernetes::ObjectKey;
use zerohop_kubernetes_api::{Client, KubernetesSource, PolicyScope, ReceivedEvent};

use super::{
    coredns_configs::{CoreDnsConfigs, PodWatch, Proof},
    dns_path::DnsPathObserver,
    dns_pods::{DnsPodsFeed, EventSource},
};
use crate::config::KubernetesConfig;

/// Reads the objects between a DNS Service and its Corefiles.
pub(super) struct DnsProbe {
    /// The Service and its endpoints.
    path: EventSource,
    pods: DnsPodsFeed,
    observer: DnsPathObserver,
    configs: CoreDnsConfigs,
}

impl DnsProbe {
    /// Starts reading the objects of `service`.
    pub(super) fn start(
        client: &Client,
        kubernetes: &KubernetesConfig,
        service: &ObjectKey,
    ) -> DnsProbe {
        // Without a node, no other pods are read.
        let scope = PolicyScope {
            node: None,
            dns: service.clone(),
        };
        let start = |sender| {
            let client = client.clone();
            KubernetesSource::start_dns_path(client, &scope, std::time::Duration::ZERO, sender)
        };
        DnsProbe {
            path: EventSource::start(start),
            pods: DnsPodsFeed::new(client.clone(), service),
            observer: DnsPathObserver::default(),
            configs: CoreDnsConfigs::new(client.clone(), kubernetes, PodWatch::Off),
        }
    }

    /// The proof by the objects that have been received.
    pub(super) fn read_proof(&mut self) -> Proof {
        let path = self.observer.path();
        self.configs.read(Some(&path)).proof()
    }

    /// Ready after applying an event that may change the proof. A source that has ended is ignored.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(Some(received)) = self.poll_event(context) {
            let event = received.event;
            if self.pods.follow_selector(&event) {
                self.pods.reset_path(&mut self.observer, &event);
            }
            if self.observer.apply_event(&event) {
                return Poll::Ready(());
            }
        }
        self.configs.poll_changed(context)
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<ReceivedEvent>> {
        let poll =
            |events: &mut mpsc::Receiver<ReceivedEvent>, context: &mut Context<'_>| match events
                .poll_recv(context)
            {
                Poll::Ready(None) => Poll::Pending,
                poll => poll,
            };
        if let ready @ Poll::Ready(_) = poll(&mut self.path.events, context) {
            return ready;
        }
        match self.pods.source_mut() {
            Some(pods) => poll(&mut pods.events, context),
            None => Poll::Pending,
        }
    }
}

/// Waits until the proof of any of these probes may have changed.
pub(super) async fn any_changed<'a>(probes: impl Iterator<Item = &'a mut DnsProbe>) {
    let mut probes: Vec<&mut DnsProbe> = probes.collect();
    poll_fn(|context| {
        let mut polls = probes.iter_mut().map(|probe| probe.poll_changed(context));
        match polls.any(|poll| poll.is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
