//! Images as they are inspected, and named.

use gantry_core::filter::Filters;
use gantry_core::images::Image;
use gantry_core::{Context, Digest, Error, Result};
use serde_json::Value;

use super::ImageSummary;
use super::info::ImageInfo;
use super::known::Known;
use super::reference::{familiar, split};
use crate::fields::{Fields, set};
use crate::image_config::{ImageConfig, Runtime};
use crate::{Engine, names};

impl Engine {
    /// One image, with all that is known of it as JSON with Docker's field names.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    pub async fn inspect_image(&self, ctx: &Context, text: &str) -> Result<(ImageSummary, String)> {
        let image = self.named_image(ctx, text).await?;
        let info = self.image_info(ctx, &image).await?;
        let names = self.images_by_id(ctx, info.id.hex()).await?;
        let json = fields(&info, &names, &self.parts.snapshotters.default).to_string();
        Ok((ImageSummary::of(image, &Known::of(&info)), json))
    }

    /// An image by reference, or by a unique beginning of its ID; when there is none, with the
    /// name that was probably meant.
    ///
    /// # Errors
    /// As [`Engine::resolve_image`].
    pub(super) async fn named_image(&self, ctx: &Context, text: &str) -> Result<Image> {
        match self.resolve_image(ctx, text).await {
            // Other names are none of a limited client's business.
            Err(err) if err.is_not_found() && ctx.scope.is_none() => {
                Err(self.suggest_image(ctx, text, err).await)
            }
            other => other,
        }
    }

    async fn suggest_image(&self, ctx: &Context, text: &str, missing: Error) -> Error {
        let all = self.parts.images.list(ctx, &Filters::all()).await.unwrap_or_default();
        let candidates: Vec<String> = all.iter().map(|image| familiar(&image.name)).collect();
        // Compared as they are shown: with a tag.
        let written = self.parts.puller.normalize(text);
        let written = written.map_or_else(|_| text.to_owned(), |name| familiar(&name));
        names::suggest(missing, &written, candidates.iter().map(String::as_str))
    }

    /// How containers of the image with this ID run; `None` where it is gone or damaged.
    pub(crate) async fn runtime_of(&self, ctx: &Context, id: &str) -> Option<Runtime> {
        let id = Digest::parse(id).ok()?;
        let json = self.document(ctx, &id).await.ok()?;
        Some(ImageConfig::parse(&json).ok()?.runtime())
    }
}

fn fields(info: &ImageInfo, names: &[(Digest, Image)], driver: &str) -> Fields {
    let config = &info.config;
    let tags = names.iter().filter(|(_, image)| !image.name.contains('@'));
    let tags: Vec<_> = tags.map(|(_, image)| familiar(&image.name)).collect();
    let mut digests: Vec<_> = names
        .iter()
        .map(|(_, image)| format!("{}@{}", split(&image.name).0, image.target.digest))
        .collect();
    digests.sort();
    digests.dedup();
    let tagged = names.iter().map(|(_, image)| image.updated_at).max();
    let tagged = tagged.unwrap_or_default().to_string();
    let graph = Fields::default().with("Data", Value::Null).with("Name", driver);
    let layers = config.rootfs.diff_ids.as_slice();
    let layers = Fields::default()
        .with("Type", "layers")
        .with_some("Layers", (!layers.is_empty()).then_some(layers));
    Fields::default()
        .with("Id", &info.id)
        .with("RepoTags", tags)
        .with("RepoDigests", digests)
        .with("Parent", "")
        .with("Comment", config.comment())
        .with_some("Created", config.created.as_deref())
        .with("DockerVersion", config.docker_version.as_deref().unwrap_or_default())
        .with("Author", &config.author)
        .with("Config", runtime(&config.runtime()))
        .with("Architecture", &config.architecture)
        .with_set("Variant", config.variant.as_str())
        .with("Os", &config.os)
        .with_set("OsVersion", config.os_version.as_deref().unwrap_or_default())
        .with("Size", info.size)
        .with("GraphDriver", graph)
        .with("RootFS", layers)
        .with("Metadata", Fields::default().with("LastTagTime", tagged))
}

