//! A container's files: which of them come from ConfigMaps, and their texts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::objects::ObjectKey;

/// The values of a ConfigMap by key.
pub type ConfigMapData = BTreeMap<String, String>;

/// The data of ConfigMaps. `None`: the ConfigMap doesn't exist.
pub type ConfigMapTexts = BTreeMap<ObjectKey, Option<Arc<ConfigMapData>>>;

/// The volumes that a container mounts. Containers of Pods from the same template have equal
/// mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mounts(Vec<FileMount>);

/// A mounted volume, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileMount {
    /// The path, without a slash at the end.
    at: String,
    content: MountContent,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MountContent {
    ConfigMaps {
        /// The ConfigMaps. There are several only in a projected volume.
        sources: Vec<ConfigMapSource>,
        /// The file or directory of the volume that is mounted. Empty: the whole volume.
        sub_path: String,
    },
    /// An `emptyDir` or `hostPath` that is mounted writable.
    Writable,
    /// The credentials of the Pod's service account, as Kubernetes' admission plugin adds them.
    ServiceAccount,
    /// Zerohop can't tell. The text is the reason, as in "`<path>` is …".
    Unknown(String),
}

/// A ConfigMap in a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ConfigMapSource {
    map: ObjectKey,
    /// The files: keys and their paths. `None`: all keys, each with the key as its path.
    items: Option<Vec<(String, String)>>,
    presence: MapPresence,
}

/// Whether a Pod can run without a ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MapPresence {
    Required,
    Optional,
}

/// Where a container's file comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileLocation {
    /// A key of a ConfigMap.
    ConfigMap {
        map: ObjectKey,
        key: String,
        mount_form: MountForm,
    },
    /// The container's own file system, or an `emptyDir` or `hostPath` that is mounted writable.
    Writable,
    /// Zerohop can't tell. The text is the reason, as a clause.
    Unknown(String),
}

/// How a file of a ConfigMap is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountForm {
    /// With its directory, which the kubelet keeps up to date.
    WithDirectory,
    /// Without its directory, by `subPath`. The kubelet never updates the file.
    SingleFile,
}

/// The texts of a container's files, as far as its ConfigMaps are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownFiles(Vec<KnownMount>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownMount {
    /// As in [`FileMount`].
    at: String,
    /// The texts, by their paths below `at`. A file mounted by itself has the empty path. `Err`:
    /// why they aren't known, as in "`<path>` is …".
    texts: Result<BTreeMap<String, String>, String>,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownFile<'a> {
    Text(&'a str),
    /// There is no such file.
    Absent,
    /// Zerohop can't tell. The text is the reason, as a clause.
    Unknown(String),
}

impl Mounts {
    pub(crate) fn new(container: &core::Container, pod: &core::Pod) -> Mounts {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        let volumes = volumes.unwrap_or_default();
        let mounts = || container.volume_mounts.iter().flatten();
        if let Some(mount) = mounts().find(|mount| !is_comparable_path(&mount.mount_path)) {
            let reason = format!("in a container with a mount at {}", mount.mount_path);
            return Mounts(vec![FileMount {
                at: String::new(),
                content: MountContent::Unknown(reason),
            }]);
        }
        let mounts = mounts().map(|mount| FileMount {
            at: mount.mount_path.trim_end_matches('/').to_owned(),
            content: MountContent::of(namespace, mount, volumes),
        });
        Mounts(mounts.collect())
    }

    /// Where the file at this path comes from.
    pub(crate) fn locate_file(&self, path: &str) -> FileLocation {
        if !is_comparable_path(path) {
            return FileLocation::Unknown(format!(
                "{path:?} is not an absolute path, or has a part that is empty, . or .."
            ));
        }
        let Some((mount, below)) = innermost(self.0.iter(), path, |mount| &mount.at) else {
            return FileLocation::Writable;
        };
        let unknown = |what: &str| FileLocation::Unknown(format!("{path} is {what}"));
        let (sources, sub_path) = match &mount.content {
            MountContent::Writable => return FileLocation::Writable,
            MountContent::ServiceAccount => return unknown("in a volume that is not a ConfigMap"),
            MountContent::Unknown(reason) => return unknown(reason),
            MountContent::ConfigMaps { sources, sub_path } => (sources, sub_path),
        };
        let file = [sub_path.as_str(), below].into_iter();
        let file: Vec<&str> = file.filter(|part| !part.is_empty()).collect();
        let file = file.join("/");
        let (source, key) = match sources.as_slice() {
            [] => return unknown("in a volume that is not a ConfigMap"),
            [source] => (source, source.key_of(&file)),
            // The keys of a ConfigMap without `items` aren't known here.
            sources if sources.iter().any(|source| source.items.is_none()) => {
                return unknown("in a volume with several ConfigMaps");
            }
            // A later source replaces the files of an earlier one.
            [first, ..] => {
                let mut with_file = sources.iter().rev();
                let found = with_file.find(|source| source.key_of(&file).is_some());
                let source = found.unwrap_or(first);
                (source, source.key_of(&file))
            }
        };
        let Some(key) = key else {
            return unknown("not a file of its ConfigMap");
        };
        FileLocation::ConfigMap {
            map: source.map.clone(),
            key: key.to_owned(),
            mount_form: if sub_path.is_empty() {
                MountForm::WithDirectory
            } else {
                MountForm::SingleFile
            },
        }
    }

