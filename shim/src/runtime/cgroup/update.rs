//! New limits for a container that runs: all of them, or, when one is refused, none.

use super::limits::{Setting, Step};
use super::{Group, Host};
use crate::runtime::types::Error;

impl Host {
    /// [`Host::apply`] for a group that is in use: when a value is refused, those that were
    /// written before it are as they were.
    pub(crate) fn change(&self, group: &Group, steps: &[Step]) -> Result<(), Error> {
        let present =
            |step: &Step| -> Step { step.iter().filter_map(|s| self.present(group, s)).collect() };
        let before: Vec<Step> = steps.iter().map(present).collect();
        let Err(refused) = self.apply(group, steps) else { return Ok(()) };
        match self.put_back(group, &before) {
            None => Err(refused),
            Some(left) => Err(Error::Failed(format!(
                "{refused}; what was changed before that can't be changed back: {left}"
            ))),
        }
    }

    /// Writes what is not as it was, the last first. Gives the first thing that is refused.
    fn put_back(&self, group: &Group, before: &[Step]) -> Option<Error> {
        let mut failed = None;
        for step in before.iter().rev() {
            let differs = |s: &&Setting| self.present(group, s).as_ref() != Some(*s);
            let changed: Step = step.iter().filter(differs).cloned().collect();
            if let Err(err) = self.take(group, &changed) {
                failed.get_or_insert(err);
            }
        }
        failed
    }

    /// A setting as it is now, to be written again; `None` where there is no such file.
    fn present(&self, group: &Group, s: &Setting) -> Option<Setting> {
        let (h, file) = self.place(group, s)?;
        let text = h.read(group, file).ok()?;
        let value = match key(s) {
            // Before Linux 5.4 this scheduler had one weight, and no lines.
            Some("default") if !text.contains("default") => text.trim().to_owned(),
            Some(key) => {
                let line = text.lines().find(|line| line.split(' ').next() == Some(key));
                line.map_or_else(|| format!("{key} {}", unset(file)), str::to_owned)
            }
            // `oom_kill_disable 0`, then what can't be set.
            None if file == "memory.oom_control" => text.split_whitespace().nth(1)?.to_owned(),
            // Nothing at all is no write.
            None if text.trim().is_empty() => "\n".to_owned(),
            None => text.trim().to_owned(),
        };
        let (controller, files) = (s.controller.clone(), vec![file.to_owned()]);
        Some(Setting { controller, files, value, first: None })
    }
}

/// What a value is for, where a file has a line for each device, or for each interface.
fn key(s: &Setting) -> Option<&str> {
    let (key, _) = s.value.split_once(' ')?;
    let keyed = key.contains(':') || key == "default" || s.files[0].ends_with("ifpriomap");
    keyed.then_some(key)
}

/// What takes the line of a device away.
fn unset(file: &str) -> &'static str {
    match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        file if file.contains("weight") => "default",
        _ => "0",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::{Hierarchy, Kind};
    use super::*;

    fn setting(file: &str, value: &str) -> Setting {
        let (controller, files) = ("c".into(), vec![file.into()]);
        Setting { controller, files, value: value.into(), ..Setting::default() }
    }

    /// A group whose files are plain ones.
    fn group(dir: &Path, files: &[(&str, &str)]) -> (Host, Group) {
        fs::create_dir(dir.join("g")).unwrap();
        for (file, text) in files {
            fs::write(dir.join("g").join(file), text).unwrap();
        }
        let hierarchy = Hierarchy {
            name: String::new(),
            controllers: vec!["c".into()],
            kind: Kind::Unified,
            mount_point: dir.to_owned(),
            dir: Host::handle(dir).unwrap(),
        };
        (Host { hierarchies: vec![hierarchy] }, Group::new(Path::new("/g")).unwrap())
    }

    #[test]
    fn what_was_changed_before_a_refusal_is_changed_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("pids.max", "max\n"), ("memory.max", "100\n"), ("cpu.weight", "100\n")];
        let (host, group) = group(dir.path(), &files);
        let read = |file: &str| fs::read_to_string(dir.path().join("g").join(file)).unwrap();
        let steps = [
            vec![setting("pids.max", "777")],
            // There is no such file.
            vec![setting("memory.swap.max", "300"), setting("memory.max", "200")],
            vec![setting("cpu.weight", "400")],
        ];
        let refused = host.change(&group, &steps).unwrap_err();
        assert!(matches!(&refused, Error::Unsupported(why) if why.contains("memory.swap.max")));
        for (file, text) in files {
            assert_eq!(read(file), text, "{file}");
        }
        host.change(&group, &steps[..1]).unwrap();
        assert_eq!(read("pids.max"), "777\n");
        assert_eq!(read("memory.max"), "100\n");
    }

    #[test]
    fn what_is_there_is_read_as_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let throttle = "blkio.throttle.read_bps_device";
        let files = [
            ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2\n"),
            ("io.weight", "default 100\n8:0 50\n"),
            (throttle, ""),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\n"),
            ("cpu.max", "max 100000\n"),
            ("cpuset.cpus", "\n"),
            ("net_prio.ifpriomap", "lo 0\neth0 5\n"),
        ];
        let (host, group) = group(dir.path(), &files);
        for (file, wanted, there) in [
            ("io.max", "8:0 rbps=7", "8:0 rbps=1 wbps=max riops=max wiops=max"),
            ("io.max", "8:32 rbps=7", "8:32 rbps=max wbps=max riops=max wiops=max"),
            ("io.weight", "default 300", "default 100"),
            ("io.weight", "8:0 300", "8:0 50"),
            ("io.weight", "8:16 300", "8:16 default"),
            (throttle, "8:0 7", "8:0 0"),
            ("memory.oom_control", "1", "0"),
            ("cpu.max", "50000 100000", "max 100000"),
            ("cpuset.cpus", "0-1", "\n"),
            ("net_prio.ifpriomap", "eth0 7", "eth0 5"),
        ] {
            let present = host.present(&group, &setting(file, wanted)).unwrap();
            assert_eq!(present, setting(file, there));
            // What is to be written again is found again.
            assert_eq!(host.present(&group, &present), Some(present));
        }
        assert_eq!(host.present(&group, &setting("nope", "1")), None);
    }
}
