//! Notices changes of a file or directory, by inotify and by checks.

use std::{path::PathBuf, time::Duration};

use tokio::time::timeout;
use zerohop_sources::{manifests::FileStamps, path_watch::PathWatch};

use super::threads::run_privileged;

/// The interval between checks for changes. A notification of inotify causes a check earlier.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// A path that is checked for changes.
pub(super) struct FollowedPath {
    path: PathBuf,
    /// `None` if inotify can't be used.
    watch: Option<PathWatch>,
    /// The stamps of the last check; `None` when the files could not be read.
    stamps: Option<FileStamps>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathCheck {
    /// The files may have changed.
    Changed,
    Unchanged,
}

impl FollowedPath {
    /// Follows a path with this watch. Changes are noticed from now on.
    pub(super) async fn new(path: PathBuf, watch: Option<PathWatch>) -> FollowedPath {
        let stamps = read_stamps(&path).await;
        FollowedPath {
            path,
            watch,
            stamps,
        }
    }

    /// Waits for a notification, or until the next check is due, and checks the files.
    pub(super) async fn check(&mut self) -> PathCheck {
        let notified = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let is_notified = timeout(CHECK_INTERVAL, notified).await.is_ok();
        let latest = read_stamps(&self.path).await;
        if !is_notified && latest == self.stamps {
            return PathCheck::Unchanged;
        }
        if !is_notified && let Some(watch) = &mut self.watch {
            // The path may now lead to another file, which inotify does not watch yet.
            watch.rearm();
        }
        self.stamps = latest;
        PathCheck::Changed
    }
}

/// The files' stamps; `None` when they can't be read.
async fn read_stamps(path: &std::path::Path) -> Option<FileStamps> {
    let owned = path.to_owned();
    run_blocking(move || FileStamps::read(&owned))
        .await
        .ok()?
        .ok()
}

/// Runs blocking work on another privileged thread, so that this task can be ended meanwhile.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    Ok(run_privileged("files", work)?.await?)
}
