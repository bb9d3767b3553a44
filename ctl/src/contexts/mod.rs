//! Contexts: daemons under names, kept in the user's directory.
//!
//! `contexts/NAME/meta.json` says where a daemon is, `contexts/NAME/tls` has what it takes to get
//! there, and `config.json` which context is used. All is for its owner alone.

mod choice;
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::connect::{Address, Target, TlsFiles, check_tls};

pub(crate) use choice::{Choice, Wishes};
use files::write_over;
pub(crate) use files::{make_directory, write_new};

/// The context of those who have none: what the environment says, or this machine.
pub(crate) const DEFAULT: &str = "default";
/// The name of the endpoint, as templates for Docker have it.
pub(crate) const ENDPOINT: &str = "docker";
/// Where the directory is, unless it is `.gantry` at home.
pub(crate) const VARIABLE: &str = "GANTRY_CONFIG";

const CONFIG: &str = "config.json";
const CURRENT: &str = "currentContext";
const CONTEXTS: &str = "contexts";
const META: &str = "meta.json";
const TLS: &str = "tls";
/// Names of certificates and keys, as Docker has them.
pub(crate) const CA: &str = "ca.pem";
pub(crate) const CERT: &str = "cert.pem";
pub(crate) const KEY: &str = "key.pem";

/// A daemon under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its name.
    pub(crate) name: String,
    /// What its user wrote about it.
    pub(crate) description: String,
    /// Where the daemon is.
    pub(crate) address: Address,
}

/// The user's directory.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    directory: PathBuf,
}

