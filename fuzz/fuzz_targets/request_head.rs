#![no_main]
keytally_fuzz::target!("request_head");
