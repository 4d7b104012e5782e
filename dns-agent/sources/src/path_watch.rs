//! Watches a file or directory for changes: writes in place, replacement by renaming, and changes
//! to symbolic links on the path, as in a ConfigMap volume.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::warn;

/// A change counts as complete after this time without further events.
const QUIET: Duration = Duration::from_millis(100);
/// A change is reported after this time even if events continue.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// Maximum number of symbolic links followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Watches one path for changes.
#[derive(Debug)]
pub struct PathWatch {
    path: PathBuf,
    change: Arc<Notify>,
    /// Replaced by [`PathWatch::rearm`], because a change may have moved the watched directories.
    watcher: RecommendedWatcher,
}

impl PathWatch {
    /// Starts watching. Changes are noticed from now on, except in directories that the agent may
    /// not read.
    ///
    /// # Errors
    /// When the path is empty or a directory that can't be listed, or inotify can't be used, for
    /// example because the system has no watches left. The path need not exist.
    pub fn new(path: &Path) -> notify::Result<PathWatch> {
        let change = Arc::new(Notify::new());
        let watcher = arm(path, &change)?;
        Ok(PathWatch {
            path: path.to_owned(),
            change,
            watcher,
        })
    }

    /// Waits for a change, and then until it is complete, but at most `MAX_DELAY` longer. If the
    /// future is dropped early, a change may be lost, so the caller must check the files itself.
    pub async fn changed(&mut self) {
        self.change.notified().await;
        let latest = Instant::now() + MAX_DELAY;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet, self.change.notified()).await.is_err() {
                break;
            }
        }
        self.rearm();
    }

    /// Determines again which directories to watch. If they can't be watched, logs a warning and
    /// keeps the previous watch.
    pub fn rearm(&mut self) {
        match arm(&self.path, &self.change) {
            Ok(watcher) => self.watcher = watcher,
            Err(error) => warn!(
                path = %self.path.display(), %error,
                "can't watch this path for changes: changes to its files may take effect up to 10 \
                 seconds late, by the agent's periodic check"
            ),
        }
    }
}

/// Watches the directories whose entries decide what `path` refers to, and the directory at `path`.
fn arm(path: &Path, change: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let scope = WatchScope::resolve(path).map_err(notify::Error::io)?;
    let directories = scope.directories();
    let change = change.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // After an error, a change may have been missed.
        if event.map_or(true, |event| scope.affects_path(&event)) {
            change.notify_one();
        }
    })?;
    for directory in directories {
        match watcher.watch(&directory, RecursiveMode::NonRecursive) {
            Err(error) if !is_inaccessible(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(watcher)
}

/// Whether the directory may stay unwatched: it doesn't exist, or the agent may only traverse it.
fn is_inaccessible(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            )
        }
        _ => false,
    }
}

/// The directory entries that are resolved when a path is opened and read.
#[derive(Debug, Default)]
struct WatchScope {
    /// The path of every component, links included. The parents of these paths contain no links.
    components: BTreeSet<PathBuf>,
    /// The directory whose entries are read, if the path leads to one.
    directory: Option<PathBuf>,
}

impl WatchScope {
    fn resolve(path: &Path) -> io::Result<WatchScope> {
        let mut scope = WatchScope::default();
        let end = scope.walk(&std::path::absolute(path)?);
        if end.is_dir() {
            // The entries of a ConfigMap volume are links into one directory.
            for entry in fs::read_dir(&end)?.filter_map(Result::ok) {
                if entry.path().is_symlink() {
                    scope.walk(&entry.path());
                }
            }
            scope.directory = Some(end);
        }
        Ok(scope)
    }

    /// Resolves an absolute path component by component. Returns the resolved path.
    fn walk(&mut self, path: &Path) -> PathBuf {
        let mut at = PathBuf::from("/");
        let mut ahead = components(path);
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            if step == ".." {
                at.pop();
                continue;
            }
            let here = at.join(step);
            self.components.insert(here.clone());
            match fs::read_link(&here) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    ahead.extend(components(&target));
                }
                _ => at = here,
            }
        }
        at
    }

    /// The directories to watch.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let parents = self.components.iter().filter_map(|step| step.parent());
        parents
            .chain(self.directory.as_deref())
            .map(Path::to_owned)
            .collect()
    }

    /// Whether an event may have changed the file or directory at the path. Reads don't count,
    /// because otherwise each load would trigger the next.
    fn affects_path(&self, event: &Event) -> bool {
        let is_written = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && !is_written {
            return false;
        }
        event.need_rescan()
            || event.paths.iter().any(|path| {
                self.components.contains(path)
                    || self.directory.is_some() && path.parent() == self.directory.as_deref()
            })
    }
}

