//! The command line as it is documented, and as a process has it.

use super::*;
use crate::config::compare_docs;

fn cli(args: &[&str]) -> Result<Cli, clap::Error> {
    let args = std::iter::once("keytally").chain(args.iter().copied());
    command().try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m))
}

#[test]
fn the_definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn serve_is_the_default() {
    let bare = cli(&["--listen", "127.0.0.1:1", "--config", "f"]).unwrap();
    assert!(bare.command.is_none());
    assert_eq!(bare.serve.listen, Some("127.0.0.1:1".parse().unwrap()));
    let Some(Command::Serve(named)) = cli(&["serve", "--admin", "localhost:2"]).unwrap().command else { panic!() };
    assert_eq!(named.admin, Some("127.0.0.1:2".parse().unwrap()));
    assert!(cli(&["--listen", "127.0.0.1:1", "check"]).is_err(), "flags of serve before another command");
}

#[test]
fn mistakes_are_usage_errors() {
    for args in [
        &["nope"][..],
        &["--listen", "4141"],
        &["demo", "--duration", "soon"],
        &["fingerprint", "sk-made-up"],
        &["fingerprint", "--salt-env", "A", "--salt-file", "b"],
        &["health", "--timeout", "5"],
        &["run"],
        &["run", "--summary", "xml", "true"],
    ] {
        let error = cli(args).unwrap_err();
        assert!(error.use_stderr() && error.exit_code() == Exit::Usage as i32, "{args:?}");
    }
}

#[test]
fn what_follows_the_command_is_the_command_s() {
    let command = |args: &[&str]| {
        let Some(Command::Run(run)) = cli(args).unwrap().command else { panic!("{args:?}") };
        run.command
    };
    assert_eq!(command(&["run", "--", "python", "--summary", "none"]), ["python", "--summary", "none"]);
    assert_eq!(command(&["run", "--override", "python", "-c", "pass"]), ["python", "-c", "pass"]);
    assert_eq!(command(&["run", "--", "a", "--", "b"]), ["a", "--", "b"]);
}

#[test]
fn exit_codes_are_what_is_documented() {
    let numbers: Vec<_> = Exit::ALL.iter().map(|(exit, _)| *exit as u8).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 78, 126, 127]);
}

#[test]
fn errors_have_their_code() {
    assert_eq!(finish(Ok(())), Exit::Ok);
    assert_eq!(finish(Err(anyhow::anyhow!("port taken"))), Exit::Failure);
    let pipe = std::io::Error::from(ErrorKind::BrokenPipe);
    assert_eq!(finish(Err(anyhow::Error::new(pipe).context("writing"))), Exit::Ok);
    let bad = Source { path: Some("/nowhere/f.yaml".into()), ..Source::default() }.load().unwrap_err();
    assert_eq!(finish(Err(bad.into())), Exit::Config);
}

#[test]
fn the_summary_tells_what_was_understood() {
    let text = summary(&Config::default());
    assert!(text.contains("proxy              127.0.0.1:4141\n"), "{text}");
    assert!(text.contains("redirect           none\n"), "{text}");
    assert_eq!(text.lines().count(), 12);
}

/// Help of every command and the exit codes stand in the documentation as the program prints them.
#[test]
fn the_documentation_lists_every_command() {
    let mut text = String::from("## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (exit, meaning) in Exit::ALL {
        text += &format!("| {} | {meaning} |\n", *exit as u8);
    }
    let mut root = command().term_width(100);
    root.build();
    let names: Vec<String> = root.get_subcommands().map(|c| c.get_name().to_owned()).filter(|n| n != "help").collect();
    text += &format!("\n## `keytally`\n\n```text\n{}```\n", plain(&mut root));
    for name in names {
        let sub = root.find_subcommand_mut(&name).unwrap();
        text += &format!("\n## `keytally {name}`\n\n```text\n{}```\n", plain(sub));
    }
    compare_docs("cli.md", &text);
}

fn plain(command: &mut clap::Command) -> String {
    let help = command.clone().term_width(100).render_long_help().to_string();
    help.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
