//! The daemon is idle most of the time, and many share a machine with much
//! else: its allocator is told to be frugal, and what work left in memory is given back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the daemon looks whether work has ended.
const TICK: Duration = Duration::from_millis(500);
/// Ticks without work after which memory is given back. Mapping again what a run
/// needs takes a millisecond, which runs in a row shall not pay.
const QUIET: u32 = 8;
/// Ticks after which memory is given back although work goes on.
const BUSY: u32 = 60;

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

/// Starts a thread that gives memory back when work has ended. The result is to be
/// called when there is work; while there is none, nothing wakes up.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn forgetter() -> io::Result<impl Fn() + Send + Sync + 'static> {
    let worked = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&worked);
    let builder = thread::Builder::new().name("forgetter".into()).stack_size(64 * 1024);
    let forgetter = builder.spawn(move || {
        loop {
            while !seen.load(Ordering::Relaxed) {
                thread::park();
            }
            wait_for_quiet(&seen);
            forget();
        }
    })?;
    let forgetter = forgetter.thread().clone();
    Ok(move || {
        // Mostly it is set already, and only read.
        if !worked.load(Ordering::Relaxed) && !worked.swap(true, Ordering::Relaxed) {
            forgetter.unpark();
        }
    })
}

/// Returns once there was no work for some time, or after a long time.
fn wait_for_quiet(worked: &AtomicBool) {
    let mut quiet = 0;
    for _ in 0..BUSY {
        thread::sleep(TICK);
        quiet = if worked.swap(false, Ordering::Relaxed) { 0 } else { quiet + 1 };
        if quiet == QUIET {
            return;
        }
    }
}

/// Gives back freed memory, and the pages of program files that can be mapped
/// again from the page cache: nearly all of them served what is over.
#[expect(unsafe_code, reason = "malloc_trim and dl_iterate_phdr have no safe wrappers")]
fn forget() {
    // SAFETY: malloc_trim has no preconditions; `forget_object` keeps to the
    // contract of dl_iterate_phdr and does not unwind.
    unsafe {
        #[cfg(target_env = "gnu")]
        libc::malloc_trim(0);
        libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut());
    }
}

/// Forgets the pages of a loaded program or library that are never written.
#[expect(unsafe_code, reason = "called back from C")]
unsafe extern "C" fn forget_object(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr passes a valid object, whose headers stay while
    // it is loaded.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    for header in headers {
        if let Some((start, length)) = never_written(base, header) {
            // SAFETY: the pages are those of a file: dropping them loses
            // nothing, as the kernel takes them from the file again.
            unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        }
    }
    0
}

/// The whole pages of a segment that the loader maps without the right to
/// write. What it relocates, and then protects, is in segments with that right.
fn never_written(base: u64, header: &libc::Elf64_Phdr) -> Option<(usize, usize)> {
    const PAGE: u64 = 4096;
    if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
        return None;
    }
    let start = (base + header.p_vaddr).next_multiple_of(PAGE);
    let end = (base + header.p_vaddr + header.p_memsz) / PAGE * PAGE;
    (start < end).then_some((start as usize, (end - start) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_written_is_told_from_data() {
        let segment = |kind, flags| libc::Elf64_Phdr {
            p_type: kind,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: 0x1010,
            p_paddr: 0,
            p_filesz: 0x3000,
            p_memsz: 0x3000,
            p_align: 0x1000,
        };
        let code = segment(libc::PT_LOAD, libc::PF_R | libc::PF_X);
        assert_eq!(never_written(0x10000, &code), Some((0x12000, 0x2000)));
        let data = segment(libc::PT_LOAD, libc::PF_R | libc::PF_W);
        assert_eq!(never_written(0x10000, &data), None);
        let unwinding = segment(libc::PT_GNU_EH_FRAME, libc::PF_R);
        assert_eq!(never_written(0x10000, &unwinding), None);
    }

    #[test]
    fn what_was_written_is_kept() {
        static WRITTEN: AtomicBool = AtomicBool::new(false);
        let kept: Vec<usize> = (0..100_000).collect();
        WRITTEN.store(true, Ordering::Relaxed);
        forget();
        assert!(WRITTEN.load(Ordering::Relaxed));
        assert_eq!(kept.iter().sum::<usize>(), 4_999_950_000);
    }
}
