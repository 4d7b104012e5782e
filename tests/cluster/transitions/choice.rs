//! Chooses the next transition.

use anyhow::Result;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::{RngExt as _, rngs::StdRng};

use super::{
    form::ServiceForm,
    generator::{SERVICES, Transition, TransitionGenerator, pick},
    slices::{delete_slice, label_headless, label_manager, label_other},
};
use crate::cluster::LiveCluster;

/// While a namespace has more slices than this, slices are deleted instead of changed or made, so
/// that a long run does not slow down.
const SLICES: usize = 24;

impl TransitionGenerator {
    /// Makes a transition. The seed determines all choices, except those that depend on the present
    /// slices, because the controller manager makes and deletes slices in its own time.
    pub(crate) fn make_transition(&mut self, cluster: &mut LiveCluster) -> Result<Transition> {
        loop {
            let mut random = self.random();
            if let Some(transition) = self.try_transition(cluster, &mut random)? {
                return Ok(transition);
            }
        }
    }

    /// Makes no transition and returns `None` if the controller manager has just deleted the chosen
    /// slice.
    fn try_transition(
        &mut self,
        cluster: &mut LiveCluster,
        random: &mut StdRng,
    ) -> Result<Option<Transition>> {
        let namespace = pick(&self.namespaces, random);
        let number = random.random_range(0..SERVICES);
        let key = (namespace.clone(), self.service_name(&namespace, number));
        let choice = random.random_range(0..100);
        let which = random.random::<u32>() as usize;
        let slices = cluster.objects.slices.iter();
        let slices: Vec<&EndpointSlice> = slices
            .filter(|(key, _)| key.0 == namespace)
            .map(|(_, slice)| slice)
            .collect();
        let count = slices.len();
        let slice = slices.get(which % count.max(1)).copied().cloned();
        let service = cluster.objects.services.get(&key).cloned();
        // The ranges are weights in percent.
        match (choice, service, slice) {
            (0..38, Some(service), _) => {
                self.change_form(cluster, &key, &service, random).map(Some)
            }
            (38..42, Some(_), _) => self.change_ports(cluster, &key, random).map(Some),
            (42..45, Some(_), _) => self.change_labels(cluster, &key, random).map(Some),
            (45..50, Some(_), _) => {
                cluster.delete_service(&key)?;
                // A later transition makes the Service again: by a new name, or by the old one.
                if random.random_bool(0.7) {
                    *self.renamed.entry((namespace, number)).or_default() += 1;
                }
                Ok(Some(Transition::by_one_write(
                    "a Service deleted",
                    &key,
                    "",
                )))
            }
            (0..50, None, _) => {
                let form = pick(&ServiceForm::ALL, random);
                self.make_service(cluster, &key, form, random)?;
                let text = format!("as {form:?}");
                Ok(Some(Transition::by_one_write(
                    "a Service made",
                    &key,
                    &text,
                )))
            }
            (50..53, ..) => self.change_pod(cluster, &namespace, random).map(Some),
            (53..100, _, Some(slice)) if count > SLICES => delete_slice(cluster, &slice).map(Some),
            (53..60, _, Some(slice)) => self.move_slice(cluster, &slice, random),
            (60..66, _, Some(slice)) => label_headless(cluster, &slice, random),
            (66..73, _, Some(slice)) => label_manager(cluster, &slice, random),
            (73..76, _, Some(slice)) => label_other(cluster, &slice, random),
            (76..83, _, Some(slice)) => self.copy_slice(cluster, &slice, random).map(Some),
            (83..88, _, Some(slice)) => self.change_family(cluster, &slice, random).map(Some),
            (88..91, _, Some(slice)) => self.change_endpoints(cluster, &slice, random),
            (91..93, _, Some(slice)) => delete_slice(cluster, &slice).map(Some),
            _ => self.make_slice(cluster, &key, random).map(Some),
        }
    }
}
