//! The configurations that CoreDNS runs with, found by its pods: endpoint, container, arguments,
//! mount, ConfigMap.
//!
//! Each pod is read by itself. Pods that run CoreDNS alike form a group, whose configuration has
//! versions of its own. During a rollout there are several groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context, Poll},
};

use zerohop_kubernetes::{ConfigMapUpdates, CoreDnsConfig, CoreDnsServer, ObjectKey, Reload};
use zerohop_kubernetes_api::{Client, SourceHealth};

use super::{
    config_maps::{ConfigMapWatches, UnreadMap},
    config_versions::{ConfigVersions, Hold, KUBELET_DELAY, RunningPods},
    dns_path::{DnsPath, PodStarts, Readiness, ServerPod},
};
use crate::config::{KubernetesConfig, WithoutCorefile};

/// The most groups of pods with different configurations. With more, everything passes.
const MAX_GROUPS: usize = 8;

/// A configuration; `None` if there is no Corefile.
pub(super) type CorefileVersion = Option<CoreDnsConfig>;

/// Follows the configurations of CoreDNS.
pub(super) struct CoreDnsConfigs {
    /// The ConfigMap that the operator has named. `None`: the pods show it.
    given: Option<CoreDnsServer>,
    watch: PodWatch,
    without_corefile: WithoutCorefile,
    maps: ConfigMapWatches,
    groups: BTreeMap<CoreDnsServer, PodGroup>,
}

/// Whether pods are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodWatch {
    On,
    /// There is no kernel plane, so holds are only reported.
    Off,
}

/// Pods that run CoreDNS alike.
struct PodGroup {
    /// Whether a pod of the group is ready.
    readiness: Readiness,
    /// When the pods were started. `None` if pods are not watched, or not known.
    starts: Option<PodStarts>,
    versions: ConfigVersions<CorefileVersion>,
}

/// What is known about the configurations.
pub(super) enum ConfigsReading {
    /// Not known yet.
    Awaited,
    /// One configuration for each group of pods.
    Known {
        configs: BTreeMap<CoreDnsServer, CorefileVersion>,
        /// Why it isn't known with which configuration some pods run. During any hold the kernel
        /// passes everything.
        unknown: Vec<Hold>,
    },
}

/// Whether CoreDNS is known to answer behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Not known yet.
    Awaited,
    /// Each ready endpoint is a pod that runs CoreDNS, with a Corefile that was read. If no
    /// endpoint is ready any more, this was so before.
    Proven,
    /// The reason why it isn't known, as a clause.
    Unproven(String),
}

impl ConfigsReading {
    /// Whether CoreDNS is known to answer.
    pub(super) fn proof(&self) -> Proof {
        let ConfigsReading::Known { configs, unknown } = self else {
            return Proof::Awaited;
        };
        if let Some(hold) = unknown.first() {
            return Proof::Unproven(hold.reason.clone());
        }
        match configs.iter().find(|(_, config)| config.is_none()) {
            Some((server, _)) => Proof::Unproven(missing_corefile(server)),
            None if configs.is_empty() => Proof::Unproven("no pod is known".to_owned()),
            None => Proof::Proven,
        }
    }
}

/// What is said of a server whose ConfigMap has no Corefile, as a clause.
pub(super) fn missing_corefile(server: &CoreDnsServer) -> String {
    format!("ConfigMap {} has no Corefile", server.corefile_map())
}

impl CoreDnsConfigs {
    pub(super) fn new(
        client: Client,
        kubernetes: &KubernetesConfig,
        watch: PodWatch,
    ) -> CoreDnsConfigs {
        let given = kubernetes.corefile.as_ref();
        CoreDnsConfigs {
            watch,
            without_corefile: kubernetes.without_corefile,
            given: given.cloned().map(CoreDnsServer::with_config_map),
            maps: ConfigMapWatches::new(client),
            groups: BTreeMap::new(),
        }
    }

