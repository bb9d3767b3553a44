//! Which daemon is meant: what the command line says, then the environment, then the context in
//! use, then the daemon of this machine.

use std::path::PathBuf;

use anyhow::{anyhow, bail};

use super::{CA, CERT, Contexts, DEFAULT, KEY};
use crate::cli::DEFAULT_ADDRESS;
use crate::connect::{Address, Target, TlsFiles};

/// Variables that name a daemon; of two the former counts.
const HOSTS: [&str; 2] = ["GANTRY_HOST", "GANTRY_ADDRESS"];
/// The variable that names a context.
const CONTEXT: &str = "GANTRY_CONTEXT";
/// The variable that names the directory with certificates.
const CERTIFICATES: &str = "GANTRY_CERT_PATH";

/// What the command line says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes<'a> {
    /// `--host`, as often as it was given.
    pub(crate) hosts: &'a [String],
    /// `--address`.
    pub(crate) address: Option<&'a Address>,
    /// `--context`.
    pub(crate) context: Option<&'a str>,
    /// `--tlscacert`, `--tlscert` and `--tlskey`.
    pub(crate) tls: [Option<&'a PathBuf>; 3],
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A context of this name.
    Context(String),
    /// An address; this machine's daemon when nobody gave one.
    Address(Address),
}

