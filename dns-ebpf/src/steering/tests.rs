use super::*;

const POD_INTERFACE: u32 = 7;
const POD: [u8; 4] = [10, 244, 0, 2];
const SERVED: [u8; 4] = [10, 96, 0, 10];
const DNS_PORT: u16 = 53_u16.to_be();

/// The length of an IPv4 TCP frame in these tests.
const FRAME: usize = ethernet::LENGTH + ipv4::LENGTH + tcp::LENGTH;

/// One pod, one served address, and the sockets of a test.
struct FakeTables {
    new_flows: u32,
    is_leased: bool,
    sockets: FakeSockets,
}

#[derive(Clone, Copy)]
struct FakeSockets {
    udp: bool,
    listener: bool,
    tcp: TcpSocket,
}

impl SteeringTables for FakeTables {
    fn is_served(&self, server: &ClientKey, port: u16) -> bool {
        *server == ipv4_client_key(u32::from_ne_bytes(SERVED)) && port == DNS_PORT
    }

    fn pod(&self, address: &ClientKey) -> Option<SteeredPod> {
        let pod = SteeredPod {
            interface: POD_INTERFACE,
            new_flows: self.new_flows,
        };
        (*address == ipv4_client_key(u32::from_ne_bytes(POD))).then_some(pod)
    }

    fn is_leased(&self) -> bool {
        self.is_leased
    }

    fn has_udp_socket(&self, _: &Flow) -> bool {
        self.sockets.udp
    }

    fn has_listener(&self, _: &Flow) -> bool {
        self.sockets.listener
    }

    fn tcp_socket(&self, _: &Flow) -> TcpSocket {
        self.sockets.tcp
    }
}

const NO_SOCKETS: FakeSockets = FakeSockets {
    udp: false,
    listener: false,
    tcp: TcpSocket::Nothing,
};

const ALL_SOCKETS: FakeSockets = FakeSockets {
    udp: true,
    listener: true,
    tcp: TcpSocket::Connection,
};

const UDP: u8 = PROTOCOL_UDP;
const TCP: u8 = PROTOCOL_TCP;

#[test]
fn new_flows_need_a_socket() {
    check(UDP, 0, NO_SOCKETS, SteeringOutcome::NoSocket);
    check(TCP, tcp::SYN, NO_SOCKETS, SteeringOutcome::NoSocket);
    let sockets = FakeSockets {
        udp: true,
        listener: true,
        tcp: TcpSocket::Nothing,
    };
    check(UDP, 0, sockets, SteeringOutcome::Datagram);
    check(TCP, tcp::SYN, sockets, SteeringOutcome::Opening);
}

#[test]
fn an_opening_segment_needs_a_listener_even_in_time_wait() {
    let sockets = FakeSockets {
        tcp: TcpSocket::TimeWait,
        ..NO_SOCKETS
    };
    check(TCP, tcp::SYN, sockets, SteeringOutcome::NoSocket);
}

#[test]
fn later_segments_follow_the_socket_table() {
    let cases = [
        (TcpSocket::Nothing, SteeringOutcome::NoSocket),
        (TcpSocket::Listener, SteeringOutcome::NoSocket),
        (TcpSocket::Cookie, SteeringOutcome::Cookie),
        (TcpSocket::Connection, SteeringOutcome::Connection),
    ];
    for (socket, expected) in cases {
        for flags in [tcp::ACK, tcp::SYN | tcp::ACK, tcp::FIN | tcp::ACK] {
            check(TCP, flags, with_tcp_socket(socket), expected);
        }
    }
}

#[test]
fn a_socket_in_time_wait_takes_only_the_clients_fin() {
    let sockets = with_tcp_socket(TcpSocket::TimeWait);
    check(TCP, tcp::ACK, sockets, SteeringOutcome::NoSocket);
    check(
        TCP,
        tcp::FIN | tcp::ACK,
        sockets,
        SteeringOutcome::Connection,
    );
}