    /// The health of all sources.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<SourceHealth>> {
        self.maps.health()
    }

    /// Ready after a ConfigMap may have changed.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.maps.poll_changed(context)
    }

    /// Adjusts the watches to the current pods, and returns the configurations that are known.
    /// `dns_path` is `None` if pods are not watched and the operator has named the ConfigMap.
    pub(super) fn read(&mut self, dns_path: Option<&DnsPath>) -> ConfigsReading {
        let mut unknown = Vec::new();
        match &self.given {
            Some(given) => {
                let starts = dns_path.and_then(|path| path.starts.clone());
                let group = (Readiness::Ready, starts);
                self.set_groups(BTreeMap::from([(given.clone(), group)]));
            }
            None => {
                let Some(servers) = dns_path.and_then(|path| path.servers.as_ref()) else {
                    return ConfigsReading::Awaited;
                };
                unknown.extend(self.follow_pods(servers));
            }
        }
        let known = self.maps.known();
        let servers = self.groups.keys();
        let wanted: BTreeSet<ObjectKey> = servers.flat_map(|it| it.config_maps(&known)).collect();
        self.maps.watch(&wanted);
        let mut configs = BTreeMap::new();
        let groups = self.groups.iter_mut();
        for (server, group) in groups.filter(|(_, group)| group.readiness == Readiness::Ready) {
            match group.read(server, &self.maps, self.watch) {
                Ok(config) => {
                    configs.insert(server.clone(), config);
                }
                Err(UnreadMap::Awaited(_)) => return ConfigsReading::Awaited,
                // The operator's settings may not answer for a Corefile that exists.
                Err(UnreadMap::Failed(reason)) => unknown.push(Hold {
                    until: None,
                    reason: format!("CoreDNS's configuration isn't known: {reason}"),
                }),
            }
        }
        ConfigsReading::Known { configs, unknown }
    }

    /// The holds while CoreDNS may run with earlier configurations that lead to other answers.
    /// `is_harmless` tells whether the configuration of a group leads to the same answers if it is
    /// replaced by another one.
    pub(super) fn holds(
        &mut self,
        is_harmless: impl Fn(&CoreDnsServer, &CorefileVersion) -> bool,
    ) -> Vec<Hold> {
        let watch = self.watch;
        let groups = self.groups.iter_mut();
        let groups = groups.filter(|(_, group)| group.readiness == Readiness::Ready);
        let holds = groups.filter_map(|(server, group)| {
            let pods = running_pods(group.starts.as_ref(), watch);
            let versions = &mut group.versions;
            let hold = versions.hold("CoreDNS", pods, |config| is_harmless(server, config))?;
            let reason = format!("the Corefile has changed, and {}", hold.reason);
            Some(Hold { reason, ..hold })
        });
        holds.collect()
    }

    /// Groups the pods. If none is ready, the groups stay, because CoreDNS answers nothing then.
    /// Returns why the configuration of some pods isn't known. With `--trust-zone`, no pod needs to
    /// run CoreDNS.
    fn follow_pods(&mut self, servers: &[ServerPod]) -> Option<Hold> {
        let mut groups = BTreeMap::<CoreDnsServer, (Readiness, Option<PodStarts>)>::new();
        let mut unread = None;
        for server in servers {
            match (&server.server, server.readiness) {
                (Ok(how), readiness) => {
                    let group = groups.entry(how.clone());
                    let (group, starts) = group.or_insert((Readiness::Unready, None));
                    if readiness == Readiness::Ready {
                        *group = readiness;
                    }
                    starts.get_or_insert_default().0.push(server.started);
                }
                (Err(reason), Readiness::Ready) => {
                    unread.get_or_insert_with(|| {
                        format!("it isn't known how {} answers DNS: {reason}", server.name)
                    });
                }
                (Err(_), Readiness::Unready) => {}
            }
        }
        let mut readiness = groups.values().map(|(readiness, _)| *readiness);
        let has_ready = readiness.any(|readiness| readiness == Readiness::Ready);
        if groups.len() > MAX_GROUPS {
            let count = groups.len();
            unread = Some(format!(
                "CoreDNS's pods have {count} different configurations, and at most {MAX_GROUPS} \
                 are read"
            ));
        } else if has_ready {
            self.set_groups(groups);
        } else if unread.is_none() && self.groups.is_empty() {
            unread = Some("the cluster's DNS Service has no ready endpoint".to_owned());
        }
        if self.groups.is_empty() && self.without_corefile == WithoutCorefile::Trust {
            return None;
        }
        unread.map(|reason| Hold {
            until: None,
            reason,
        })
    }

    fn set_groups(&mut self, groups: BTreeMap<CoreDnsServer, (Readiness, Option<PodStarts>)>) {
        self.groups.retain(|server, _| groups.contains_key(server));
        for (server, (readiness, starts)) in groups {
            let group = self.groups.entry(server).or_insert_with(|| PodGroup {
                readiness,
                starts: None,
                versions: ConfigVersions::new(KUBELET_DELAY),
            });
            group.readiness = readiness;
            group.starts = starts;
        }
    }
}

impl PodGroup {
    /// Reads the current configuration, and adds it to the versions.
    fn read(
        &mut self,
        server: &CoreDnsServer,
        maps: &ConfigMapWatches,
        watch: PodWatch,
    ) -> Result<CorefileVersion, UnreadMap> {
        let known = maps.known();
        let keys = server.config_maps(&known);
        let reading = maps.read(&keys)?;
        let config = server.read_config(&reading.texts);
        let config = config.map_err(UnreadMap::Failed)?;
        let reload = match config.as_ref().map(Reload::read) {
            // Without a Corefile in the ConfigMap, CoreDNS keeps running with its current one.
            None | Some(Reload::Refused) => Reload::Refused,
            Some(_) if reading.updates == ConfigMapUpdates::Never => Reload::Never,
            Some(_) if !server.follows_edits(&reading.texts) => Reload::Never,
            Some(reload) => reload,
        };
        let pods = running_pods(self.starts.as_ref(), watch);
        // The kubelet writes each ConfigMap by itself, so CoreDNS may see the later of two edits
        // first.
        if keys.len() > 1 && self.versions.is_unsettled(&config, pods) {
            self.versions.add_unknown();
        }
        self.versions
            .add_version(config.clone(), reload, reading.written, pods);
        Ok(config)
    }
}

fn running_pods(starts: Option<&PodStarts>, watch: PodWatch) -> RunningPods<'_> {
    match (watch, starts) {
        (PodWatch::Off, _) => RunningPods::NotWatched,
        (PodWatch::On, None) => RunningPods::Unknown,
        (PodWatch::On, Some(starts)) => RunningPods::Started(starts),
    }
}
