//! The files with the configuration of a CoreDNS that runs in a pod.

use std::collections::BTreeSet;

use super::container_files::{ConfigMapTexts, KnownFile, MountForm};
use super::coredns_config::{CoreDnsConfig, ListeningPorts, MAX_COREFILE_LENGTH};
use super::coredns_pod::CoreDnsServer;
use super::corefile::named_files;
use super::objects::ObjectKey;

impl CoreDnsServer {
    /// The ConfigMaps that the configuration comes from, as far as the data of these ConfigMaps
    /// shows. A file may name files of other ConfigMaps.
    #[must_use]
    pub fn config_maps(&self, known: &ConfigMapTexts) -> BTreeSet<ObjectKey> {
        let named = self.named_paths(known);
        let maps = named
            .iter()
            .flat_map(|path| self.mounts.config_maps_at(path));
        maps.chain([&self.corefile.0]).cloned().collect()
    }

    /// Whether the kubelet updates all files of the configuration while the container runs.
    #[must_use]
    pub fn follows_edits(&self, known: &ConfigMapTexts) -> bool {
        let named = self.named_paths(known);
        let mut paths = named.iter().chain([&self.path]);
        paths.all(|path| self.mounts.form_at(path) == MountForm::WithDirectory)
    }

    /// The configuration, given the data of its ConfigMaps. `None` if there is no Corefile.
    ///
    /// # Errors
    /// If the ConfigMap of the Corefile isn't in `maps`, or if the Corefile is longer than 1 MiB.
    /// The error is the reason, as a clause.
    pub fn read_config(&self, maps: &ConfigMapTexts) -> Result<Option<CoreDnsConfig>, String> {
        let (map, key) = &self.corefile;
        let Some(data) = maps.get(map) else {
            return Err(format!("ConfigMap {map} has not been read"));
        };
        let Some(text) = data.as_ref().and_then(|data| data.get(key)) else {
            return Ok(None);
        };
        if text.len() > MAX_COREFILE_LENGTH {
            return Err(format!(
                "its Corefile is longer than {MAX_COREFILE_LENGTH} bytes"
            ));
        }
        Ok(Some(CoreDnsConfig {
            corefile: text.clone(),
            path: Some(self.path.clone()).filter(|path| !path.is_empty()),
            files: self.mounts.read(maps),
            variables: self.variables.clone(),
            ports: ListeningPorts {
                default: self.default_port,
                queried: self.queried_port,
            },
            resolv_conf: self.resolv_conf.clone(),
            hosts_file: self.hosts_file,
        }))
    }

    /// The paths and patterns of files that the Corefile names, and those that these files name, as
    /// far as they are known.
    fn named_paths(&self, known: &ConfigMapTexts) -> BTreeSet<String> {
        let (map, key) = &self.corefile;
        let data = known.get(map).and_then(Option::as_ref);
        let Some(text) = data.and_then(|data| data.get(key)) else {
            return BTreeSet::new();
        };
        let files = self.mounts.read(known);
        let mut named = BTreeSet::new();
        let mut unread = vec![(self.path.clone(), text.as_str())];
        while let Some((path, text)) = unread.pop() {
            for name in named_files(text, &path) {
                if !named.insert(name.clone()) {
                    continue;
                }
                let paths = match name.matches(['*', '?']).count() {
                    0 => vec![name],
                    1 | 2 => files.find(&name).unwrap_or_default(),
                    // CoreDNS refuses such a pattern.
                    _ => Vec::new(),
                };
                unread.extend(
                    paths
                        .into_iter()
                        .filter_map(|path| match files.read(&path) {
                            KnownFile::Text(text) => Some((path, text)),
                            KnownFile::Absent | KnownFile::Unknown(_) => None,
                        }),
                );
            }
        }
        named
    }
}

#[cfg(test)]
mod tests;
