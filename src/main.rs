//! Command line to exit code.

/// Half the cost of glibc's allocator for what a call needs, a fraction of musl's, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    keytally::cli::run(std::env::args_os())
}
