//! Finds or builds the client programs, and runs them in a pod.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use tempfile::TempDir;
use zerohop_tests::netns::NetworkNamespace;

use super::{MAX_CLIENT_TIME, RESOLV_CONF};

/// Runs a command with a private /etc and an empty /run. /etc has only the files that resolvers
/// read. The empty /run hides the socket of nscd, which would answer instead of the kernel.
const IN_POD: &str = "\
mount -t tmpfs tmpfs /etc && mount -t tmpfs tmpfs /run &&
printf %s \"$RESOLV_CONF\" > /etc/resolv.conf && echo 'hosts: dns' > /etc/nsswitch.conf &&
exec \"$@\"";

/// The path of systemd-resolved. The tests don't install it, because Debian's package takes over
/// the machine's /etc/resolv.conf.
const RESOLVED: &str = "/usr/lib/systemd/systemd-resolved";

/// A client that runs longer than this number of seconds is killed. This ends clients that hang;
/// the limit for success is [`MAX_CLIENT_TIME`].
const TIMEOUT_SECONDS: &str = "60";

/// A client program of the tests.
pub(crate) struct ClientProgram {
    pub(crate) name: &'static str,
    pub(crate) origin: InstalledBy,
    /// The command, or the reason why the program is missing.
    pub(crate) found: Result<InstalledClient, String>,
}

/// Who installs a client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstalledBy {
    /// `cargo xtask setup`; a missing program fails the test.
    Setup,
    /// The owner of the machine; a missing program is skipped.
    Machine,
}

/// The command of an available client program.
pub(crate) struct InstalledClient {
    /// The command line, without the question.
    pub(crate) words: Vec<String>,
    pub(crate) version: String,
}

/// The directory of client programs that the tests build.
pub(crate) struct ClientBuilds {
    folder: TempDir,
}

impl ClientBuilds {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder }
    }

    /// Programs that use a library resolver and print the addresses of names.
    pub(crate) fn libraries(&self) -> [ClientProgram; 5] {
        [
            ClientProgram {
                name: "glibc",
                origin: InstalledBy::Setup,
                found: self.build_c(&["cc"]).and_then(|words| {
                    // `getent` is part of glibc.
                    let version = version("getent", "--version")?;
                    Ok(InstalledClient { words, version })
                }),
            },
            ClientProgram {
                name: "musl",
                origin: InstalledBy::Setup,
                found: self
                    .build_c(&["musl-gcc", "-static"])
                    .map(|words| InstalledClient {
                        words,
                        version: musl_version(),
                    }),
            },
            ClientProgram {
                name: "systemd-resolved",
                origin: InstalledBy::Machine,
                found: self.for_resolved(),
            },
            ClientProgram {
                name: "Go",
                origin: InstalledBy::Machine,
                found: self.build_go(),
            },
            ClientProgram {
                name: "Python",
                origin: InstalledBy::Machine,
                found: version("python3", "--version").map(|version| InstalledClient {
                    words: vec!["python3".to_owned(), source("lookup.py")],
                    version,
                }),
            },
        ]
    }

    /// Programs that print the reply to a question.
    pub(crate) fn tools(&self) -> [ClientProgram; 5] {
        let tool = |name, program: &str, version_option, options: &[&str]| ClientProgram {
            name,
            origin: InstalledBy::Setup,
            found: version(program, version_option).map(|version| InstalledClient {
                words: [&[program], options]
                    .concat()
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                version,
            }),
        };
        [
            tool("dig", "dig", "-v", &[]),
            tool("dig without EDNS", "dig", "-v", &["+noedns"]),
            tool("dig over TCP", "dig", "-v", &["+tcp"]),
            tool("kdig", "kdig", "--version", &[]),
            // Without -a drill doesn't retry a truncated reply over TCP.
            tool("drill", "drill", "-v", &["-a"]),
        ]
    }

    /// Builds `lookup.c`. Returns its command line.
    fn build_c(&self, compiler: &[&str]) -> Result<Vec<String>, String> {
        let program = self.program_path(compiler[0]);
        let mut build = Command::new(compiler[0]);
        build.args(&compiler[1..]);
        run_installed(build.args(["-o", &program, &source("lookup.c")]))?;
        Ok(vec![program])
    }

    /// Builds `lookup.c`, and returns the command that runs it with systemd-resolved.
    fn for_resolved(&self) -> Result<InstalledClient, String> {
        let version = version(RESOLVED, "--version")?;
        let mut words = vec!["sh".to_owned(), source("resolved.sh"), RESOLVED.to_owned()];
        words.extend(self.build_c(&["cc"])?);
        Ok(InstalledClient { words, version })
    }

    /// Builds `lookup.go` with Go's own resolver.
    fn build_go(&self) -> Result<InstalledClient, String> {
        let program = self.program_path("go");
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        run_installed(
            Command::new("go")
                .args([
                    "build",
                    "-tags",
                    "netgo",
                    "-o",
                    &program,
                    &source("lookup.go"),
                ])
                .env("CGO_ENABLED", "0")
                .env("GOTOOLCHAIN", "local")
                .env("GOCACHE", cache),
        )?;
        Ok(InstalledClient {
            words: vec![program],
            version: version("go", "version")?,
        })
    }

    fn program_path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Runs clients in a pod.
pub(crate) struct PodShell<'a> {
    pub(crate) pod: &'a NetworkNamespace,
}

impl PodShell<'_> {
    /// Returns the output of a client. The client must succeed within [`MAX_CLIENT_TIME`].
    pub(crate) fn run(&self, words: &[String], question: &[&str]) -> String {
        let mut command = self.pod.command("timeout").unwrap();
        command
            .args([
                TIMEOUT_SECONDS,
                "unshare",
                "--mount",
                "sh",
                "-c",
                IN_POD,
                "sh",
            ])
            .args(words)
            .args(question)
            .env("RESOLV_CONF", RESOLV_CONF);
        let start = Instant::now();
        let output = command.output().unwrap();
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        let what = format!("{words:?} {question:?} took {took:?}: {text}{error}");
        assert!(output.status.success(), "{}: {what}", output.status);
        assert!(took < MAX_CLIENT_TIME, "too slow: {what}");
        text
    }
}

/// The path of a file in the directory of this module.
fn source(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "suites/clients", name]
        .iter()
        .collect();
    path.display().to_string()
}

/// The first line of a program's version output.
fn version(program: &str, option: &str) -> Result<String, String> {
    Ok(first_line(
        &run_installed(Command::new(program).arg(option))?,
        "",
    ))
}

/// The version of musl. Its loader prints the version to stderr and exits with an error.
fn musl_version() -> String {
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    match Command::new(&loader).output() {
        Ok(output) => first_line(&output, "Version "),
        Err(error) => format!("of unknown version ({loader}: {error})"),
    }
}

/// The first line of the output that begins with `start`, or a replacement if there is none.
fn first_line(output: &Output, start: &str) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    let mut lines = text
        .lines()
        .filter(|line| !line.is_empty() && line.starts_with(start));
    lines.next().unwrap_or("of unknown version").to_owned()
}

/// Runs a program and returns its output, or an error if the program is not installed.
///
/// # Panics
///
/// If the program can't be started or fails.
fn run_installed(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().display().to_string();
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{command:?} failed: {output:?}");
            Ok(output)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("{program} is not installed"))
        }
        Err(error) => panic!("cannot start {program}: {error}"),
    }
}
