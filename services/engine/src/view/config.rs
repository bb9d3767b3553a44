//! `Config`: what of a container would be the same elsewhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::mounts;
use super::object::Object;
use crate::fields::{Fields, listed, set};
use crate::health::HealthConfig;
use crate::image_config::Runtime as ImageRuntime;
use crate::model::{ExposedPort, Networking, Settings};
use crate::signal;
use crate::spec::DEFAULT_PATH;

/// SIGTERM, by which containers are stopped unless somebody says otherwise.
const TERM: u32 = 15;

/// The object.
pub(super) fn fields(object: &Object<'_>) -> Fields {
    let settings = &object.summary.settings;
    let image = object.image.as_ref();
    let health = settings.health.as_ref().map(HealthConfig::show);
    Fields::default()
        .with("Hostname", &settings.hostname)
        .with("Domainname", &settings.flags.domainname)
        .with("User", &settings.user)
        .with("AttachStdin", false)
        .with("AttachStdout", false)
        .with("AttachStderr", false)
        .with_some("ExposedPorts", ports(settings, image))
        .with("Tty", settings.tty)
        .with("OpenStdin", settings.open_stdin)
        .with("StdinOnce", settings.open_stdin)
        .with("Env", environment(settings, image))
        .with("Cmd", listed(&settings.command))
        .with_some("Healthcheck", health)
        .with("Image", &object.summary.image)
        .with("Volumes", volumes(settings, image))
        .with("WorkingDir", working_dir(settings, image))
        .with("Entrypoint", listed(&settings.entrypoint))
        .with("OnBuild", Value::Null)
        .with("Labels", &object.summary.labels)
        .with_some("StopSignal", stop_signal(settings, image))
        .with_some("StopTimeout", settings.stop_timeout)
}

fn ports(settings: &Settings, image: Option<&ImageRuntime>) -> Option<Map<String, Value>> {
    let of_image = image.and_then(|image| image.exposed_ports.as_ref());
    let Networking { exposed, ports, .. } = &settings.networking;
    let published = ports
        .iter()
        .map(|wish| ExposedPort { port: wish.container_port, protocol: wish.protocol }.to_string());
    let mut all: BTreeSet<String> = exposed.iter().map(ToString::to_string).collect();
    all.extend(published);
    all.extend(of_image.into_iter().flat_map(|ports| ports.keys()).cloned());
    (!all.is_empty()).then(|| set(all.iter().map(String::as_str)))
}

fn volumes(settings: &Settings, image: Option<&ImageRuntime>) -> Option<Map<String, Value>> {
    let of_image = image.and_then(|image| image.volumes.as_ref());
    let mut targets: BTreeSet<&str> = mounts::anonymous(settings).collect();
    targets.extend(of_image.into_iter().flat_map(|volumes| volumes.keys()).map(String::as_str));
    (!targets.is_empty()).then(|| set(targets))
}

/// The caller's variables, then the image's: not those that every process has.
fn environment<'a>(settings: &'a Settings, image: Option<&'a ImageRuntime>) -> Vec<&'a str> {
    let of_image = image.and_then(|image| image.env.as_deref()).unwrap_or_default();
    let given = |entry: &str| {
        entry.strip_prefix("HOSTNAME=") == Some(settings.hostname.as_str())
            || settings.tty && entry == "TERM=xterm"
            || image.is_some() && entry == DEFAULT_PATH
    };
    let own = settings.env.iter().filter(|entry| !of_image.contains(entry) && !given(entry));
    let kept = of_image.iter().filter(|entry| settings.env.contains(entry));
    own.chain(kept).map(String::as_str).collect()
}

/// As somebody wrote it; empty for the usual one.
fn working_dir<'a>(settings: &'a Settings, image: Option<&ImageRuntime>) -> &'a str {
    let of_image = image.and_then(|image| image.working_dir.as_deref()).unwrap_or_default();
    if settings.working_dir == "/" && of_image.is_empty() { "" } else { &settings.working_dir }
}

/// As the image writes it, when it is the image's; `None` for the usual one.
fn stop_signal(settings: &Settings, image: Option<&ImageRuntime>) -> Option<String> {
    let own = settings.stop_signal;
    let of_image = image.and_then(|image| image.stop_signal.as_deref());
    match of_image {
        Some(name) if signal::parse(name).is_ok_and(|number| number == own) => {
            Some(name.to_owned())
        }
        _ if own == TERM || own == 0 => None,
        _ => Some(signal::name(own)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MountKind, MountSetting};

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn image() -> ImageRuntime {
        ImageRuntime {
            env: Some(strings(&["PATH=/usr/bin", "LANG=C", "A=1"])),
            exposed_ports: Some([("80/tcp".to_owned(), Value::Null)].into()),
            volumes: Some([("/data".to_owned(), Value::Null)].into()),
            stop_signal: Some("quit".into()),
            ..ImageRuntime::default()
        }
    }

    #[test]
    fn the_callers_variables_come_first() {
        let settings = Settings {
            hostname: "web".into(),
            tty: true,
            env: strings(&["PATH=/usr/bin", "HOSTNAME=web", "TERM=xterm", "LANG=de", "A=1", "B=2"]),
            ..Settings::default()
        };
        let image = image();
        assert_eq!(
            environment(&settings, Some(&image)),
            ["LANG=de", "B=2", "PATH=/usr/bin", "A=1"]
        );
        let settings = Settings { env: strings(&[DEFAULT_PATH, "HOSTNAME=x"]), ..settings };
        let bare = ImageRuntime::default();
        assert_eq!(environment(&settings, Some(&bare)), ["HOSTNAME=x"]);
        // The image may have had it.
        assert_eq!(environment(&settings, None), [DEFAULT_PATH, "HOSTNAME=x"]);
    }

    #[test]
    fn ports_and_volumes_are_sets() {
        let image = image();
        let text = |map: Option<Map<String, Value>>| map.map(|map| Value::Object(map).to_string());
        let mut settings = Settings::default();
        assert_eq!(text(ports(&settings, Some(&image))).as_deref(), Some(r#"{"80/tcp":{}}"#));
        assert_eq!(ports(&settings, None), None);
        settings.networking.exposed = vec!["81/udp".parse().unwrap()];
        let both = text(ports(&settings, Some(&image)));
        assert_eq!(both.as_deref(), Some(r#"{"80/tcp":{},"81/udp":{}}"#));
        let anonymous = MountSetting {
            kind: MountKind::Volume,
            target: "/cache".into(),
            anonymous: true,
            ..MountSetting::default()
        };
        let settings = Settings { mounts: vec![anonymous], ..Settings::default() };
        let both = text(volumes(&settings, Some(&image)));
        assert_eq!(both.as_deref(), Some(r#"{"/cache":{},"/data":{}}"#));
        assert_eq!(volumes(&Settings::default(), None), None);
    }

    #[test]
    fn what_is_usual_is_not_said() {
        let image = image();
        let with = |stop_signal| Settings { stop_signal, ..Settings::default() };
        assert_eq!(stop_signal(&with(3), Some(&image)).as_deref(), Some("quit"));
        assert_eq!(stop_signal(&with(3), None).as_deref(), Some("SIGQUIT"));
        assert_eq!(stop_signal(&with(15), Some(&image)), None);
        let root = Settings { working_dir: "/".into(), ..Settings::default() };
        assert_eq!(working_dir(&root, Some(&image)), "");
        let named = ImageRuntime { working_dir: Some("/".into()), ..image };
        assert_eq!(working_dir(&root, Some(&named)), "/");
    }
}
