//! Reads hosts files at the start, and again whenever they change.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, RwLock},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tokio::{sync::mpsc, time::timeout};
use tracing::{error, info, warn};
use zerohop_sources::{
    hosts::{self, HostsFile, HostsFiles},
    path_watch::PathWatch,
};
use zerohop_zone::Provider;

use super::{
    followed_path::{FollowedPath, PathCheck, run_blocking},
    intake::{
        self, AppliedChange, Intake, IntakeReport, IntakeSender, Wake, read_lock, write_lock,
    },
    kernel_plane::{Freshness, StaleReason},
};
use crate::{
    admin::{
        status::{HostsFileStatus, rfc3339},
        status_board::StatusBoard,
    },
    config::Config,
};

/// The longest time that the first reading of a file may take. After it, the kernel plane no longer
/// waits for the file.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of an attempt to read a file.
struct ReadHosts {
    /// The position of the file in the configuration.
    number: usize,
    /// The contents, or why the file can't be read.
    contents: Result<HostsFile, String>,
    received: Instant,
}

/// Sends contents of files to the intake.
#[derive(Clone)]
pub(super) struct HostsSender(IntakeSender<ReadHosts>);

/// Applies contents of files to the provider.
pub(super) struct HostsIntake {
    hosts: Arc<RwLock<HostsFiles>>,
    contents: mpsc::Receiver<ReadHosts>,
    /// The status of each file.
    statuses: Vec<HostsFileStatus>,
}

impl HostsIntake {
    /// An intake that has received nothing, and its sender.
    pub(super) fn new(config: &Config, wake: &Wake) -> (HostsSender, HostsIntake) {
        let (sender, contents) = intake::channel(wake);
        let status = |path: &PathBuf| HostsFileStatus {
            path: path.clone(),
            ..HostsFileStatus::default()
        };
        let hosts = HostsFiles::new(&config.hosts, config.hosts_ttl);
        let intake = HostsIntake {
            hosts: Arc::new(RwLock::new(hosts)),
            contents,
            statuses: config.hosts.iter().map(status).collect(),
        };
        (HostsSender(sender), intake)
    }
}

impl Intake for HostsIntake {
    fn provider(&self) -> Arc<RwLock<dyn Provider>> {
        self.hosts.clone()
    }

    fn has_names(&self) -> bool {
        read_lock(&self.hosts).has_names()
    }

    fn apply_next(&mut self) -> Option<AppliedChange> {
        let ReadHosts {
            number,
            contents,
            received,
        } = self.contents.try_recv().ok()?;
        let status = self.statuses.get_mut(number)?;
        let path = status.path.display();
        let mut hosts = write_lock(&self.hosts);
        match contents {
            Ok(contents) => {
                hosts.replace_contents(number, Some(contents));
                status.names = hosts.count_names(number);
                status.loaded = rfc3339(SystemTime::now());
                status.error = None;
                info!(
                    "{} names were read from the hosts file {path}",
                    status.names
                );
            }
            Err(reason) => {
                hosts.replace_contents(number, None);
                if status.error.as_ref() != Some(&reason) {
                    error!(
                        "the hosts file {path} can't be read, so its {} names of the last reading \
                         stay in force: {reason}",
                        status.names
                    );
                }
                status.error = Some(reason);
            }
        }
        Some(AppliedChange {
            received,
            published: None,
            measure: None,
        })
    }

    fn has_waiting(&self) -> bool {
        !self.contents.is_empty()
    }

    /// Names of the last reading stay in force, so they are never stale after the first reading.
    fn freshness(&self) -> Freshness {
        if read_lock(&self.hosts).is_complete() {
            Freshness::Current
        } else {
            Freshness::Stale(StaleReason::Unlisted)
        }
    }

    fn report(&mut self, board: &StatusBoard) -> IntakeReport {
        let mut report = IntakeReport::default();
        for status in &self.statuses {
            let path = status.path.display();
            match &status.error {
                Some(reason) => report.degraded.push(format!(
                    "the hosts file {path} can't be read, so its {} names of the last reading stay \
                     in force: {reason}",
                    status.names
                )),
                None if status.loaded.is_empty() => report
                    .missing
                    .push(format!("the hosts file {path} is not read yet")),
                None => {}
            }
        }
        board.update(|status| status.hosts.clone_from(&self.statuses));
        report
    }
}

/// Reads all files, and reads them again whenever they change. Returns only if the publisher has
/// ended.
pub(super) async fn follow(paths: Vec<PathBuf>, sender: HostsSender) {
    let files = paths.into_iter().enumerate();
    let files = files.map(|(number, path)| follow_file(number, path, sender.clone()));
    join_all(files).await;
}

async fn follow_file(number: usize, path: PathBuf, HostsSender(sender): HostsSender) {
    // The watch starts before the first read, so that no change is missed.
    let watch = PathWatch::new(&path).inspect_err(|error| {
        warn!(
            "changes of the hosts file {} may take effect up to 10 s late, because it can't be \
             watched: {error}",
            path.display()
        );
    });
    let first_read = async {
        let followed = FollowedPath::new(path.clone(), watch.ok()).await;
        (followed, read(&path).await)
    };
    let mut first_read = pin!(first_read);
    let (mut followed, mut contents) = match timeout(FIRST_READ_TIMEOUT, &mut first_read).await {
        Ok(first) => first,
        Err(_) => {
            let seconds = FIRST_READ_TIMEOUT.as_secs();
            let reason = format!("reading it takes more than {seconds} s");
            let message = ReadHosts::received_now(number, Err(reason));
            if sender.send(message).await.is_err() {
                return;
            }
            first_read.await
        }
    };
    loop {
        let message = ReadHosts::received_now(number, contents);
        if sender.send(message).await.is_err() {
            return;
        }
        while followed.check().await == PathCheck::Unchanged {}
        contents = read(&path).await;
    }
}

impl ReadHosts {
    fn received_now(number: usize, contents: Result<HostsFile, String>) -> ReadHosts {
        ReadHosts {
            number,
            contents,
            received: Instant::now(),
        }
    }
}

/// Reads a file on a privileged thread.
async fn read(path: &Path) -> Result<HostsFile, String> {
    let owned = path.to_owned();
    match run_blocking(move || hosts::read(&owned)).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(error) => Err(format!("{error:#}")),
    }
}
