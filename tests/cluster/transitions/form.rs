//! The forms of a Service, and the patches that change one form into another.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

/// The form of a Service: its type, and the origin of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceForm {
    pub(crate) kind: FormType,
    pub(crate) endpoints: EndpointOrigin,
}

/// The type of a Service. Headless counts as a type of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FormType {
    ClusterIp,
    NodePort,
    Headless,
    ExternalName,
}

/// The origin of a Service's slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndpointOrigin {
    /// The controller manager writes them, because the Service has a selector. An ExternalName gets
    /// none.
    Selected,
    /// The suite writes them; the Service has no selector.
    Written,
}

/// Whether the API server lets a Service change from one form to another in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FormChange {
    InPlace,
    /// Only by way of ExternalName, because `clusterIP` is immutable in the other types.
    ThroughExternalName,
}

impl ServiceForm {
    pub(crate) const ALL: [ServiceForm; 8] = {
        use EndpointOrigin::{Selected, Written};
        use FormType::{ClusterIp, ExternalName, Headless, NodePort};
        [
            ServiceForm::new(ClusterIp, Selected),
            ServiceForm::new(ClusterIp, Written),
            ServiceForm::new(NodePort, Selected),
            ServiceForm::new(NodePort, Written),
            ServiceForm::new(Headless, Selected),
            ServiceForm::new(Headless, Written),
            ServiceForm::new(ExternalName, Selected),
            ServiceForm::new(ExternalName, Written),
        ]
    };

    const fn new(kind: FormType, endpoints: EndpointOrigin) -> ServiceForm {
        ServiceForm { kind, endpoints }
    }

    pub(crate) fn from_service(service: &Service) -> ServiceForm {
        let spec = service.spec.clone().unwrap_or_default();
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => FormType::ExternalName,
            Some("NodePort") => FormType::NodePort,
            _ if spec.cluster_ip.as_deref() == Some("None") => FormType::Headless,
            _ => FormType::ClusterIp,
        };
        let endpoints = if spec.selector.unwrap_or_default().is_empty() {
            EndpointOrigin::Written
        } else {
            EndpointOrigin::Selected
        };
        ServiceForm { kind, endpoints }
    }

    /// How a Service can change from this form to `other`.
    pub(crate) fn change_to(self, other: ServiceForm) -> FormChange {
        let (from, to) = (self.kind, other.kind);
        let is_alias = |kind| kind == FormType::ExternalName;
        let is_headless = |kind| kind == FormType::Headless;
        if is_alias(from) || is_alias(to) || is_headless(from) == is_headless(to) {
            FormChange::InPlace
        } else {
            FormChange::ThroughExternalName
        }
    }

    /// The patch of `spec` that gives a Service this form, if [`ServiceForm::change_to`] allows the
    /// change in place. Without its null fields it is the spec of a new Service.
    pub(crate) fn spec_patch(self, values: &ServiceFields) -> Value {
        let mut fields = match self.kind {
            FormType::ClusterIp => json!({"type": "ClusterIP", "externalName": null}),
            FormType::NodePort => json!({"type": "NodePort", "externalName": null}),
            FormType::Headless => {
                json!({"type": "ClusterIP", "externalName": null, "clusterIP": "None"})
            }
            FormType::ExternalName => json!({
                "type": "ExternalName",
                "externalName": values.target,
                "clusterIP": null,
                "clusterIPs": null,
                "ipFamilies": null,
            }),
        };
        fields["ports"] = values.ports.clone();
        fields["selector"] = match self.endpoints {
            EndpointOrigin::Selected => json!({"app": values.app}),
            EndpointOrigin::Written => Value::Null,
        };
        // By default a headless Service without a selector is dual-stack, even in a single-stack
        // cluster. Such a Service could not change its form.
        fields["ipFamilyPolicy"] = match self.kind {
            FormType::ExternalName => Value::Null,
            _ => "SingleStack".into(),
        };
        // With this field the controller manager accepts pods without a node, so the cluster needs
        // no fake nodes.
        fields["publishNotReadyAddresses"] = true.into();
        fields
    }
}

/// The values for the fields of a Service.
pub(crate) struct ServiceFields {
    /// The `app` label that the selector requires.
    pub(crate) app: String,
    /// The target of an ExternalName.
    pub(crate) target: String,
    pub(crate) ports: Value,
}
