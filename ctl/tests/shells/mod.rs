//! What shells and terminals get: completions, and colours only where they are wanted.

use std::path::Path;

use super::*;

/// What a shell is offered for the last of these words. `extra` is how it says which that is.
fn offered(fake: &Fake, shell: &str, words: &[&str], extra: bool) -> Vec<String> {
    let mut command = gantry(fake, &["--"]);
    command.args(words).env("COMPLETE", shell);
    if extra {
        command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    }
    let ended = output(&mut command);
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{shell}");
    let word = |line: &str| line.split(['\t', ':']).next().unwrap_or_default().to_owned();
    text(&ended.stdout).lines().map(word).collect()
}

#[test]
fn names_are_completed_in_every_shell() {
    let fake = Fake::start();
    for (shell, extra) in [("bash", true), ("zsh", true), ("fish", false)] {
        let names = offered(&fake, shell, &["gantry", "stop", ""], extra);
        assert!(names.contains(&"web".to_owned()), "{shell}: {names:?}");
        let begun = offered(&fake, shell, &["gantry", "container", "rm", "w"], extra);
        assert_eq!(begun, ["web"], "{shell}");
        let networks = offered(&fake, shell, &["gantry", "network", "rm", "net"], extra);
        assert_eq!(networks, ["net10", "net9"], "{shell}");
        let commands = offered(&fake, shell, &["gantry", "volume", ""], extra);
        assert!(commands.contains(&"prune".to_owned()), "{shell}: {commands:?}");
    }
}

#[test]
fn bash_completes_by_what_it_is_given() {
    let fake = Fake::start();
    let binary = Path::new(BINARY).parent().expect("it lies in a directory");
    let search = std::env::var("PATH").unwrap_or_default();
    let script = "source <(gantry completion bash)
        COMP_WORDS=(gantry rm w) COMP_CWORD=2 COMP_TYPE=9
        _clap_complete_gantry gantry w rm
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script]).env("GANTRY_ADDRESS", fake.socket());
    bash.env("PATH", format!("{}:{search}", binary.display()));
    let ended = output(&mut bash);
    assert_eq!(text(&ended.stdout), "web\n", "{}", text(&ended.stderr));
}

/// All that a command says on a terminal.
fn on_terminal(mut command: Command) -> String {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).expect("open a terminal");
    let end = || Stdio::from(pty.slave.try_clone().expect("share the terminal"));
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().expect("start gantry");
    // From here on nobody but the child has it: reading fails when the child is gone.
    drop(command);
    drop(pty.slave);
    let (mut master, mut seen, mut piece) = (File::from(pty.master), Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = master.read(&mut piece) {
        seen.extend_from_slice(&piece[..n]);
    }
    child.wait().expect("wait");
    text(&seen).to_owned()
}

#[test]
fn colours_are_for_terminals_and_never_with_no_color() {
    let fake = Fake::start();
    // An error of ours, and one of the command line.
    for line in [&["rm", "no-b"][..], &["run", "--no-such-flag", "x"], &["run", "--help"]] {
        let command = |variables: &[(&str, &str)]| {
            let mut command = gantry(&fake, line);
            for own in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
                command.env_remove(own);
            }
            command.env("TERM", "xterm").envs(variables.iter().copied());
            command
        };
        let colored = on_terminal(command(&[]));
        assert!(colored.contains("\x1b["), "{line:?}: {colored:?}");
        for forbidden in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            // Where tests run by themselves, as everywhere else.
            for variables in [&[forbidden][..], &[forbidden, ("CI", "true")]] {
                let plain = on_terminal(command(variables));
                assert!(!plain.contains("\x1b["), "{line:?}, {variables:?}: {plain:?}");
            }
        }
        let piped = output(&mut command(&[("CLICOLOR_FORCE", "1")]));
        let said = [text(&piped.stdout), text(&piped.stderr)].concat();
        assert!(!said.contains("\x1b["), "{line:?}: {said:?}");
    }
}
