#![no_main]
keytally_fuzz::target!("file");
