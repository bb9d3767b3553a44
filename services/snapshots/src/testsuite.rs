//! What every snapshotter must do. A new one gets its tests by a line `all!(name)`.

mod lifecycle;
mod mounting;
mod proxied;
mod recovery;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::events::{Envelope, EventStream, Events};
use gantry_core::filter::Filters;
use gantry_core::snapshots::Snapshotter;
use gantry_core::{Any, Context, Labels, Mount, Namespace, Result};
use tempfile::TempDir;

/// Runs each function of an area for a snapshotter, as a test of its own.
macro_rules! conformance {
    ($snapshotter:ident: $($area:ident { $($test:ident)* })*) => {
        mod $snapshotter {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$area::$test(super::Fixture::new(stringify!($snapshotter)).await).await;
                }
            )*)*
        }
    };
}

/// All of the suite for one snapshotter.
macro_rules! all {
    ($snapshotter:ident) => {
        conformance! {
            $snapshotter:
            lifecycle {
                a_layer_becomes_a_snapshot names_are_taken_once parents_must_be_committed
                labels_change_alone children_hold_their_parent lists_are_filtered
                namespaces_do_not_see_each_other what_is_made_is_held_by_the_lease
                bad_names_are_refused usage_is_measured prepare_and_remove_race a_late_parent
                events_tell towers_are_bounded targets_that_are_there_are_told
            }
            mounting {
                layers_show_through deletions_hide views_are_read_only the_root_directory_inherits
            }
            recovery {
                everything_is_there_after_a_restart orphans_are_swept
                a_lost_directory_is_made_anew half_removed_is_removed
                lost_layers_are_made_again
            }
        }
    };
}

all!(overlayfs);
all!(native);
conformance! {
    proxy:
    lifecycle {
        a_layer_becomes_a_snapshot names_are_taken_once parents_must_be_committed
        labels_change_alone children_hold_their_parent lists_are_filtered
        namespaces_do_not_see_each_other what_is_made_is_held_by_the_lease
        bad_names_are_refused usage_is_measured prepare_and_remove_race a_late_parent
        events_tell towers_are_bounded targets_that_are_there_are_told
    }
    mounting {
        layers_show_through deletions_hide views_are_read_only the_root_directory_inherits
    }
    recovery { everything_is_there_after_a_restart }
    proxied {
        a_dead_program_is_named what_has_no_record_goes a_commit_is_finished_after_a_crash
        remote_snapshots_are_adopted remote_snapshots_are_shared lost_files_are_healed
        names_do_not_clash
    }
}

/// Takes events down.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<(String, Any)>>);

impl Events for Recorder {
    fn publish(&self, _: &Context, topic: &str, event: Any) -> Result<()> {
        self.0.lock().unwrap().push((topic.to_owned(), event));
        Ok(())
    }

    fn forward(&self, _: Envelope) -> Result<()> {
        Ok(())
    }

    fn subscribe(&self, _: Filters) -> EventStream {
        Box::pin(futures::stream::empty())
    }
}

/// A snapshotter on a directory and a database of its own.
struct Fixture {
    name: &'static str,
    root: TempDir,
    db: MemoryDatabase,
    events: Arc<Recorder>,
    snapshotter: Arc<dyn Snapshotter>,
    ctx: Context,
    /// The program behind a proxy.
    program: Option<proxied::Program>,
}

impl Fixture {
    async fn new(name: &'static str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (db, events) = (MemoryDatabase::new(), Arc::new(Recorder::default()));
        let program = match name {
            "proxy" => Some(proxied::Program::start(root.path()).await),
            _ => None,
        };
        let snapshotter = open(name, root.path(), &db, &events).await;
        let ctx = Context::new(Namespace::new("testing").unwrap());
        Self { name, root, db, events, snapshotter, ctx, program }
    }

    /// The same after a restart.
    async fn reopen(&mut self) {
        self.snapshotter = open(self.name, self.root.path(), &self.db, &self.events).await;
    }

    fn dir(&self) -> PathBuf {
        let name = if self.program.is_some() { "native" } else { self.name };
        let name = format!("io.containerd.snapshotter.v1.{name}");
        self.root.path().join(name).join("snapshots")
    }

    async fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.snapshotter.prepare(&self.ctx, key, parent, Labels::new()).await
    }

    async fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.snapshotter.view(&self.ctx, key, parent, Labels::new()).await
    }

    async fn commit(&self, name: &str, key: &str) -> Result<()> {
        self.snapshotter.commit(&self.ctx, name, key, Labels::new(), None).await
    }

    /// A committed snapshot in which `write` made something.
    async fn layer(&self, name: &str, parent: Option<&str>, write: impl FnOnce(&Path) + Send) {
        let key = format!("extract-1 {name}");
        let mounts = self.prepare(&key, parent).await.unwrap();
        with_mounted(&mounts, write);
        self.commit(name, &key).await.unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let all = self.snapshotter.list(&self.ctx, &Filters::all()).await.unwrap();
        all.into_iter().map(|info| info.name).collect()
    }
}

async fn open(
    name: &str,
    root: &Path,
    db: &MemoryDatabase,
    events: &Arc<Recorder>,
) -> Arc<dyn Snapshotter> {
    let (root, db, events) = (root.to_owned(), db.shared(), Arc::clone(events));
    if name == "proxy" {
        return Arc::new(proxied::open(&root, db, events).await);
    }
    crate::open(name, crate::Options { root, db, events }).await.unwrap()
}

/// Mounts, for real, in a mount namespace that only a thread of this test is
/// in and that goes away with it.
fn with_mounted<R: Send>(mounts: &[Mount], body: impl FnOnce(&Path) -> R + Send) -> R {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
    use rustix::thread::UnshareFlags;

    let [what] = mounts else { panic!("one mount, not {mounts:?}") };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[allow(deprecated)]
            rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let target = tempfile::tempdir().unwrap();
            let data = what.options.join(",");
            if what.kind == "bind" {
                let flags = MountFlags::BIND | MountFlags::REC;
                mount(&what.source, target.path(), "", flags, None).unwrap();
                if what.options.iter().any(|o| o == "ro") {
                    let flags = MountFlags::BIND | MountFlags::RDONLY;
                    mount_remount(target.path(), flags, "").unwrap();
                }
            } else {
                let data = std::ffi::CString::new(data).unwrap();
                let flags = MountFlags::empty();
                mount(&what.source, target.path(), &what.kind, flags, Some(data.as_c_str()))
                    .unwrap();
            }
            let result = body(target.path());
            rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
            result
        });
        thread.join().unwrap()
    })
}