/// Refuses what can't be the name of a context.
///
/// # Errors
/// Says why, as Docker does.
fn validate(name: &str) -> anyhow::Result<()> {
    if name == DEFAULT {
        bail!("\"{DEFAULT}\" is a reserved context name");
    }
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let goes_on = !chars.as_str().is_empty()
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'));
    if begins && goes_on {
        return Ok(());
    }
    bail!(
        "context name {name:?} is invalid, names are validated against regexp \
         \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    );
}

impl Contexts {
    /// Those of the directory that the environment names.
    ///
    /// # Errors
    /// When there is neither such a directory nor a home.
    pub(crate) fn of(lookup: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let set = |name: &str| lookup(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let given = set(VARIABLE);
        let home = || Some(set("HOME")?.join(".gantry"));
        let directory = given.or_else(home);
        let directory =
            directory.ok_or_else(|| anyhow!("neither {VARIABLE} nor HOME is set: set one"))?;
        Ok(Self { directory })
    }

    /// A file right in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where a context is kept.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.directory.join(CONTEXTS).join(name)
    }

    /// Where its certificates are kept.
    pub(crate) fn tls_place(&self, name: &str) -> PathBuf {
        self.place(name).join(TLS)
    }

    /// The name of the context in use; [`DEFAULT`] when none is.
    ///
    /// # Errors
    /// When what is there can't be read.
    pub(crate) fn current(&self) -> anyhow::Result<String> {
        let config = self.config()?;
        let name = config.get(CURRENT).and_then(Value::as_str).filter(|name| !name.is_empty());
        Ok(name.unwrap_or(DEFAULT).to_owned())
    }

    /// Uses a context from now on. Answers where a damaged `config.json` is kept that was in the
    /// way.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn set_current(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        if name != DEFAULT {
            self.get(name)?;
        }
        let (mut config, kept) = match self.config() {
            Ok(config) => (config, None),
            Err(_) => (Map::new(), Some(self.put_aside()?)),
        };
        if name == DEFAULT {
            config.remove(CURRENT);
        } else {
            config.insert(CURRENT.to_owned(), json!(name));
        }
        make_directory(&self.directory)?;
        write_over(&self.file(CONFIG), pretty(&Value::Object(config)).as_bytes())?;
        Ok(kept)
    }

    /// One of them.
    ///
    /// # Errors
    /// When it is not there, or damaged.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<Stored> {
        validate(name)?;
        let path = self.place(name).join(META);
        let text = match fs::read_to_string(&path) {
            Err(error) if is_absent(&error) => {
                bail!("context {name:?}: context not found: see `gantry context ls`")
            }
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let damaged = || format!("context {name:?}: {} is damaged", path.display());
        let meta: Value = serde_json::from_str(&text).with_context(damaged)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let host = text(&meta["Endpoints"][ENDPOINT]["Host"]);
        let address = host.parse::<Address>().map_err(|why| anyhow!(why)).with_context(damaged)?;
        let description = text(&meta["Metadata"]["Description"]);
        Ok(Stored { name: name.to_owned(), description, address })
    }

    /// All of them by name, also those that can't be read.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn list(&self) -> anyhow::Result<BTreeMap<String, anyhow::Result<Stored>>> {
        let directory = self.directory.join(CONTEXTS);
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_absent(&error) => return Ok(BTreeMap::new()),
            read => read.with_context(|| format!("read {}", directory.display()))?,
        };
        let mut all = BTreeMap::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| validate(name).is_ok()) {
                all.insert(name.to_owned(), self.get(name));
            }
        }
        Ok(all)
    }

    /// The daemon of the context in use.
    ///
    /// # Errors
    /// As [`Contexts::get`], with what to do.
    fn target_in_use(&self, name: &str) -> anyhow::Result<Target> {
        self.target(name).with_context(|| {
            format!(
                "{} names a context that can't be used: choose another with `gantry context use`",
                self.file(CONFIG).display()
            )
        })
    }

    /// The daemon of a context, with its certificates.
    ///
    /// # Errors
    /// As [`Contexts::get`].
    pub(crate) fn target(&self, name: &str) -> anyhow::Result<Target> {
        let address = self.get(name)?.address;
        Ok(Target { address, tls: files_in(&self.tls_place(name)) })
    }

    /// Keeps a daemon under a name, all or nothing.
    ///
    /// # Errors
    /// When there is one of that name, or its certificates can't be read.
    pub(crate) fn create(
        &self,
        name: &str,
        description: &str,
        target: &Target,
    ) -> anyhow::Result<()> {
        validate(name)?;
        let place = self.place(name);
        let exists = || anyhow!("context {name:?} already exists");
        if fs::symlink_metadata(&place).is_ok() {
            return Err(exists());
        }
        let new = self.directory.join(CONTEXTS).join(format!(".{name}.{}", std::process::id()));
        // Of a process that was killed and had this one's number.
        let _ = fs::remove_dir_all(&new);
        let made = self.fill(&new, name, description, target).and_then(|()| {
            match fs::rename(&new, &place) {
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    Err(exists())
                }
                moved => moved.with_context(|| format!("make {}", place.display())),
            }
        });
        if made.is_err() {
            // What is left of it is hidden.
            let _ = fs::remove_dir_all(&new);
        }
        made
    }

    fn fill(
        &self,
        place: &Path,
        name: &str,
        description: &str,
        target: &Target,
    ) -> anyhow::Result<()> {
        // First: bad certificates make nothing.
        let tls = read_tls(target)?;
        make_directory(place)?;
        write_new(&place.join(META), meta(name, description, &target.address).as_bytes())?;
        write_tls(&place.join(TLS), &tls)
    }

    /// Changes what is given of a context.
    ///
    /// # Errors
    /// As [`Contexts::get`] and [`Contexts::create`].
    pub(crate) fn update(
        &self,
        name: &str,
        description: Option<&str>,
        target: Option<&Target>,
    ) -> anyhow::Result<()> {
        let before = self.get(name)?;
        let description = description.unwrap_or(&before.description);
        let place = self.place(name);
        let address = target.map_or(&before.address, |target| &target.address);
        if let Some(target) = target {
            let tls = read_tls(target)?;
            let kept = place.join(TLS);
            let new = place.join(format!(".{TLS}.{}", std::process::id()));
            let _ = fs::remove_dir_all(&new);
            write_tls(&new, &tls)?;
            remove(&kept)?;
            if !tls.is_empty() {
                fs::rename(&new, &kept).with_context(|| format!("make {}", kept.display()))?;
            }
        }
        write_over(&place.join(META), meta(name, description, address).as_bytes())
    }

    /// Forgets a context; one that is in use only with `force`.
    ///
    /// # Errors
    /// When it is not there, or in use.
    pub(crate) fn remove(&self, name: &str, force: bool) -> anyhow::Result<()> {
        if name == DEFAULT {
            bail!("context \"{DEFAULT}\" cannot be removed");
        }
        validate(name)?;
        let place = self.place(name);
        if fs::symlink_metadata(&place).is_err() {
            bail!("context {name:?}: context not found: see `gantry context ls`");
        }
        if self.current()? == name {
            if !force {
                bail!("context {name:?} is in use, set -f flag to force remove");
            }
            self.set_current(DEFAULT)?;
        }
        remove(&place)
    }

    fn config(&self) -> anyhow::Result<Map<String, Value>> {
        let path = self.file(CONFIG);
        let is = |what: &str| {
            format!(
                "{} {what}, so nobody knows which context is in use: repair it, or choose anew \
                 with `gantry context use default`",
                path.display()
            )
        };
        let bytes = match fs::read(&path) {
            Err(error) if is_absent(&error) => return Ok(Map::new()),
            read => read.with_context(|| is("can't be read"))?,
        };
        let config: Map<String, Value> =
            serde_json::from_slice(&bytes).with_context(|| is("is damaged"))?;
        match config.get(CURRENT) {
            None | Some(Value::Null | Value::String(_)) => Ok(config),
            Some(other) => {
                Err(anyhow!("{CURRENT} is {other}, no name")).with_context(|| is("is damaged"))
            }
        }
    }

    /// Gives a damaged `config.json` a name that nobody has.
    fn put_aside(&self) -> anyhow::Result<PathBuf> {
        let numbered = |number: u32| self.file(&format!("{CONFIG}.damaged.{number}"));
        let mut number = 1;
        while fs::symlink_metadata(numbered(number)).is_ok() {
            number += 1;
        }
        let (path, kept) = (self.file(CONFIG), numbered(number));
        let moved = fs::rename(&path, &kept);
        moved.with_context(|| format!("rename {} to {}", path.display(), kept.display()))?;
        Ok(kept)
    }
}

