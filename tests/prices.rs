//! The built-in price book against the package that it was made from.

use std::path::Path;
use std::process::Command;

use crate::support::{skip, tool};

#[test]
fn the_price_book_is_what_its_package_makes_it() {
    let Some(python) = tool("venv/bin/python").filter(|_| tool("venv/bin/genai-prices").is_some()) else {
        return skip("the Python package genai-prices");
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meter/price/renew.py");
    let checked = Command::new(python).arg(script).arg("--check").output().expect("runs");
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}");
    assert!(said.starts_with("genai-prices "), "{said}");
}