/// `Config`: a container's, with what images don't have left at its default.
fn runtime(image: &Runtime) -> Fields {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let ports = image.exposed_ports.as_ref().filter(|ports| !ports.is_empty());
    let volumes = image.volumes.as_ref().map(|volumes| set(volumes.keys().map(String::as_str)));
    Fields::default()
        .with("Hostname", "")
        .with("Domainname", "")
        .with("User", text(&image.user))
        .with("AttachStdin", false)
        .with("AttachStdout", false)
        .with("AttachStderr", false)
        .with_some("ExposedPorts", ports.map(|ports| set(ports.keys().map(String::as_str))))
        .with("Tty", false)
        .with("OpenStdin", false)
        .with("StdinOnce", false)
        .with("Env", &image.env)
        .with("Cmd", &image.cmd)
        .with_some("Healthcheck", image.healthcheck.as_ref())
        .with("Image", "")
        .with("Volumes", volumes)
        .with("WorkingDir", text(&image.working_dir))
        .with("Entrypoint", &image.entrypoint)
        .with("OnBuild", &image.on_build)
        .with("Labels", &image.labels)
        .with_some("StopSignal", image.stop_signal.as_deref().filter(|name| !name.is_empty()))
        .with_some("Shell", image.shell.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{Descriptor, Labels, Timestamp};

    /// What Docker shows of an image of this configuration, in its order.
    const DOCKER: &str = r#"{
        "Id": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "RepoTags": ["redis:7"],
        "RepoDigests": ["redis@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
        "Parent": "",
        "Comment": "buildkit.dockerfile.v0",
        "Created": "2024-05-01T10:00:00.123456789Z",
        "DockerVersion": "",
        "Author": "",
        "Config": {
            "Hostname": "",
            "Domainname": "",
            "User": "",
            "AttachStdin": false,
            "AttachStdout": false,
            "AttachStderr": false,
            "ExposedPorts": {"6379/tcp": {}},
            "Tty": false,
            "OpenStdin": false,
            "StdinOnce": false,
            "Env": ["PATH=/usr/local/bin"],
            "Cmd": ["redis-server"],
            "Image": "",
            "Volumes": {"/data": {}},
            "WorkingDir": "/data",
            "Entrypoint": ["docker-entrypoint.sh"],
            "OnBuild": null,
            "Labels": null
        },
        "Architecture": "amd64",
        "Os": "linux",
        "Size": 117000000,
        "GraphDriver": {"Data": null, "Name": "overlayfs"},
        "RootFS": {
            "Type": "layers",
            "Layers": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
        },
        "Metadata": {"LastTagTime": "2024-05-02T08:00:00Z"}
    }"#;
    const CONFIG: &[u8] = br#"{
        "architecture": "amd64", "os": "linux", "created": "2024-05-01T10:00:00.123456789Z",
        "history": [{"comment": "buildkit.dockerfile.v0"}],
        "rootfs": {"type": "layers", "diff_ids":
            ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
        "config": {
            "Env": ["PATH=/usr/local/bin"], "Cmd": ["redis-server"], "WorkingDir": "/data",
            "Entrypoint": ["docker-entrypoint.sh"], "Volumes": {"/data": {}},
            "ExposedPorts": {"6379/tcp": {}}
        }
    }"#;

    fn image(name: &str, seconds: i64) -> (Digest, Image) {
        let digest = Digest::of(b"");
        let target = Descriptor {
            media_type: String::new(),
            digest: digest.clone(),
            size: 0,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        };
        let image = Image {
            name: name.to_owned(),
            labels: Labels::new(),
            target,
            created_at: Timestamp::default(),
            updated_at: Timestamp { seconds, nanos: 0 },
        };
        (digest, image)
    }

    #[test]
    fn dockers_shape() {
        let info = ImageInfo {
            id: Digest::of(b""),
            config: ImageConfig::parse(CONFIG).unwrap(),
            size: 117_000_000,
            unpacked: true,
            native: true,
        };
        let by_digest = format!("docker.io/library/redis@{}", info.id);
        let names = [image("docker.io/library/redis:7", 1_714_636_800), image(&by_digest, 1)];
        let shown = fields(&info, &names, "overlayfs").to_string();
        assert_eq!(shown, crate::fields::one_line(DOCKER));
    }

    #[test]
    fn an_image_that_says_little() {
        let config = ImageConfig::parse(br#"{"config":{"StopSignal":"","User":null}}"#).unwrap();
        let shown = runtime(&config.runtime()).to_string();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        for missing in ["ExposedPorts", "StopSignal", "Healthcheck", "Shell"] {
            assert!(shown.get(missing).is_none(), "{missing}");
        }
        for empty in ["Env", "Cmd", "Entrypoint", "Volumes", "OnBuild", "Labels"] {
            assert!(shown[empty].is_null(), "{empty}");
        }
        assert_eq!((&shown["User"], &shown["WorkingDir"]), (&Value::from(""), &Value::from("")));
    }
}
