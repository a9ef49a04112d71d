//! Sub-command to exit code.
fn main() {}
