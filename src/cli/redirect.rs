//! `keytally redirect install|remove|print`: the firewall rules that send a machine's or a pod's outgoing TLS connections to
//! `listen.redirect`.
//!
//! In: ports, the users whose connections are left alone (the sidecar's own), the port to send to. Out: the rules as text
//! ([`rules`]), or loaded: by the kernel's nf_tables without any program ([`netfilter`]), or by `iptables-restore` where the
//! kernel has none. That needs CAP_NET_ADMIN. Everything is in a table (or chains) of its own: installing again replaces it,
//! removing leaves nothing behind, and other rules are not touched.

#[cfg(target_os = "linux")]
mod netfilter;
mod rules;

use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{Exit, finish, print};
use crate::config::LISTEN_REDIRECT_PORT;
#[cfg(all(target_os = "linux", any(test, fuzzing)))]
pub(crate) use netfilter::acknowledged;
use rules::Rules;

/// User of the sidecar in its image, as distroless images have it.
const SIDECAR_UID: &str = "65532";
/// Longer files of users are not read to their end.
const MAX_PASSWD_BYTES: u64 = 1 << 20;

/// `redirect`.
#[derive(Debug, Subcommand)]
pub(super) enum RedirectCommand {
    /// Load the rules, in place of those of an earlier call; needs CAP_NET_ADMIN
    Install(RedirectArgs),
    /// Take them out again; nothing happens when there are none
    Remove(BackendArgs),
    /// Print them instead, for `nft -f -` or `iptables-restore --noflush`
    Print(RedirectArgs),
}

/// What the rules say.
#[derive(Args, Clone, Debug)]
pub(super) struct RedirectArgs {
    /// User whose connections are left alone, by name or number: the one that the sidecar runs as
    #[arg(long, value_name = "USER", default_values_t = [SIDECAR_UID.to_owned()])]
    uid: Vec<String>,
    /// Port whose outgoing connections are redirected
    #[arg(long, value_name = "PORT", default_values_t = [443], value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Port on which the sidecar takes them: that of listen.redirect
    #[arg(long, value_name = "PORT", default_value_t = LISTEN_REDIRECT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    to: u16,
    #[command(flatten)]
    backend: BackendArgs,
}

/// With what they are loaded.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct BackendArgs {
    /// What the rules are for
    #[arg(long, value_enum, value_name = "FIREWALL", default_value_t = Backend::Auto)]
    backend: Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// nftables, or iptables where the kernel has none
    Auto,
    /// nftables, by the kernel itself: no program is needed
    Nftables,
    /// iptables, by iptables-restore and ip6tables-restore
    Iptables,
}

/// Runs it.
pub(super) fn run(command: RedirectCommand) -> Exit {
    match command {
        RedirectCommand::Install(args) => finish(args.rules().and_then(|rules| install(&rules, args.backend.backend))),
        RedirectCommand::Remove(args) => finish(remove(args.backend)),
        RedirectCommand::Print(args) => match args.rules() {
            Ok(rules) if args.backend.backend == Backend::Iptables => print(&rules.iptables()),
            Ok(rules) => print(&rules.nft()),
            Err(error) => finish(Err(error)),
        },
    }
}

impl RedirectArgs {
    fn rules(&self) -> anyhow::Result<Rules> {
        let uids = self.uid.iter().map(|user| uid(user)).collect::<anyhow::Result<_>>()?;
        if self.port.contains(&self.to) {
            bail!(
                "--port {0} --to {0}: what is sent to the sidecar's own port would come back; write another port",
                self.to
            );
        }
        Ok(Rules { uids, ports: self.port.clone(), to: self.to })
    }
}

/// Of a number, or of a user of this machine.
fn uid(user: &str) -> anyhow::Result<u32> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open("/etc/passwd")
        .and_then(|file| file.take(MAX_PASSWD_BYTES).read_to_string(&mut text))
        .context("/etc/passwd cannot be read: write the user's number")?;
    let line = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == user);
    let uid = line.and_then(|fields| fields.get(2)?.parse().ok());
    uid.with_context(|| format!("--uid {user}: no such user in /etc/passwd; write its number"))
}

fn install(rules: &Rules, backend: Backend) -> anyhow::Result<()> {
    let with = match nftables(backend, || load(rules))? {
        true => "nftables",
        false if backend != Backend::Nftables && iptables_install(rules)? => "iptables",
        false => bail!(missing(backend)),
    };
    let ports: Vec<String> = rules.ports.iter().map(u16::to_string).collect();
    let uids: Vec<String> = rules.uids.iter().map(u32::to_string).collect();
    super::complain(&format!(
        "outgoing connections to port {} go to port {} of this machine, but those of user {} ({with})",
        ports.join(", "),
        rules.to,
        uids.join(", ")
    ));
    Ok(())
}