/// The components of a path, last one first.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(step) => Some(step.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    /// Sets up a directory, watches a path in it ("" is the directory itself), makes a change, and
    /// waits until the change is noticed.
    async fn check_change_is_noticed(
        path: &str,
        set_up: impl FnOnce(&Path),
        change: impl FnOnce(&Path),
    ) {
        let directory = tempfile::tempdir().unwrap();
        set_up(directory.path());
        let mut watch = PathWatch::new(&directory.path().join(path)).unwrap();
        change(directory.path());
        timeout(Duration::from_secs(20), watch.changed())
            .await
            .expect("the change was not noticed");
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn a_write_in_place_is_noticed() {
        check_change_is_noticed(
            "f",
            |at| write(&at.join("f"), "1"),
            |at| write(&at.join("f"), "2"),
        )
        .await;
    }

    #[tokio::test]
    async fn a_replacement_by_renaming_is_noticed() {
        let set_up = |at: &Path| {
            write(&at.join("f"), "1");
            write(&at.join("f~"), "2");
        };
        check_change_is_noticed("f", set_up, |at| {
            fs::rename(at.join("f~"), at.join("f")).unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_new_file_in_a_directory_is_noticed() {
        let set_up = |at: &Path| fs::create_dir(at.join("d")).unwrap();
        check_change_is_noticed("d", set_up, |at| write(&at.join("d/f"), "1")).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_watched_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        fs::create_dir(&path).unwrap();
        write(&path.join("f"), "1");
        let mut watch = PathWatch::new(&path).unwrap();
        for round in ["2", "3"] {
            fs::remove_dir_all(&path).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("the removal was not noticed");
            fs::create_dir(&path).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("the creation was not noticed");
            write(&path.join("f"), round);
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("the new file was not noticed");
        }
    }

    /// Lays out a ConfigMap's files as the kubelet does.
    fn create_config_map(at: &Path) {
        for version in ["..1", "..2"] {
            fs::create_dir(at.join(version)).unwrap();
            write(&at.join(version).join("f"), version);
        }
        symlink("..1", at.join("..data")).unwrap();
        symlink("..data/f", at.join("f")).unwrap();
    }

    /// Updates a ConfigMap's files as the kubelet does.
    fn update_config_map(at: &Path) {
        symlink("..2", at.join("..tmp")).unwrap();
        fs::rename(at.join("..tmp"), at.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn an_updated_config_map_directory_is_noticed() {
        check_change_is_noticed("", create_config_map, update_config_map).await;
    }

    #[tokio::test]
    async fn an_updated_config_map_file_is_noticed() {
        check_change_is_noticed("f", create_config_map, update_config_map).await;
    }

    #[tokio::test]
    async fn a_write_in_place_behind_links_is_noticed() {
        check_change_is_noticed("", create_config_map, |at| write(&at.join("..1/f"), "3")).await;
    }

    #[test]
    fn reads_and_changes_of_neighbours_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap();
        let file = path.join("f");
        write(&file, "1");
        let modified = EventKind::Modify(notify::event::ModifyKind::Any);
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let event = |kind: EventKind, path: &Path| Event::new(kind).add_path(path.to_owned());

        let scope = WatchScope::resolve(&file).unwrap();
        assert!(scope.affects_path(&event(modified, &file)));
        assert!(scope.affects_path(&event(written, &file)));
        assert!(!scope.affects_path(&event(opened, &file)));
        assert!(!scope.affects_path(&event(modified, &path.join("g"))));

        let scope = WatchScope::resolve(&path).unwrap();
        assert!(scope.affects_path(&event(modified, &path.join("g"))));
        assert!(!scope.affects_path(&event(opened, &path.join("g"))));
        assert!(!scope.affects_path(&event(modified, &path.with_file_name("another"))));
    }
}
