//! Runs a command on another kernel, in a QEMU guest. The guest's initramfs holds the programs and
//! files that the command needs; the guest has neither disk nor network.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    initramfs::Initramfs,
    kernels::BootableKernel,
    process::{busybox_applets, find_program, root},
};

/// A command to run in a guest, and the files that it needs. Paths are the same in the guest as on
/// the host.
pub(crate) struct Guest<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [String],
    /// The working directory.
    pub(crate) directory: &'a Path,
    /// Other programs that the command starts.
    pub(crate) programs: &'a [PathBuf],
    /// Files that the command reads.
    pub(crate) files: &'a [PathBuf],
    /// Environment variables.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

/// Number of a guest's processors: two, so that readers and writers run at the same time.
const PROCESSORS: &str = "2";
/// A guest's memory, which also holds its file system.
const MEMORY: &str = "2G";
/// The longest time that a guest may run.
const TIME_LIMIT: Duration = Duration::from_secs(900);
/// Precedes the command's exit code in the guest's output.
const EXIT_MARK: &str = "zerohop-guest-exit: ";

impl Guest<'_> {
    /// Boots the kernel, runs the command, gives each line of its output to `print_line`, and
    /// returns its exit code.
    pub(crate) fn run(
        &self,
        kernel: &BootableKernel,
        print_line: &mut dyn FnMut(&str),
    ) -> Result<i32> {
        let directory = root().join("target/guest").join(&kernel.version);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let initramfs = directory.join("initramfs");
        self.initramfs(kernel)?.write(&initramfs)?;
        let log = directory.join("kernel.log");
        let mut guest = start(kernel, &initramfs, &log)?;
        let outcome = follow_output(&mut guest, print_line);
        // This is necessary even if the guest has ended, because a child process must be waited
        // for.
        guest
            .kill()
            .and_then(|()| guest.wait())
            .context("cannot end the guest")?;
        outcome.map_err(|error| {
            anyhow!(
                "{error:#}\nThe end of the guest's kernel log ({}):\n{}",
                log.display(),
                last_lines(&log)
            )
        })
    }

    fn initramfs(&self, kernel: &BootableKernel) -> Result<Initramfs> {
        let mut initramfs = Initramfs::default();
        // Without /dev/console, device 5:1, the kernel starts /init without a standard output.
        initramfs.add_device(Path::new("/dev/console"), (5, 1))?;
        for directory in ["/proc", "/sys", "/tmp", "/run"] {
            initramfs.add_directory(Path::new(directory))?;
        }
        let busybox = find_program("busybox").context("busybox is not installed")?;
        initramfs.add_program(&busybox, Path::new("/bin/busybox"))?;
        for applet in busybox_applets(&busybox)? {
            initramfs.add_link(&Path::new("/bin").join(applet), "/bin/busybox")?;
        }
        initramfs.add_program(
            &find_program("ip").context("ip is not installed")?,
            Path::new("/sbin/ip"),
        )?;
        for module in &kernel.modules {
            let name = module
                .file_name()
                .with_context(|| format!("{} has no file name", module.display()))?;
            initramfs.add_file(module, &Path::new("/modules").join(name))?;
        }
        for program in self
            .programs
            .iter()
            .map(PathBuf::as_path)
            .chain(self.command.first().map(Path::new))
        {
            initramfs.add_program(program, program)?;
        }
        for file in self.files {
            initramfs.add_file(file, file)?;
        }
        initramfs.add_directory(self.directory)?;
        initramfs.add_contents(Path::new("/init"), 0o755, self.init().as_bytes())?;
        Ok(initramfs)
    }

    /// The script of the guest's first process. The second serial line carries only the command's
    /// output and exit code.
    fn init(&self) -> String {
        let environment: Vec<_> = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        let command: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        format!(
            "#!/bin/sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /run/netns
echo 1 > /proc/sys/net/core/bpf_jit_enable
for module in /modules/*; do insmod $module; done
# Loading the module dummy creates dummy0.
ip link delete dummy0
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1 </dev/null
# If the host's process is killed, the guest must end by itself.
(sleep {limit}; poweroff -f) &
{environment}cd {directory}
{command}
echo {EXIT_MARK}$?
poweroff -f
",
            environment = environment.concat(),
            directory = quoted(&self.directory.to_string_lossy()),
            command = command.join(" "),
            limit = TIME_LIMIT.as_secs() + 60,
        )
    }
}

fn start(kernel: &BootableKernel, initramfs: &Path, log: &Path) -> Result<Child> {
    Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-nographic", "-no-reboot"])
        .args(["-smp", PROCESSORS, "-m", MEMORY, "-cpu", "max"])
        .args(accelerators())
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        // An oops ends the guest, because no test may pass on a damaged kernel.
        .args(["-append", "console=ttyS0 quiet oops=panic panic=-1"])
        .args([
            "-serial",
            &format!("file:{}", log.display()),
            "-serial",
            "stdio",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")
}

/// QEMU's options for hardware virtualization, if the processor has the extension. Some virtual
/// machines have /dev/kvm without the extension, and guests do not boot there.
fn accelerators() -> &'static [&'static str] {
    let extension = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    });
    if extension {
        // tcg is the fallback for users who may not open /dev/kvm.
        &["-accel", "kvm", "-accel", "tcg"]
    } else {
        &["-accel", "tcg"]
    }
}

/// Gives the guest's output to `print_line`, up to the line with the command's exit code.
fn follow_output(guest: &mut Child, print_line: &mut dyn FnMut(&str)) -> Result<i32> {
    let output = guest.stdout.take().context("the guest has no output")?;
    let (sender, lines) = mpsc::channel();
    // A thread reads, because reading blocks and the time limit must hold.
    thread::spawn(move || send_lines(output, &sender));
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                // The command's last line may lack a newline.
                let Some((rest, code)) = line.split_once(EXIT_MARK) else {
                    print_line(&line);
                    continue;
                };
                if !rest.is_empty() {
                    print_line(rest);
                }
                return code
                    .parse()
                    .with_context(|| format!("the guest wrote an invalid exit code: {code}"));
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest did not end within {} s", TIME_LIMIT.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!(
                    "the guest ended before its command did: QEMU failed, or the guest's kernel \
                     did not boot or panicked"
                )
            }
        }
    }
}

fn send_lines(output: impl Read, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A word, quoted for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
