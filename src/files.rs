//! Files that a configuration or a command names, read whole: regular ones, and no longer than such a file is.

use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A bundle of certificates: several times what operating systems come with.
pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 8 << 20;

/// Twenty times what the price book has today; nothing larger is read.
pub(crate) const MAX_PRICE_BOOK_BYTES: u64 = 64 << 20;

/// Why a file was not read, and what to do; its name is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("no such file; check the path")]
    Missing,
    #[error("no permission to read it; check its mode and owner")]
    Forbidden,
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
    #[error("a directory; name the file in it")]
    Directory,
    #[error("not a regular file; write its content to one")]
    NotRegular,
    #[error("larger than {}; is it the right file?", size(*.0))]
    TooLarge(u64),
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Io(error),
        }
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

/// The bytes of a file of at most `most`, wiped after use: they may be a key.
pub(crate) fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(FileError::Directory);
    }
    if !about.is_file() {
        return Err(FileError::NotRegular);
    }
    if about.len() > most {
        return Err(FileError::TooLarge(most));
    }
    read_any(path, most)
}

/// As [`read`], of pipes too, such as a shell makes of `<(COMMAND)`: for commands, whose user can end them.
pub(crate) fn read_any(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = std::fs::File::open(path)?;
    // With room for all of a file: a vector that grows leaves copies behind.
    let room = file.metadata()?.len().min(most) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or(0)));
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(FileError::TooLarge(most));
    }
    Ok(bytes)
}

/// Tells one content from another, however the file was replaced; `None` for one that cannot be read.
pub(crate) fn digest(path: &Path) -> Option<[u8; 32]> {
    read(path, MAX_PRICE_BOOK_BYTES).ok().map(|bytes| Sha256::digest(&*bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, [7; 65_536]).unwrap();
        assert_eq!(**read(&path, 65_536).unwrap(), [7; 65_536]);
        let problem = |path: &Path, most| read(path, most).unwrap_err().to_string();
        assert_eq!(problem(&path, 65_535), "larger than 63 KiB; is it the right file?");
        assert_eq!(problem(&directory.path().join("none"), 9), "no such file; check the path");
        assert_eq!(problem(directory.path(), 9), "a directory; name the file in it");
        // Without end, and with nothing to read for ever.
        assert_eq!(problem(Path::new("/dev/zero"), 9), "not a regular file; write its content to one");
        // Says that it is empty and is not.
        assert_eq!(problem(Path::new("/proc/self/maps"), 9), "larger than 0 KiB; is it the right file?");
        assert!(read(Path::new("/proc/self/maps"), 1 << 20).unwrap().len() > 1_000);
        let zeros = read_any(Path::new("/dev/zero"), 99_999).unwrap_err();
        assert!(matches!(zeros, FileError::TooLarge(99_999)), "{zeros}");
    }
}
