//! Names in archives.

use std::ffi::CString;

use gantry_core::Result;

use crate::bad;

/// Longest path, in bytes: the kernel's `PATH_MAX`.
pub const MAX_PATH: usize = 4096;

/// Longest part of a path: `NAME_MAX` of every file system in use.
const MAX_NAME: usize = 255;

/// The parts of a path as it is meant below the root: `.` and empty parts
/// dropped, `..` taken back lexically and never beyond the root.
///
/// # Errors
/// `InvalidArgument` for a path or a part of it that is too long, or holds a NUL.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > MAX_PATH {
        return Err(bad::entry(path, format_args!("its path has more than {MAX_PATH} bytes")));
    }
    if path.contains(&0) {
        return Err(bad::entry(path, "its path holds a NUL"));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ if part.len() > MAX_NAME => {
                return Err(bad::entry(
                    path,
                    format_args!("a name has more than {MAX_NAME} bytes"),
                ));
            }
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// A name for a system call.
///
/// # Errors
/// `InvalidArgument` when it holds a NUL.
pub fn c_name(path: &[u8], name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| bad::entry(path, "its name holds a NUL"))
}

/// A path below a directory's path.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The path of the directory above.
pub fn above(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |at| &path[..at])
}

/// Whether `path` is `dir` or below it.
pub fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let joined = |path: &str| {
            let parts = parts(path.as_bytes()).unwrap();
            String::from_utf8(parts.join(&b'/')).unwrap()
        };
        assert_eq!(joined("/etc//passwd"), "etc/passwd");
        assert_eq!(joined("./a/./b/"), "a/b");
        assert_eq!(joined("../../etc/passwd"), "etc/passwd");
        assert_eq!(joined("a/../../b"), "b");
        assert_eq!(joined("./"), "");
        assert!(parts(&[b'a'; 256]).is_err());
        assert!(parts(b"a\0b").is_err());
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && !is_within(b"ab", b"a"));
    }
}
