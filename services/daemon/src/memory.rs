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

/// Gives back the pages of program code that only starting needed. Those that are
/// needed later are mapped again from the page cache.
#[expect(unsafe_code, reason = "madvise on the program's own code has no safe wrapper")]
pub(crate) fn forget_start() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(code_of_files) {
        // SAFETY: the range is a mapping of this process that is executable,
        // not writable and backed by a file: dropping its pages loses nothing,
        // as the kernel reads them from the file again.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// The range of a line of /proc/self/maps that is code of a file.
fn code_of_files(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, mode) = (words.next()?, words.next()?);
    let inode = words.nth(2)?;
    if mode != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

/// Other allocators need no telling.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn frugal() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_data() {
        let code = "55d0-55e0 r-xp 00001000 fe:00 1234    /usr/bin/x";
        assert_eq!(code_of_files(code), Some((0x55d0, 0x55e0)));
        for other in [
            "55d0-55e0 rw-p 00001000 fe:00 1234    /usr/bin/x",
            "7ffc-7ffd r-xp 00000000 00:00 0       [vdso]",
            "",
        ] {
            assert_eq!(code_of_files(other), None, "{other}");
        }
        forget_start();
    }
}
