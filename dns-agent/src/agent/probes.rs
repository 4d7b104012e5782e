//! The tasks of `--probe`: each asks one DNS server one question again and again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};
use zerohop_resolver::probe_server;

use crate::{admin::probes::ProbeState, config::ProbeSetting};

/// The longest time that a probe waits for a reply.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Probes until dropped. The first probe is at a random moment of the first interval, so that
/// several probes, and the agents of several nodes, don't ask at the same time.
pub(super) async fn probe(setting: ProbeSetting, state: Arc<ProbeState>) -> Infallible {
    let ProbeSetting {
        label,
        server,
        name,
        interval,
        rtype,
    } = setting;
    let limit = wait_limit(interval);
    let first = Instant::now() + interval.mul_f64(rand::random());
    let mut ticks = interval_at(first, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = probe_server(server, &name, rtype, limit).await;
        let result = result.map_err(|failure| failure.to_string());
        let changed = state.record(result.clone());
        match result {
            Err(reason) if changed => warn!(
                "--probe {label}: {server} {reason} ({name} {rtype}): /healthcheck/{label} is 503 \
                 until the server answers: check that it runs, and that this node reaches it"
            ),
            Ok(_) if changed => info!("--probe {label}: {server} answers {name} {rtype}"),
            _ => {}
        }
    }
}

/// The time limit of a probe. It is shorter than the interval, so that a probe has ended before the
/// next one.
fn wait_limit(interval: Duration) -> Duration {
    MAX_WAIT.min(interval * 3 / 4)
}

#[cfg(test)]
mod tests {
    use tokio::{net::UdpSocket, spawn};
    use zerohop_zone::{Name, Rtype};

    use super::*;
    use crate::admin::probes::ProbeStates;

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_once_in_each_interval() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let interval = Duration::from_secs(1);
        let setting = ProbeSetting {
            label: "a".to_owned(),
            server: server.local_addr().unwrap(),
            name: Name::parse("web.example").unwrap(),
            interval,
            rtype: Rtype::A,
        };
        let states = ProbeStates::new(["a".to_owned()]);
        let start = Instant::now();
        let task = spawn(probe(setting, states.iter().next().unwrap().clone()));
        let mut times = Vec::new();
        let mut sources = Vec::new();
        for _ in 0..5 {
            let (_, source) = server.recv_from(&mut [0; 512]).await.unwrap();
            times.push(start.elapsed());
            sources.push(source);
        }
        task.abort();
        // Timers of tokio have a resolution of a millisecond.
        assert!(times[0] <= interval + Duration::from_millis(1), "{times:?}");
        let gaps = times.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
        for gap in gaps {
            assert!(
                gap.abs_diff(interval) <= Duration::from_millis(1),
                "{times:?}"
            );
        }
        sources.sort_unstable();
        sources.dedup();
        // Random ports may be equal by chance.
        assert!(sources.len() > 3, "{sources:?}");
    }

    #[test]
    fn a_probe_ends_before_the_next_one() {
        let limits = [1, 2, 3, 3600].map(|seconds| wait_limit(Duration::from_secs(seconds)));
        assert_eq!(
            limits.map(|limit| limit.as_millis()),
            [750, 1500, 2000, 2000]
        );
    }
}