#[test]
fn without_a_lease_only_old_connections_are_steered() {
    let both = SteeredPod::UDP | SteeredPod::TCP;
    let unleased = both | SteeredPod::UNLEASED;
    for (new_flows, udp, opening) in [
        (
            both,
            SteeringOutcome::LeaseStale,
            SteeringOutcome::LeaseStale,
        ),
        (
            unleased,
            SteeringOutcome::Datagram,
            SteeringOutcome::Opening,
        ),
    ] {
        let tables = FakeTables {
            new_flows,
            is_leased: false,
            sockets: ALL_SOCKETS,
        };
        let outcome = |protocol, flags| decide_on(&frame(protocol, flags), &tables);
        assert_eq!(outcome(UDP, 0), udp);
        assert_eq!(outcome(TCP, tcp::SYN), opening);
        assert_eq!(outcome(TCP, tcp::ACK), SteeringOutcome::Connection);
    }
}

#[test]
fn each_protocol_has_a_verdict_of_its_own() {
    let (datagram, opening) = (SteeringOutcome::Datagram, SteeringOutcome::Opening);
    let denied = SteeringOutcome::NotPermitted;
    for (new_flows, udp, tcp_opening) in [
        (0, denied, denied),
        (SteeredPod::UDP, datagram, denied),
        (SteeredPod::TCP, denied, opening),
        // The canary's mark permits nothing.
        (SteeredPod::UNLEASED, denied, denied),
    ] {
        let tables = FakeTables {
            new_flows,
            ..all_admitted(ALL_SOCKETS)
        };
        let outcome = |protocol, flags| decide_on(&frame(protocol, flags), &tables);
        assert_eq!(outcome(UDP, 0), udp, "{new_flows}");
        assert_eq!(outcome(TCP, tcp::SYN), tcp_opening, "{new_flows}");
        assert_eq!(outcome(TCP, tcp::ACK), SteeringOutcome::Connection);
    }
}

#[test]
fn the_steering_program_sees_segments_to_the_steered_port() {
    let may_be_steered = |frame: &[u8], outcome, port| {
        let start = frame.as_ptr() as usize;
        may_be_steered(outcome, start, start + frame.len(), frame.len(), port)
    };
    let (segment, datagram) = (frame(TCP, tcp::ACK), frame(UDP, 0));
    for outcome in [Outcome::NotUdp, Outcome::Aggregated] {
        assert!(may_be_steered(&segment, outcome, DNS_PORT));
        assert!(!may_be_steered(&segment, outcome, 54_u16.to_be()));
        assert!(!may_be_steered(&datagram, outcome, DNS_PORT));
        assert!(!may_be_steered(&segment[..FRAME - 1], outcome, DNS_PORT));
    }
    // Only queries that neither the tables nor the Corefile decide.
    for outcome in Outcome::ALL {
        let expected = matches!(
            outcome,
            Outcome::NameLength
                | Outcome::MetaType
                | Outcome::NonstandardEdns
                | Outcome::TagCollision
                | Outcome::NotAuthoritative
                | Outcome::TooLarge
                | Outcome::NoRoom
        );
        assert_eq!(may_be_steered(&datagram, outcome, DNS_PORT), expected);
    }
}

#[test]
fn the_steering_program_sees_headers_that_cannot_be_read_directly() {
    let short = frame(TCP, tcp::ACK);
    let start = short.as_ptr() as usize;
    let is_seen = |length| may_be_steered(Outcome::Short, start, start + 20, length, DNS_PORT);
    assert!(is_seen(LONGEST_HEADERS) && !is_seen(20));
}

#[test]
fn a_forged_source_is_not_steered() {
    let tables = all_admitted(FakeSockets {
        udp: true,
        ..NO_SOCKETS
    });
    let mut forged = frame(UDP, 0);
    forged[ethernet::LENGTH + ipv4::SOURCE + 3] = 3;
    assert_eq!(decide_on(&forged, &tables), SteeringOutcome::NotThePod);
    let flow = read_frame(&frame(UDP, 0)).unwrap();
    let outcome = decide(&flow, POD_INTERFACE + 1, &tables);
    assert_eq!(outcome, SteeringOutcome::NotThePod);
}

