//! Where the cgroups of a process lie.

use std::fs;
use std::path::{Path, PathBuf};

/// Shorter IDs may stand in names of cgroups by chance.
const TELLING: usize = 12;

/// Version of a hierarchy: its files have other names and units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mounted: PathBuf,
    /// Which part of it is mounted: `/` unless this daemon runs in a container itself.
    root: String,
    controllers: Vec<String>,
    version: Version,
}

/// The hierarchies of this machine: v1, v2, or both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Those in this process' mount table.
    pub(crate) fn find() -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let offered = |mounted: &Path| fs::read_to_string(mounted.join("cgroup.controllers"));
        Self::parse(&table, |mounted| offered(mounted).unwrap_or_default())
    }

    fn parse(table: &str, offered: impl Fn(&Path) -> String) -> Self {
        let hierarchy = |line: &str| {
            let (mount, source) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let (root, mounted) = (mount.next()?.to_owned(), PathBuf::from(mount.next()?));
            let mut source = source.split(' ');
            let (version, controllers) = match source.next()? {
                "cgroup2" => (Version::V2, offered(&mounted)),
                "cgroup" => (Version::V1, source.nth(1)?.replace(',', " ")),
                _ => return None,
            };
            let controllers = controllers.split_ascii_whitespace().map(str::to_owned).collect();
            Some(Hierarchy { mounted, root, controllers, version })
        };
        Self(table.lines().filter_map(hierarchy).collect())
    }

    /// Whether a controller is there at all.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.with(controller).is_some()
    }

    /// A hierarchy's directory and version, by a controller that it offers.
    pub(crate) fn mounted(&self, controller: &str) -> Option<(Version, &Path)> {
        self.with(controller).map(|found| (found.version, found.mounted.as_path()))
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// The directory of a container's cgroup in the hierarchy that offers a controller.
    /// `memberships` is what /proc says of the cgroups of a process in it.
    pub(super) fn directory(
        &self,
        controller: &str,
        memberships: &str,
        id: &str,
    ) -> Option<(Version, PathBuf)> {
        self.with(controller)?.directory(controller, memberships, id)
    }

    /// The same in the hierarchy of v2, whatever it offers.
    pub(super) fn unified(&self, memberships: &str, id: &str) -> Option<(Version, PathBuf)> {
        let unified = self.0.iter().find(|h| h.version == Version::V2)?;
        unified.directory("", memberships, id)
    }
}

impl Hierarchy {
    fn directory(
        &self,
        controller: &str,
        memberships: &str,
        id: &str,
    ) -> Option<(Version, PathBuf)> {
        let is_it = |number: &str, controllers: &str| match self.version {
            Version::V1 => controllers.split(',').any(|c| c == controller),
            Version::V2 => number == "0" && controllers.is_empty(),
        };
        let path = memberships.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            is_it(number, controllers).then_some(path)
        })?;
        let path = whole(path, id);
        let below = path.strip_prefix(self.root.as_str()).unwrap_or(path);
        let below = below.trim_start_matches('/');
        // The whole machine is nobody's container.
        let real = !below.is_empty() && !below.split('/').any(|part| part == "..");
        real.then(|| (self.version, self.mounted.join(below)))
    }
}

/// A container's whole cgroup, of which its first process may have gone into a part.
fn whole<'a>(path: &'a str, id: &str) -> &'a str {
    let is_it = |part: &str| part == id || id.len() >= TELLING && part.contains(id);
    let mut end = 0;
    let mut found = None;
    for part in path.split('/') {
        end += part.len();
        if is_it(part) {
            found = Some(end);
        }
        end += 1;
    }
    found.map_or(path, |end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4c01db0b339c4c01db0b339c";

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn directory(table: &str, controller: &str, memberships: &str) -> Option<String> {
        let all = Hierarchies::parse(table, |_| "cpu io pids\n".to_owned());
        let found = all.directory(controller, memberships, ID);
        found.map(|(_, path)| path.display().to_string())
    }

    #[test]
    fn each_controller_has_its_place() {
        let of = format!("4:memory:/gantry/{ID}\n3:cpu,cpuacct:/gantry/{ID}/init\n0::/x/{ID}\n");
        let at = |controller| directory(HYBRID, controller, &of);
        assert_eq!(at("memory"), Some(format!("/sys/fs/cgroup/memory/gantry/{ID}")));
        let cpu = format!("/sys/fs/cgroup/cpu,cpuacct/gantry/{ID}");
        assert_eq!(at("cpuacct"), Some(cpu), "all of it, not the part in which init is");
        assert_eq!(at("pids"), Some(format!("/sys/fs/cgroup/unified/x/{ID}")));
        assert_eq!(at("rdma"), None);
        assert_eq!(directory(HYBRID, "memory", "4:memory:/\n"), None, "the whole machine");
        assert_eq!(directory(HYBRID, "memory", "4:memory:/../up\n"), None);
    }

    #[test]
    fn a_daemon_in_a_container_sees_a_part() {
        let table = "35 31 0:32 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let of = format!("0::/docker/abc/gantry/{ID}\n");
        assert_eq!(directory(table, "io", &of), Some(format!("/sys/fs/cgroup/gantry/{ID}")));
    }

    #[test]
    fn names_that_systemd_makes_and_short_ids() {
        let scope = format!("/system.slice/docker-{ID}.scope/init.scope");
        assert_eq!(whole(&scope, ID), format!("/system.slice/docker-{ID}.scope"));
        assert_eq!(whole("/gantry/a/b", "a"), "/gantry/a");
        assert_eq!(whole("/gantry/x", "a"), "/gantry/x");
    }
}