/// Whether nothing is there. Users of services have homes such as `/dev/null`.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Certificates and a key under their usual names.
fn files_in(directory: &Path) -> TlsFiles {
    TlsFiles { ca: directory.join(CA), cert: directory.join(CERT), key: directory.join(KEY) }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn meta(name: &str, description: &str, address: &Address) -> String {
    pretty(&json!({
        "Name": name,
        "Metadata": {"Description": description},
        "Endpoints": {ENDPOINT: {"Host": address.to_string(), "SkipTLSVerify": false}},
    }))
}

/// What is kept of a daemon's certificates: nothing unless it listens on TCP.
fn read_tls(target: &Target) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    if !matches!(target.address, Address::Tcp(_)) {
        return Ok(Vec::new());
    }
    check_tls(&target.tls)?;
    let TlsFiles { ca, cert, key } = &target.tls;
    let read = |(name, path): (&'static str, &PathBuf)| -> anyhow::Result<_> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok((name, bytes))
    };
    [(CA, ca), (CERT, cert), (KEY, key)].into_iter().map(read).collect()
}

fn write_tls(place: &Path, files: &[(&str, Vec<u8>)]) -> anyhow::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    make_directory(place)?;
    files.iter().try_for_each(|(name, bytes)| write_new(&place.join(name), bytes))
}

