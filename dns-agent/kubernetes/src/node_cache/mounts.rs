//! A container's mounts: which ConfigMap a file comes from.

use k8s_openapi::api::core::v1 as core;

use crate::objects::ObjectKey;

/// A container's mounts.
pub(super) struct Mounts<'a> {
    namespace: &'a str,
    mounts: &'a [core::VolumeMount],
    volumes: &'a [core::Volume],
}

/// Where a container's file comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileLocation {
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
pub(super) enum MountForm {
    /// With its directory, which the kubelet keeps up to date.
    WithDirectory,
    /// Without its directory, by `subPath`. The kubelet never updates the file.
    SingleFile,
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

    /// Where the file at this path comes from.
    pub(super) fn locate_file(&self, path: &str) -> FileLocation {
        if !is_comparable_path(path) {
            return FileLocation::Unknown(format!(
                "{path:?} is not an absolute path, or has a part that is empty, . or .."
            ));
        }
        let Some((mount, below)) = self.find_mount(path) else {
            return FileLocation::Writable;
        };
        let unknown = |what: &str| FileLocation::Unknown(format!("{path} is {what}"));
        let Some(volume) = self.find_volume(mount) else {
            return unknown("in a volume that the Pod doesn't have");
        };
        let is_writable = volume.empty_dir.is_some() || volume.host_path.is_some();
        if is_writable && mount.read_only != Some(true) {
            return FileLocation::Writable;
        }
        let Some(source) = &volume.config_map else {
            return unknown("in a volume that is not a ConfigMap");
        };
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        if mount
            .sub_path_expr
            .as_deref()
            .is_some_and(|text| !text.is_empty())
        {
            return unknown("mounted with a subPathExpr, which Zerohop doesn't evaluate");
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
            return unknown("not a file of its ConfigMap");
        };
        FileLocation::ConfigMap {
            map: ObjectKey::new(self.namespace, &*source.name),
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
    pub(super) fn find_config_map(&self, directory: &str) -> Result<Option<ObjectKey>, String> {
        let Some((mount, below)) = self.find_mount(directory) else {
            return Ok(None);
        };
        let source = self
            .find_volume(mount)
            .and_then(|volume| volume.config_map.as_ref());
        let is_whole =
            below.is_empty() && mount.sub_path.is_none() && mount.sub_path_expr.is_none();
        match source.filter(|source| is_whole && source.items.is_none()) {
            Some(source) => Ok(Some(ObjectKey::new(self.namespace, &*source.name))),
            None => Err(format!(
                "{directory} is in a volume, but is not a whole ConfigMap"
            )),
        }
    }

    /// The innermost mount at or above a path, and the rest of the path below it.
    fn find_mount<'p>(&self, path: &'p str) -> Option<(&'a core::VolumeMount, &'p str)> {
        let match_mount = |mount: &'a core::VolumeMount| {
            let at = mount.mount_path.trim_end_matches('/');
            let rest = path.strip_prefix(at)?;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (mount, rest.trim_matches('/'), at.len()))
        };
        let mounts = self.mounts.iter().filter_map(match_mount);
        let innermost = mounts.max_by_key(|(_, _, length)| *length);
        innermost.map(|(mount, rest, _)| (mount, rest))
    }

    fn find_volume(&self, mount: &core::VolumeMount) -> Option<&'a core::Volume> {
        self.volumes.iter().find(|volume| volume.name == mount.name)
    }
}

/// Whether a path can be compared as text: it is absolute, and no part is empty, `.` or `..`. It
/// may end with slashes.
fn is_comparable_path(path: &str) -> bool {
    let parts = || path.trim_end_matches('/').split('/').skip(1);
    path.starts_with('/') && parts().all(|part| !matches!(part, "" | "." | ".."))
}
