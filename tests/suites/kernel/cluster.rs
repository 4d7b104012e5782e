//! Models from Kubernetes objects and the agent's flags, and what the user plane says of them.

use clap::Parser as _;
use dns_agent::{
    cluster::{Objects, Selectors, build},
    config::{Cli, Command, Config},
    resolver::message::{Reply, Transport, respond},
    source::manifests,
    zone::Model,
};

/// The serial of every zone.
const SERIAL: u32 = 1;

/// The model that the agent makes of these manifests with these flags. Some scenarios are about objects that make
/// problems.
pub(crate) fn model(manifests: &str, flags: &[&str]) -> Model {
    let config = config(flags);
    let objects = objects(manifests, &config.selectors);
    build(&objects, &config.zone, SERIAL).0
}

/// The same of objects that have been selected, and make no problems.
pub(crate) fn model_of(objects: &Objects, flags: &[&str]) -> Model {
    let (model, problems) = build(objects, &config(flags).zone, SERIAL);
    assert_eq!(problems, []);
    model
}

/// Reads manifests as the agent does: from a file.
fn objects(text: &str, selectors: &Selectors) -> Objects {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, text).unwrap();
    manifests::load(&file, selectors).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

/// What the command line makes of flags.
fn config(flags: &[&str]) -> Config {
    let command_line = ["dns-agent", "run", "--manifests", "/objects"];
    let cli = Cli::try_parse_from(command_line.iter().chain(flags)).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("{flags:?} are not those of `run`");
    };
    Config::from_args(*args).unwrap()
}

/// Whether this is, octet by octet, what the user plane says to a message in some rotation.
pub(crate) fn is_right(asked: &[u8], reply: &[u8], model: &Model) -> bool {
    // An answer has one run of addresses, and none has as many as this.
    (0..256).any(
        |rotation| match respond(asked, model, Transport::Udp, rotation) {
            Reply::Message(expected) => expected == reply,
            _ => false,
        },
    )
}
