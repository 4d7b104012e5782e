//! Control frames of Frame Streams, and the handshakes that begin and end a stream (the protocol
//! of fstrm, `fstrm/control.h`).
//!
//! A data frame is a length of four bytes and the data. A control frame begins with the length 0,
//! which marks it, and has its own length then.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// The content type of a stream of dnstap messages.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";
/// The field of a control frame that has the content type.
const CONTENT_TYPE_FIELD: u32 = 1;
/// Upper bound on the length of a control frame in bytes, as in fstrm.
const MAX_CONTROL: usize = 512;
/// How long a frame of a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// The type of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlType {
    /// The receiver accepts a content type.
    Accept = 1,
    /// Data frames follow.
    Start = 2,
    /// No data frame follows.
    Stop = 3,
    /// The sender offers content types.
    Ready = 4,
    /// The receiver has received all data frames.
    Finish = 5,
}

/// Begins a stream: READY, ACCEPT, START.
///
/// # Errors
/// When the collector doesn't accept the content type, doesn't answer in time, or is gone.
pub(super) async fn start_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let start = async {
        stream.write_all(&control_frame(ControlType::Ready)).await?;
        let accept = read_control(stream).await?;
        if !is_accepted(&accept) {
            return Err(io::Error::other(
                "it doesn't accept the content type protobuf:dnstap.Dnstap",
            ));
        }
        stream.write_all(&control_frame(ControlType::Start)).await
    };
    timeout(HANDSHAKE_LIMIT, start).await?
}

/// Ends a stream: STOP, FINISH.
///
/// # Errors
/// When the collector doesn't answer in time, or is gone.
pub(super) async fn stop_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let stop = async {
        stream.write_all(&control_frame(ControlType::Stop)).await?;
        let finish = read_control(stream).await?;
        if control_type(&finish) != Some(ControlType::Finish as u32) {
            return Err(io::Error::other("it doesn't answer STOP with FINISH"));
        }
        Ok(())
    };
    timeout(HANDSHAKE_LIMIT, stop).await?
}

/// A control frame. READY and START have the content type.
fn control_frame(control: ControlType) -> Vec<u8> {
    let mut content = (control as u32).to_be_bytes().to_vec();
    if matches!(control, ControlType::Ready | ControlType::Start) {
        content.extend_from_slice(&CONTENT_TYPE_FIELD.to_be_bytes());
        content.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
        content.extend_from_slice(CONTENT_TYPE);
    }
    let mut frame = vec![0; 4];
    frame.extend_from_slice(&(content.len() as u32).to_be_bytes());
    frame.extend_from_slice(&content);
    frame
}

/// Reads a control frame, without its mark and its length.
async fn read_control(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mark = stream.read_u32().await?;
    let length = stream.read_u32().await? as usize;
    if mark != 0 || length > MAX_CONTROL {
        return Err(io::Error::other("it sends no Frame Streams control frame"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    Ok(content)
}

fn control_type(content: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*content.first_chunk()?))
}

/// Whether a control frame is ACCEPT with this content type. Without any content type, it accepts
/// all of them.
fn is_accepted(content: &[u8]) -> bool {
    let Some((kind, mut rest)) = content.split_first_chunk() else {
        return false;
    };
    if u32::from_be_bytes(*kind) != ControlType::Accept as u32 {
        return false;
    }
    let mut has_type = false;
    while let Some((field, after)) = split_field(rest) {
        if field == CONTENT_TYPE {
            return true;
        }
        has_type = true;
        rest = after;
    }
    !has_type && rest.is_empty()
}

/// The content type in the first field of a control frame, and what follows the field. `None`:
/// there is no such field.
fn split_field(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let (field, rest) = content.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    if u32::from_be_bytes(*field) != CONTENT_TYPE_FIELD {
        return None;
    }
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
