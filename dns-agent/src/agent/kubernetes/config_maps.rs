//! Watches single ConfigMaps: those that hold the configuration of CoreDNS or of a node cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use zerohop_kubernetes::{
    ConfigMapData, ConfigMapTexts, ConfigMapUpdates, Event, ObjectKey, WriteTime,
};
use zerohop_kubernetes_api::{Client, FeedActivity, KubernetesSource, ReceivedEvent, SourceHealth};

/// The number of events of one source that may wait. More events wait in the connections to the API
/// server.
const EVENT_QUEUE: usize = 16;

/// The most ConfigMaps that are watched. With more, some stay unknown.
const MAX_MAPS: usize = 32;

/// Watched ConfigMaps.
pub(super) struct ConfigMapWatches {
    client: Client,
    maps: BTreeMap<ObjectKey, WatchedConfigMap>,
}

/// The texts of some ConfigMaps.
pub(super) struct ConfigMapsReading {
    pub(super) texts: ConfigMapTexts,
    /// When the ConfigMap that was written last was written, if known.
    pub(super) written: Option<WriteTime>,
    /// Whether running pods receive later changes of all of them.
    pub(super) updates: ConfigMapUpdates,
}

/// Why a ConfigMap isn't known, as a clause.
#[derive(Debug)]
pub(super) enum UnreadMap {
    /// Its first list has not ended.
    Awaited(String),
    Failed(String),
}

impl From<UnreadMap> for String {
    fn from(unread: UnreadMap) -> String {
        match unread {
            UnreadMap::Awaited(reason) | UnreadMap::Failed(reason) => reason,
        }
    }
}

struct WatchedConfigMap {
    source: KubernetesSource,
    events: mpsc::Receiver<ReceivedEvent>,
    /// The ConfigMap's texts: `None` while they are not known, `Some(None)` if the ConfigMap does
    /// not exist.
    data: Option<Option<Arc<ConfigMapData>>>,
    /// When the ConfigMap was last written, if known.
    written: Option<WriteTime>,
    updates: ConfigMapUpdates,
    /// Whether the ConfigMap exists but can't be parsed.
    is_unusable: bool,
}

impl ConfigMapWatches {
    pub(super) fn new(client: Client) -> ConfigMapWatches {
        ConfigMapWatches {
            client,
            maps: BTreeMap::new(),
        }
    }

    /// The health of all sources.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<SourceHealth>> {
        self.maps.values().map(|map| map.source.health())
    }

    /// Watches the first [`MAX_MAPS`] of these ConfigMaps, and no others.
    pub(super) fn watch(&mut self, wanted: &BTreeSet<ObjectKey>) {
        self.maps.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if !self.maps.contains_key(key) && self.maps.len() < MAX_MAPS {
                let map = WatchedConfigMap::start(self.client.clone(), key);
                self.maps.insert(key.clone(), map);
            }
        }
    }

    /// The texts of the watched ConfigMaps that are known.
    pub(super) fn known(&self) -> ConfigMapTexts {
        let known = self.maps.iter();
        known
            .filter_map(|(key, map)| Some((key.clone(), map.data.clone()?)))
            .collect()
    }

    /// The texts of these ConfigMaps.
    pub(super) fn read<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a ObjectKey>,
    ) -> Result<ConfigMapsReading, UnreadMap> {
        let mut reading = ConfigMapsReading {
            texts: ConfigMapTexts::new(),
            written: None,
            updates: ConfigMapUpdates::Propagated,
        };
        for key in keys {
            let map = self.maps.get(key).ok_or_else(|| {
                UnreadMap::Failed(format!(
                    "ConfigMap {key} isn't read, because at most {MAX_MAPS} ConfigMaps with \
                     configurations are read"
                ))
            })?;
            let data = map.data.as_ref().ok_or_else(|| map.why_unknown(key))?;
            reading.texts.insert(key.clone(), data.clone());
            reading.written = later_write(reading.written, map.written);
            if map.updates == ConfigMapUpdates::Never {
                reading.updates = ConfigMapUpdates::Never;
            }
        }
        Ok(reading)
    }

    /// Ready after applying the next event of any source. A source that has ended is ignored.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for map in self.maps.values_mut() {
            if let Poll::Ready(Some(event)) = map.events.poll_recv(context) {
                map.apply_event(event.event);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl WatchedConfigMap {
    fn start(client: Client, key: &ObjectKey) -> WatchedConfigMap {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        WatchedConfigMap {
            source: KubernetesSource::start_config_map(client, key, sender),
            events,
            data: None,
            written: None,
            updates: ConfigMapUpdates::Propagated,
            is_unusable: false,
        }
    }

    fn apply_event(&mut self, event: Event) {
        match event {
            Event::ConfigMap {
                data,
                written,
                updates,
            } => {
                self.data = Some(data.map(Arc::new));
                self.written = written;
                self.updates = updates;
                self.is_unusable = false;
            }
            Event::Unusable { .. } => {
                self.data = None;
                self.is_unusable = true;
            }
            _ => {}
        }
    }

    /// Why the texts of the ConfigMap `key` are not known.
    fn why_unknown(&self, key: &ObjectKey) -> UnreadMap {
        let feeds = self.source.health().feeds();
        let mut errors = feeds
            .into_values()
            .filter_map(|health| match health.activity {
                FeedActivity::Retrying { error } => Some(error),
                _ => None,
            });
        match errors.next() {
            Some(error) => UnreadMap::Failed(format!(
                "ConfigMap {key} can't be read: {error}; if reading is forbidden, add {} to \
                 resourceNames of `configmaps` in the agent's ClusterRole",
                key.name
            )),
            None if self.is_unusable => {
                UnreadMap::Failed(format!("ConfigMap {key} has entries that can't be read"))
            }
            None => UnreadMap::Awaited(format!("ConfigMap {key} has not been read yet")),
        }
    }
}

/// The later of two times. An unknown time counts as earlier than any other. If one of the
/// ConfigMaps was edited, an earlier configuration existed, although the other was created later.
fn later_write(a: Option<WriteTime>, b: Option<WriteTime>) -> Option<WriteTime> {
    let at = |written: &WriteTime| match written {
        WriteTime::Created(at) | WriteTime::Edited(at) => *at,
    };
    let both = || a.into_iter().chain(b);
    let later = both().max_by_key(at)?;
    Some(match both().any(|it| matches!(it, WriteTime::Edited(_))) {
        true => WriteTime::Edited(at(&later)),
        false => later,
    })
}
