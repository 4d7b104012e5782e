//! Notices when a file or directory changes, however it changes: written in
//! place, replaced by renaming, or reached over another link, as in a ConfigMap
//! volume.

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

/// A change is over when nothing more happened for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A change that doesn't end is reported after this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Watches a path.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    change: Arc<Notify>,
    /// Replaced after each change, which may have moved what is to be watched.
    watcher: RecommendedWatcher,
}

impl Watch {
    /// Starts watching. What changes from now on is noticed.
    ///
    /// # Errors
    /// When the system has no more watches to give.
    pub fn new(path: &Path) -> notify::Result<Watch> {
        let change = Arc::new(Notify::new());
        let watcher = arm(path, &change)?;
        Ok(Watch {
            path: path.to_owned(),
            change,
            watcher,
        })
    }

    /// Waits for a change, and for it to be over.
    pub async fn changed(&mut self) {
        self.change.notified().await;
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet, self.change.notified()).await.is_err() {
                break;
            }
        }
        self.arm_anew();
    }

    /// Finds out anew what is to be watched.
    pub fn arm_anew(&mut self) {
        match arm(&self.path, &self.change) {
            Ok(watcher) => self.watcher = watcher,
            Err(error) => warn!(
                path = %self.path.display(), %error,
                "can't watch anew: later changes may go unnoticed until a restart"
            ),
        }
    }
}

/// Watches everything that decides what stands at a path.
fn arm(path: &Path, change: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let scope = Scope::of(path).map_err(notify::Error::io)?;
    let directories = scope.directories();
    let change = change.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| scope.concerns(&event)) {
            change.notify_one();
        }
    })?;
    for directory in directories {
        match watcher.watch(&directory, RecursiveMode::NonRecursive) {
            Err(error) if !is_out_of_reach(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(watcher)
}

/// Directories that went away, or that only the way leads through, need not be
/// watched.
fn is_out_of_reach(error: &notify::Error) -> bool {
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

/// What is looked at when a path is opened, and read.
#[derive(Debug, Default)]
struct Scope {
    /// Every step of the way, links included, each as the entry of a directory
    /// that is reached without links.
    steps: BTreeSet<PathBuf>,
    /// The directory whose entries are read, if the path leads to one.
    directory: Option<PathBuf>,
}

impl Scope {
    fn of(path: &Path) -> io::Result<Scope> {
        let mut scope = Scope::default();
        let end = scope.walk(&std::path::absolute(path)?);
        if end.is_dir() {
            // What a ConfigMap volume has in it is links, all into one place.
            for entry in fs::read_dir(&end)?.filter_map(Result::ok) {
                if entry.path().is_symlink() {
                    scope.walk(&entry.path());
                }
            }
            scope.directory = Some(end);
        }
        Ok(scope)
    }

    /// Follows an absolute path step by step, to where it ends.
    fn walk(&mut self, path: &Path) -> PathBuf {
        let mut at = PathBuf::from("/");
        let mut ahead = steps(path);
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            if step == ".." {
                at.pop();
                continue;
            }
            let here = at.join(step);
            self.steps.insert(here.clone());
            match fs::read_link(&here) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    ahead.extend(steps(&target));
                }
                _ => at = here,
            }
        }
        at
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        let parents = self.steps.iter().filter_map(|step| step.parent());
        parents
            .chain(self.directory.as_deref())
            .map(Path::to_owned)
            .collect()
    }

    /// Whether an event may have changed what stands at the path. Reading it has
    /// not, or each load would cause the next.
    fn concerns(&self, event: &Event) -> bool {
        let is_written = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && !is_written {
            return false;
        }
        event.need_rescan()
            || event.paths.iter().any(|path| {
                self.steps.contains(path)
                    || self.directory.is_some() && path.parent() == self.directory.as_deref()
            })
    }
}

/// The steps of a path, last one first.
fn steps(path: &Path) -> Vec<OsString> {
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

    /// Sets a directory up, watches a path in it, changes it, and waits until
    /// that is noticed.
    async fn check(path: &str, set_up: impl FnOnce(&Path), change: impl FnOnce(&Path)) {
        let directory = tempfile::tempdir().unwrap();
        set_up(directory.path());
        let mut watch = Watch::new(&directory.path().join(path)).unwrap();
        change(directory.path());
        timeout(Duration::from_secs(20), watch.changed())
            .await
            .expect("unnoticed");
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn a_file_written_in_place() {
        check(
            "f",
            |at| write(&at.join("f"), "1"),
            |at| write(&at.join("f"), "2"),
        )
        .await;
    }

    #[tokio::test]
    async fn a_file_replaced_by_renaming() {
        let set_up = |at: &Path| {
            write(&at.join("f"), "1");
            write(&at.join("f~"), "2");
        };
        check("f", set_up, |at| {
            fs::rename(at.join("f~"), at.join("f")).unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_in_a_directory() {
        let set_up = |at: &Path| fs::create_dir(at.join("d")).unwrap();
        check("d", set_up, |at| write(&at.join("d/f"), "1")).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_watched_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        fs::create_dir(&path).unwrap();
        write(&path.join("f"), "1");
        let mut watch = Watch::new(&path).unwrap();
        for round in ["2", "3"] {
            fs::remove_dir_all(&path).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("removal unnoticed");
            fs::create_dir(&path).unwrap();
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("creation unnoticed");
            write(&path.join("f"), round);
            timeout(Duration::from_secs(20), watch.changed())
                .await
                .expect("file unnoticed");
        }
    }

    /// As the kubelet lays out a ConfigMap's files, and replaces them.
    fn config_map(at: &Path) {
        for version in ["..1", "..2"] {
            fs::create_dir(at.join(version)).unwrap();
            write(&at.join(version).join("f"), version);
        }
        symlink("..1", at.join("..data")).unwrap();
        symlink("..data/f", at.join("f")).unwrap();
    }

    fn swap(at: &Path) {
        symlink("..2", at.join("..tmp")).unwrap();
        fs::rename(at.join("..tmp"), at.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn a_config_map_swapped_under_its_directory() {
        check("", config_map, swap).await;
    }

    #[tokio::test]
    async fn a_config_map_swapped_under_its_file() {
        check("f", config_map, swap).await;
    }

    #[tokio::test]
    async fn a_file_behind_links_written_in_place() {
        check("", config_map, |at| write(&at.join("..1/f"), "3")).await;
    }

    #[test]
    fn reading_and_neighbours_are_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap();
        let file = path.join("f");
        write(&file, "1");
        let modified = EventKind::Modify(notify::event::ModifyKind::Any);
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let event = |kind: EventKind, path: &Path| Event::new(kind).add_path(path.to_owned());

        let scope = Scope::of(&file).unwrap();
        assert!(scope.concerns(&event(modified, &file)));
        assert!(scope.concerns(&event(written, &file)));
        assert!(!scope.concerns(&event(opened, &file)));
        assert!(!scope.concerns(&event(modified, &path.join("g"))));

        let scope = Scope::of(&path).unwrap();
        assert!(scope.concerns(&event(modified, &path.join("g"))));
        assert!(!scope.concerns(&event(opened, &path.join("g"))));
        assert!(!scope.concerns(&event(modified, &path.with_file_name("another"))));
    }
}
