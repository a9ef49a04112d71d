//! What the process gives up before it reads a key. Nothing here can fail a start: what a system does not offer is left out.
//!
//! | what | which commands | why |
//! |---|---|---|
//! | `PR_SET_DUMPABLE` 0 | all | memory holds keys and prompts: no process of the same user reads it, no crash writes it |
//! | `RLIMIT_CORE` 0 | all but `run`, whose command's dumps are its own | the same, where the kernel pipes dumps to a program |
//! | `PR_SET_NO_NEW_PRIVS` | all but `run`, whose command may use `sudo` | nothing that it starts gains rights |
//! | seccomp filter, [`foreign::FOREIGN`] | `serve` | whoever gets hold of the process gets no shell and no way into kernel or neighbours |
//!
//! The filter names what is refused rather than what is allowed: a list of what a C library, SQLite and a runtime may call is
//! never complete, and a sidecar that is killed by an update of one of them fails every call. Landlock is not used: inside any
//! Landlock domain the kernel refuses `/proc/PID/exe` of other processes, by which callers are known (`listen.callers`).

use rustix::process::{Resource, Rlimit, setrlimit};

/// Who is being confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confined {
    /// Starts no program and serves for long.
    Server,
    /// Runs a command that is somebody else's.
    Parent,
    /// Everything else.
    Tool,
}

/// Gives up what is not needed, for the rest of the process's life; to be called while there is one thread.
pub(super) fn confine(who: Confined) {
    if who != Confined::Parent {
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::set_no_new_privs(true);
    }
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    if who == Confined::Server {
        let _ = foreign::refuse();
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod foreign {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

    /// System calls that a sidecar has no business with, refused with `EPERM`.
    #[rustfmt::skip]
    pub(super) const FOREIGN: &[libc::c_long] = &[
        // Other programs, and other processes' memory and files.
        libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd, libc::SYS_kcmp,
        // Mounts, roots, namespaces, files by handle.
        libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_open_tree, libc::SYS_move_mount,
        libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_mount_setattr, libc::SYS_setns,
        libc::SYS_unshare, libc::SYS_mknodat, libc::SYS_name_to_handle_at, libc::SYS_open_by_handle_at,
        // The kernel itself, and its parts with the longest history of holes.
        libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_init_module, libc::SYS_finit_module,
        libc::SYS_delete_module, libc::SYS_kexec_load, KEXEC_FILE_LOAD, libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
        // The machine.
        libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_acct, libc::SYS_quotactl, libc::SYS_syslog,
        libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_adjtimex, libc::SYS_clock_adjtime, libc::SYS_sethostname,
        libc::SYS_setdomainname, libc::SYS_vhangup, libc::SYS_personality,
        // Who it is.
        libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
        libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capset,
        #[cfg(target_arch = "x86_64")] libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")] libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")] libc::SYS_modify_ldt,
        #[cfg(target_arch = "x86_64")] libc::SYS_mknod,
    ];

    #[cfg(target_arch = "x86_64")]
    const KEXEC_FILE_LOAD: libc::c_long = libc::SYS_kexec_file_load;
    /// The libc crate has no name for it with musl.
    #[cfg(target_arch = "aarch64")]
    const KEXEC_FILE_LOAD: libc::c_long = 294;

    /// Numbers of the x32 calling convention begin here, under the same architecture (`__X32_SYSCALL_BIT`).
    #[cfg(target_arch = "x86_64")]
    const X32: libc::c_long = 0x4000_0000;

    /// For this thread and all that it starts.
    pub(super) fn refuse() -> Result<(), seccompiler::Error> {
        let numbers = FOREIGN.iter().copied();
        #[cfg(target_arch = "x86_64")]
        let numbers = numbers.flat_map(|number| [number, number | X32]).chain([X32 | 520, X32 | 521, X32 | 545]);
        let rules = numbers.map(|number| (number, Vec::new())).collect();
        #[cfg(target_arch = "x86_64")]
        let arch = TargetArch::x86_64;
        #[cfg(target_arch = "aarch64")]
        let arch = TargetArch::aarch64;
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()?;
        apply_filter(&program)
    }

    #[cfg(test)]
    mod tests {
        use std::io::ErrorKind;
        use std::process::{Command, Stdio};

        use super::*;

        #[test]
        fn after_it_no_program_can_be_started() {
            let start = || Command::new("/bin/true").stdin(Stdio::null()).status().map(|status| status.success());
            assert!(start().expect("before, it can"));
            // Only this thread is confined.
            let refused = std::thread::spawn(move || {
                refuse().expect("the kernel of whoever runs this has seccomp");
                start().expect_err("after, it cannot").kind()
            });
            assert_eq!(refused.join().expect("no panic"), ErrorKind::PermissionDenied);
            assert!(start().expect("others still can"));
        }
    }
}