    /// The ConfigMap that is mounted at a directory. `None` if nothing is mounted at or above the
    /// directory. `Err` if anything else is mounted, or only a part of a ConfigMap, with the reason
    /// as a clause.
    pub(crate) fn find_config_map(&self, directory: &str) -> Result<Option<ObjectKey>, String> {
        let Some((mount, below)) = innermost(self.0.iter(), directory, |mount| &mount.at) else {
            return Ok(None);
        };
        if let MountContent::ConfigMaps { sources, sub_path } = &mount.content
            && let [source] = sources.as_slice()
            && sub_path.is_empty()
            && below.is_empty()
            && source.items.is_none()
        {
            return Ok(Some(source.map.clone()));
        }
        Err(format!(
            "{directory} is in a volume, but is not a whole ConfigMap"
        ))
    }

    /// The ConfigMaps that the files at or directly below a path come from. The path may be that of
    /// a file, of a directory, or a pattern.
    pub(crate) fn config_maps_at(&self, path: &str) -> Vec<&ObjectKey> {
        let mount = innermost(self.0.iter(), path, |mount| &mount.at);
        let sources = match mount.map(|(mount, _)| &mount.content) {
            Some(MountContent::ConfigMaps { sources, .. }) => sources.as_slice(),
            _ => &[],
        };
        sources.iter().map(|source| &source.map).collect()
    }

    /// Whether the kubelet writes the token of the Pod's service account to a directory.
    pub(crate) fn has_service_account_token(&self, directory: &str) -> bool {
        let mut mounts = self.0.iter().filter(|mount| mount.at == directory);
        mounts.any(|mount| mount.content == MountContent::ServiceAccount)
    }

    /// How the file or directory at a path is mounted.
    pub(crate) fn form_at(&self, path: &str) -> MountForm {
        match innermost(self.0.iter(), path, |mount| &mount.at) {
            Some((mount, _)) => match &mount.content {
                MountContent::ConfigMaps { sub_path, .. } if !sub_path.is_empty() => {
                    MountForm::SingleFile
                }
                _ => MountForm::WithDirectory,
            },
            None => MountForm::WithDirectory,
        }
    }

    /// The texts of the files, given the data of these ConfigMaps. Files of other ConfigMaps are
    /// unknown.
    pub(crate) fn read(&self, maps: &ConfigMapTexts) -> KnownFiles {
        let mounts = self.0.iter();
        let known = mounts.map(|FileMount { at, content }| KnownMount {
            at: at.clone(),
            texts: content.read(maps),
        });
        KnownFiles(known.collect())
    }
}

impl MountContent {
    fn of(namespace: &str, mount: &core::VolumeMount, volumes: &[core::Volume]) -> MountContent {
        let unknown = |reason: &str| MountContent::Unknown(reason.to_owned());
        let Some(volume) = volumes.iter().find(|volume| volume.name == mount.name) else {
            return unknown("in a volume that the Pod doesn't have");
        };
        let is_writable = volume.empty_dir.is_some() || volume.host_path.is_some();
        if is_writable && mount.read_only != Some(true) {
            return MountContent::Writable;
        }
        let source = |name: &str, items: Option<&Vec<core::KeyToPath>>, optional| {
            let items = items.map(|items| {
                let items = items.iter();
                items.map(|item| (item.key.clone(), item.path.clone()))
            });
            ConfigMapSource {
                map: ObjectKey::new(namespace, name),
                items: items.map(Iterator::collect),
                presence: match optional {
                    Some(true) => MapPresence::Optional,
                    _ => MapPresence::Required,
                },
            }
        };
        if volume.projected.as_ref().is_some_and(holds_service_account) {
            return MountContent::ServiceAccount;
        }
        let sources = match (&volume.config_map, &volume.projected) {
            (Some(map), _) => Some(vec![source(&map.name, map.items.as_ref(), map.optional)]),
            // Another source may hold any file.
            (None, Some(projected)) => {
                let sources = projected.sources.iter().flatten();
                let sources = sources.map(|projection| {
                    let map = projection.config_map.as_ref()?;
                    Some(source(&map.name, map.items.as_ref(), map.optional))
                });
                sources.collect()
            }
            (None, None) => None,
        };
        let Some(sources) = sources else {
            return unknown("in a volume that is not a ConfigMap");
        };
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        if !expression.is_empty() {
            return unknown("mounted with a subPathExpr, which Zerohop doesn't evaluate");
        }
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        MountContent::ConfigMaps {
            sources,
            sub_path: sub_path.trim_matches('/').to_owned(),
        }
    }

