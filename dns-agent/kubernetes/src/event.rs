//! The events that a source of Kubernetes objects sends.
//!
//! A source sends lists of objects, and the changes after each list. Only the events determine
//! which objects exist.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{Covered, Feed, Object, ObjectKey, Problem};

/// An event that a source sends about one of its feeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A list starts. Objects reported before the list remain valid until the list has ended.
    ListStarted(Feed),
    /// An object exists: it is new, changed, or listed again.
    Applied {
        /// The feed that reports the object.
        feed: Feed,
        /// The current state of the object.
        object: Object,
        /// When the cluster change behind this event happened. `None` without a readable annotation
        /// `endpoints.kubernetes.io/last-change-trigger-time`. Of the objects that feeds report,
        /// controllers write it only on EndpointSlices.
        changed: Option<SystemTime>,
    },
    /// An object was deleted, or is no longer selected. Another feed may now report it.
    Deleted {
        /// The feed that reports the deletion.
        feed: Feed,
        /// The object's namespace and name.
        key: ObjectKey,
    },
    /// An object can't be used.
    Unusable {
        /// The feed that reports the object.
        feed: Feed,
        /// The object and the reason.
        problem: Problem,
        /// A placeholder that delegates the names of a Service, or of an EndpointSlice's endpoints,
        /// to CoreDNS. `None` for other kinds, and for feeds that report [`Object::Fact`]s. Also
        /// `None` if the object's name can't be read, or if the label with the Service of an
        /// EndpointSlice is missing or can't be read.
        placeholder: Option<Object>,
    },
    /// A feed of EndpointSlices has listed all slices of these Services, and watches them. This
    /// replaces the feed's previous coverage, unless a feed has reported [`Covered::Every`].
    Covered(Feed, Covered),
    /// The list has ended. Objects that the feed reported before the list, but not in the list, are
    /// gone.
    ListEnded(Feed),
    /// The ConfigMap that this source reads.
    ConfigMap {
        /// The ConfigMap's entries. `None` if the ConfigMap doesn't exist.
        data: Option<BTreeMap<String, String>>,
        /// When the ConfigMap was last written, if known.
        written: Option<WriteTime>,
        /// Whether the kubelet updates the entries in running pods.
        updates: ConfigMapUpdates,
    },
}

/// Whether running pods receive later changes of a ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigMapUpdates {
    /// The kubelet updates the mounted files, except those mounted by `subPath`.
    Propagated,
    /// The kubelet never reads a ConfigMap with `immutable: true` again while a pod of its node
    /// uses it, even after the ConfigMap is deleted and recreated (kubernetes/kubernetes,
    /// `pkg/kubelet/util/manager/watch_based_manager.go`).
    Never,
}

/// When an object was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteTime {
    /// The object was created at this time, and its metadata shows no later edit.
    Created(SystemTime),
    /// The object was last edited at this time, after its creation.
    Edited(SystemTime),
}

impl Event {
    /// Reports that the ConfigMap doesn't exist.
    pub(crate) const NO_CONFIG_MAP: Event = Event::ConfigMap {
        data: None,
        written: None,
        updates: ConfigMapUpdates::Propagated,
    };

    /// Reports that the ConfigMap of this feed doesn't exist. `None` for feeds of other objects.
    pub fn absent(feed: Feed) -> Option<Event> {
        (feed == Feed::ConfigMap).then_some(Event::NO_CONFIG_MAP)
    }

    /// Reports an object that can't be used and has no placeholder.
    pub fn unusable(feed: Feed, problem: Problem) -> Event {
        Event::Unusable {
            feed,
            problem,
            placeholder: None,
        }
    }
}
