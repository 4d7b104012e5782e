//! Objects from files: loaded at the start, and again whenever the files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::error;

use super::{threads::privileged, writer::Told};
use crate::{
    admin::{
        board::Board,
        status::{ManifestsStatus, SourceStatus},
    },
    cluster::{Objects, Selectors},
    source::{
        manifests::{self, ManifestError, Stamp},
        watch::Watch,
    },
};

/// How often the files are looked at, whatever the system has told of them.
const LOOK: Duration = Duration::from_secs(10);

/// What comes of the first load.
pub(super) type Loading = oneshot::Receiver<anyhow::Result<()>>;

/// Loads the objects, and loads them again whenever they change. `first` is sent what came of the
/// first load, when it is published; files that can't be used later change nothing.
pub(super) async fn follow(
    path: PathBuf,
    selectors: Selectors,
    first: oneshot::Sender<anyhow::Result<()>>,
    tell: mpsc::Sender<Told>,
    board: Arc<Board>,
) {
    // Watched from before the files are read, so that no change falls in between.
    let watch =
        Watch::new(&path).with_context(|| format!("can't watch {} for changes", path.display()));
    let mut watch = match watch {
        Ok(watch) => watch,
        Err(error) => {
            let _ = first.send(Err(error));
            // The agent ends by that.
            return std::future::pending().await;
        }
    };
    let mut stamp = stamp_of(&path).await;
    match load(&path, &selectors).await {
        Err(errors) => {
            let _ = first.send(Err(unloadable(&errors)));
            return std::future::pending().await;
        }
        Ok(objects) => {
            show(&board, ManifestsStatus::loaded_now(&path));
            if publish(objects, &tell).await.is_err() {
                return;
            }
            let _ = first.send(Ok(()));
        }
    }
    loop {
        let is_told = timeout(LOOK, watch.changed()).await.is_ok();
        let latest = stamp_of(&path).await;
        if !is_told && latest == stamp {
            board.look_at_files();
            continue;
        }
        if !is_told {
            // What is to be watched may be elsewhere by now.
            watch.arm_anew();
        }
        stamp = latest;
        let loaded = load(&path, &selectors).await;
        show(&board, shown(&path, &loaded, &board));
        if let Ok(objects) = loaded
            && publish(objects, &tell).await.is_err()
        {
            return;
        }
    }
}

/// What is shown of a load.
fn shown(
    path: &Path,
    loaded: &Result<Objects, Vec<ManifestError>>,
    board: &Board,
) -> ManifestsStatus {
    match loaded {
        Ok(_) => ManifestsStatus::loaded_now(path),
        Err(errors) => {
            for error in errors {
                error!("{error}; what was loaded before is still served");
            }
            ManifestsStatus {
                errors: errors.iter().map(ToString::to_string).collect(),
                ..board.manifests()
            }
        }
    }
}

fn show(board: &Board, status: ManifestsStatus) {
    board.look_at_files();
    board.update(|all| all.source = SourceStatus::Manifests(status));
}

/// Tells the writer of the objects, and waits until they are published.
async fn publish(objects: Objects, tell: &mpsc::Sender<Told>) -> Result<(), ()> {
    let (published, done) = oneshot::channel();
    let told = Told::Objects(objects, published);
    tell.send(told).await.map_err(drop)?;
    done.await.map_err(drop)
}

/// Reads the files beside the runtime.
async fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    let (owned, selectors) = (path.to_owned(), selectors.clone());
    beside(move || manifests::load(&owned, &selectors))
        .await
        .unwrap_or_else(|error| {
            Err(vec![ManifestError {
                file: path.to_owned(),
                line: None,
                reason: format!("reading failed: {error:#}"),
            }])
        })
}

/// The state of the files, if it can be told.
async fn stamp_of(path: &Path) -> Option<Stamp> {
    let owned = path.to_owned();
    beside(move || Stamp::of(&owned)).await.ok()?.ok()
}

/// Does something that may take long beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    Ok(privileged("files", work)?.await?)
}

fn unloadable(errors: &[ManifestError]) -> anyhow::Error {
    let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
    anyhow!("can't load the manifests; mend these and start again:{lines}")
}
