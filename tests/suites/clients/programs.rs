//! The client programs: found, or built, and run in a pod.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use tempfile::TempDir;
use zerohop_tests::netns::Namespace;

use super::{QUICK, RESOLV_CONF};

/// Gives a process an /etc with what resolvers read there and nothing else, which goes with the process. In /run would be
/// the socket of nscd, which would answer for us.
const IN_POD: &str = "\
mount -t tmpfs tmpfs /etc && mount -t tmpfs tmpfs /run &&
printf %s \"$RESOLV_CONF\" > /etc/resolv.conf && echo 'hosts: dns' > /etc/nsswitch.conf &&
exec \"$@\"";

/// No package of it is installed for this: Debian's takes over the machine's own /etc/resolv.conf.
const RESOLVED: &str = "/usr/lib/systemd/systemd-resolved";

/// Seconds after which a client that doesn't end is ended.
const LONGEST: &str = "60";

/// A client.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) origin: Origin,
    /// Or why it is not here.
    pub(crate) found: Result<Found, String>,
}

/// Who sees to it that a client is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `cargo xtask setup`.
    Setup,
    /// Whoever owns the machine.
    Machine,
}

/// A client that is here.
pub(crate) struct Found {
    /// Its command line; what is asked follows.
    pub(crate) words: Vec<String>,
    pub(crate) version: String,
}

/// Those that must be built, built.
pub(crate) struct Programs {
    folder: TempDir,
}

impl Programs {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder }
    }

    /// Programs that print a name's addresses.
    pub(crate) fn libraries(&self) -> [Program; 5] {
        [
            Program {
                name: "glibc",
                origin: Origin::Setup,
                found: self.in_c(&["cc"]).and_then(|words| {
                    let version = version("getent", "--version")?;
                    Ok(Found { words, version })
                }),
            },
            Program {
                name: "musl",
                origin: Origin::Setup,
                found: self.in_c(&["musl-gcc", "-static"]).map(|words| Found {
                    words,
                    version: musl_version(),
                }),
            },
            Program {
                name: "systemd-resolved",
                origin: Origin::Machine,
                found: self.resolved(),
            },
            Program {
                name: "Go",
                origin: Origin::Machine,
                found: self.in_go(),
            },
            Program {
                name: "Python",
                origin: Origin::Machine,
                found: version("python3", "--version").map(|version| Found {
                    words: vec!["python3".to_owned(), source("lookup.py")],
                    version,
                }),
            },
        ]
    }

    /// Programs that print the reply to a question.
    pub(crate) fn tools(&self) -> [Program; 5] {
        let tool = |name, program: &str, version_option, options: &[&str]| Program {
            name,
            origin: Origin::Setup,
            found: version(program, version_option).map(|version| Found {
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
            // Without the option it is content with a truncated reply.
            tool("drill", "drill", "-v", &["-a"]),
        ]
    }

    /// Builds the program in C.
    fn in_c(&self, compiler: &[&str]) -> Result<Vec<String>, String> {
        let program = self.program(compiler[0]);
        let mut build = Command::new(compiler[0]);
        build.args(&compiler[1..]);
        run(build.args(["-o", &program, &source("lookup.c")]))?;
        Ok(vec![program])
    }

    /// The program in C, which asks systemd-resolved.
    fn resolved(&self) -> Result<Found, String> {
        let version = version(RESOLVED, "--version")?;
        let mut words = vec!["sh".to_owned(), source("resolved.sh"), RESOLVED.to_owned()];
        words.extend(self.in_c(&["cc"])?);
        Ok(Found { words, version })
    }

    /// Builds the program in Go, with Go's own resolver.
    fn in_go(&self) -> Result<Found, String> {
        let program = self.program("go");
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        run(Command::new("go")
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
            .env("GOCACHE", cache))?;
        Ok(Found {
            words: vec![program],
            version: version("go", "version")?,
        })
    }

    fn program(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Runs clients in a pod.
pub(crate) struct Shell<'a> {
    pub(crate) pod: &'a Namespace,
}

impl Shell<'_> {
    /// What a client prints. It must end well, and before it could have asked twice.
    pub(crate) fn run(&self, words: &[String], question: &[&str]) -> String {
        let mut command = self.pod.command("timeout").unwrap();
        command
            .args([LONGEST, "unshare", "--mount", "sh", "-c", IN_POD, "sh"])
            .args(words)
            .args(question)
            .env("RESOLV_CONF", RESOLV_CONF);
        let start = Instant::now();
        let output = command.output().unwrap();
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        let what = format!("{words:?} {question:?} took {took:?}: {text}{error}");
        assert!(output.status.success(), "{what}");
        assert!(took < QUICK, "{what}");
        text
    }
}

/// A file beside this one.
fn source(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "suites/clients", name]
        .iter()
        .collect();
    path.display().to_string()
}

/// The first line of what a program says of itself.
fn version(program: &str, option: &str) -> Result<String, String> {
    Ok(first_line(&run(Command::new(program).arg(option))?, ""))
}

/// Its loader says it, and calls that an error.
fn musl_version() -> String {
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    match Command::new(&loader).output() {
        Ok(output) => first_line(&output, "Version "),
        Err(error) => format!("of unknown version ({loader}: {error})"),
    }
}

fn first_line(output: &Output, start: &str) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    let mut lines = text
        .lines()
        .filter(|line| !line.is_empty() && line.starts_with(start));
    lines.next().unwrap_or("of unknown version").to_owned()
}

/// Runs a program that may not be there, but must not fail.
fn run(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().display().to_string();
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{command:?}: {output:?}");
            Ok(output)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("{program} is not installed"))
        }
        Err(error) => panic!("{program}: {error}"),
    }
}
