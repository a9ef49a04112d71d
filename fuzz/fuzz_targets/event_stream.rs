#![no_main]
keytally_fuzz::target!("event_stream");
