//! Certificates: an authority, and pairs of certificate and key that it has signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};

use crate::connect::Address;
use crate::contexts::{CA, CERT, KEY, make_directory, write_new};

const CA_KEY: &str = "ca-key.pem";
const SERVER_CERT: &str = "server-cert.pem";
const SERVER_KEY: &str = "server-key.pem";
/// The client whose files have Docker's names.
const CLIENT: &str = "client";
/// Names of clients whose files would have those of others.
const TAKEN: [&str; 2] = ["ca", "server"];
/// A common name is no longer.
const LONGEST: usize = 64;
/// The authority is good for so many days, or as long as what it signs.
const CA_DAYS: u32 = 3650;
/// Where this machine's name is.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Where the files are.
    pub(crate) dir: PathBuf,
    /// Names and IP addresses of the server, also as addresses of a daemon.
    pub(crate) hosts: Vec<String>,
    /// Names of clients.
    pub(crate) clients: Vec<String>,
    /// The pairs are good for so long.
    pub(crate) days: u32,
}

/// An authority that signs.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A file that is to be.
type Planned = (PathBuf, String);

/// Makes what is wanted; returns the paths of what was made. Either all of it is made or none.
///
/// # Errors
/// When a file is there already, or a name can't be.
pub(crate) fn make(plan: &Plan) -> anyhow::Result<Vec<PathBuf>> {
    let ca = plan.dir.join(CA);
    let ca_key = plan.dir.join(CA_KEY);
    let fresh = match (exists(&ca), exists(&ca_key)) {
        (false, false) => true,
        (true, true) => false,
        _ => bail!(
            "{} has one of {CA} and {CA_KEY} alone: bring the other one there, or choose another --dir",
            plan.dir.display()
        ),
    };
    let (server, clients) = wanted(plan, fresh)?;
    let mut files = Vec::new();
    let authority = match fresh {
        true => {
            let (authority, key) = Authority::new(plan.days)?;
            files.push((ca, authority.certificate.clone()));
            files.push((ca_key, key));
            authority
        }
        false => Authority::open(&ca, &ca_key)?,
    };
    if let Some(names) = server {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let pair = authority.sign(&names[0], &names, usage, plan.days)?;
        files.extend(placed(plan, [SERVER_CERT.to_owned(), SERVER_KEY.to_owned()], pair));
    }
    for client in clients {
        let pair = authority.sign(&client, &[], ExtendedKeyUsagePurpose::ClientAuth, plan.days)?;
        files.extend(placed(plan, client_files(&client), pair));
    }
    write(&plan.dir, &files)?;
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Names of the server, if it is to have a pair, and of clients.
fn wanted(plan: &Plan, fresh: bool) -> anyhow::Result<(Option<Vec<String>>, Vec<String>)> {
    let mut clients = plan.clients.clone();
    clients.iter().try_for_each(|name| check_client(name))?;
    let both = plan.hosts.is_empty() && clients.is_empty();
    if clients.is_empty() && (fresh || both) {
        clients.push(CLIENT.to_owned());
    }
    let server = if both {
        Some(own_names())
    } else if plan.hosts.is_empty() {
        None
    } else {
        let names = plan.hosts.iter().map(|host| server_name(host));
        Some(names.collect::<anyhow::Result<_>>()?)
    };
    Ok((server, clients))
}

/// The names of this machine.
fn own_names() -> Vec<String> {
    let own = fs::read_to_string(HOSTNAME).unwrap_or_default();
    let own = server_name(own.trim()).ok();
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut names: Vec<String> = own.into_iter().chain(local).collect();
    names.dedup();
    names
}

/// A name or IP address, alone or as a daemon's address.
fn server_name(host: &str) -> anyhow::Result<String> {
    let name = match host.contains("://") {
        false => host.to_owned(),
        true => match host.parse() {
            Ok(Address::Tcp(place)) => place.host,
            Ok(_) => bail!("{host}: certificates are for tcp://"),
            Err(why) => bail!("invalid --host {host:?}: {why}"),
        },
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    match ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(name),
        Err(_) => Err(anyhow!("{name:?} is neither the name of a machine nor an IP address")),
    }
}

fn check_client(name: &str) -> anyhow::Result<()> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || !name.chars().all(is_word) || name.len() > LONGEST {
        bail!("a client's name has up to {LONGEST} letters, digits and ._@+-, unlike {name:?}");
    }
    if TAKEN.contains(&name) {
        bail!("a client can't be called {name:?}: its files would have the names of others");
    }
    Ok(())
}

fn client_files(name: &str) -> [String; 2] {
    match name {
        CLIENT => [CERT.to_owned(), KEY.to_owned()],
        name => [format!("{name}-{CERT}"), format!("{name}-{KEY}")],
    }
}

fn placed(plan: &Plan, names: [String; 2], pair: [String; 2]) -> impl Iterator<Item = Planned> {
    let paths = names.map(|name| plan.dir.join(name));
    paths.into_iter().zip(pair)
}

impl Authority {
    /// A new one, and its key.
    fn new(days: u32) -> anyhow::Result<(Self, String)> {
        let key = KeyPair::generate().context("make a key")?;
        let params = Self::params(&key, days.max(CA_DAYS));
        let certificate = params.self_signed(&key).context("sign a certificate")?.pem();
        let text = key.serialize_pem();
        Ok((Self { certificate, issuer: Issuer::new(params, key) }, text))
    }

