//! Command line to exit code.

fn main() -> std::process::ExitCode {
    keytally::cli::run(std::env::args_os())
}
