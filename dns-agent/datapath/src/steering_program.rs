//! The program to which the kernel plane gives packets that may be steered.

use std::{fmt, sync::Arc};

use aya::programs::ProgramFd;

/// The loaded program. Clones share it.
#[derive(Clone)]
pub struct SteeringProgram {
    pub(super) program: Arc<ProgramFd>,
    /// The port of the packets.
    pub(super) port: u16,
}

impl SteeringProgram {
    pub(super) fn new(program: ProgramFd, port: u16) -> SteeringProgram {
        SteeringProgram {
            program: Arc::new(program),
            port,
        }
    }
}

impl fmt::Debug for SteeringProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SteeringProgram(port {})", self.port)
    }
}
