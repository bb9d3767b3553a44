//! System calls that std and libc have no safe wrapper for.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT`: stay under the directory, links included.
pub(crate) const IN_ROOT: u64 = 0x02 | 0x10;
/// `RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH`: what leads out of the directory is an error.
pub(crate) const BENEATH: u64 = 0x02 | 0x08;
/// `RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH`: no link at all.
pub(crate) const NO_LINKS: u64 = 0x04 | 0x08;

/// Bits of `mount_attr.attr_set`.
pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
pub(crate) const ATTR_NOATIME: u64 = 0x10;
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_IDMAP: u64 = 0x0010_0000;

const AT_RECURSIVE: libc::c_uint = 0x8000;

/// Turns a path or text into a C string; a NUL inside is an invalid argument.
pub(crate) fn cstr(s: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(s.as_ref())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text with a NUL byte"))
}

/// A path as a C string.
pub(crate) fn cpath(p: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    cstr(p.as_os_str().as_bytes())
}

fn check(r: libc::c_long) -> io::Result<libc::c_long> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn owned(r: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(r)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What [`fork`] returned: where we are now.
pub(crate) enum Fork {
    /// In the parent: the child's pid.
    Parent(i32),
    /// In the child.
    Child,
}

/// Forks, optionally straight into a cgroup v2 directory.
///
/// # Safety
/// The calling process must have a single thread: the child goes on running
/// ordinary code, which another thread's locks would block for ever.
pub(crate) unsafe fn fork(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut args = [0u64; 11];
    args[4] = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args[0] = CLONE_INTO_CGROUP;
        args[10] = fd.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a clone_args of 88 bytes; without CLONE_VM the child has
    // its own copy of the stack; the caller vouches for the single thread.
    let r = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    Ok(match check(r)? {
        0 => Fork::Child,
        pid => Fork::Parent(pid as i32),
    })
}

/// Opens a pidfd.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal through a pidfd.
pub(crate) fn pidfd_kill(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means that the kernel fills it in.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, null, 0) })
        .map(drop)
}

/// How often a path is looked up again.
const LOOKUPS: usize = 128;

/// `openat2` with O_CLOEXEC added. While others rename and mount, the kernel
/// can't tell where `..` leads: then the path is looked up again.
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let how = [(flags | libc::O_CLOEXEC) as u64, u64::from(mode), resolve];
    let (dir, size) = (dir.as_raw_fd(), size_of_val(&how));
    let mut left = LOOKUPS;
    loop {
        // SAFETY: `how` is an open_how of 24 bytes and the path ends with NUL.
        let opened = owned(unsafe {
            libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), how.as_ptr(), size)
        });
        left -= 1;
        match opened {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && left > 0 => {}
            opened => return opened,
        }
    }
}

/// Makes one directory; that it exists already is fine. Whether it is new.
pub(crate) fn mkdirat(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> io::Result<bool> {
    // SAFETY: the path ends with NUL and the descriptor is open.
    match check(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode) }.into()) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        r => r.map(|_| true),
    }
}

/// Sets the mode of what a path leads to, whatever this process' umask is.
pub(crate) fn fchmodat(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: the path ends with NUL and the descriptor is open.
    check(unsafe { libc::fchmodat(dir.as_raw_fd(), path.as_ptr(), mode, 0) }.into()).map(drop)
}

/// Removes an empty directory.
pub(crate) fn rmdirat(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with NUL and the descriptor is open.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), path.as_ptr(), libc::AT_REMOVEDIR) }.into())
        .map(drop)
}

/// `openat` for reading or writing a small file under a directory handle.
pub(crate) fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the path ends with NUL and the descriptor is open.
    owned(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// Opens a path of the host as a handle only.
pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH).open(path).map(OwnedFd::from)
}

/// mount(2).
pub(crate) fn mount(src: &str, at: &Path, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (src, at, kind, data) = (cstr(src)?, cpath(at)?, cstr(kind)?, cstr(data)?);
    let data = if data.is_empty() { std::ptr::null() } else { data.as_ptr().cast() };
    // SAFETY: all texts end with NUL and live until the call returns.
    check(unsafe { libc::mount(src.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data) }.into())
        .map(drop)
}

/// umount2 with MNT_DETACH.
pub(crate) fn detach(at: &Path) -> io::Result<()> {
    let at = cpath(at)?;
    // SAFETY: the path ends with NUL.
    check(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into())
        .map(drop)
}

/// Sets the mask of this process for the modes of new files.
pub(crate) fn umask(mask: u32) {
    // SAFETY: takes an integer and can't fail.
    unsafe { libc::umask(mask) };
}

/// Opens the mount namespace of a process.
pub(crate) fn mount_namespace(pid: i32) -> io::Result<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map(OwnedFd::from)
}

