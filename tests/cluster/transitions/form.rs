//! What a Service can be, and the patches that make it something else.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

/// What a Service is: its type, and where its endpoints come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Form {
    pub(crate) kind: Kind,
    pub(crate) endpoints: Endpoints,
}

/// The type of a Service. A headless Service counts as a type of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    Headless,
    ExternalName,
}

/// Who writes the slices of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoints {
    /// The controller manager, because the Service has a selector.
    Selected,
    /// Anybody else: the Service has no selector.
    Written,
}

/// Whether the API server lets a Service change its form in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    InPlace,
    /// The field `clusterIP` is immutable, except on the way from and to ExternalName.
    ThroughExternalName,
}

impl Form {
    pub(crate) const ALL: [Form; 8] = {
        use Endpoints::{Selected, Written};
        use Kind::{ClusterIp, ExternalName, Headless, NodePort};
        [
            Form::new(ClusterIp, Selected),
            Form::new(ClusterIp, Written),
            Form::new(NodePort, Selected),
            Form::new(NodePort, Written),
            Form::new(Headless, Selected),
            Form::new(Headless, Written),
            Form::new(ExternalName, Selected),
            Form::new(ExternalName, Written),
        ]
    };

    const fn new(kind: Kind, endpoints: Endpoints) -> Form {
        Form { kind, endpoints }
    }

    pub(crate) fn of(service: &Service) -> Form {
        let spec = service.spec.clone().unwrap_or_default();
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => Kind::ExternalName,
            Some("NodePort") => Kind::NodePort,
            _ if spec.cluster_ip.as_deref() == Some("None") => Kind::Headless,
            _ => Kind::ClusterIp,
        };
        let endpoints = match spec.selector.unwrap_or_default().is_empty() {
            true => Endpoints::Written,
            false => Endpoints::Selected,
        };
        Form { kind, endpoints }
    }

    /// How a Service of this form becomes one of another.
    pub(crate) fn change_to(self, other: Form) -> Change {
        let (from, to) = (self.kind, other.kind);
        let ends_at_alias = from == Kind::ExternalName || to == Kind::ExternalName;
        let is_headless = |kind| kind == Kind::Headless;
        match ends_at_alias || is_headless(from) == is_headless(to) {
            true => Change::InPlace,
            false => Change::ThroughExternalName,
        }
    }

    /// The fields of `spec` that make a Service one of this form, whatever it was.
    pub(crate) fn fields(self, parts: &Parts) -> Value {
        let mut fields = match self.kind {
            Kind::ClusterIp => json!({"type": "ClusterIP", "externalName": null}),
            Kind::NodePort => json!({"type": "NodePort", "externalName": null}),
            Kind::Headless => {
                json!({"type": "ClusterIP", "externalName": null, "clusterIP": "None"})
            }
            Kind::ExternalName => json!({
                "type": "ExternalName",
                "externalName": parts.target,
                "clusterIP": null,
                "clusterIPs": null,
                "ipFamilies": null,
            }),
        };
        fields["ports"] = parts.ports.clone();
        fields["selector"] = match self.endpoints {
            Endpoints::Selected => json!({"app": parts.app}),
            Endpoints::Written => Value::Null,
        };
        // A headless Service without a selector has both families by default, even where the cluster
        // has not, and could then not become another form.
        fields["ipFamilyPolicy"] = match self.kind {
            Kind::ExternalName => Value::Null,
            _ => "SingleStack".into(),
        };
        // The controller manager then takes pods that no node has, so no cluster needs fake nodes.
        fields["publishNotReadyAddresses"] = true.into();
        fields
    }
}

/// What fills the fields of a Service.
pub(crate) struct Parts {
    /// The pods that a selector selects.
    pub(crate) app: String,
    /// Where an ExternalName leads.
    pub(crate) target: String,
    pub(crate) ports: Value,
}
