//! Loads objects from manifest files at the start, and again whenever the files change.

mod intake;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;
use tracing::error;
use zerohop_kubernetes::{Objects, Selectors};
use zerohop_sources::{
    manifests::{self, ManifestError},
    path_watch::PathWatch,
};

pub(super) use self::intake::{ManifestsIntake, ManifestsSender};
use super::followed_path::{FollowedPath, PathCheck, run_blocking};
use crate::{
    admin::status::{ManifestsStatus, SourceStatus},
    admin::status_board::StatusBoard,
};

/// Receives the result of the first load.
pub(super) type FirstLoad = oneshot::Receiver<anyhow::Result<()>>;

/// Loads the objects, and loads them again whenever the files change. `first` receives the error if
/// the watch or the first load fails, otherwise `Ok` after the objects are published. If a later
/// load fails, the objects of the last load without errors stay published. Returns only if the
/// publisher has ended.
pub(super) async fn follow(
    path: PathBuf,
    selectors: Selectors,
    first: oneshot::Sender<anyhow::Result<()>>,
    publisher: ManifestsSender,
    board: Arc<StatusBoard>,
) {
    // The watch starts before the first read, so that no change is missed.
    let watch = PathWatch::new(&path)
        .with_context(|| format!("can't watch {} for changes", path.display()));
    let watch = match watch {
        Ok(watch) => watch,
        Err(error) => {
            let _ = first.send(Err(error));
            // The error ends the agent.
            return std::future::pending().await;
        }
    };
    let mut followed = FollowedPath::new(path.clone(), Some(watch)).await;
    match load(&path, &selectors).await {
        Err(errors) => {
            let _ = first.send(Err(load_error(&errors)));
            // The error ends the agent.
            return std::future::pending().await;
        }
        Ok(objects) => {
            set_status(&board, ManifestsStatus::loaded_now(&path));
            if publisher.publish_objects(objects).await.is_err() {
                return;
            }
            let _ = first.send(Ok(()));
        }
    }
    loop {
        if followed.check().await == PathCheck::Unchanged {
            board.record_file_check();
            continue;
        }
        let loaded = load(&path, &selectors).await;
        set_status(&board, status_after_load(&path, &loaded, &board));
        if let Ok(objects) = loaded
            && publisher.publish_objects(objects).await.is_err()
        {
            return;
        }
    }
}

/// The status after a load. Logs the errors of the load.
fn status_after_load(
    path: &Path,
    loaded: &Result<Objects, Vec<ManifestError>>,
    board: &StatusBoard,
) -> ManifestsStatus {
    match loaded {
        Ok(_) => ManifestsStatus::loaded_now(path),
        Err(errors) => {
            for error in errors {
                error!(
                    "{error}; the objects of the last load without errors stay published until \
                     this error is corrected"
                );
            }
            ManifestsStatus {
                errors: errors.iter().map(ToString::to_string).collect(),
                ..board.manifests()
            }
        }
    }
}

fn set_status(board: &StatusBoard, manifests: ManifestsStatus) {
    board.record_file_check();
    board.update(|status| status.source = SourceStatus::Manifests(manifests));
}

/// Reads the files on a privileged thread.
async fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    let (owned, selectors) = (path.to_owned(), selectors.clone());
    run_blocking(move || manifests::load(&owned, &selectors))
        .await
        .unwrap_or_else(|error| {
            Err(vec![ManifestError {
                file: path.to_owned(),
                line: None,
                reason: format!("the file can't be read: {error:#}"),
            }])
        })
}

fn load_error(errors: &[ManifestError]) -> anyhow::Error {
    let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
    anyhow!("can't load the manifests; correct these errors and start again:{lines}")
}
