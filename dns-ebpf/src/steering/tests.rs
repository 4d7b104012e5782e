use super::*;

const POD_INTERFACE: u32 = 7;
const POD: [u8; 4] = [10, 244, 0, 2];
const SERVED: [u8; 4] = [10, 96, 0, 10];
const DNS_PORT: u16 = 53_u16.to_be();

/// The length of an IPv4 TCP frame in these tests.
const FRAME: usize = ethernet::LENGTH + ipv4::LENGTH + tcp::LENGTH;

/// One pod, one served address, and the sockets of a test.
struct FakeTables {
    admitted: AdmittedFlows,
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

    fn interface_of(&self, pod: &ClientKey) -> Option<u32> {
        (*pod == ipv4_client_key(u32::from_ne_bytes(POD))).then_some(POD_INTERFACE)
    }

    fn admitted(&self) -> AdmittedFlows {
        self.admitted
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
fn without_admission_only_old_connections_are_steered() {
    let tables = FakeTables {
        admitted: AdmittedFlows::Old,
        sockets: FakeSockets {
            udp: true,
            listener: true,
            tcp: TcpSocket::Connection,
        },
    };
    let outcome = |protocol, flags| decide_on(&frame(protocol, flags), &tables);
    assert_eq!(outcome(UDP, 0), SteeringOutcome::NotAdmitted);
    assert_eq!(outcome(TCP, tcp::SYN), SteeringOutcome::NotAdmitted);
    assert_eq!(outcome(TCP, tcp::ACK), SteeringOutcome::Connection);
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
        admitted: AdmittedFlows::All,
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