    /// The texts by their paths below the mount. `Err` is as in [`KnownMount`].
    fn read(&self, maps: &ConfigMapTexts) -> Result<BTreeMap<String, String>, String> {
        let (sources, sub_path) = match self {
            MountContent::ConfigMaps { sources, sub_path } => (sources, sub_path),
            MountContent::Writable | MountContent::ServiceAccount => {
                return Err("in a volume that is not a ConfigMap".to_owned());
            }
            MountContent::Unknown(reason) => return Err(reason.clone()),
        };
        let mut texts = BTreeMap::new();
        for source in sources {
            // See `pkg/volume/projected` in Kubernetes for the order.
            texts.extend(source.read(maps)?);
        }
        if sub_path.is_empty() {
            return Ok(texts);
        }
        let below = |(path, text): (String, String)| {
            let rest = path.strip_prefix(sub_path.as_str())?;
            let rest = match rest.strip_prefix('/') {
                Some(rest) => rest,
                None if rest.is_empty() => rest,
                None => return None,
            };
            Some((rest.to_owned(), text))
        };
        Ok(texts.into_iter().filter_map(below).collect())
    }
}

impl ConfigMapSource {
    /// The key that becomes the file at a path below the volume. Without `items`, there may be no
    /// such key.
    fn key_of<'a>(&'a self, file: &'a str) -> Option<&'a str> {
        let key = match &self.items {
            None => Some(file).filter(|file| !file.contains('/')),
            Some(items) => {
                let item = items.iter().find(|(_, path)| path == file);
                item.map(|(key, _)| key.as_str())
            }
        };
        key.filter(|key| !key.is_empty())
    }

    /// The texts by path. `Err` is as in [`KnownMount`].
    fn read(&self, maps: &ConfigMapTexts) -> Result<BTreeMap<String, String>, String> {
        let map = &self.map;
        let data = match maps.get(map) {
            None => return Err(format!("in ConfigMap {map}, which has not been read")),
            Some(None) if self.presence == MapPresence::Optional => return Ok(BTreeMap::new()),
            // The kubelet keeps the files of a Pod that runs.
            Some(None) => return Err(format!("in ConfigMap {map}, which doesn't exist")),
            Some(Some(data)) => data,
        };
        let Some(items) = &self.items else {
            return Ok(data.as_ref().clone());
        };
        let mut texts = BTreeMap::new();
        for (key, path) in items {
            match data.get(key) {
                Some(text) => {
                    texts.insert(path.clone(), text.clone());
                }
                None if self.presence == MapPresence::Optional => {}
                None => return Err(format!("in ConfigMap {map}, which has no {key}")),
            }
        }
        Ok(texts)
    }
}

