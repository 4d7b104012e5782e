//! Which ConfigMap a file of a container comes from.

use k8s_openapi::api::core::v1 as core;

use crate::cluster::objects::Key;

/// The mounts of a container.
pub(super) struct Mounts<'a> {
    namespace: &'a str,
    mounts: &'a [core::VolumeMount],
    volumes: &'a [core::Volume],
}

/// Where a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum File {
    /// In a ConfigMap, under this key.
    Map {
        map: Key,
        key: String,
        by_path: ByPath,
    },
    /// Where the container can write it.
    Scratch,
    /// Somewhere else; with a reason.
    Unknown(String),
}

/// How a file of a ConfigMap is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByPath {
    /// With its directory, which the kubelet keeps up to date.
    WithDirectory,
    /// Alone, by `subPath`: the kubelet never updates it.
    Alone,
}

impl<'a> Mounts<'a> {
    pub(super) fn new(container: &'a core::Container, pod: &'a core::Pod) -> Mounts<'a> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        Mounts {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
            mounts: container.volume_mounts.as_deref().unwrap_or_default(),
            volumes: volumes.unwrap_or_default(),
        }
    }

    /// Where the file with this path is.
    pub(super) fn file(&self, path: &str) -> File {
        if !is_plain(path) {
            return File::Unknown(format!("{path:?} is no path that Zerohop can follow"));
        }
        let Some((mount, below)) = self.mount_of(path) else {
            return File::Scratch;
        };
        let unknown = |what: &str| File::Unknown(format!("{path} is {what}"));
        let Some(volume) = self.volume(mount) else {
            return unknown("in a volume that the Pod doesn't have");
        };
        let is_writable = volume.empty_dir.is_some() || volume.host_path.is_some();
        if is_writable && mount.read_only != Some(true) {
            return File::Scratch;
        }
        let Some(source) = &volume.config_map else {
            return unknown("in a volume that Zerohop can't read");
        };
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        if mount
            .sub_path_expr
            .as_deref()
            .is_some_and(|text| !text.is_empty())
        {
            return unknown("mounted by an expression");
        }
        let file = [sub_path.trim_matches('/'), below];
        let file: Vec<&str> = file.into_iter().filter(|part| !part.is_empty()).collect();
        let file = file.join("/");
        let key = match &source.items {
            None => Some(file.as_str()).filter(|file| !file.contains('/')),
            Some(items) => {
                let item = items.iter().find(|item| item.path == file);
                item.map(|item| item.key.as_str())
            }
        };
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return unknown("no file of its ConfigMap");
        };
        File::Map {
            map: Key::new(self.namespace, &*source.name),
            key: key.to_owned(),
            by_path: match sub_path.is_empty() {
                true => ByPath::WithDirectory,
                false => ByPath::Alone,
            },
        }
    }

    /// The ConfigMap that is mounted as a directory, if any is.
    pub(super) fn map(&self, directory: &str) -> Result<Option<Key>, String> {
        let Some((mount, below)) = self.mount_of(directory) else {
            return Ok(None);
        };
        let source = self
            .volume(mount)
            .and_then(|volume| volume.config_map.as_ref());
        let is_whole =
            below.is_empty() && mount.sub_path.is_none() && mount.sub_path_expr.is_none();
        match source.filter(|source| is_whole && source.items.is_none()) {
            Some(source) => Ok(Some(Key::new(self.namespace, &*source.name))),
            None => Err(format!(
                "{directory} is in a volume that Zerohop can't read"
            )),
        }
    }

    /// The innermost mount above a path, and what of the path is below it.
    fn mount_of<'p>(&self, path: &'p str) -> Option<(&'a core::VolumeMount, &'p str)> {
        let below = |mount: &'a core::VolumeMount| {
            let at = mount.mount_path.trim_end_matches('/');
            let rest = path.strip_prefix(at)?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (mount, rest.trim_matches('/'), at.len()))
        };
        let mounts = self.mounts.iter().filter_map(below);
        let innermost = mounts.max_by_key(|(_, _, length)| *length);
        innermost.map(|(mount, rest, _)| (mount, rest))
    }

    fn volume(&self, mount: &core::VolumeMount) -> Option<&'a core::Volume> {
        self.volumes.iter().find(|volume| volume.name == mount.name)
    }
}

/// Whether a path is absolute and can be compared as a text.
fn is_plain(path: &str) -> bool {
    let parts = || path.trim_end_matches('/').split('/').skip(1);
    path.starts_with('/') && parts().all(|part| !matches!(part, "" | "." | ".."))
}
