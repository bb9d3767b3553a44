//! The daemon is idle most of the time, and many share a machine with much
//! else: its allocator is told to be frugal.

/// Bounds the number of heaps that glibc makes for its threads, and gives freed memory back early.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
pub(crate) fn frugal() {
    // SAFETY: mallopt only sets parameters of the allocator, and no other
    // thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Other allocators need no telling.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn frugal() {}
