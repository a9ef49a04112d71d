//! The process on this machine that makes a call.

use std::sync::Arc;

/// Who calls, as the kernel tells it. Names are bounded and of plain characters: see [`Caller::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What tells it from others: executable, and the container, pod or service that it runs in.
    pub name: Arc<str>,
    /// Process id as the sidecar sees it.
    pub pid: u32,
    /// File name of its executable.
    pub executable: Arc<str>,
    /// Container id, 64 hex digits.
    pub container: Option<Arc<str>>,
    /// Kubernetes pod, by its UID.
    pub pod: Option<Arc<str>>,
    /// systemd service.
    pub service: Option<Arc<str>>,
}

/// Longest name of an executable or a service.
const MAX_NAME: usize = 48;

impl Caller {
    /// Of what /proc says: the path of the executable and the text of `/proc/PID/cgroup`.
    ///
    /// Characters that need quoting anywhere become `_`; names are cut at 48 characters. The whole name is at most 97.
    pub fn new(pid: u32, executable: &str, cgroup: &str) -> Self {
        let path = executable.strip_suffix(" (deleted)").unwrap_or(executable);
        let executable = plain(path.rsplit('/').next().unwrap_or_default());
        let mut container = None;
        let mut pod = None;
        let mut service = None;
        for part in cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/')) {
            let id = part.strip_suffix(".scope").unwrap_or(part).rsplit('-').next().unwrap_or_default();
            if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                // The innermost one: containers are nested.
                container = Some(id);
            } else if let Some(uid) = pod_uid(part) {
                pod = Some(uid);
            } else if part.ends_with(".service") && !part.starts_with("user@") {
                service = Some(plain(part));
            }
        }
        // A container runtime's own service is not the application's.
        let service = service.filter(|_| container.is_none() && pod.is_none());
        let place = match (container, &pod, &service) {
            (Some(container), ..) => Some(&container[..12]),
            (None, Some(pod), _) => Some(pod.as_str()),
            (None, None, service) => service.as_deref(),
        };
        let name = place.map_or_else(|| executable.clone(), |place| format!("{executable}@{place}"));
        Self {
            name: name.into(),
            pid,
            executable: executable.into(),
            container: container.map(Arc::from),
            pod: pod.map(Arc::from),
            service: service.map(Arc::from),
        }
    }
}

/// `pod1f6…`, `kubepods-burstable-pod1f6….slice`: the UID with dashes.
fn pod_uid(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = part.rsplit_once("pod").filter(|(before, _)| before.is_empty() || before.ends_with('-'))?.1;
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() == 36 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

fn plain(name: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "._+-".contains(*c);
    name.chars().map(|c| if is_plain(&c) { c } else { '_' }).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "4f0a0c41b2d74f0a0c41b2d74f0a0c41b2d74f0a0c41b2d74f0a0c41b2d74f0a";

    fn name(executable: &str, cgroup: &str) -> String {
        Caller::new(7, executable, cgroup).name.to_string()
    }

    #[test]
    fn names_tell_executable_and_place() {
        assert_eq!(name("/usr/bin/python3.11", "0::/\n"), "python3.11");
        assert_eq!(name("/usr/bin/python3.11 (deleted)", ""), "python3.11");
        assert_eq!(name("/x/a\"b\u{7}ü c", ""), "a_b___c");
        assert_eq!(name(&format!("/{}", "x".repeat(300)), "").len(), MAX_NAME);
        assert_eq!(name("/usr/bin/node", "0::/user.slice/user-0.slice/session-1.scope"), "node");
        assert_eq!(name("/usr/bin/node", "0::/user.slice/user@1000.service/app.slice"), "node");
        assert_eq!(name("/usr/bin/node", "0::/system.slice/search-api.service"), "node@search-api.service");
        for cgroup in [
            format!("0::/system.slice/docker-{CONTAINER}.scope"),
            format!("12:pids:/docker/{CONTAINER}\n0::/system.slice/containerd.service"),
            format!("0::/../cri-containerd-{CONTAINER}.scope"),
            format!("0::/machine.slice/libpod-{CONTAINER}.scope/container"),
            format!("0::/docker/{}/ecs/task/{CONTAINER}", "a".repeat(64)),
        ] {
            let caller = Caller::new(7, "/usr/bin/node", &cgroup);
            assert_eq!(&*caller.name, "node@4f0a0c41b2d7", "{cgroup}");
            assert_eq!(caller.container.as_deref(), Some(CONTAINER));
            assert_eq!(caller.service, None);
        }
    }

    #[test]
    fn pods_are_known_by_their_uid() {
        let uid = "1f6b2c3d-0001-4002-8003-00000000abcd";
        let slice = uid.replace('-', "_");
        for cgroup in [
            format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"),
            format!("4:cpu:/kubepods/besteffort/pod{uid}"),
        ] {
            let caller = Caller::new(7, "/app", &cgroup);
            assert_eq!(caller.pod.as_deref(), Some(uid), "{cgroup}");
            assert_eq!(&*caller.name, format!("app@{uid}"));
            let inside = Caller::new(7, "/app", &format!("{cgroup}/{CONTAINER}"));
            assert_eq!((&*inside.name, inside.pod.as_deref()), ("app@4f0a0c41b2d7", Some(uid)));
        }
        for no_pod in ["0::/kubepods-podman.slice", "0::/mypod1f6b2c3d-0001-4002-8003-00000000abcd", "0::/pod"] {
            assert_eq!(Caller::new(7, "/app", no_pod).pod, None, "{no_pod}");
        }
    }
}
