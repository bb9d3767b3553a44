//! Mounts, and what is read from and written to files of the caller.

use std::fs;

use gantry_tests::run;

use super::Place;

/// The line of a mount in a container's table.
fn mounted(target: &str) -> String {
    format!("grep ' {target} ' /proc/mounts")
}

#[test]
fn volumes() {
    let place = Place::new();
    place.inside(&["--volume", "data:/data"], "echo kept > /data/file");
    assert_eq!(place.inside(&["-v", "data:/other:ro"], "cat /other/file"), "kept");
    let write = "touch /data/x 2>/dev/null || echo refused";
    assert_eq!(place.inside(&["-v", "data:/data:ro"], write), "refused");
    let mount = ["--mount", "type=volume,source=data,target=/data,readonly"];
    assert_eq!(place.inside(&mount, write), "refused");
    place.sleeping("a", &["-v", "data:/one", "-v", "/two"]);
    place.exec("a", "echo 2 > /two/file");
    let both = "cat /one/file /two/file";
    assert_eq!(place.inside(&["--volumes-from", "a"], both), "kept\n2");
    let write = "touch /one/x 2>/dev/null || echo refused";
    assert_eq!(place.inside(&["--volumes-from", "a:ro"], write), "refused");
    place.daemon.gantry(&["rm", "-fv", "a"]).ok();
    place.refused(&["-v", "a:/b:nope"], "invalid mode: nope");
    place.refused(&["-v", "a:"], "empty section between colons");
    place.refused(&["-v", "./x y/z:relative"], "must be absolute");
    place.refused(&["--volumes-from", "nobody"], "nobody");
    place.daemon.gantry(&["volume", "rm", "data"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn paths_of_the_host() {
    let place = Place::new();
    let host = place.daemon.scratch().join("host");
    fs::create_dir(&host).expect("make a directory");
    fs::write(host.join("file"), "here").expect("write a file");
    let volume = format!("{}:/in", host.display());
    assert_eq!(place.inside(&["-v", &volume], "cat /in/file; touch /in/new"), "here");
    assert!(host.join("new").exists());
    let read_only = format!("{volume}:ro,z");
    let write = "touch /in/x 2>/dev/null || echo refused";
    assert_eq!(place.inside(&["-v", &read_only], write), "refused");
    // As seen from the caller's directory.
    let words = ["cat", "/in/file"];
    let mut command = place.command(&["--rm", "-v", "./host:/in"], &words);
    assert_eq!(run(command.current_dir(place.daemon.scratch())).ok().text(), "here");
    let made = place.daemon.scratch().join("made/below");
    place.inside(&["-v", &format!("{}:/in", made.display())], "true");
    assert!(made.is_dir());
    let bind = format!("type=bind,src={},dst=/in", host.display());
    assert_eq!(place.inside(&["--mount", &bind], "cat /in/file"), "here");
    let bind = format!("{bind},ro,bind-propagation=rprivate,bind-recursive=readonly");
    assert_eq!(place.inside(&["--mount", &bind], write), "refused");
    place.refused(&["--mount", "type=bind,src=/no/such,dst=/in"], "/no/such");
    place.refused(&["--mount", "type=bind,dst=/in"], "field Source must not be empty");
    place.refused(&["--mount", "type=bind,src=/,dst=/in,volume-nocopy"], "cannot mix 'volume-*'");
    place.refused(&["--mount", "source=a"], "target is required");
    place.daemon.assert_nothing_left();
}

#[test]
fn memory() {
    let place = Place::new();
    let table = place.inside(&["--tmpfs", "/t:size=64k,noexec"], &mounted("/t"));
    assert!(table.contains("size=64k") && table.contains("noexec"), "{table}");
    let mount = ["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770"];
    let table = place.inside(&mount, &mounted("/t"));
    assert!(table.contains("size=1024k") && table.contains("mode=1770"), "{table}");
    let table = place.inside(&["--shm-size", "32m"], &mounted("/dev/shm"));
    assert!(table.contains("size=32768k"), "{table}");
    place.refused(&["--shm-size", "x"], "invalid size: 'x'");
    place.refused(&["--tmpfs", "/"], "destination can't be '/'");
    place.daemon.assert_nothing_left();
}

#[test]
fn files_of_an_image() {
    let place = Place::new();
    let mount = format!("type=image,source={},target=/image,image-subpath=etc", place.image);
    let tell = "grep -c root /image/passwd; touch /image/x 2>/dev/null || echo refused";
    assert_eq!(place.inside(&["--mount", &mount], tell), "1\nrefused");
    place.daemon.assert_nothing_left();
}

#[test]
fn variables_and_labels() {
    let place = Place::new();
    let dir = place.daemon.scratch();
    let file = dir.join("env");
    fs::write(&file, "\u{feff}# a comment\nA=file\n\nB=two words \nMINE\nNOBODYS\n")
        .expect("write");
    let file = file.to_str().expect("text");
    let script = "echo \"$A,$B,$MINE,${NOBODYS-unset}\"";
    let flags = ["--rm", "--env-file", file, "--env", "A=flag"];
    let mut command = place.command(&flags, &["sh", "-c", script]);
    command.env("MINE", "mine").env_remove("NOBODYS");
    assert_eq!(run(&mut command).ok().stdout, "flag,two words ,mine,unset\n");
    fs::write(dir.join("env"), "A=1\nB C=2\n").expect("write");
    let said = format!("invalid env file ({file}): line 2: variable 'B C' contains whitespaces");
    place.refused(&["--env-file", file], &said);
    place.refused(&["--env", "=x"], "invalid environment variable: =x");

    let labels = dir.join("labels");
    fs::write(&labels, "a=file\nb=file\n").expect("write");
    let labels = labels.to_str().expect("text");
    let flags = ["--label-file", labels, "--label", "a=flag", "--label=c"];
    let more = ["--annotation", "example.org/x=y"];
    place.sleeping("c", &[&flags[..], &more].concat());
    let known = place.asked("{{json .Config.Labels}}", "c");
    assert_eq!(known, r#"{"a":"flag","b":"file","c":""}"#);
    let known = place.asked("{{json .HostConfig.Annotations}}", "c");
    assert_eq!(known, r#"{"example.org/x":"y"}"#);
    place.refused(&["--label", "a b=c"], "label 'a b' contains whitespaces");
    place.refused(&["--annotation", "=x"], "invalid annotation");
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}

#[test]
fn the_file_of_the_id() {
    let place = Place::new();
    let file = place.daemon.scratch().join("id");
    let path = file.to_str().expect("text");
    place.sleeping("c", &["--cidfile", path]);
    assert_eq!(fs::read_to_string(&file).expect("the ID"), place.asked("{{.Id}}", "c"));
    place.refused(&["--cidfile", path], "container ID file found");
    place.run(&["--rm", "--cidfile", ""], &["true"]).ok();
    fs::remove_file(&file).expect("remove it");
    place.refused(&["--cidfile", path, "--memory=1m"], "Minimum memory limit");
    assert!(!file.exists());
    place.daemon.gantry(&["rm", "-f", "c"]).ok();
    place.daemon.assert_nothing_left();
}
