//! Findings about the addresses of `--listen`.

use std::{io, net::SocketAddr};

use ipnet::IpNet;
use zerohop_datapath::pins::PinFolderState;
use zerohop_resolver::Sockets;

use super::{
    Finding,
    rights::{Capability, ProcessRights},
};

const SUBJECT: &str = "listen";
/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

pub(super) fn listen(
    addresses: &[SocketAddr],
    rights: &ProcessRights,
    pin_folder: &PinFolderState,
) -> Vec<Finding> {
    if addresses.is_empty() {
        return vec![without_listen(rights)];
    }
    let findings = addresses.iter().map(|address| {
        let refusal = Sockets::bind(*address).err();
        let kind = refusal.as_ref().map(|error| {
            let mut causes = error.chain();
            let kind = causes.find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
            kind.unwrap_or(io::ErrorKind::Other)
        });
        finding_for_address(*address, kind, pin_folder)
    });
    findings.collect()
}

fn without_listen(rights: &ProcessRights) -> Finding {
    let can_bind = rights.has(Capability::NetBindService) || rights.first_free_port <= DNS_PORT;
    let text = if can_bind {
        "the resolver is off, because --listen is not given; it could use port 53"
    } else {
        "the resolver is off, because --listen is not given; port 53 would need the capability \
         NET_BIND_SERVICE"
    };
    Finding::works(SUBJECT, text)
}

/// The finding for an address; `refusal` is `None` if it could be bound.
fn finding_for_address(
    address: SocketAddr,
    refusal: Option<io::ErrorKind>,
    pin_folder: &PinFolderState,
) -> Finding {
    match (refusal, pin_folder) {
        (None, _) => Finding::works(SUBJECT, format!("{address} can be used, by UDP and TCP")),
        (Some(io::ErrorKind::AddrInUse), PinFolderState::Held) => Finding::works(
            SUBJECT,
            format!("{address} is in use, possibly by the agent that is running here"),
        ),
        (Some(io::ErrorKind::AddrInUse), _) => Finding::fails(
            SUBJECT,
            format!(
                "{address} is in use: find the program with `ss -lnp sport = :{}` and end it, or \
                 give another --listen",
                address.port()
            ),
        ),
        (Some(io::ErrorKind::PermissionDenied), _) => Finding::fails(
            SUBJECT,
            format!(
                "{address} is refused: add the capability NET_BIND_SERVICE, which ports below \
                 1024 need"
            ),
        ),
        (Some(io::ErrorKind::AddrNotAvailable), _) => Finding::fails(
            SUBJECT,
            format!(
                "no interface has the address of {address}: add the address to the node with \
                 `ip address add {} dev lo`",
                IpNet::from(address.ip())
            ),
        ),
        (Some(kind), _) => Finding::fails(SUBJECT, format!("{address} can't be used: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};

    use super::*;
    use crate::{
        check::CheckVerdict,
        check::CheckVerdict::{Fails, Works},
    };

    #[test]
    fn binding_decides_the_finding() {
        let address = "169.254.20.10:53".parse().unwrap();
        let cases: [(Option<io::ErrorKind>, PinFolderState, CheckVerdict, &str); 5] = [
            (None, PinFolderState::Free, Works, "can be used"),
            (
                Some(AddrInUse),
                PinFolderState::Free,
                Fails,
                "ss -lnp sport = :53",
            ),
            (
                Some(AddrInUse),
                PinFolderState::Held,
                Works,
                "by the agent that is running here",
            ),
            (
                Some(PermissionDenied),
                PinFolderState::Free,
                Fails,
                "NET_BIND_SERVICE",
            ),
            (
                Some(AddrNotAvailable),
                PinFolderState::Free,
                Fails,
                "ip address add 169.254.20.10/32",
            ),
        ];
        for (refusal, pin_folder, verdict, words) in cases {
            let finding = finding_for_address(address, refusal, &pin_folder);
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.text.contains(words), "{finding}");
        }
    }

    #[test]
    fn a_port_in_use_is_a_failure() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let taken = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let rights = ProcessRights::parse("", "");
        let [finding] = &listen(&[taken.address()], &rights, &PinFolderState::Free)[..] else {
            panic!("not exactly one finding for one address");
        };
        assert_eq!(finding.verdict, Fails, "{finding}");
    }
}
