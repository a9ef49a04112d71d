//! Runs the checks of `keytally::fuzzing` under libFuzzer, each within the memory that its reader may use.
//!
//! The allocator counts what is in use; a check that takes more than its bound for one input is a finding, like a panic.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use keytally::fuzzing::{Target, target as named};
pub use libfuzzer_sys;

/// Bytes in use, and the most since [`check`] began.
static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(used, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs a target's check over one input.
pub fn check(target: &Target, data: &[u8]) {
    let before = USED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    (target.check)(data);
    let took = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(took <= target.max_bytes, "{took} bytes of memory for an input of {}", data.len());
}

/// The fuzz target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<&'static $crate::Target> = std::sync::LazyLock::new(|| {
            let target = $crate::named($name);
            // What is made once a process is made here, so that no input is charged with it.
            (target.check)(&[]);
            target
        });
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::check(&TARGET, data);
        });
    };
}
