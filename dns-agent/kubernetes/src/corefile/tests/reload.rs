//! How often CoreDNS checks for a changed Corefile.

use std::time::Duration;

use super::{corefile_with, read_reload, refusal};
use crate::Reload;

/// A reload with this interval and jitter, in seconds.
fn every(interval: f64, jitter: f64) -> Reload {
    Reload::Every {
        interval: Duration::from_secs_f64(interval),
        jitter: Duration::from_secs_f64(jitter),
    }
}

#[test]
fn intervals_are_read_as_coredns_reads_them() {
    for (line, wanted) in [
        ("reload", every(30.0, 15.0)),
        ("reload 1m", every(60.0, 15.0)),
        ("reload 10m", every(600.0, 15.0)),
        ("reload 10m 1m", every(600.0, 60.0)),
        ("reload 10s", every(10.0, 5.0)),
        ("reload 2s 1s", every(2.0, 1.0)),
        ("reload 1h30m 0", every(5400.0, 0.0)),
        ("reload 1.5h 0s", every(5400.0, 0.0)),
        ("reload +1m .5m", every(60.0, 30.0)),
        ("reload 120000ms 1000000us", every(120.0, 1.0)),
        ("reload \"1m\" 2s # often", every(60.0, 2.0)),
        ("reload 30s -0", every(30.0, 0.0)),
        ("reload 30s -0s", every(30.0, 0.0)),
        // CoreDNS ignores the braces.
        ("reload {\n 5m\n }", every(30.0, 15.0)),
        ("reload 1m {\n 5m\n }", every(60.0, 15.0)),
        ("", Reload::Never),
        ("health", Reload::Never),
        // Other plugins have options named `reload`.
        ("hosts {\n reload 5s\n fallthrough\n }", Reload::Never),
        ("auto {\n reload 1m\n }", Reload::Never),
        // CoreDNS refuses the whole Corefile because of these.
        ("reload 1s", Reload::Refused),
        ("reload 30", Reload::Refused),
        ("reload 10x", Reload::Refused),
        ("reload -1m", Reload::Refused),
        ("reload 30s -3s", Reload::Refused),
        ("reload off", Reload::Refused),
        ("reload 0", Reload::Refused),
        ("reload 1m 500ms", Reload::Refused),
        ("reload 1m 1s 1s", Reload::Refused),
        // Longer than Go's longest duration, about 292 years.
        ("reload 9999999h", Reload::Refused),
        // CoreDNS may insert other text here.
        ("reload {$INTERVAL}", Reload::Unknown),
        ("reload\n import more", Reload::Unknown),
    ] {
        assert_eq!(read_reload(&corefile_with(line)), wanted, "{line}");
        let is_refused = wanted == Reload::Refused;
        if is_refused {
            let reason = refusal(&corefile_with(line));
            assert!(reason.contains("CoreDNS refuses"), "{line}: {reason}");
        }
    }
}

#[test]
fn the_longest_reload_of_all_server_blocks_counts() {
    let block = |line| format!("example.org {{\n {line}\n}}\n");
    let texts = ["reload 1m", "reload 10m 2m", "whoami"].map(block).concat();
    assert_eq!(read_reload(&texts), every(600.0, 120.0));
    let over_tls = "tls://example.org {\n reload 1h\n}\n";
    assert_eq!(
        read_reload(&(texts + over_tls)),
        every(3600.0, 15.0),
        "all server blocks belong to one process"
    );
}

#[test]
fn the_reload_of_an_unreadable_text_is_refused_or_unknown() {
    for (text, wanted) in [
        (".:53 {\n reload\n", Reload::Refused),
        // The parser of CoreDNS ends a server block at the end of the text if the last word is a
        // closing brace.
        (".:53 {\n reload\n errors {\n }\n", Reload::Unknown),
        (".:53 {\n reload\n import more\n", Reload::Unknown),
        (".:53 {\n reload\n {$MORE}\n", Reload::Unknown),
        ("{$ZONE} {\n reload\n}\n", Reload::Unknown),
        ("import more\n.:53 {\n reload\n}\n", Reload::Unknown),
        // A snippet that no server block imports has no effect.
        (
            "(a) {\n reload 1h\n}\n.:53 {\n reload\n}\n",
            every(30.0, 15.0),
        ),
    ] {
        assert_eq!(read_reload(text), wanted, "{text}");
    }
}
