//! Reads hosts files at the start, and again whenever they change.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use dns_common::names::MIN_NAME;
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
        self, AppliedChange, Intake, IntakeReport, IntakeSender, PublisherGone, Wake, read_lock,
        write_lock,
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

/// A file that was not checked for this time is reported.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// A message about a file.
struct HostsMessage {
    /// The position of the file in the configuration.
    number: usize,
    received: Instant,
    news: HostsNews,
}

/// What a reader knows of its file.
enum HostsNews {
    /// The file has not changed.
    Checked,
    /// The file was read.
    Read(BuiltHosts),
    /// The file can't be read, for this reason.
    Unreadable(BuiltHosts, String),
}

/// The names of all files, after a file was read.
struct BuiltHosts {
    /// Larger for names that were computed later.
    sequence: u64,
    files: HostsFiles,
}

/// Computes the names of all files in the readers, because it may take long.
struct HostsBuilder {
    /// The files without changes.
    files: HostsFiles,
    sequence: u64,
}

/// Sends messages to the intake.
#[derive(Clone)]
pub(super) struct HostsSender {
    sender: IntakeSender<HostsMessage>,
    builder: Arc<Mutex<HostsBuilder>>,
}

/// Applies contents of files to the provider.
pub(super) struct HostsIntake {
    hosts: Arc<RwLock<HostsFiles>>,
    messages: mpsc::Receiver<HostsMessage>,
    /// The sequence number of the names in `hosts`.
    sequence: u64,
    /// The problem that some names are too short for the kernel plane; `None` if there are none.
    short_names: Option<String>,
    /// The status of each file, and when it was last checked.
    statuses: Vec<(HostsFileStatus, Option<Instant>)>,
}

impl HostsIntake {
    /// An intake that has received nothing, and its sender.
    pub(super) fn new(config: &Config, wake: &Wake) -> (HostsSender, HostsIntake) {
        let (sender, messages) = intake::channel(wake);
        let status = |path: &PathBuf| HostsFileStatus {
            path: path.clone(),
            ..HostsFileStatus::default()
        };
        let files = HostsFiles::new(&config.hosts, config.hosts_ttl);
        let builder = HostsBuilder {
            files: files.clone(),
            sequence: 0,
        };
        let sender = HostsSender {
            sender,
            builder: Arc::new(Mutex::new(builder)),
        };
        let intake = HostsIntake {
            hosts: Arc::new(RwLock::new(files)),
            messages,
            sequence: 0,
            short_names: None,
            statuses: config
                .hosts
                .iter()
                .map(|path| (status(path), None))
                .collect(),
        };
        (sender, intake)
    }

    /// Applies names that were computed after a file was read.
    fn apply(&mut self, built: BuiltHosts) {
        let BuiltHosts {
            sequence,
            mut files,
        } = built;
        let replaced = {
            let mut hosts = write_lock(&self.hosts);
            if sequence > self.sequence {
                self.sequence = sequence;
                hosts.replace_by(files)
            } else {
                // The messages of two readers have overtaken each other.
                hosts.add_changes_of(&mut files);
                files
            }
        };
        // Without the lock, because that may take long.
        drop(replaced);
        let hosts = read_lock(&self.hosts);
        let mut short = hosts.short_names(MIN_NAME);
        self.short_names = short.next().map(|first| {
            format!(
                "{} names of hosts files, such as {first}, have fewer than {MIN_NAME} bytes on the \
                 wire: the kernel passes queries for them, and only the agent's resolver \
                 (--listen) answers them",
                short.count() + 1
            )
        });
    }
}

impl HostsBuilder {
    /// The names of all files with these contents of a file.
    fn build(&mut self, number: usize, contents: Option<HostsFile>) -> BuiltHosts {
        let files = self.files.with_contents(number, contents);
        self.files = files.clone();
        let _ = self.files.take_changes();
        self.sequence += 1;
        BuiltHosts {
            sequence: self.sequence,
            files,
        }
    }
}