impl KnownFiles {
    /// The file at this path.
    pub(crate) fn read(&self, path: &str) -> KnownFile<'_> {
        if !is_comparable_path(path) {
            return KnownFile::Unknown(format!("{path} is not a plain absolute path"));
        }
        let Some((mount, below)) = innermost(self.0.iter(), path, |mount| &mount.at) else {
            return KnownFile::Unknown(format!("{path} is not in a ConfigMap"));
        };
        match &mount.texts {
            Err(reason) => KnownFile::Unknown(format!("{path} is {reason}")),
            Ok(texts) => match texts.get(below) {
                Some(text) => KnownFile::Text(text),
                None => KnownFile::Absent,
            },
        }
    }

    /// The paths that match a pattern with `*` or `?` in its last part, in the order of Go's
    /// `filepath.Glob`. `Err`: why they aren't known, as a clause.
    pub(crate) fn find(&self, pattern: &str) -> Result<Vec<String>, String> {
        let (directory, pattern_part) = pattern.rsplit_once('/').unwrap_or_default();
        if directory.contains(['*', '?', '[', '\\']) || pattern_part.contains(['[', '\\']) {
            return Err(format!(
                "{pattern} is a pattern that Zerohop doesn't understand"
            ));
        }
        // The last part doesn't matter here.
        let probe = format!("{directory}/x");
        if !is_comparable_path(&probe) {
            return Err(format!("{pattern} is not a plain absolute path"));
        }
        let inner_mount = |mount: &KnownMount| {
            let below = mount.at.strip_prefix(directory);
            below.is_some_and(|below| below.starts_with('/'))
        };
        if self.0.iter().any(inner_mount) {
            return Err(format!("there are volumes below {directory}"));
        }
        let Some((mount, _)) = innermost(self.0.iter(), &probe, |mount| &mount.at) else {
            return Err(format!("{directory} is not in a ConfigMap"));
        };
        let texts = match &mount.texts {
            Ok(texts) => texts,
            Err(reason) => return Err(format!("{directory} is {reason}")),
        };
        let below = directory[mount.at.len()..].trim_start_matches('/');
        let entry = |path: &String| {
            let rest = match below {
                "" => Some(path.as_str()),
                below => {
                    let rest = path.strip_prefix(below);
                    rest.and_then(|rest| rest.strip_prefix('/'))
                }
            }?;
            Some(rest.split('/').next().unwrap_or(rest).to_owned())
        };
        let entries: BTreeSet<String> = texts.keys().filter_map(entry).collect();
        let is_directory = |name: &&String| !texts.contains_key(&join(below, name));
        let matching = entries.iter();
        let matching: Vec<&String> = matching
            .filter(|name| matches_pattern(pattern_part, name))
            .collect();
        if may_match_hidden(pattern_part) || matching.iter().any(is_directory) {
            return Err(format!(
                "{pattern} matches directories, so CoreDNS refuses it"
            ));
        }
        let paths = matching.into_iter();
        Ok(paths.map(|name| join(directory, name)).collect())
    }
}

/// Whether a volume holds a token of the Pod's service account and the certificate of its cluster
/// (Kubernetes, `plugin/pkg/admission/serviceaccount`).
fn holds_service_account(volume: &core::ProjectedVolumeSource) -> bool {
    let sources = || volume.sources.iter().flatten();
    let is_token = |source: &core::VolumeProjection| {
        let token = source.service_account_token.as_ref();
        token.is_some_and(|token| token.audience.is_none())
    };
    let is_certificate = |source: &core::VolumeProjection| {
        let map = source.config_map.as_ref();
        map.is_some_and(|map| map.name == "kube-root-ca.crt")
    };
    sources().any(is_token) && sources().any(is_certificate)
}

/// Whether Go's `filepath.Match` matches a name with a pattern of text, `*` and `?`.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| matches_pattern(rest, &name[at..]))
        }
        Some(wanted) => {
            let mut chars = name.chars();
            let is_equal = chars.next().is_some_and(|c| wanted == '?' || wanted == c);
            is_equal && matches_pattern(&pattern[wanted.len_utf8()..], chars.as_str())
        }
    }
}

/// Whether a pattern may match a directory in which the kubelet keeps the files of a volume, such
/// as `..data` or `..2026_01_31_12_34_56.123456789`.
fn may_match_hidden(pattern: &str) -> bool {
    let end = pattern.rsplit(['*', '?']).next().unwrap_or_default();
    let is_time = |c: char| c.is_ascii_digit() || matches!(c, '_' | '.');
    pattern.starts_with(['*', '?', '.']) && end.chars().all(is_time)
        || matches_pattern(pattern, "..data")
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

/// The innermost mount at or above a path, and the rest of the path below it.
fn innermost<'m, 'p, M>(
    mounts: impl Iterator<Item = &'m M>,
    path: &'p str,
    at: impl Fn(&M) -> &str,
) -> Option<(&'m M, &'p str)> {
    let match_mount = |mount: &'m M| {
        let at = at(mount);
        let rest = path.strip_prefix(at)?;
        (rest.is_empty() || rest.starts_with('/'))
            .then(|| (mount, rest.trim_matches('/'), at.len()))
    };
    let innermost = mounts
        .filter_map(match_mount)
        .max_by_key(|(_, _, length)| *length);
    innermost.map(|(mount, rest, _)| (mount, rest))
}

/// Whether a path can be compared as text: it is absolute, and no part is empty, `.` or `..`. It
/// may end with slashes.
fn is_comparable_path(path: &str) -> bool {
    let parts = || path.trim_end_matches('/').split('/').skip(1);
    path.starts_with('/') && parts().all(|part| !matches!(part, "" | "." | ".."))
}
