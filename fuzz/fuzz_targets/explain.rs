#![no_main]
keytally_fuzz::target!("explain");