/// Removes a directory; one that is gone is no error.
fn remove(place: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("remove {}", place.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn contexts() -> (tempfile::TempDir, Contexts) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config").to_str().unwrap().to_owned();
        let contexts = Contexts::of(|name| (name == VARIABLE).then(|| path.clone())).unwrap();
        (dir, contexts)
    }

    fn target(text: &str) -> Target {
        Target::from(text.parse::<Address>().unwrap())
    }

    #[test]
    fn contexts_are_kept_and_used() {
        let (_dir, contexts) = contexts();
        assert_eq!(contexts.current().unwrap(), DEFAULT);
        assert!(contexts.list().unwrap().is_empty());
        contexts.create("far", "over there", &target("ssh://me@db")).unwrap();
        let stored = |name| {
            let Stored { description, address, .. } = contexts.get(name).unwrap();
            format!("{description} {address}")
        };
        assert_eq!(stored("far"), "over there ssh://me@db");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(contexts.place("far")), 0o700);
        assert_eq!(mode(contexts.place("far").join(META)), 0o600);
        let again = contexts.create("far", "", &target("/x")).unwrap_err();
        assert_eq!(again.to_string(), "context \"far\" already exists");
        contexts.set_current("far").unwrap();
        assert_eq!(contexts.current().unwrap(), "far");
        contexts.update("far", None, Some(&target("unix:///s"))).unwrap();
        assert_eq!(stored("far"), "over there unix:///s");
        let used = contexts.remove("far", false).unwrap_err().to_string();
        assert_eq!(used, "context \"far\" is in use, set -f flag to force remove");
        contexts.remove("far", true).unwrap();
        assert_eq!(contexts.current().unwrap(), DEFAULT);
        assert!(contexts.get("far").is_err() && contexts.remove("far", true).is_err());
    }

    #[test]
    fn what_can_not_be_a_context_makes_nothing() {
        let (_dir, contexts) = contexts();
        for bad in ["", "a", "default", "../x", ".x", "a/b", "a b"] {
            assert!(contexts.create(bad, "", &target("/s")).is_err(), "{bad:?}");
            assert!(contexts.get(bad).is_err(), "{bad:?}");
            assert!(bad == DEFAULT || contexts.set_current(bad).is_err(), "{bad:?}");
        }
        let no_certificates = contexts.create("tcp", "", &target("tcp://db")).unwrap_err();
        assert!(no_certificates.to_string().contains("certificates"), "{no_certificates}");
        assert!(contexts.list().unwrap().is_empty());
        assert!(!contexts.place("tcp").exists());
    }

    #[test]
    fn who_has_no_home_has_no_contexts() {
        let of = |home: &'static str, given: &'static str| {
            Contexts::of(move |name| Some(if name == VARIABLE { given } else { home }.to_owned()))
        };
        let nobody = of("/dev/null", "").unwrap();
        assert_eq!(nobody.current().unwrap(), DEFAULT);
        assert!(nobody.list().unwrap().is_empty());
        let told = nobody.get("far").unwrap_err().to_string();
        assert!(told.contains("context not found"), "{told}");
        assert!(of("", "").is_err());
        assert_eq!(of("", "/x").unwrap().file("y"), Path::new("/x/y"));
    }

    #[test]
    fn a_damaged_configuration_is_told_and_kept() {
        let (_dir, contexts) = contexts();
        contexts.create("far", "", &target("ssh://db")).unwrap();
        contexts.set_current("far").unwrap();
        let path = contexts.file(CONFIG);
        let whole = fs::read_to_string(&path).unwrap();
        let damages =
            ["", "null", "[]", "{\"currentContext\": 5}", "\0\0\0", &whole[..whole.len() / 2]];
        for (at, damage) in damages.into_iter().enumerate() {
            fs::write(&path, damage).unwrap();
            let said = contexts.current().unwrap_err().to_string();
            assert!(said.starts_with(&format!("{} is damaged", path.display())), "{said}");
            assert!(said.contains("`gantry context use default`"), "{said}");
            assert!(contexts.remove("far", true).is_err() && contexts.place("far").exists());
            assert!(contexts.set_current("missing").is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), damage, "nothing has changed");
            let wanted = if at == 0 { "far" } else { DEFAULT };
            let kept = contexts.set_current(wanted).unwrap();
            assert_eq!(fs::read_to_string(kept.unwrap()).unwrap(), damage);
            assert_eq!(contexts.current().unwrap(), wanted);
        }
        assert_eq!(contexts.set_current("far").unwrap(), None);
        // What nobody can read, whoever tests this.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let said = contexts.current().unwrap_err().to_string();
        assert!(said.contains("can't be read"), "{said}");
        assert!(contexts.set_current(DEFAULT).unwrap().unwrap().is_dir());
        assert_eq!(contexts.current().unwrap(), DEFAULT);
    }

    #[test]
    fn what_else_is_configured_stays() {
        let (_dir, contexts) = contexts();
        contexts.create("far", "", &target("ssh://db")).unwrap();
        fs::write(contexts.file(CONFIG), "{\"other\": [1], \"currentContext\": null}").unwrap();
        assert_eq!(contexts.current().unwrap(), DEFAULT);
        contexts.set_current("far").unwrap();
        contexts.set_current(DEFAULT).unwrap();
        let left = fs::read_to_string(contexts.file(CONFIG)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&left).unwrap(), json!({"other": [1]}));
        let files = fs::read_dir(&contexts.directory).unwrap();
        assert_eq!(files.count(), 2, "it and the contexts");
    }

    #[test]
    fn damage_is_told_of_one_context_alone() {
        let (_dir, contexts) = contexts();
        contexts.create("good", "", &target("/s")).unwrap();
        contexts.create("bad", "", &target("/s")).unwrap();
        fs::write(contexts.place("bad").join(META), "{}").unwrap();
        let all = contexts.list().unwrap();
        assert!(all["good"].is_ok());
        let said = all["bad"].as_ref().unwrap_err().to_string();
        assert!(said.contains("damaged"), "{said}");
    }
}
