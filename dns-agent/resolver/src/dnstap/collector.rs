//! Connects to the collector, and sends what waits in the queue.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    select,
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    frames::{start_stream, stop_stream},
    queue::{FrameBatch, FrameQueue},
};

/// Messages wait in the queue for this time at most while the collector reads.
const FLUSH_INTERVAL: Duration = Duration::from_millis(250);
/// The pause before the next attempt to connect. It is doubled for each attempt up to
/// [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Sends what waits in the queue, and connects again when the collector goes away, until `closing`
/// is notified.
pub(super) async fn deliver(socket: &Path, queue: &FrameQueue, closing: &Notify) {
    let mut pause = FIRST_PAUSE;
    // Whether the log says that there is no collector.
    let mut is_reported = false;
    loop {
        let started = Instant::now();
        let ended = match connect(socket).await {
            Ok(stream) => {
                info!(socket = %socket.display(), "dnstap: the collector is connected");
                is_reported = false;
                send_frames(stream, queue, closing).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else {
            return;
        };
        if !is_reported {
            is_reported = true;
            warn!(
                socket = %socket.display(),
                %error,
                "dnstap has no collector: DNS is answered without it; messages beyond the queue are \
                 dropped and counted in zerohop_dnstap_dropped_total; the agent connects again by \
                 itself; check that the collector runs and listens at the socket"
            );
        }
        if started.elapsed() > MAX_PAUSE {
            pause = FIRST_PAUSE;
        }
        select! {
            () = sleep(pause) => {}
            () = closing.notified() => return,
        }
        pause = (2 * pause).min(MAX_PAUSE);
    }
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    start_stream(&mut stream).await?;
    Ok(stream)
}

/// Sends frames until `closing` is notified, and ends the stream then.
///
/// # Errors
/// When the collector ends the stream. The frames that were being written are lost, and counted as
/// dropped.
async fn send_frames(
    mut stream: UnixStream,
    queue: &FrameQueue,
    closing: &Notify,
) -> io::Result<()> {
    let mut batch = FrameBatch::default();
    loop {
        let is_closing = select! {
            () = queue.wait_until_full() => false,
            () = sleep(FLUSH_INTERVAL) => false,
            () = closing.notified() => true,
            // A collector sends nothing before STOP.
            received = stream.read_u8() => {
                received?;
                return Err(io::Error::other("it sends frames before STOP"));
            }
        };
        queue.take(&mut batch);
        if let Err(error) = stream.write_all(&batch.bytes).await {
            queue.count_dropped(batch.messages);
            return Err(error);
        }
        if is_closing {
            if let Err(error) = stop_stream(&mut stream).await {
                warn!(%error, "dnstap: the collector didn't confirm the end of the stream");
            }
            return Ok(());
        }
    }
}
