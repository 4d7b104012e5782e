//! Reads files that an operator names: regular files only, whole, up to a size limit, and without
//! blocking on another process.

use std::{
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The maximum size of the files that `--config` and `--kubeconfig` name, in bytes. Real files are
/// much smaller.
pub const MAX_SETTINGS: u64 = 1 << 20;

/// Reads a regular file of at most `max_bytes` bytes as text. Symbolic links are followed.
///
/// # Errors
/// As for [`read_bytes`], and when the file is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(path, max_bytes)?)
        .map_err(|error| invalid_input(format!("it is not UTF-8: {error}")))
}

/// Reads a regular file of at most `max_bytes` bytes. Symbolic links are followed.
///
/// # Errors
/// When the file can't be read, is not a regular file, or is larger than `max_bytes`.
pub fn read_bytes(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    // Checked before opening, because opening a device may have side effects.
    check_metadata(&fs::metadata(path)?, max_bytes)?;
    let file = open_nonblocking(path)?;
    // Checked again, because the path may lead to another file by now.
    check_metadata(&file.metadata()?, max_bytes)?;
    let mut bytes = Vec::new();
    // The metadata is not enough, because a file may grow, and files in /proc have size 0. One byte
    // more than the limit shows that the file is too large.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(max_bytes));
    }
    Ok(bytes)
}

/// Opens a file without waiting for the writer of a FIFO, and without making a terminal the
/// controlling one.
fn open_nonblocking(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

fn check_metadata(metadata: &Metadata, max_bytes: u64) -> io::Result<()> {
    if !metadata.is_file() {
        let kind = kind_name(metadata.file_type());
        return Err(invalid_input(format!(
            "it is {kind}, and only regular files are read"
        )));
    }
    if metadata.len() > max_bytes {
        Err(too_large(max_bytes))
    } else {
        Ok(())
    }
}

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "not a regular file"
    }
}

fn too_large(max_bytes: u64) -> io::Error {
    invalid_input(format!("it is larger than {max_bytes} bytes"))
}

fn invalid_input(reason: String) -> io::Error {
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
        // Files in /proc have size 0.
        assert!(
            !read_text(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
        for (name, max_bytes, reason) in [
            ("text", 4, "larger than 4 bytes"),
            ("zero", 5, "a device"),
            ("fifo", 5, "a FIFO"),
            ("socket", 5, "a socket"),
            ("", 5, "a directory"),
            ("dangling", 5, "No such file"),
            ("binary", 5, "not UTF-8"),
        ] {
            let error = read_text(&at(name), max_bytes).unwrap_err().to_string();
            assert!(
                error.contains(reason),
                "{name}: not {reason:?}, but {error}"
            );
        }
        let error = read_text(Path::new("/proc/self/status"), 5).unwrap_err();
        assert!(
            error.to_string().contains("larger"),
            "the limit doesn't hold in /proc: {error}"
        );
    }
}