/// unshare(2).
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes an integer; no memory is shared with anybody.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Makes a directory this process' root, and another its working directory.
pub(crate) fn change_root(root: BorrowedFd<'_>, cwd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptors are open, and the path ends with NUL.
    unsafe {
        check(libc::fchdir(root.as_raw_fd()).into())?;
        check(libc::chroot(c".".as_ptr()).into())?;
        check(libc::fchdir(cwd.as_raw_fd()).into()).map(drop)
    }
}

/// Whether an open file is a directory.
pub(crate) fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    // SAFETY: stat is plain data, all zeroes is valid.
    let mut s: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `s` is a live stat.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &mut s) }.into())?;
    Ok(s.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether something lies in memory.
pub(crate) fn is_tmpfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)?.f_type == libc::TMPFS_MAGIC)
}

/// Whether something is the kernel's own view of processes.
pub(crate) fn is_procfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)?.f_type == libc::PROC_SUPER_MAGIC)
}

/// Whether something lies among terminals.
pub(crate) fn is_devpts(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)?.f_type == libc::DEVPTS_SUPER_MAGIC)
}

/// Whether something lies in cgroup v2.
pub(crate) fn is_cgroup2(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)?.f_type == libc::CGROUP2_SUPER_MAGIC)
}

/// Whether something lies on a mount that can't be written to.
pub(crate) fn is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: statvfs is plain data, all zeroes is valid.
    let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `s` is a live statvfs.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &mut s) }.into())?;
    Ok(s.f_flag & libc::ST_RDONLY != 0)
}

/// Whether an open file is the null device.
pub(crate) fn is_null(file: &std::fs::File) -> io::Result<bool> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = file.metadata()?;
    Ok(meta.file_type().is_char_device() && meta.rdev() == libc::makedev(1, 3))
}

fn file_system(fd: BorrowedFd<'_>) -> io::Result<libc::statfs> {
    // SAFETY: statfs is plain data, all zeroes is valid.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `s` is a live statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &mut s) }.into())?;
    Ok(s)
}

/// The other side of a terminal whose master side this is.
pub(crate) fn slave_of(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: `unlocked` is a live integer, which the kernel reads.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes integers only.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Gives a terminal a size, where it has one: rows and columns.
pub(crate) fn resize(master: BorrowedFd<'_>, (rows, columns): (u16, u16)) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a live winsize; a size that is refused stays as it was.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

/// Makes a terminal the controlling one of this process, which leads its session.
pub(crate) fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// setns(2).
pub(crate) fn setns(fd: BorrowedFd<'_>, kind: i32) -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }.into()).map(drop)
}

/// Makes a filesystem and a detached mount of it: fsopen, fsconfig, fsmount.
/// An option without a value is a flag.
pub(crate) fn new_mount(kind: &CStr, options: &[(&str, &str)], attr: u64) -> io::Result<OwnedFd> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CMD_CREATE: u32 = 6;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: the text ends with NUL.
    let fs = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    for (key, value) in options {
        let (key, value) = (cstr(key)?, cstr(value)?);
        let (cmd, value) =
            if value.is_empty() { (SET_FLAG, null) } else { (SET_STRING, value.as_ptr()) };
        // SAFETY: key and value end with NUL and live until the call returns.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), cmd, key.as_ptr(), value, 0)
        })?;
    }
    // SAFETY: the command takes neither key nor value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), CMD_CREATE, null, null, 0) })?;
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attr) })
}

/// Clones the mount at `path` (with what is mounted below it, when `recursive`) into a detached one.
pub(crate) fn clone_mount(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH as libc::c_uint
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends with NUL and the descriptor is open.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Puts a detached mount on a place given by a descriptor.
pub(crate) fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> io::Result<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    let none = c"".as_ptr();
    let flags = F_EMPTY_PATH | T_EMPTY_PATH;
    // SAFETY: both paths are empty texts and both descriptors are open.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), none, at.as_raw_fd(), none, flags)
    })
    .map(drop)
}

/// Changes of a mount by [`set_mount`].
#[derive(Default)]
pub(crate) struct MountChange<'a> {
    /// Attributes to set.
    pub(crate) set: u64,
    /// Propagation, as MS_PRIVATE and the like.
    pub(crate) propagation: u64,
    /// Map ids by this user namespace.
    pub(crate) userns: Option<BorrowedFd<'a>>,
    /// Every mount below too.
    pub(crate) recursive: bool,
}

