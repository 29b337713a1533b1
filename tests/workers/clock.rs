//! A wall clock that a test can set, for the processes that it is preloaded into: everybody else's stays as it is.
//!
//! `CLOCK_REALTIME` is ahead of the kernel's by as many milliseconds as stand in the file named by `TEST_CLOCK`, eight
//! bytes in the machine's order. The other clocks are the kernel's own.

use std::ffi::{c_int, c_long};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use nix::libc;

const NANOS: i64 = 1_000_000_000;

/// In place of the C library's.
///
/// # Safety
/// As of `clock_gettime(2)`: `time` is null or may be written.
// SAFETY: the C library's function has this name and this signature, and this one does what that promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the kernel checks both.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
    let ahead_ms = offset().map_or(0, |offset| offset.load(Relaxed));
    if result == 0 && clock == libc::CLOCK_REALTIME && ahead_ms != 0 {
        // SAFETY: the kernel has just written it.
        let time = unsafe { &mut *time };
        let nanos = time.tv_nsec + ahead_ms % 1000 * 1_000_000;
        time.tv_sec += ahead_ms / 1000 + nanos.div_euclid(NANOS);
        time.tv_nsec = nanos.rem_euclid(NANOS);
    }
    result as c_int
}

/// What is shared with the test. Looked for once: nothing here may allocate or wait, since it is called at any moment.
fn offset() -> Option<&'static AtomicI64> {
    static OFFSET: OnceLock<Option<&'static AtomicI64>> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // SAFETY: a string of the environment, which nobody changes at that moment; a descriptor and a map of our own,
        // which stays for ever and is as long as a page at least.
        unsafe {
            let path = libc::getenv(c"TEST_CLOCK".as_ptr());
            if path.is_null() {
                return None;
            }
            let file = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
            let map = libc::mmap(null_mut(), size_of::<i64>(), libc::PROT_READ, libc::MAP_SHARED, file, 0);
            libc::close(file);
            if map == libc::MAP_FAILED { None } else { Some(&*map.cast::<AtomicI64>()) }
        }
    })
}
