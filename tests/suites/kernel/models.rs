//! Builds models from Kubernetes objects and the agent's flags, and compares replies with the user
//! plane.

use clap::Parser as _;
use dns_agent::config::{AgentCommand, Cli, Config};
use zerohop_kubernetes::{Objects, Selectors, ZoneSettings, build_model};
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_sources::manifests;
use zerohop_zone::Model;

/// The serial of every zone.
const SERIAL: u32 = 1;

/// Builds the agent's model of manifests and flags. Problems with objects are ignored, because some
/// scenarios are about such objects.
pub(crate) fn model(manifests: &str, flags: &[&str]) -> Model {
    let config = config(flags);
    let objects = objects(manifests, &config.selectors);
    build_model(&objects, &config.zone, SERIAL).0
}

/// As [`model`], with settings that CoreDNS's Corefile makes and flags do not.
pub(crate) fn model_with_settings(
    manifests: &str,
    flags: &[&str],
    change: impl FnOnce(&mut ZoneSettings),
) -> Model {
    let config = config(flags);
    let mut settings = config.zone;
    change(&mut settings);
    build_model(&objects(manifests, &config.selectors), &settings, SERIAL).0
}

/// Builds the agent's model of objects that are selected already and have no problems.
pub(crate) fn model_of_objects(objects: &Objects, flags: &[&str]) -> Model {
    let (model, problems) = build_model(objects, &config(flags).zone, SERIAL);
    assert_eq!(problems, []);
    model
}

/// Loads manifests as the agent does: from a file.
fn objects(text: &str, selectors: &Selectors) -> Objects {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, text).unwrap();
    manifests::load(&file, selectors)
        .unwrap_or_else(|errors| panic!("cannot load manifests: {errors:#?}\n{text}"))
}

/// Parses flags of `dns-agent run`.
fn config(flags: &[&str]) -> Config {
    let command_line = ["dns-agent", "run", "--manifests", "/objects"];
    let cli = Cli::try_parse_from(command_line.iter().chain(flags)).unwrap();
    let AgentCommand::Run(args) = cli.command else {
        panic!("{flags:?} are not flags of `run`");
    };
    Config::from_args(*args).unwrap()
}

/// Whether `reply` is byte for byte the user plane's reply to `asked`, in some rotation of
/// addresses.
pub(crate) fn matches_user_plane(asked: &[u8], reply: &[u8], model: &Model) -> bool {
    // The kernel's answers have fewer than 256 addresses: it stores n addresses as 2n - 1 records
    // of at least 16 bytes, all in 4096 bytes.
    (0..256).any(
        |rotation| match respond(asked, model, Transport::Udp, rotation) {
            QueryAction::Send(expected) => expected == reply,
            _ => false,
        },
    )
}
