//! What a crash leaves, and what becomes of it.

use super::*;
use crate::records::{Record, State};

impl Host {
    fn state(&self, name: &str, state: State) {
        let record = Record::new(Labels::new(), Options::new(), state);
        self.volumes.inner.put(&self.key(name), &record).unwrap();
    }

    async fn removed(&self) -> usize {
        self.volumes.inner.trash.empty().await.unwrap();
        fs::read_dir(self.volumes.inner.places.removed()).unwrap().count()
    }
}

#[tokio::test]
async fn a_record_without_a_directory_gets_one() {
    let host = Host::new();
    host.state("data", State::Ready);
    let volume = host.create("data").await;
    assert!(volume.mountpoint.is_dir(), "also without a restart");
    fs::remove_dir_all(volume.mountpoint.parent().unwrap()).unwrap();
    // It was about to be shown.
    let fresh = volume.mountpoint.with_file_name("_new");
    fs::create_dir_all(&fresh).unwrap();
    let host = host.restarted().await;
    let found = fs::metadata(host.data("data")).unwrap();
    assert!(!fresh.exists() && found.mode() & 0o7777 == 0o755);
}

#[tokio::test]
async fn a_directory_without_a_record_is_kept() {
    let host = Host::new();
    fs::create_dir_all(host.data("data")).unwrap();
    fs::write(host.data("data").join("f"), "precious").unwrap();
    let host = host.restarted().await;
    assert_eq!(host.names().await, [""; 0]);
    host.create("other").await;
    refused(host.volumes.rename(&host.ctx, "other", "data").await, Kind::AlreadyExists);
    let copy = host.volumes.copy(&host.ctx, "other", new("data"), CopyKind::Clone).await;
    refused(copy, Kind::AlreadyExists);
    host.create("data").await;
    assert_eq!(fs::read_to_string(host.data("data").join("f")).unwrap(), "precious");
}

#[tokio::test]
async fn a_removal_is_finished() {
    // The directory is there still, or was put away.
    for put_away in [false, true] {
        let host = Host::new();
        host.create("data").await;
        fs::write(host.data("data").join("f"), "x").unwrap();
        host.state("data", State::Removing);
        if put_away {
            host.volumes.inner.places.put_away(&host.key("data")).unwrap();
        }
        refused(host.volumes.get(&host.ctx, "data").await, Kind::NotFound);
        let host = host.restarted().await;
        assert!(!host.data("data").exists());
        assert_eq!(host.removed().await, 0);
        assert!(host.volumes.create(&host.ctx, new("data")).await.unwrap().1);
    }
    // Without a restart, whoever comes next finishes it.
    let host = Host::new();
    for again in 0..2 {
        host.create("data").await;
        fs::write(host.data("data").join("f"), "x").unwrap();
        host.state("data", State::Removing);
        if again == 0 {
            host.volumes.remove(&host.ctx, "data").await.unwrap();
        }
        assert!(host.volumes.create(&host.ctx, new("data")).await.unwrap().1);
        assert!(!host.data("data").join("f").exists());
    }
}

#[tokio::test]
async fn half_a_copy_goes() {
    let host = Host::new();
    host.create("from").await;
    host.create("half").await;
    fs::write(host.data("half").join("f"), "x").unwrap();
    host.state("half", State::Copying);
    host.state("begun", State::Copying);
    assert_eq!(host.names().await, ["from"]);
    let host = host.restarted().await;
    assert_eq!(host.names().await, ["from"]);
    assert!(!host.data("half").exists());
    let copy = host.volumes.copy(&host.ctx, "from", new("half"), CopyKind::Clone).await;
    assert!(!copy.unwrap().mountpoint.join("f").exists());
}

#[tokio::test]
async fn a_renaming_is_finished_or_undone() {
    for moved in [false, true] {
        let host = Host::new();
        host.create("old").await;
        fs::write(host.data("old").join("f"), "kept").unwrap();
        host.state("old", State::Renaming { to: "new".into() });
        if moved {
            host.volumes.inner.places.rename(&host.key("old"), &host.key("new")).unwrap();
        }
        let host = host.restarted().await;
        let name = if moved { "new" } else { "old" };
        assert_eq!(host.names().await, [name]);
        assert_eq!(fs::read_to_string(host.data(name).join("f")).unwrap(), "kept");
        assert!(host.volumes.rename(&host.ctx, name, "third").await.is_ok());
    }
}

#[tokio::test]
async fn half_a_content_is_copied_again() {
    let host = Host::new();
    let image = host.image();
    host.create("data").await;
    let key = host.key("data");
    let filling = host.volumes.inner.places.filling(&key);
    fs::create_dir_all(filling.join("half")).unwrap();
    // The next use may come before a restart, or behind it.
    host.create("other").await;
    let other = host.volumes.inner.places.filling(&host.key("other"));
    fs::create_dir_all(other.join("half")).unwrap();
    assert!(host.volumes.fill(&host.ctx, "other", &image).await.unwrap());
    let host = host.restarted().await;
    assert!(!filling.exists() && places::is_empty(&host.data("data")).unwrap());
    assert!(host.volumes.fill(&host.ctx, "data", &image).await.unwrap());
    for name in ["data", "other"] {
        assert_eq!(fs::read_to_string(host.data(name).join("d/f")).unwrap(), "content");
        assert!(!host.data(name).join("half").exists());
    }
}

#[tokio::test]
async fn a_whole_content_is_put_in_place() {
    let host = Host::new();
    host.create("data").await;
    let (data, filled) = (host.data("data"), host.volumes.inner.places.filled(&host.key("data")));
    // Some of it is there already, and somebody wrote a file of the same name.
    fs::create_dir_all(filled.join("d")).unwrap();
    fs::write(filled.join("d/f"), "content").unwrap();
    fs::write(filled.join("own"), "image").unwrap();
    fs::set_permissions(&filled, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(data.join("own"), "container").unwrap();
    fs::write(data.join("there"), "").unwrap();
    let host = host.restarted().await;
    assert!(!filled.exists());
    assert_eq!(fs::read_to_string(data.join("d/f")).unwrap(), "content");
    assert_eq!(fs::read_to_string(data.join("own")).unwrap(), "container");
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o700);
    assert!(!host.volumes.fill(&host.ctx, "data", &host.image()).await.unwrap());
}

#[tokio::test]
async fn a_content_that_fails_leaves_nothing() {
    let host = Host::new();
    host.create("data").await;
    let link = host.root.path().join("link");
    symlink(host.image(), &link).unwrap();
    let refused = host.volumes.fill(&host.ctx, "data", &link).await;
    assert!(refused.is_err());
    let left = places::names(host.data("data").parent().unwrap()).unwrap();
    assert_eq!(left, [PathBuf::from("_data")]);
    assert!(host.volumes.fill(&host.ctx, "data", &host.image()).await.unwrap());
}

#[tokio::test]
async fn a_full_disk_is_helped() {
    let host = Host::new();
    let removed = host.root.path().join("volumes/.removed");
    fs::create_dir_all(removed.join("rm-1/_data")).unwrap();
    empty_trash(host.root.path()).unwrap();
    assert_eq!(fs::read_dir(&removed).unwrap().count(), 0);
    empty_trash(&host.root.path().join("gone")).unwrap();
    // And the next start does it, too.
    fs::create_dir_all(removed.join("rm-1/_data")).unwrap();
    let host = host.restarted().await;
    assert_eq!(host.removed().await, 0);
}
