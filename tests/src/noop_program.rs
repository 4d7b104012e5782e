//! BPF programs that act as foreign programs. They do nothing, and tests choose their names.

use std::{ffi::CString, io, mem, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

/// A pinned program. Dropping it detaches the program, but does not remove the pin. A program that
/// is attached as a filter must be dropped by a thread in the device's namespace.
pub struct NoopProgram<P> {
    program: P,
}

/// Adds a clsact qdisc, which filters need. The device may have one already. The calling thread
/// must be in the device's namespace.
///
/// While the kernel adds or removes it, packets that the device sends may be lost: `qdisc_graft`
/// deactivates the device's queues (Linux 6.18, `net/sched/sch_api.c`). So a test that must not
/// lose packets adds it before.
pub fn add_clsact(device: &str) {
    // This fails if there is one. After any other error, attaching a filter fails.
    let _ = qdisc_add_clsact(device);
}

/// The program `r0 = verdict; exit`.
fn instructions(verdict: i32) -> [bpf_insn; 2] {
    let instruction = |code, immediate| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: immediate,
    };
    // BPF_ALU64 | BPF_MOV | BPF_K, and BPF_JMP | BPF_EXIT.
    [instruction(0xb7, verdict), instruction(0x95, 0)]
}

impl NoopProgram<SchedClassifier> {
    /// Loads a tc program and pins it at `pin`. The kernel keeps the first 15 bytes of `name`.
    pub fn load_tc(name: &str, pin: &Path) -> Result<Self> {
        // -1 is both TC_ACT_UNSPEC and TCX_NEXT: the next program decides.
        load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, name, -1, pin)?;
        let program = SchedClassifier::from_pin(pin)?;
        Ok(Self { program })
    }

    /// Attaches the program as a tc filter of the same name, and adds a clsact qdisc if the device
    /// has none ([`add_clsact`]). The calling thread must be in the device's namespace.
    pub fn attach_filter(&mut self, device: &str, direction: TcAttachType) -> Result<()> {
        add_clsact(device);
        let options = TcAttachOptions::Netlink(NlOptions::default());
        self.program
            .attach_with_options(device, direction, options)?;
        Ok(())
    }

    /// Attaches the program by tcx, which needs Linux 6.6. The calling thread must be in the
    /// device's namespace.
    pub fn attach_tcx(
        &mut self,
        device: &str,
        direction: TcAttachType,
        order: LinkOrder,
    ) -> Result<()> {
        let options = TcAttachOptions::TcxOrder(order);
        self.program
            .attach_with_options(device, direction, options)?;
        Ok(())
    }
}

impl NoopProgram<Xdp> {
    /// Loads an XDP program and pins it at `pin`. The kernel keeps the first 15 bytes of `name`.
    pub fn load_xdp(name: &str, pin: &Path) -> Result<Self> {
        const XDP_PASS: i32 = 2;
        load(bpf_prog_type::BPF_PROG_TYPE_XDP, name, XDP_PASS, pin)?;
        let program = Xdp::from_pin(pin, aya_obj::programs::XdpAttachType::Interface)?;
        Ok(Self { program })
    }

    /// Attaches the program in generic mode. The calling thread must be in the device's namespace.
    pub fn attach_generic(&mut self, device: &str) -> Result<()> {
        self.program.attach(device, XdpMode::Skb)?;
        Ok(())
    }
}

/// Loads the program by BPF_PROG_LOAD and pins it by BPF_OBJ_PIN.
fn load(kind: bpf_prog_type, name: &str, verdict: i32, pin: &Path) -> Result<()> {
    let instructions = instructions(verdict);
    // SAFETY: every field of the union is an integer, so zeros are valid.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: zeros are valid for this variant, which BPF_PROG_LOAD reads.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    for (to, from) in load.prog_name[..15].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let program = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes).context("loading a program")?;

    let path = CString::new(pin.as_os_str().as_bytes())?;
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: zeros are valid for this variant, which BPF_OBJ_PIN reads.
    let object = unsafe { &mut attributes.__bindgen_anon_4 };
    object.pathname = path.as_ptr() as u64;
    object.bpf_fd = program as u32;
    let pinned = bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes);
    // SAFETY: the kernel just returned this descriptor, and only this function has it.
    unsafe { libc::close(program as i32) };
    pinned.with_context(|| format!("pinning a program at {}", pin.display()))?;
    Ok(())
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the attributes point to memory that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
