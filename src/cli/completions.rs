//! `keytally completions` and `keytally man`: made from the same definition as parsing and help.
//!
//! Out: a script or a page on standard output; with `man --dir` one file a command.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

/// Flags of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell that shall complete
    #[arg(value_enum)]
    shell: Shell,
}

/// Flags of `man`.
#[derive(Args, Clone, Debug, Default)]
pub struct ManArgs {
    /// Page of this command; of keytally itself if left out
    command: Option<String>,
    /// Write the pages of all commands into this directory, as keytally.1, keytally-serve.1 and so on
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Shells that are tested.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

/// The script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> String {
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::from(args.shell), &mut super::command(), "keytally", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The page that was asked for, or nothing when files were written instead.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<String> {
    let mut root = super::command().disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
    root.build();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be made", dir.display()))?;
        write(dir, "keytally", &page(&root)?)?;
        for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
            write(dir, &format!("keytally-{}", command.get_name()), &page(command)?)?;
        }
        return Ok(String::new());
    }
    let Some(name) = &args.command else { return page(&root) };
    match root.find_subcommand(name) {
        Some(command) => page(command),
        None => {
            let names: Vec<&str> = root.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name()).collect();
            bail!("\"{name}\": no such command; write one of {}", names.join(", "))
        }
    }
}

fn page(command: &clap::Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).context("the page cannot be written")?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write(dir: &std::path::Path, name: &str, page: &str) -> anyhow::Result<()> {
    let path = dir.join(format!("{name}.1"));
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(page.as_bytes()));
    written.with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_and_has_a_page() {
        let root = super::super::command();
        let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| completions(&CompletionsArgs { shell }));
        for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
            let page = man(&ManArgs { command: Some(name.to_owned()), dir: None }).unwrap();
            assert!(
                page.contains(&format!("keytally\\-{name}")) || page.contains(&format!("keytally-{name}")),
                "{page}"
            );
        }
        assert!(man(&ManArgs::default()).unwrap().contains(".TH keytally 1"));
        let error = man(&ManArgs { command: Some("nope".to_owned()), dir: None }).unwrap_err();
        assert!(error.to_string().contains("serve"), "{error}");
    }

    #[test]
    fn pages_can_be_written_to_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { command: None, dir: Some(dir.path().join("man1")) }).unwrap();
        let root = super::super::command();
        for name in root.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| format!("keytally-{}.1", c.get_name()))
        {
            assert!(dir.path().join("man1").join(&name).is_file(), "{name}");
        }
    }
}
