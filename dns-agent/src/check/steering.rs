//! The finding about steering.

use dns_common::outcomes::LOOPBACK_INDEX;
use zerohop_datapath::steering::{SteeringPlace, SteeringPrograms};
use zerohop_steering::AgentNamespace;

use super::{
    Finding,
    rights::{Capability, ProcessRights},
};
use crate::{STEERING_OBJECT, config::Steer};

/// Tries what steering needs: a network namespace, and the programs. `None` if it isn't wanted.
pub(super) async fn steering(steer: Steer, rights: &ProcessRights) -> Option<Finding> {
    if steer == Steer::Off {
        return None;
    }
    if !rights.has(Capability::SysAdmin) {
        return Some(Finding::works(
            "steering",
            "queries that the kernel passes would go to the cluster's DNS as without Zerohop, \
             because the process has no SYS_ADMIN: the kustomize component `steering` and the \
             chart's value `steering` give it",
        ));
    }
    Some(match try_steering().await {
        Ok(()) => Finding::works(
            "steering",
            "queries that the kernel passes would come to the agent on this node",
        ),
        Err(reason) => Finding::limited(
            "steering",
            format!(
                "queries that the kernel passes would go to the cluster's DNS as without Zerohop: \
                 {reason:#}"
            ),
        ),
    })
}

async fn try_steering() -> anyhow::Result<()> {
    let namespace = AgentNamespace::create().await?;
    let place = SteeringPlace {
        // IDs are never negative.
        namespace: namespace.id() as u32,
        interface: LOOPBACK_INDEX,
        port: 0,
    };
    SteeringPrograms::load(STEERING_OBJECT, place).map(drop)
}
