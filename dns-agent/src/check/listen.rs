//! Whether the agent itself can answer where it is to.

use std::{io, net::SocketAddr};

use ipnet::IpNet;

use super::{
    Finding,
    rights::{Capability, Rights},
};
use crate::{datapath::pins::Place, resolver::Sockets};

const SUBJECT: &str = "listen";
/// RFC 1035 section 4.2.
const PORT: u16 = 53;

pub(super) fn listen(addresses: &[SocketAddr], rights: &Rights, place: &Place) -> Vec<Finding> {
    if addresses.is_empty() {
        return vec![nowhere(rights)];
    }
    let findings = addresses.iter().map(|address| {
        let refused = Sockets::bind(*address).err();
        let kind = refused.as_ref().map(|error| {
            let mut causes = error.chain();
            let kind = causes.find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
            kind.unwrap_or(io::ErrorKind::Other)
        });
        bound(*address, kind, place)
    });
    findings.collect()
}

fn nowhere(rights: &Rights) -> Finding {
    let may = rights.has(Capability::NetBindService) || rights.first_free_port <= PORT;
    match may {
        true => Finding::works(
            SUBJECT,
            "no --listen, so the agent itself answers nobody; it could use port 53",
        ),
        false => Finding::works(
            SUBJECT,
            "no --listen, so the agent itself answers nobody; port 53 would need the capability NET_BIND_SERVICE",
        ),
    }
}

/// What follows from how binding an address ended.
fn bound(address: SocketAddr, refused: Option<io::ErrorKind>, place: &Place) -> Finding {
    match (refused, place) {
        (None, _) => Finding::works(SUBJECT, format!("{address} can be used, by UDP and TCP")),
        (Some(io::ErrorKind::AddrInUse), Place::Held) => Finding::works(
            SUBJECT,
            format!("{address} is in use while an agent is running here, which may be its own"),
        ),
        (Some(io::ErrorKind::AddrInUse), _) => Finding::fails(
            SUBJECT,
            format!(
                "{address} is in use: `ss -lnp sport = :{}` says by whom; give another --listen, or end that program",
                address.port()
            ),
        ),
        (Some(io::ErrorKind::PermissionDenied), _) => Finding::fails(
            SUBJECT,
            format!("{address} is refused: ports below 1024 need the capability NET_BIND_SERVICE"),
        ),
        (Some(io::ErrorKind::AddrNotAvailable), _) => Finding::fails(
            SUBJECT,
            format!(
                "{address}: no interface has this address: `ip address add {} dev lo` gives it to the node",
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
    use crate::check::Verdict::{self, Fails, Works};

    #[test]
    fn what_follows_from_binding() {
        let address = "169.254.20.10:53".parse().unwrap();
        let cases: [(Option<io::ErrorKind>, Place, Verdict, &str); 5] = [
            (None, Place::Free, Works, "can be used"),
            (Some(AddrInUse), Place::Free, Fails, "ss -lnp sport = :53"),
            (Some(AddrInUse), Place::Held, Works, "agent is running"),
            (
                Some(PermissionDenied),
                Place::Free,
                Fails,
                "NET_BIND_SERVICE",
            ),
            (
                Some(AddrNotAvailable),
                Place::Free,
                Fails,
                "ip address add 169.254.20.10/32",
            ),
        ];
        for (refused, place, verdict, words) in cases {
            let finding = bound(address, refused, &place);
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.text.contains(words), "{finding}");
        }
    }

    #[test]
    fn a_port_that_is_taken() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let taken = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let rights = Rights::of("", "");
        let [finding] = &listen(&[taken.address()], &rights, &Place::Free)[..] else {
            panic!("more than one finding");
        };
        assert_eq!(finding.verdict, Fails, "{finding}");
    }
}
