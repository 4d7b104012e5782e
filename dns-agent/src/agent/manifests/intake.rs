//! The intake of the manifests: applies all their objects at once.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use zerohop_kubernetes::{Index, Objects};
use zerohop_zone::{Provider, ZoneData as _};

use std::net::SocketAddr;

use crate::{
    admin::status_board::StatusBoard,
    agent::{
        client_policy::ClientPolicy,
        intake::{
            self, AppliedChange, Intake, IntakeReport, IntakeSender, PublisherGone, Wake,
            read_lock, write_lock,
        },
        kernel_plane::{Freshness, StaleReason},
        permitted_queries::PermittedQueries,
    },
    config::Config,
};

/// A check of the manifests that takes longer than this is reported.
const FILES_CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// All objects of the manifests.
struct ObjectsMessage {
    objects: Box<Objects>,
    /// Receives `()` when the objects are published.
    published: oneshot::Sender<()>,
    received: Instant,
}

/// Sends objects to the intake.
#[derive(Clone)]
pub(in crate::agent) struct ManifestsSender(IntakeSender<ObjectsMessage>);

/// Applies the objects of the manifests to the index and the client policy.
pub(in crate::agent) struct ManifestsIntake {
    index: Arc<RwLock<Index>>,
    objects: mpsc::Receiver<ObjectsMessage>,
    client_policy: ClientPolicy,
}

impl ManifestsSender {
    /// Sends all objects of the manifests, and waits until they are published.
    pub(in crate::agent) async fn publish_objects(
        &self,
        objects: Objects,
    ) -> Result<(), PublisherGone> {
        let (published, done) = oneshot::channel();
        let message = ObjectsMessage {
            objects: Box::new(objects),
            published,
            received: Instant::now(),
        };
        self.0.send(message).await?;
        done.await.map_err(|_| PublisherGone)
    }
}

impl ManifestsIntake {
    /// An intake that has received nothing, and its sender. `index` has no objects.
    pub(in crate::agent) fn new(
        config: &Config,
        index: Arc<RwLock<Index>>,
        wake: &Wake,
    ) -> (ManifestsSender, ManifestsIntake) {
        let (sender, objects) = intake::channel(wake);
        let intake = ManifestsIntake {
            index,
            objects,
            client_policy: ClientPolicy::new(config),
        };
        (ManifestsSender(sender), intake)
    }
}

impl Intake for ManifestsIntake {
    fn name(&self) -> &'static str {
        "the manifests"
    }

    fn provider(&self) -> Arc<RwLock<dyn Provider>> {
        self.index.clone()
    }

    fn has_names(&self) -> bool {
        !read_lock(&self.index).view().zones().is_empty()
    }

    fn apply_next(&mut self) -> Option<AppliedChange> {
        let ObjectsMessage {
            mut objects,
            published,
            received,
        } = self.objects.try_recv().ok()?;
        let facts = std::mem::take(&mut objects.facts);
        self.client_policy.replace_facts(*facts);
        let mut index = write_lock(&self.index);
        index.replace_objects(*objects);
        if !index.is_complete() {
            index.mark_complete();
        }
        Some(AppliedChange {
            received,
            published: Some(published),
            measure: None,
        })
    }

    fn has_waiting(&self) -> bool {
        !self.objects.is_empty()
    }

    fn freshness(&self) -> Freshness {
        if read_lock(&self.index).is_complete() {
            Freshness::Current
        } else {
            Freshness::Stale(StaleReason::Unlisted)
        }
    }

    fn clients(&self) -> Option<PermittedQueries> {
        Some(self.client_policy.permitted().clone())
    }

    fn evaluate_clients(&mut self, served_addresses: &[SocketAddr]) -> Option<PermittedQueries> {
        self.client_policy.evaluate_clients(served_addresses)
    }

    fn report(&mut self, board: &StatusBoard) -> IntakeReport {
        let index = read_lock(&self.index);
        board.update(|status| {
            status.objects = index.counts();
            status.network_policy = self.client_policy.status();
        });
        let mut report = IntakeReport::default();
        if !index.is_complete() {
            let reason = "the files of --manifests are not loaded yet".to_owned();
            report.missing.push(reason);
        }
        let age = board.time_since_file_check();
        if let Some(age) = age.filter(|age| *age > FILES_CHECK_TIMEOUT) {
            report.degraded.push(format!(
                "the files of --manifests were last checked {} s ago, so reading them takes long \
                 or hangs: the objects of the previous load stay published until the files can be \
                 read",
                age.as_secs()
            ));
        }
        report
    }
}
