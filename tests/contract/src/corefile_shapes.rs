//! The shapes of Corefiles in `tests/corefiles`, and what the kernel answers with each.
//!
//! They stand for the Corefiles of a sample of public repositories: 44 Corefiles of clusters
//! (`cluster`), and 16 ConfigMaps `coredns-custom` (`custom`), which a Corefile of `base` imports.
//! They have the sample's plugins and options, as often as the sample has them, in other words.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::platforms::Answers;

/// A file of `tests/corefiles`. It begins with comments that hold these fields.
#[derive(Clone, Debug)]
pub struct CorefileShape {
    /// The file's name without `.yaml`.
    pub file: String,
    /// What the shape stands for.
    pub title: String,
    /// The folder that the file is in.
    pub kind: ShapeKind,
    /// What the kernel answers.
    pub answers: Answers,
    /// A part of the reason that the agent gives if the kernel answers nothing. Otherwise empty.
    pub reason: String,
    /// Whether CoreDNS 1.14.7 runs with the Corefile.
    pub verdict: CoreDnsVerdict,
    /// The data of the ConfigMap `coredns`, whose key `Corefile` is the Corefile. CoreDNS finds it
    /// in `/etc/coredns`.
    pub coredns: BTreeMap<String, String>,
    /// The data of the ConfigMap `coredns-custom`, which CoreDNS finds in `/etc/coredns/custom`.
    /// Empty if there is no such ConfigMap.
    pub custom: BTreeMap<String, String>,
}

/// What a shape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeKind {
    /// A Corefile of a cluster.
    Cluster,
    /// A ConfigMap `coredns-custom`.
    Custom,
}

/// Whether CoreDNS 1.14.7 runs with a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreDnsVerdict {
    /// CoreDNS runs with it.
    Accepts,
    /// Only builds of CoreDNS with this external plugin run with it.
    LacksPlugin(String),
    /// CoreDNS doesn't know this plugin or option, which earlier versions had.
    Refuses(String),
}

/// A ConfigMap.
#[derive(Deserialize)]
struct ConfigMap {
    metadata: Metadata,
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

impl CorefileShape {
    /// All shapes, those of a kind together, in the order of their file names.
    ///
    /// # Panics
    /// If a file can't be read, or lacks a field.
    #[must_use]
    pub fn all() -> Vec<CorefileShape> {
        let kinds = [ShapeKind::Cluster, ShapeKind::Custom];
        kinds.into_iter().flat_map(CorefileShape::of_kind).collect()
    }

    /// A table for the documentation: how many shapes are answered to which extent.
    #[must_use]
    pub fn table() -> String {
        let shapes = CorefileShape::all();
        let count = |kind: ShapeKind, is_obsolete: bool, answers: Answers| {
            let shapes = shapes.iter().filter(|shape| {
                shape.kind == kind && shape.is_obsolete() == is_obsolete && shape.answers == answers
            });
            shapes.count()
        };
        let mut table =
            "| shapes | most | names that exist | nothing |\n|---|---|---|---|\n".to_owned();
        for (title, kind, is_obsolete) in [
            ("Corefiles of clusters", ShapeKind::Cluster, false),
            ("ConfigMaps `coredns-custom`", ShapeKind::Custom, false),
            (
                "Corefiles of clusters with `upstream`, which CoreDNS 1.7 removed",
                ShapeKind::Cluster,
                true,
            ),
        ] {
            let cells = [Answers::Most, Answers::Existing, Answers::Nothing]
                .map(|answers| count(kind, is_obsolete, answers).to_string());
            table += &format!("| {title} | {} |\n", cells.join(" | "));
        }
        table
    }

    /// Whether the Corefile has plugins or options that CoreDNS no longer has.
    #[must_use]
    pub fn is_obsolete(&self) -> bool {
        matches!(self.verdict, CoreDnsVerdict::Refuses(_))
    }

    fn of_kind(kind: ShapeKind) -> Vec<CorefileShape> {
        let folder = root().join(kind.folder());
        let files = fs::read_dir(folder).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let shapes = paths.iter().map(|path| CorefileShape::read(kind, path));
        shapes.collect()
    }

    fn read(kind: ShapeKind, path: &Path) -> CorefileShape {
        let text = fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap();
        let find = |name: &str| {
            let start = format!("# {name}: ");
            text.lines().find_map(|line| line.strip_prefix(&start))
        };
        let field = |name: &str| {
            let missing = || panic!("{} has no {name}", path.display());
            find(name).unwrap_or_else(missing)
        };
        let mut maps = config_maps(&text, path);
        if kind == ShapeKind::Custom {
            let base = root().join("base").join(format!("{}.yaml", field("base")));
            maps.extend(config_maps(&fs::read_to_string(&base).unwrap(), &base));
        }
        let answers = field("answers");
        CorefileShape {
            file: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            title: first.trim_start_matches("# ").to_owned(),
            kind,
            answers: Answers::parse(answers)
                .unwrap_or_else(|| panic!("{}: answers: {answers}", path.display())),
            reason: find("reason").unwrap_or_default().to_owned(),
            verdict: CoreDnsVerdict::parse(field("coredns"))
                .unwrap_or_else(|| panic!("{}: {}", path.display(), field("coredns"))),
            coredns: maps.remove("coredns").unwrap(),
            custom: maps.remove("coredns-custom").unwrap_or_default(),
        }
    }
}

impl ShapeKind {
    /// The folder below `tests/corefiles`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            ShapeKind::Cluster => "cluster",
            ShapeKind::Custom => "custom",
        }
    }
}

impl CoreDnsVerdict {
    fn parse(text: &str) -> Option<CoreDnsVerdict> {
        if text == "accepts" {
            return Some(CoreDnsVerdict::Accepts);
        }
        let (verdict, word) = text.split_once(": ")?;
        match verdict {
            "lacks a plugin" => Some(CoreDnsVerdict::LacksPlugin(word.to_owned())),
            "refuses" => Some(CoreDnsVerdict::Refuses(word.to_owned())),
            _ => None,
        }
    }
}

/// The data of the ConfigMaps in a file, by their names.
fn config_maps(text: &str, path: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let maps: Vec<ConfigMap> = serde_saphyr::from_multiple(text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let maps = maps.into_iter();
    maps.map(|map| (map.metadata.name, map.data)).collect()
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corefiles")
}