#[test]
fn other_addresses_and_ports_are_not_served() {
    let tables = all_admitted(FakeSockets {
        udp: true,
        ..NO_SOCKETS
    });
    for at in [
        ethernet::LENGTH + ipv4::DESTINATION,
        ethernet::LENGTH + ipv4::LENGTH + udp::DESTINATION_PORT,
    ] {
        let mut other = frame(UDP, 0);
        other[at] ^= 1;
        assert_eq!(decide_on(&other, &tables), SteeringOutcome::NotServed);
    }
}

#[test]
fn fragments_options_other_protocols_and_short_frames_are_not_read() {
    let edits = [
        // More fragments follow.
        (ethernet::LENGTH + ipv4::FRAGMENT, 0x20),
        // The offset of a later fragment.
        (ethernet::LENGTH + ipv4::FRAGMENT + 1, 1),
        // A header of six words.
        (ethernet::LENGTH, 0x46),
        // ICMP.
        (ethernet::LENGTH + ipv4::PROTOCOL, 1),
        // ARP.
        (ethernet::TYPE + 1, 6),
    ];
    for (at, value) in edits {
        let mut edited = frame(UDP, 0);
        edited[at] = value;
        assert!(read_frame(&edited).is_none(), "byte {at}");
    }
    assert!(read_frame(&frame(TCP, 0)[..FRAME - 1]).is_none());
    assert!(read_frame(&frame(UDP, 0)[..FRAME - tcp::LENGTH + udp::LENGTH - 1]).is_none());
    assert!(read_frame(&frame(UDP, 0)[..FRAME - tcp::LENGTH + udp::LENGTH]).is_some());
}

/// Sockets of every kind, and this one for later TCP segments.
fn with_tcp_socket(tcp: TcpSocket) -> FakeSockets {
    FakeSockets {
        udp: true,
        listener: true,
        tcp,
    }
}

/// Checks the outcome of a packet from the pod while all flows are admitted.
fn check(protocol: u8, flags: u8, sockets: FakeSockets, expected: SteeringOutcome) {
    let outcome = decide_on(&frame(protocol, flags), &all_admitted(sockets));
    assert_eq!(outcome, expected, "protocol {protocol}, flags {flags}");
}

fn all_admitted(sockets: FakeSockets) -> FakeTables {
    FakeTables {
        new_flows: SteeredPod::UDP | SteeredPod::TCP,
        is_leased: true,
        sockets,
    }
}

fn decide_on(frame: &[u8], tables: &FakeTables) -> SteeringOutcome {
    decide(&read_frame(frame).unwrap(), POD_INTERFACE, tables)
}

fn read_frame(frame: &[u8]) -> Option<Flow> {
    let range = frame.as_ptr_range();
    read(range.start as usize, range.end as usize)
}

/// A frame from the pod to the served address and port. UDP has no flags.
fn frame(protocol: u8, flags: u8) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let ip = ethernet::LENGTH;
    let transport = ip + ipv4::LENGTH;
    frame[ethernet::TYPE..][..2].copy_from_slice(&ETHERTYPE_IPV4.to_ne_bytes());
    frame[ip] = IPV4_WITHOUT_OPTIONS;
    frame[ip + ipv4::PROTOCOL] = protocol;
    frame[ip + ipv4::SOURCE..][..4].copy_from_slice(&POD);
    frame[ip + ipv4::DESTINATION..][..4].copy_from_slice(&SERVED);
    frame[transport + udp::DESTINATION_PORT..][..2].copy_from_slice(&DNS_PORT.to_ne_bytes());
    frame[transport + tcp::FLAGS] = flags;
    frame
}
