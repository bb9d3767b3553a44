//! A container's first process, for who wants one: it starts the command, hands signals on to
//! it, reaps orphans, and ends as the command does.
//!
//! It is this program under another name, bound into the container. It has one thread and
//! makes nothing of what the shim is made of.

use std::ffi::{CString, NulError, OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// What its name ends with.
const NAME: &str = "docker-init";

/// Signals that are not waited for: the kernel's about this process itself, and those that
/// would stop it when it gives its terminal away.
const OWN: [libc::c_int; 9] = [
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Exit codes as shells have them.
const NOT_FOUND: u8 = 127;
const NOT_INVOCABLE: u8 = 126;

/// Whether a program that was started by this name is to be a first process.
pub fn is_meant(program: &OsStr) -> bool {
    program.as_bytes().ends_with(NAME.as_bytes())
}

/// Runs a command: the arguments, behind `--` if that is there.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.collect();
    let words = match words.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => words.as_slice(),
    };
    let texts: Result<Vec<CString>, NulError> =
        words.iter().map(|word| CString::new(word.as_bytes())).collect();
    let Ok(argv) = texts else { return failed("a text with a NUL byte", NOT_INVOCABLE) };
    if argv.is_empty() {
        return failed("there is no command", NOT_INVOCABLE);
    }
    let (waited, before) = take_signals();
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => become_command(&argv, &before),
        child if child > 0 => ExitCode::from(watch(child, &waited)),
        _ => failed(&format!("fork: {}", io::Error::last_os_error()), NOT_INVOCABLE),
    }
}

fn failed(text: &str, code: u8) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{NAME}: {text}");
    ExitCode::from(code)
}

/// Blocks signals, so that they wait to be asked for: also those that a first process does not
/// get otherwise. Which, and what was blocked before.
fn take_signals() -> (libc::sigset_t, libc::sigset_t) {
    // SAFETY: sigset_t is plain data, and every pointer is to a live local.
    unsafe {
        let mut waited: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut waited);
        for signal in OWN {
            libc::sigdelset(&mut waited, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &waited, &mut before);
        libc::signal(libc::SIGTTIN, libc::SIG_IGN);
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        (waited, before)
    }
}

/// The child's way: a process group of its own, with the terminal if there is one, signals as
/// they were, and then the command.
fn become_command(argv: &[CString], before: &libc::sigset_t) -> ! {
    let pointers: Vec<*const libc::c_char> =
        argv.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    // SAFETY: plain calls on this process and its standard input, where failing means that
    // there is no terminal; the words end with NUL, their list with a null pointer, and
    // both live until the process is another program.
    unsafe {
        libc::setpgid(0, 0);
        libc::tcsetpgrp(0, libc::getpid());
        // The last is this language's habit.
        for signal in [libc::SIGTTIN, libc::SIGTTOU, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, before, std::ptr::null_mut());
        libc::execvp(pointers[0], pointers.as_ptr());
    }
    let error = io::Error::last_os_error();
    let code = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => NOT_FOUND,
        _ => NOT_INVOCABLE,
    };
    let name = argv[0].to_string_lossy();
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    failed(&format!("exec {name} failed: {words}"), code);
    // SAFETY: ends the process without running what belongs to its parent.
    unsafe { libc::_exit(code.into()) }
}

/// Hands signals on to the command until it has ended; gives its exit code.
fn watch(command: libc::pid_t, waited: &libc::sigset_t) -> u8 {
    loop {
        // SAFETY: the set is a live one, and nobody wants to know more of the signal.
        let signal = unsafe { libc::sigwaitinfo(waited, std::ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(command) {
                return code;
            }
        } else if signal > 0 {
            // SAFETY: takes integers; the command is not reaped yet, so the number is its own.
            unsafe { libc::kill(command, signal) };
        }
    }
}

/// Reaps what has ended; gives the command's exit code, if it is among that.
fn reap(command: libc::pid_t) -> Option<u8> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live integer.
        let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if ended <= 0 {
            return code;
        }
        if ended == command {
            code = Some(exit_code(status));
        }
    }
}

/// As shells have it: 128 and the signal for what was killed.
fn exit_code(status: libc::c_int) -> u8 {
    if libc::WIFSIGNALED(status) {
        128 | libc::WTERMSIG(status) as u8
    } else {
        libc::WEXITSTATUS(status) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name() {
        assert!(is_meant(OsStr::new("/sbin/docker-init")));
        assert!(!is_meant(OsStr::new("/usr/bin/containerd-shim-gantry-v2")));
        assert!(!is_meant(OsStr::new("")));
    }

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(3 << 8), 3);
        assert_eq!(exit_code(libc::SIGKILL), 137);
        assert_eq!(exit_code(libc::SIGTERM), 143);
    }

    #[test]
    fn without_a_command_it_fails() {
        let none = [OsString::from("--")];
        assert_eq!(format!("{:?}", main(none.into_iter())), format!("{:?}", ExitCode::from(126)));
    }
}
