//! Packs a container image of one layer, and writes it as an archive, without Docker.
//!
//! The archive is an OCI image layout (`index.json`), which containerd reads, and a Docker archive
//! (`manifest.json`) over the same blobs, which `docker load` reads. The archive depends only on
//! the fields of [`Image`], not on the time, the order of additions or the machine. So the same
//! files make the same digest.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{process::shared_libraries, registry::is_host};

/// An image to write.
pub(crate) struct Image<'a> {
    /// The name and tag of the image.
    pub(crate) name: &'a str,
    /// The program that a container starts.
    pub(crate) entrypoint: &'a str,
    /// Environment variables, as `NAME=VALUE`.
    pub(crate) environment: &'a [&'a str],
    /// Labels, by key.
    pub(crate) labels: Value,
    /// The files.
    pub(crate) layer: Layer,
}

/// An image as the blobs of which an archive or a registry consists.
pub(crate) struct PackedImage {
    /// The name and tag of the image.
    name: String,
    /// The layer and the configuration.
    pub(crate) blobs: [ImageBlob; 2],
    /// The manifest, which refers to the blobs. Its digest is that of the image.
    pub(crate) manifest: ImageBlob,
}

/// A part of an image.
pub(crate) struct ImageBlob {
    /// The SHA-256 of the contents, in hexadecimal digits.
    sha256: String,
    /// The contents.
    pub(crate) contents: Vec<u8>,
}

/// The media type of an image's manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The files of an image, sorted by path.
#[derive(Default)]
pub(crate) struct Layer {
    entries: BTreeMap<PathBuf, LayerEntry>,
}

enum LayerEntry {
    Directory,
    File { mode: u32, contents: Vec<u8> },
    Link { target: PathBuf },
}

impl Image<'_> {
    /// Packs the image.
    pub(crate) fn pack(&self) -> Result<PackedImage> {
        let layer = self.layer.archive()?;
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        compressed.write_all(&layer)?;
        let layer_blob = ImageBlob::new(compressed.finish()?);
        let config = ImageBlob::new(self.config(&sha256(&layer)).into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer_blob.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
        });
        Ok(PackedImage {
            name: self.name.to_owned(),
            blobs: [layer_blob, config],
            manifest: ImageBlob::new(manifest.to_string().into_bytes()),
        })
    }

    /// The image's configuration. `layer` is the digest of the uncompressed layer.
    fn config(&self, layer: &str) -> String {
        // A fixed date, so that images of the same files are identical.
        let created = "1970-01-01T00:00:00Z";
        // `cargo xtask image` builds the agent for x86-64 only.
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {
                "Entrypoint": [self.entrypoint],
                "Env": self.environment,
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
            "history": [{ "created": created, "created_by": "cargo xtask image" }],
        })
        .to_string()
    }
}

impl PackedImage {
    /// Writes the archive.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let [layer, config] = &self.blobs;
        let mut manifest = self.manifest.descriptor(MANIFEST_TYPE);
        manifest["annotations"] = json!({
            "io.containerd.image.name": full_name(&self.name),
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": [layer.path()],
        }]);

        let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut archive = Builder::new(file);
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        for (path, contents) in [
            ("oci-layout", layout),
            ("index.json", index),
            ("manifest.json", docker),
        ] {
            append(&mut archive, path, contents.to_string().as_bytes())?;
        }
        let mut blobs = [layer, config, &self.manifest];
        blobs.sort_by_key(|blob| &blob.sha256);
        for blob in blobs {
            append(&mut archive, &blob.path(), &blob.contents)?;
        }
        archive.finish().context("cannot end the archive")
    }
}

impl ImageBlob {
    fn new(contents: Vec<u8>) -> ImageBlob {
        ImageBlob {
            sha256: sha256(&contents),
            contents,
        }
    }

    /// The digest, with the name of its algorithm.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    /// The path in an archive.
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.sha256)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": self.digest(),
            "size": self.contents.len(),
        })
    }
}

impl Layer {
    /// Adds a program of this machine, and the shared libraries that it is linked with.
    pub(crate) fn add_program(&mut self, from: &Path, to: &Path) -> Result<()> {
        for library in shared_libraries(from)? {
            self.add_file(&library, &library)?;
        }
        self.add_file(from, to)
    }