impl Choice {
    /// Chooses.
    ///
    /// # Errors
    /// When the wishes contradict each other, or what they name can't be.
    pub(crate) fn of(
        wishes: Wishes<'_>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let understood = |text: &str, what: &str| {
            text.parse::<Address>().map_err(|why| anyhow!("invalid {what} {text:?}: {why}"))
        };
        let address = match (wishes.hosts, wishes.address) {
            ([], None) => None,
            ([], Some(address)) => Some(address.clone()),
            ([host], None) => Some(understood(host, "--host")?),
            ([_], Some(_)) => {
                bail!("conflicting options: cannot specify both --host and --address")
            }
            _ => bail!("Specify only one -H"),
        };
        if address.is_some() && wishes.context.is_some() {
            bail!("conflicting options: cannot specify both --host and --context");
        }
        let named = wishes.context.map(str::to_owned);
        if let Some(address) = address {
            return Ok(Self::Address(address));
        }
        if let Some(name) = named.filter(|name| name != DEFAULT) {
            return Ok(Self::Context(name));
        }
        let of_environment = HOSTS.iter().find_map(|name| Some((*name, set(name)?)));
        if let Some((name, host)) = of_environment {
            return Ok(Self::Address(understood(&host, name)?));
        }
        let here = || understood(DEFAULT_ADDRESS, "address").map(Self::Address);
        if wishes.context.is_some() {
            return here();
        }
        let name = match set(CONTEXT) {
            Some(name) => name,
            // Without a home there are no contexts.
            None => {
                Contexts::of(&lookup).map_or_else(|_| Ok(DEFAULT.to_owned()), |c| c.current())?
            }
        };
        if name == DEFAULT { here() } else { Ok(Self::Context(name)) }
    }

    /// The variable of the environment that counts more than the context in use.
    pub(crate) fn overriding(lookup: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
        let set = |name: &&str| lookup(name).is_some_and(|value| !value.is_empty());
        HOSTS.into_iter().find(|name| set(name))
    }

    /// The name of the context.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Context(name) => name,
            Self::Address(_) => DEFAULT,
        }
    }

    /// The daemon, and what it takes to get there.
    ///
    /// # Errors
    /// When there is no such context.
    pub(crate) fn target(
        self,
        wishes: Wishes<'_>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Target> {
        let target = match self {
            Self::Context(name) => {
                let contexts = Contexts::of(&lookup)?;
                let named = lookup(CONTEXT).is_some_and(|name| !name.is_empty());
                match wishes.context {
                    None if !named => contexts.target_in_use(&name)?,
                    _ => contexts.target(&name)?,
                }
            }
            Self::Address(address @ Address::Tcp(_)) => {
                let given = lookup(CERTIFICATES).filter(|path| !path.is_empty());
                let usual = |name: &str| match &given {
                    Some(path) => Ok(PathBuf::from(path).join(name)),
                    None => Contexts::of(&lookup).map(|contexts| contexts.file(name)),
                };
                let own = |wish: Option<&PathBuf>, name| match wish {
                    Some(path) => Ok(path.clone()),
                    None => usual(name),
                };
                let [ca, cert, key] = wishes.tls;
                let tls =
                    TlsFiles { ca: own(ca, CA)?, cert: own(cert, CERT)?, key: own(key, KEY)? };
                return Ok(Target { address, tls });
            }
            Self::Address(address) => Target::from(address),
        };
        let [ca, cert, key] = wishes.tls.map(|wish| wish.cloned());
        let TlsFiles { ca: own_ca, cert: own_cert, key: own_key } = target.tls;
        let tls = TlsFiles {
            ca: ca.unwrap_or(own_ca),
            cert: cert.unwrap_or(own_cert),
            key: key.unwrap_or(own_key),
        };
        Ok(Target { address: target.address, tls })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        environment: BTreeMap<String, String>,
    }

    impl Place {
        /// A user with a context in use.
        fn new(environment: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().to_str().unwrap().to_owned();
            let all = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let environment = all.chain([("HOME".to_owned(), home)]).collect();
            let place = Self { _dir: dir, environment };
            let contexts = Contexts::of(place.lookup()).unwrap();
            let target = Target::from("ssh://used".parse::<Address>().unwrap());
            contexts.create("used", "", &target).unwrap();
            contexts.set_current("used").unwrap();
            place
        }

        fn lookup(&self) -> impl Fn(&str) -> Option<String> {
            move |name| self.environment.get(name).cloned()
        }

        fn chosen(&self, wishes: Wishes<'_>) -> String {
            let choice = Choice::of(wishes, self.lookup());
            match choice.and_then(|choice| choice.target(wishes, self.lookup())) {
                Ok(target) => target.address.to_string(),
                Err(error) => error.to_string(),
            }
        }
    }

    #[test]
    fn what_counts_more() {
        let hosts = ["ssh://flag".to_owned()];
        let address = Address::Unix("/flag".into());
        let flag = Wishes { hosts: &hosts, ..Wishes::default() };
        let socket = Wishes { address: Some(&address), ..Wishes::default() };
        let context = Wishes { context: Some("used"), ..Wishes::default() };
        let default = Wishes { context: Some("default"), ..Wishes::default() };
        let none = Wishes::default();
        let place = Place::new(&[
            ("GANTRY_HOST", "ssh://host"),
            ("GANTRY_ADDRESS", "/address"),
            ("GANTRY_CONTEXT", "missing"),
        ]);
        assert_eq!(place.chosen(flag), "ssh://flag");
        assert_eq!(place.chosen(socket), "unix:///flag");
        assert_eq!(place.chosen(context), "ssh://used");
        assert_eq!(place.chosen(default), "ssh://host");
        assert_eq!(place.chosen(none), "ssh://host");
        let place = Place::new(&[("GANTRY_HOST", ""), ("GANTRY_ADDRESS", "/address")]);
        assert_eq!(place.chosen(none), "unix:///address");
        assert_eq!(Choice::overriding(place.lookup()), Some("GANTRY_ADDRESS"));
        let place = Place::new(&[("GANTRY_CONTEXT", "missing")]);
        assert!(place.chosen(none).contains("context not found"));
        let place = Place::new(&[("GANTRY_CONTEXT", "default")]);
        assert_eq!(place.chosen(none), "unix:///run/gantry/gantry.sock");
        let place = Place::new(&[]);
        assert_eq!(place.chosen(none), "ssh://used");
        assert_eq!(place.chosen(default), "unix:///run/gantry/gantry.sock");
        assert_eq!(Choice::overriding(place.lookup()), None);
        let nobody = Choice::of(none, |_| None).unwrap();
        assert_eq!(nobody.name(), DEFAULT);
        assert_eq!(nobody, Choice::of(default, |_| None).unwrap());
    }

    #[test]
    fn a_damaged_configuration_is_in_nobodys_way_who_names_the_daemon() {
        let hosts = ["ssh://flag".to_owned()];
        let flag = Wishes { hosts: &hosts, ..Wishes::default() };
        let context = Wishes { context: Some("used"), ..Wishes::default() };
        let default = Wishes { context: Some("default"), ..Wishes::default() };
        let none = Wishes::default();
        for variables in [&[("GANTRY_ADDRESS", "/address")][..], &[]] {
            let place = Place::new(variables);
            let config = Contexts::of(place.lookup()).unwrap().file("config.json");
            fs::write(&config, "{\"currentContext\": \"us").unwrap();
            assert_eq!(place.chosen(flag), "ssh://flag");
            assert_eq!(place.chosen(context), "ssh://used");
            if variables.is_empty() {
                assert_eq!(place.chosen(default), "unix:///run/gantry/gantry.sock");
                assert!(place.chosen(none).contains("config.json is damaged"));
                fs::write(&config, "{\"currentContext\": \"gone\"}").unwrap();
                let said = place.chosen(none);
                assert!(said.contains("config.json names a context that can't be used"), "{said}");
            } else {
                assert_eq!(place.chosen(none), "unix:///address");
            }
        }
    }

    #[test]
    fn contradictions() {
        let place = Place::new(&[]);
        let two = ["/a".to_owned(), "/b".to_owned()];
        let said = place.chosen(Wishes { hosts: &two, ..Wishes::default() });
        assert_eq!(said, "Specify only one -H");
        let both = Wishes { hosts: &two[..1], context: Some("used"), ..Wishes::default() };
        assert!(place.chosen(both).contains("both --host and --context"));
        let address = Address::Unix("/b".into());
        let both = Wishes { hosts: &two[..1], address: Some(&address), ..Wishes::default() };
        assert!(place.chosen(both).contains("both --host and --address"));
        let bad = ["http://x".to_owned()];
        let said = place.chosen(Wishes { hosts: &bad, ..Wishes::default() });
        assert!(said.starts_with("invalid --host \"http://x\": "), "{said}");
    }

    #[test]
    fn certificates_have_their_places() {
        let hosts = ["tcp://db".to_owned()];
        let own = PathBuf::from("/own/ca");
        let wishes = Wishes { hosts: &hosts, tls: [Some(&own), None, None], ..Wishes::default() };
        let tls = |place: &Place| {
            let choice = Choice::of(wishes, place.lookup()).unwrap();
            choice.target(wishes, place.lookup()).unwrap().tls
        };
        let given = tls(&Place::new(&[("GANTRY_CERT_PATH", "/certs")]));
        let key = PathBuf::from("/certs/key.pem");
        assert_eq!(given, TlsFiles { ca: own.clone(), cert: "/certs/cert.pem".into(), key });
        let place = Place::new(&[]);
        assert!(tls(&place).cert.ends_with(".gantry/cert.pem"));
    }
}
