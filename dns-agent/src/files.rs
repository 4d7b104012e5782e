//! Files that an operator names: regular ones, read whole within a bound, and without waiting for
//! another process.

use std::{
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Bytes of the largest file of settings that is read: `--config`, `--kubeconfig`.
pub(crate) const MAX_SETTINGS: u64 = 1 << 20;

/// The text of a regular file of at most `most` bytes. A link to one counts as one.
///
/// # Errors
/// What the system says; and when it is a FIFO, a device or the like, is larger, or is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    // Opening a device may already do something.
    check(&fs::metadata(path)?, most)?;
    let file = open(path)?;
    // Another one may stand there by now.
    check(&file.metadata()?, most)?;
    let mut bytes = Vec::new();
    // It may grow meanwhile, and what /proc holds has no size.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_large(most));
    }
    String::from_utf8(bytes).map_err(|error| refused(format!("it is not UTF-8: {error}")))
}

/// Opens a file without waiting for whoever writes a FIFO.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

fn check(metadata: &Metadata, most: u64) -> io::Result<()> {
    if !metadata.is_file() {
        let kind = kind(metadata.file_type());
        return Err(refused(format!(
            "it is {kind}, and only regular files are read"
        )));
    }
    match metadata.len() > most {
        true => Err(too_large(most)),
        false => Ok(()),
    }
}

fn kind(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "no regular file"
    }
}

fn too_large(most: u64) -> io::Error {
    refused(format!("it is larger than {most} bytes"))
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("text"), "12345").unwrap();
        symlink("text", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        mkfifo(&at("fifo"), Mode::S_IRUSR).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("binary"), b"\xff").unwrap();
        for name in ["text", "link"] {
            assert_eq!(read_text(&at(name), 5).unwrap(), "12345");
        }
        // It has no size.
        assert!(
            !read_text(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
        for (name, most, reason) in [
            ("text", 4, "larger than 4 bytes"),
            ("zero", 5, "a device"),
            ("fifo", 5, "a FIFO"),
            ("socket", 5, "a socket"),
            ("", 5, "a directory"),
            ("dangling", 5, "No such file"),
            ("binary", 5, "not UTF-8"),
        ] {
            let error = read_text(&at(name), most).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
        let error = read_text(Path::new("/proc/self/status"), 5).unwrap_err();
        assert!(error.to_string().contains("larger"), "{error}");
    }
}