    /// Adds a file of this machine.
    pub(crate) fn add_file(&mut self, from: &Path, to: &Path) -> Result<()> {
        let context = || format!("cannot read {}", from.display());
        let is_program = from.metadata().with_context(context)?.permissions().mode() & 0o111 != 0;
        let mode = if is_program { 0o755 } else { 0o644 };
        let contents = fs::read(from).with_context(context)?;
        self.add_entry(to, LayerEntry::File { mode, contents });
        Ok(())
    }

    /// Adds a file with these contents.
    pub(crate) fn add_contents(&mut self, path: &Path, contents: &str) {
        let contents = contents.as_bytes().to_vec();
        let mode = 0o644;
        self.add_entry(path, LayerEntry::File { mode, contents });
    }

    /// Adds a symbolic link.
    pub(crate) fn add_link(&mut self, path: &Path, target: &Path) {
        let target = target.to_owned();
        self.add_entry(path, LayerEntry::Link { target });
    }

    fn add_entry(&mut self, path: &Path, entry: LayerEntry) {
        let parents = path.ancestors().skip(1).map(relative);
        for parent in parents.filter(|parent| *parent != Path::new("")) {
            self.entries
                .entry(parent.to_owned())
                .or_insert(LayerEntry::Directory);
        }
        self.entries.insert(relative(path).to_owned(), entry);
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                LayerEntry::Directory => {
                    archive.append_data(&mut header(EntryType::Directory, 0o755, 0), path, &[][..])
                }
                LayerEntry::File { mode, contents } => archive.append_data(
                    &mut header(EntryType::Regular, *mode, contents.len()),
                    path,
                    contents.as_slice(),
                ),
                LayerEntry::Link { target } => {
                    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
                }
            }
            .with_context(|| format!("cannot add {} to the layer", path.display()))?;
        }
        archive.into_inner().context("cannot end the layer")
    }
}

/// The SHA-256 of a text, in hexadecimal digits.
fn sha256(contents: &[u8]) -> String {
    let bytes = Sha256::digest(contents);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The full image name that the kubelet derives from a name in a manifest. By Docker's rules a name
/// without a host is on docker.io.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if is_host(first) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn append(archive: &mut Builder<File>, path: &str, contents: &[u8]) -> Result<()> {
    archive
        .append_data(
            &mut header(EntryType::Regular, 0o644, contents.len()),
            path,
            contents,
        )
        .with_context(|| format!("cannot add {path} to the archive"))
}

/// The header of an entry that root owns, with the time 0.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::root;

    #[test]
    fn image_names_are_completed_as_the_kubelet_does() {
        for (name, full) in [
            ("zerohop/dns-agent:dev", "docker.io/zerohop/dns-agent:dev"),
            ("dns-agent:dev", "docker.io/library/dns-agent:dev"),
            ("localhost/tools:1", "localhost/tools:1"),
            ("host:5000/dns-agent:1", "host:5000/dns-agent:1"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let folder = root().join("target/image/test");
        fs::create_dir_all(&folder).unwrap();
        let archive = |name: &str| {
            let mut layer = Layer::default();
            layer.add_contents(Path::new("/etc/text"), "text");
            layer.add_link(Path::new("/text"), Path::new("etc/text"));
            let image = Image {
                name: "zerohop/test:1",
                entrypoint: "/text",
                environment: &["A=B"],
                labels: json!({ "label": "value" }),
                layer,
            };
            image.pack().unwrap().write(&folder.join(name)).unwrap();
            fs::read(folder.join(name)).unwrap()
        };
        assert_eq!(archive("one.tar"), archive("two.tar"));
    }

    #[test]
    fn a_layer_does_not_depend_on_the_order_of_additions() {
        let paths = [Path::new("/b/c"), Path::new("/a"), Path::new("/b/a")];
        let layer = |order: [usize; 3]| {
            let mut layer = Layer::default();
            for index in order {
                layer.add_contents(paths[index], "text");
            }
            layer.archive().unwrap()
        };
        assert_eq!(layer([0, 1, 2]), layer([2, 1, 0]));
    }
}
