#![no_main]
keytally_fuzz::target!("client_hello");
