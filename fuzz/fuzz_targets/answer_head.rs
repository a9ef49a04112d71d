#![no_main]
keytally_fuzz::target!("answer_head");
