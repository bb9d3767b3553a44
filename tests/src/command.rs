use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 plus the signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// The output of a command that must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "unexpected exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Standard output without white space at its ends.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// Runs a command to its end, within a minute.
pub fn run(command: &mut Command) -> Output {
    run_within(command, Duration::from_secs(60))
}

/// Runs a command to its end; one that takes longer is killed, and the test fails.
pub fn run_within(command: &mut Command, limit: Duration) -> Output {
    if let Some(pid) = crate::processes::own(
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()),
    ) {
        return collect(pid, command, limit);
    }
    panic!("could not start {command:?}");
}

fn collect(mut child: crate::processes::Owned, command: &Command, limit: Duration) -> Output {
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let out = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        bytes
    });
    let err = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    });
    let Some(code) = child.wait_within(limit) else {
        child.kill();
        let out = String::from_utf8_lossy(&out.join().unwrap_or_default()).into_owned();
        let err = String::from_utf8_lossy(&err.join().unwrap_or_default()).into_owned();
        panic!("{command:?} did not end within {limit:?}\n--- stdout\n{out}\n--- stderr\n{err}")
    };
    let text = |bytes: thread::Result<Vec<u8>>| {
        String::from_utf8_lossy(&bytes.expect("the reader does not panic")).into_owned()
    };
    Output { code, stdout: text(out.join()), stderr: text(err.join()) }
}

/// Waits for something that no event tells of; fails after 20 seconds.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