    /// One that was made before.
    fn open(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let (text, certificate) = (read(key)?, read(certificate)?);
        let pair = KeyPair::from_pem(&text)
            .with_context(|| format!("{} has no key that can be used", key.display()))?;
        let params = Self::params(&pair, CA_DAYS);
        let authority = Self { certificate, issuer: Issuer::new(params, pair) };
        // It may have been made by another program, with other names.
        authority.check().with_context(|| {
            format!("{CA} and {CA_KEY} don't belong together, or `gantry system certs` has not made them")
        })?;
        Ok(authority)
    }

    /// What the authority's certificate says. Its name follows from its key, so that two of them
    /// are not taken for each other.
    fn params(key: &KeyPair, days: u32) -> CertificateParams {
        let mut params = CertificateParams::default();
        let own: String =
            params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = subject(&format!("Gantry CA {own}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, days);
        params
    }

    /// A certificate and its key.
    fn sign(
        &self,
        name: &str,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
        days: u32,
    ) -> anyhow::Result<[String; 2]> {
        let key = KeyPair::generate().context("make a key")?;
        let mut params = CertificateParams::new(names.to_vec()).context("names of the server")?;
        // The name proper is among the others.
        params.distinguished_name = subject(name.get(..LONGEST).unwrap_or(name));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        valid_for(&mut params, days);
        let signed = params.signed_by(&key, &self.issuer).context("sign a certificate")?;
        Ok([signed.pem(), key.serialize_pem()])
    }

    /// Whether what it signs is of its certificate.
    fn check(&self) -> anyhow::Result<()> {
        let [signed, _] = self.sign(CLIENT, &[], ExtendedKeyUsagePurpose::ClientAuth, 1)?;
        let signed = CertificateDer::from_pem_slice(signed.as_bytes())?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?;
        verifier.verify_client_cert(&signed, &[], UnixTime::now())?;
        Ok(())
    }
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// From a day ago, for clocks that are late.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(days.into());
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Writes all files, or none.
fn write(dir: &Path, files: &[Planned]) -> anyhow::Result<()> {
    if let Some((path, _)) = files.iter().find(|(path, _)| exists(path)) {
        bail!(
            "{} is there already and is not overwritten: remove it, or choose another --dir",
            path.display()
        );
    }
    make_directory(dir)?;
    for (count, (path, text)) in files.iter().enumerate() {
        if let Err(error) = write_new(path, text.as_bytes()) {
            for (path, _) in &files[..count] {
                // The failure is told; nobody is helped by another.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::connect::{TlsFiles, check_tls};

    fn plan(dir: &Path, hosts: &[&str], clients: &[&str]) -> Plan {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Plan { dir: dir.into(), hosts: owned(hosts), clients: owned(clients), days: 30 }
    }

    fn made(plan: &Plan) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        make(plan).unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn an_authority_and_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certs");
        let first = made(&plan(&dir, &["db.example", "192.0.2.7"], &[]));
        let expected =
            ["ca.pem", "ca-key.pem", "server-cert.pem", "server-key.pem", "cert.pem", "key.pem"];
        assert_eq!(first, expected);
        for name in expected {
            let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let files = |cert: &str, key: &str| TlsFiles {
            ca: dir.join(CA),
            cert: dir.join(cert),
            key: dir.join(key),
        };
        check_tls(&files(CERT, KEY)).unwrap();
        check_tls(&files(SERVER_CERT, SERVER_KEY)).unwrap();
        assert!(check_tls(&files(CERT, SERVER_KEY)).is_err(), "a key of another certificate");
        let later = made(&plan(&dir, &[], &["ci", "bot"]));
        assert_eq!(later, ["ci-cert.pem", "ci-key.pem", "bot-cert.pem", "bot-key.pem"]);
        check_tls(&files("ci-cert.pem", "ci-key.pem")).unwrap();
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_left_half_done() {
        let dir = tempfile::tempdir().unwrap();
        made(&plan(dir.path(), &["a"], &[]));
        let before = fs::read(dir.path().join(SERVER_CERT)).unwrap();
        for again in [plan(dir.path(), &["a"], &["x"]), plan(dir.path(), &[], &["y", "client"])] {
            let refused = make(&again).unwrap_err().to_string();
            assert!(refused.contains("is not overwritten"), "{refused}");
        }
        assert_eq!(fs::read(dir.path().join(SERVER_CERT)).unwrap(), before);
        assert!(!exists(&dir.path().join("x-cert.pem")) && !exists(&dir.path().join("y-cert.pem")));
        fs::remove_file(dir.path().join(CA)).unwrap();
        let alone = make(&plan(dir.path(), &[], &["z"])).unwrap_err().to_string();
        assert!(alone.contains("alone"), "{alone}");
        let other = tempfile::tempdir().unwrap();
        made(&plan(other.path(), &["a"], &[]));
        fs::copy(other.path().join(CA), dir.path().join(CA)).unwrap();
        let mixed = format!("{:#}", make(&plan(dir.path(), &[], &["z"])).unwrap_err());
        assert!(mixed.contains("belong together"), "{mixed}");
    }

    #[test]
    fn names() {
        for (host, name) in [
            ("db", "db"),
            ("tcp://db:1", "db"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("tcp://[::1]:9", "::1"),
        ] {
            assert_eq!(server_name(host).unwrap(), name);
        }
        for bad in ["", "a b", "ssh://db", "unix:///s", "tcp://", "-", "a/b"] {
            assert!(server_name(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "ca", "server", "../x", "a/b", "a b", "-x", &"x".repeat(65)] {
            assert!(check_client(bad).is_err(), "{bad:?}");
        }
        check_client("ci@example.com").unwrap();
        let own = own_names();
        assert!(["localhost", "127.0.0.1"].iter().all(|name| own.iter().any(|n| n == name)));
    }
}
