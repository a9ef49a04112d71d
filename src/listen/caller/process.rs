//! What /proc tells of processes, as far as this one may look. What it may not look at is passed over.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::call::Caller;

/// Longer files of this kind are cut.
const MAX_CGROUP_BYTES: u64 = 16 * 1024;

/// Ids of all processes.
pub fn all() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Inodes of the sockets that a process has open and that are wanted. Looks at `left` descriptors at most, and takes off
/// what it looked at.
pub fn sockets(pid: u32, left: &mut usize, is_wanted: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut found = Vec::new();
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return found };
    for descriptor in descriptors.flatten().take(*left) {
        *left -= 1;
        let Ok(target) = std::fs::read_link(descriptor.path()) else { continue };
        let inode = socket_inode(target.as_os_str().as_bytes());
        found.extend(inode.filter(|inode| is_wanted(*inode)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// `socket:[12345]`.
fn socket_inode(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Name and place of a process.
pub fn caller(pid: u32) -> Option<Caller> {
    let directory = Path::new("/proc").join(pid.to_string());
    let executable = std::fs::read_link(directory.join("exe")).ok()?;
    let mut cgroup = Vec::new();
    if let Ok(file) = std::fs::File::open(directory.join("cgroup")) {
        // Without it the executable's name must do.
        let _ = file.take(MAX_CGROUP_BYTES).read_to_end(&mut cgroup);
    }
    Some(Caller::new(pid, &executable.to_string_lossy(), &String::from_utf8_lossy(&cgroup)))
}