fn remove(backend: Backend) -> anyhow::Result<()> {
    // They may have been installed in either way: both are asked, and one suffices.
    let nftables = nftables(backend, unload)?;
    let iptables = backend != Backend::Nftables && iptables_remove()?;
    if !nftables && !iptables {
        bail!(missing(backend));
    }
    Ok(())
}

/// Speaks to the kernel; false when it has no nf_tables, or is not to be asked.
fn nftables(backend: Backend, speak: impl FnOnce() -> std::io::Result<()>) -> anyhow::Result<bool> {
    if backend == Backend::Iptables {
        return Ok(false);
    }
    match speak() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error)
            .context("the kernel refused the rules; run as root, or give the container the capability NET_ADMIN"),
        // No such protocol, subsystem or expression: an old kernel, or one without the modules.
        Err(error) => {
            tracing::debug!(%error, "no nf_tables");
            Ok(false)
        }
    }
}

#[cfg(target_os = "linux")]
fn load(rules: &Rules) -> std::io::Result<()> {
    netfilter::install(rules)
}

#[cfg(target_os = "linux")]
fn unload() -> std::io::Result<()> {
    netfilter::remove()
}

#[cfg(not(target_os = "linux"))]
fn load(_: &Rules) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn unload() -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn missing(backend: Backend) -> String {
    let lacks = match backend {
        Backend::Auto => "this kernel has no nftables, and iptables is not installed",
        Backend::Nftables => "this kernel has no nftables (nf_tables, nft_redir, nft_fib)",
        Backend::Iptables => "iptables is not installed",
    };
    format!(
        "{lacks}: load the rules elsewhere in the same network namespace: keytally redirect print --backend iptables | \
         iptables-restore --noflush, then iptables -t nat -A OUTPUT -p tcp -j {}",
        rules::CHAIN
    )
}

/// Both families; IPv6 only where the machine has it.
fn iptables_install(rules: &Rules) -> anyhow::Result<bool> {
    let mut done = false;
    for program in ["iptables", "ip6tables"] {
        let restore = format!("{program}-restore");
        if program == "ip6tables" && !std::path::Path::new("/proc/net/if_inet6").exists() {
            continue;
        }
        if !feed(&restore, &["--wait", "--noflush"], &rules.iptables())? {
            continue;
        }
        // The chain is replaced by the text above; the jump to it must be there once.
        let jump = ["-w", "-t", "nat", "-C", "OUTPUT", "-p", "tcp", "-j", rules::CHAIN];
        if !call(program, &jump)?.is_some_and(|output| output.status.success()) {
            feed(program, &["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", rules::CHAIN], "")?;
        }
        done = true;
    }
    Ok(done)
}

fn iptables_remove() -> anyhow::Result<bool> {
    let mut found = false;
    for program in ["iptables", "ip6tables"] {
        for arguments in
            [&["-D", "OUTPUT", "-p", "tcp", "-j", rules::CHAIN][..], &["-F", rules::CHAIN], &["-X", rules::CHAIN]]
        {
            let mut all = vec!["-w", "-t", "nat"];
            all.extend(arguments);
            // What is not there cannot be removed, and is no failure; without permission nothing works, and says so.
            if let Some(output) = call(program, &all)? {
                found = true;
                let said = String::from_utf8_lossy(&output.stderr);
                if said.contains("Permission denied") || said.contains("not permitted") {
                    bail!(failed(program, &output));
                }
            }
        }
    }
    Ok(found)
}

/// Runs a program with `text` as its input; false when there is no such program.
fn feed(program: &str, arguments: &[&str], text: &str) -> anyhow::Result<bool> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("{program} cannot be run")),
    };
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read says why itself.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("{program} did not end"))?;
    if !output.status.success() {
        bail!(failed(program, &output));
    }
    Ok(true)
}

/// Runs a program that may fail; `None` when there is no such program.
fn call(program: &str, arguments: &[&str]) -> anyhow::Result<Option<Output>> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{program} cannot be run")),
    }
}

fn failed(program: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
    let hint = match first.contains("not permitted") || first.contains("Permission denied") {
        true => "; run as root, or give the container the capability NET_ADMIN",
        false => "",
    };
    format!("{program} refused the rules ({}): {first}{hint}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_or_number() {
        assert_eq!(uid("65532").unwrap(), 65532);
        assert_eq!(uid("root").unwrap(), 0);
        let error = uid("no-such-user").unwrap_err();
        assert_eq!(error.to_string(), "--uid no-such-user: no such user in /etc/passwd; write its number");
    }
}