impl Intake for HostsIntake {
    fn name(&self) -> &'static str {
        "the hosts files"
    }

    fn provider(&self) -> Arc<RwLock<dyn Provider>> {
        self.hosts.clone()
    }

    fn has_names(&self) -> bool {
        read_lock(&self.hosts).has_names()
    }

    fn apply_next(&mut self) -> Option<AppliedChange> {
        let HostsMessage {
            number,
            received,
            news,
        } = self.messages.try_recv().ok()?;
        let change = AppliedChange {
            received,
            published: None,
            measure: None,
        };
        let (built, error) = match news {
            HostsNews::Checked => (None, None),
            HostsNews::Read(built) => (Some(built), None),
            HostsNews::Unreadable(built, reason) => (Some(built), Some(reason)),
        };
        let is_read = built.is_some() && error.is_none();
        let names = built.as_ref().map(|built| built.files.count_names(number));
        if let Some(built) = built {
            self.apply(built);
        }
        let Some((status, checked)) = self.statuses.get_mut(number) else {
            return Some(change);
        };
        *checked = Some(Instant::now());
        let path = status.path.display();
        if is_read {
            status.names = names.unwrap_or_default();
            status.loaded = rfc3339(SystemTime::now());
            status.error = None;
            info!(
                "{} names were read from the hosts file {path}",
                status.names
            );
        } else if let Some(reason) = error {
            if status.error.as_ref() != Some(&reason) {
                error!("{}", describe_unreadable(status, &reason));
            }
            status.error = Some(reason);
        }
        Some(change)
    }

    fn has_waiting(&self) -> bool {
        !self.messages.is_empty()
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
        for (status, checked) in &self.statuses {
            let path = status.path.display();
            match &status.error {
                Some(reason) => report.degraded.push(describe_unreadable(status, reason)),
                None if status.loaded.is_empty() => report
                    .missing
                    .push(format!("the hosts file {path} is not read yet")),
                None => {}
            }
            let age = checked.map(|checked| checked.elapsed());
            if let Some(age) = age.filter(|age| *age > CHECK_TIMEOUT) {
                report.degraded.push(format!(
                    "the hosts file {path} was last checked {} s ago, so reading it takes long or \
                     hangs: its names of the last reading stay in force",
                    age.as_secs()
                ));
            }
        }
        report.problems.extend(self.short_names.clone());
        let statuses = self.statuses.iter().map(|(status, _)| status.clone());
        board.update(|status| status.hosts = statuses.collect());
        report
    }
}

/// Reads a file, and reads it again whenever it changes. Returns only if the publisher has ended.
///
/// Each file has a thread of its own, because a file system that hangs blocks the thread.
pub(super) async fn follow(number: usize, path: PathBuf, sender: HostsSender) {
    let first_read = async {
        // The watch starts before the first read, so that no change is missed.
        let followed = FollowedPath::new(path.clone(), watch(&path).await).await;
        (followed, read(&path).await)
    };
    let mut first_read = pin!(first_read);
    let (mut followed, mut contents) = match timeout(FIRST_READ_TIMEOUT, &mut first_read).await {
        Ok(first) => first,
        Err(_) => {
            let seconds = FIRST_READ_TIMEOUT.as_secs();
            let reason = format!("reading it takes more than {seconds} s");
            if sender.send_contents(number, Err(reason)).await.is_err() {
                return;
            }
            first_read.await
        }
    };
    loop {
        let can_be_read = contents.is_ok();
        if sender.send_contents(number, contents).await.is_err() {
            return;
        }
        // A file that can't be read is tried again at each check.
        while followed.check().await == PathCheck::Unchanged && can_be_read {
            if sender.send_checked(number).await.is_err() {
                return;
            }
        }
        contents = read(&path).await;
    }
}

/// Watches a file. `None` if it can't be watched, so that it is only checked.
async fn watch(path: &Path) -> Option<PathWatch> {
    let owned = path.to_owned();
    // inotify may have to wait for the file system.
    let watch = match run_blocking(move || PathWatch::new(&owned)).await {
        Ok(watch) => watch.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let watch = watch.inspect_err(|error| {
        warn!(
            "changes of the hosts file {} may take effect up to 10 s late, because it can't be \
             watched: {error:#}",
            path.display()
        );
    });
    watch.ok()
}

/// The error of a file that can't be read.
fn describe_unreadable(status: &HostsFileStatus, reason: &str) -> String {
    format!(
        "the hosts file {} can't be read, so its {} names of the last reading stay in force: \
         {reason}",
        status.path.display(),
        status.names
    )
}

impl HostsSender {
    /// Sends the contents of a file, or why it can't be read.
    async fn send_contents(
        &self,
        number: usize,
        contents: Result<HostsFile, String>,
    ) -> Result<(), PublisherGone> {
        let received = Instant::now();
        let news = {
            let builder = self.builder.lock();
            let mut builder = builder.unwrap_or_else(PoisonError::into_inner);
            match contents {
                Ok(contents) => HostsNews::Read(builder.build(number, Some(contents))),
                Err(reason) => HostsNews::Unreadable(builder.build(number, None), reason),
            }
        };
        let message = HostsMessage {
            number,
            received,
            news,
        };
        self.sender.send(message).await
    }

    /// Says that a file has not changed.
    async fn send_checked(&self, number: usize) -> Result<(), PublisherGone> {
        let message = HostsMessage {
            number,
            received: Instant::now(),
            news: HostsNews::Checked,
        };
        self.sender.send(message).await
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
