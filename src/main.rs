//! Command line to exit code.

/// Half the cost of glibc's allocator for what a call needs, a fraction of musl's, and it gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The one call that Rust cannot check: the library itself has none.
#[allow(unsafe_code)]
fn give_back() {
    // SAFETY: takes and gives no pointer; any thread may call it at any time (mimalloc's documentation, "Extended
    // Functions").
    unsafe { libmimalloc_sys::mi_collect(true) }
}

fn main() -> std::process::ExitCode {
    keytally::listen::give_back_by(give_back);
    keytally::cli::run(std::env::args_os())
}
