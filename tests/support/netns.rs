//! A network namespace of the test's own, joined to the test by a pair of virtual interfaces: providers have their real
//! names in it, and no other way leads out. It goes when this is dropped.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// See the file's header.
pub struct Namespace {
    name: String,
    /// Its own end.
    pub inside: Ipv4Addr,
    /// The test's end, as the namespace sees it.
    pub outside: Ipv4Addr,
    /// The same over IPv6.
    pub outside6: Ipv6Addr,
}

impl Namespace {
    /// Makes one; `None`, said, without root or tools. `tag` tells the namespaces of one process apart.
    pub fn new(tag: u8) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            super::skip("root");
            return None;
        }
        for tool in ["ip", "nft", "setpriv", "curl"] {
            let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if found.is_err() {
                super::skip(tool);
                return None;
            }
        }
        // Tests run at the same time, each in a process of its own: a /30 of 10.213.0.0/16 for each.
        let number = (std::process::id() as u16).wrapping_mul(4) ^ (u16::from(tag) << 14);
        let [high, low] = (number & !3).to_be_bytes();
        let outside = Ipv4Addr::new(10, 213, high, low | 1);
        let inside = Ipv4Addr::new(10, 213, high, low | 2);
        let net6 = |host: u16| Ipv6Addr::new(0xfd6b, 0x6579, number, 0, 0, 0, 0, host);
        let (outside6, inside6) = (net6(1), net6(2));
        let name = format!("kt{}t{tag}", std::process::id());
        let (near, far) = (format!("{name}a"), format!("{name}b"));
        let made = Self { name: name.clone(), inside, outside, outside6 };
        ip(&["netns", "add", &name]);
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &name]);
        ip(&["addr", "add", &format!("{outside}/30"), "dev", &near]);
        ip(&["addr", "add", &format!("{outside6}/64"), "dev", &near, "nodad"]);
        ip(&["link", "set", &near, "up"]);
        ip(&["-n", &name, "addr", "add", &format!("{inside}/30"), "dev", &far]);
        ip(&["-n", &name, "addr", "add", &format!("{inside6}/64"), "dev", &far, "nodad"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "link", "set", &far, "up"]);
        Some(made)
    }

    /// What `/etc/hosts` says in the namespace.
    pub fn hosts(&self, hosts: &[(&str, IpAddr)]) {
        let lines = hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        let text = format!("127.0.0.1 localhost\n::1 localhost\n{}", lines.collect::<String>());
        std::fs::create_dir_all(self.files()).expect("root may");
        std::fs::write(self.files().join("hosts"), text).expect("root may");
    }

    /// Names are asked of this address in the namespace, and only there.
    pub fn resolver(&self, address: IpAddr) {
        std::fs::create_dir_all(self.files()).expect("root may");
        std::fs::write(self.files().join("resolv.conf"), format!("nameserver {address}\n")).expect("root may");
        std::fs::write(self.files().join("nsswitch.conf"), "hosts: dns\n").expect("root may");
    }

    /// Runs a command of nftables.
    #[track_caller]
    pub fn nft(&self, command: &str) {
        let output = self.run(&["nft", command]);
        assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Slows what leaves it: kind and parameters of a queueing discipline.
    pub fn shape(&self, discipline: &str) {
        let device = format!("{}b", self.name);
        let words = ["tc", "qdisc", "add", "dev", &device, "root"].into_iter().chain(discipline.split(' '));
        let output = self.run(&words.collect::<Vec<_>>());
        assert!(output.status.success(), "tc {discipline}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Ends [`Namespace::shape`].
    pub fn unshape(&self) {
        self.run(&["tc", "qdisc", "del", "dev", &format!("{}b", self.name), "root"]);
    }

    fn files(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }

    /// Arguments that run a program in the namespace, as `user` if one is named.
    pub fn prefix(&self, user: Option<u32>) -> Vec<String> {
        let mut all: Vec<String> = ["ip", "netns", "exec", &self.name].map(str::to_owned).into();
        if let Some(user) = user {
            all.push("setpriv".to_owned());
            all.extend([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        }
        all
    }

    /// A program to be run in the namespace, with nothing in its environment but what it needs to be found.
    pub fn command(&self, user: Option<u32>, program: impl AsRef<OsStr>) -> Command {
        let prefix = self.prefix(user);
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg(program).env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs a program in it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(None, arguments[0]).args(&arguments[1..]).stdin(Stdio::null()).output().expect("it runs")
    }

    /// Runs the program under test in it, and returns its standard output.
    #[track_caller]
    pub fn keytally(&self, arguments: &[&str]) -> String {
        let mut all = vec![env!("CARGO_BIN_EXE_keytally")];
        all.extend(arguments);
        let output = self.run(&all);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "keytally {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        let _ = std::fs::remove_dir_all(self.files());
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}
