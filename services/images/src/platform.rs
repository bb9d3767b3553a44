//! Which entry of an index fits a machine.

use gantry_core::{Descriptor, Error, Platform, Result};

use crate::unfit::Unfit;

/// Annotation of entries that describe another entry instead of an image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The platform of this machine.
pub fn host() -> Platform {
    let architecture = gantry_core::architecture();
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: (architecture == "arm").then(|| "v7".to_owned()),
        os_version: None,
    }
}

/// `linux/arm/v7`.
pub fn describe(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    }
}

/// The images of an index; what only describes images (attestations) is left out.
pub(crate) fn images(entries: &[Descriptor]) -> impl Iterator<Item = &Descriptor> {
    entries.iter().filter(|entry| {
        let unknown = entry.platform.as_ref().is_some_and(|p| p.os == "unknown");
        !unknown && !entry.annotations.contains_key(REFERENCE_TYPE)
    })
}

/// The entry that fits best: the platform itself, then what it can also run,
/// then the only entry that does not say what it is for.
///
/// # Errors
/// `NotFound` that is [`Unfit`], naming what is on offer.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor> {
    for candidate in runnable(wanted) {
        let found = images(entries)
            .find(|entry| entry.platform.as_ref().is_some_and(|p| normalize(p) == candidate));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let mut silent = images(entries).filter(|entry| entry.platform.is_none());
    if let (Some(only), None) = (silent.next(), silent.next()) {
        return Ok(only);
    }
    let offered: Vec<String> =
        images(entries).filter_map(|e| e.platform.as_ref()).map(describe).collect();
    Err(Unfit::mark(Error::not_found(format!(
        "no match for platform {} in manifest: not found; it offers: {}",
        describe(wanted),
        if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
    ))))
}

/// Whether a machine of the wanted platform runs this image. One that does
/// not say what it is for may be for any.
pub(crate) fn runs(wanted: &Platform, image: &Platform) -> bool {
    image.architecture.is_empty() || runnable(wanted).contains(&normalize(image))
}

/// Whether both name the same, however they spell it.
pub(crate) fn same(a: &Platform, b: &Platform) -> bool {
    normalize(a) == normalize(b)
}

/// Operating system, architecture and variant in one spelling.
type Normal = (String, String, String);

fn normalize(platform: &Platform) -> Normal {
    let os = platform.os.to_ascii_lowercase();
    let architecture = platform.architecture.to_ascii_lowercase();
    let variant = platform.variant.as_deref().unwrap_or("").to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("i386" | "386", _) => ("386", ""),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("armhf", _) | ("arm", "" | "7" | "v7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6" | "v6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (os, architecture.to_owned(), variant.to_owned())
}

/// What a machine of this platform runs, best first.
fn runnable(platform: &Platform) -> Vec<Normal> {
    let own = normalize(platform);
    let (os, architecture, variant) = &own;
    let as_arm = |best: u32| (5..=best).rev().map(|v| ("arm", format!("v{v}")));
    let rest: Vec<(&str, String)> = match (architecture.as_str(), variant.as_str()) {
        ("amd64", v) => {
            let level: u32 = v.trim_start_matches('v').parse().unwrap_or(1);
            let lower = (2..level).rev().map(|v| ("amd64", format!("v{v}")));
            lower.chain([("amd64", String::new()), ("386", String::new())]).collect()
        }
        ("arm64", _) => [("arm64", String::new())].into_iter().chain(as_arm(8)).collect(),
        ("arm", "v8") => as_arm(7).collect(),
        ("arm", "v7") => as_arm(6).collect(),
        ("arm", "v6") => as_arm(5).collect(),
        _ => Vec::new(),
    };
    let rest = rest.into_iter().map(|(a, v)| (os.clone(), a.to_owned(), v));
    let mut all = vec![own.clone()];
    all.extend(rest.filter(|p| *p != own));
    all
}

#[cfg(test)]
mod tests {
    use gantry_core::Digest;

    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/');
        let mut next = || parts.next().map(str::to_owned);
        Platform {
            os: next().unwrap(),
            architecture: next().unwrap(),
            variant: next(),
            os_version: None,
        }
    }

    fn entry(text: &str) -> Descriptor {
        Descriptor {
            media_type: gantry_core::media_type::OCI_MANIFEST.into(),
            digest: Digest::of(text.as_bytes()),
            size: 1,
            annotations: Default::default(),
            platform: (!text.is_empty()).then(|| platform(text)),
            urls: Vec::new(),
        }
    }

    fn chosen(offered: &[&str], wanted: &str) -> Option<String> {
        let entries: Vec<_> = offered.iter().map(|t| entry(t)).collect();
        let found = choose(&entries, &platform(wanted)).ok()?;
        Some(found.platform.as_ref().map_or(String::new(), describe))
    }

    #[test]
    fn the_best_fit_wins() {
        let table: [(&[&str], &str, Option<&str>); 13] = [
            (&["linux/arm64", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/386", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/386"], "linux/amd64", Some("linux/386")),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v4", Some("linux/amd64/v3")),
            (&["linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm64", Some("linux/arm/v7")),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some("linux/arm/v6")),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["windows/amd64"], "linux/amd64", None),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["unknown/unknown", ""], "linux/amd64", Some("")),
            (&["", ""], "linux/amd64", None),
        ];
        for (offered, wanted, expected) in table {
            assert_eq!(chosen(offered, wanted).as_deref(), expected, "{offered:?} {wanted}");
        }
    }

    #[test]
    fn what_a_machine_runs() {
        for (wanted, image, expected) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/386", true),
            ("linux/arm64", "linux/amd64", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("windows/amd64", "linux/amd64", false),
        ] {
            assert_eq!(runs(&platform(wanted), &platform(image)), expected, "{wanted} {image}");
        }
        assert!(runs(&platform("linux/arm64"), &Platform::default()));
    }

    #[test]
    fn a_miss_names_what_is_there() {
        let entries = [entry("linux/s390x"), entry("unknown/unknown")];
        let err = choose(&entries, &platform("linux/amd64")).unwrap_err();
        assert_eq!(
            err.to_string(),
            "no match for platform linux/amd64 in manifest: not found; it offers: linux/s390x"
        );
    }
}