/// mount_setattr on the mount that the descriptor stands on.
pub(crate) fn set_mount(mount: BorrowedFd<'_>, change: &MountChange<'_>) -> io::Result<()> {
    let idmap = if change.userns.is_some() { ATTR_IDMAP } else { 0 };
    let userns = change.userns.map_or(0, |fd| fd.as_raw_fd() as u64);
    let attr = [change.set | idmap, 0, change.propagation, userns];
    let flags =
        libc::AT_EMPTY_PATH as libc::c_uint | if change.recursive { AT_RECURSIVE } else { 0 };
    let (none, size) = (c"".as_ptr(), size_of_val(&attr));
    // SAFETY: `attr` is a mount_attr of 32 bytes, the path is an empty text.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), none, flags, attr.as_ptr(), size)
    })
    .map(drop)
}

/// A pair of connected SOCK_SEQPACKET sockets.
pub(crate) fn seqpacket() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    // SAFETY: both were just made for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A pipe: (read end, write end), both close-on-exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    // SAFETY: both were just made for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Makes a descriptor non-blocking.
pub(crate) fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers only.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }.into())?;
    // SAFETY: takes integers only.
    check(
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags as i32 | libc::O_NONBLOCK) }
            .into(),
    )
    .map(drop)
}

/// Whether a descriptor can be read from, or a pidfd's process has ended. Never waits.
pub(crate) fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `asked` is one live pollfd.
    unsafe { libc::poll(&mut asked, 1, 0) == 1 }
}

/// A descriptor that the event loop waits on for reading.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    nonblocking(fd.as_fd())?;
    // SAFETY: an OwnedFd gives the same descriptor for its whole life, and the
    // AsyncFd owns it, so that it is closed only after it was taken out.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Room for one SCM_RIGHTS message with one descriptor, aligned as cmsghdr needs.
type Control = [u64; 4];

/// Sends one message with at most one descriptor.
pub(crate) fn send(
    sock: BorrowedFd<'_>,
    data: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control: Control = [0; 4];
    // SAFETY: msghdr is plain data, all zeroes is an empty one.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    if let Some(fd) = fd {
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE is arithmetic.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
        // SAFETY: the control buffer is aligned and has room for one header and
        // one descriptor, so CMSG_FIRSTHDR is not null and CMSG_DATA is inside.
        unsafe {
            let c = libc::CMSG_FIRSTHDR(&msg);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(c).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: `msg` points to live buffers only.
    check(unsafe { libc::sendmsg(sock.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) } as libc::c_long)
        .map(drop)
}

/// Receives one message with at most one descriptor.
pub(crate) fn receive(
    sock: BorrowedFd<'_>,
    buf: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut control: Control = [0; 4];
    // SAFETY: msghdr is plain data, all zeroes is an empty one.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE is arithmetic.
    msg.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
    // SAFETY: `msg` points to live buffers of the lengths it says.
    let n = unsafe { libc::recvmsg(sock.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC) };
    let n = check(n as libc::c_long)? as usize;
    // SAFETY: the kernel has filled the control buffer; CMSG_FIRSTHDR is null
    // when it is too short, and a rights message here holds one descriptor,
    // which is ours from now on.
    let fd = unsafe {
        let c = libc::CMSG_FIRSTHDR(&msg);
        (!c.is_null()
            && (*c).cmsg_type == libc::SCM_RIGHTS
            && (*c).cmsg_len >= libc::CMSG_LEN(4) as usize)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(c).cast::<RawFd>().read_unaligned()))
    };
    Ok((n, fd))
}

/// read(2) into a slice.
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the slice is writable for its length.
    check(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) } as libc::c_long)
        .map(|n| n as usize)
}

/// write(2) from a slice.
pub(crate) fn write(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is readable for its length.
    check(unsafe { libc::write(fd.as_raw_fd(), buf.as_ptr().cast(), buf.len()) } as libc::c_long)
        .map(|n| n as usize)
}

/// Closes every descriptor from 3 on that is not in `keep`.
pub(crate) fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = 3;
    for &fd in keep.iter().filter(|fd| **fd >= 3) {
        if fd > from {
            close_range(from as u32, (fd - 1) as u32);
        }
        from = from.max(fd + 1);
    }
    close_range(from as u32, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: only called in a worker that has just been forked, in which no
    // owner of a closed descriptor runs again: it ends with _exit.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// The start time (clock ticks after boot) of a process: with its pid it names it for good.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = &stat[stat.rfind(')')? + 1..];
    let mut fields = after.split_ascii_whitespace();
    if matches!(fields.next(), None | Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a process is on its way out, or gone.
pub(crate) fn is_exiting(pid: i32) -> bool {
    const PF_EXITING: u64 = 0x4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let after = stat.rfind(')').map_or("", |i| &stat[i + 1..]);
    let flags = after.split_ascii_whitespace().nth(6);
    flags.and_then(|f| f.parse::<u64>().ok()).is_none_or(|f| f & PF_EXITING != 0)
}
