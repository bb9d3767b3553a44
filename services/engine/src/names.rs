//! Names: random ones, valid ones, and the one that was meant.

use gantry_core::{Error, Result};
use rand::seq::IndexedRandom;

const ADJECTIVES: [&str; 64] = [
    "able", "airy", "amber", "ample", "azure", "bold", "brave", "breezy", "brisk", "calm", "clear",
    "clever", "cosy", "crisp", "daring", "deft", "eager", "early", "fair", "fleet", "fluent",
    "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "honest",
    "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry",
    "mighty", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite",
    "proud", "quick", "quiet", "ready", "serene", "silent", "sleek", "steady", "sunny", "swift",
    "tidy", "vivid", "warm", "witty",
];

/// People who moved, lifted or bridged things, or reckoned how.
const SURNAMES: [&str; 64] = [
    "agnesi",
    "ampere",
    "archimedes",
    "armstrong",
    "baird",
    "bazalgette",
    "benz",
    "bernoulli",
    "bessemer",
    "brunel",
    "carnot",
    "cayley",
    "celsius",
    "clapeyron",
    "cugnot",
    "curie",
    "daimler",
    "darby",
    "diesel",
    "earhart",
    "edison",
    "eiffel",
    "euler",
    "faraday",
    "fulton",
    "galilei",
    "gauss",
    "germain",
    "goddard",
    "hamilton",
    "hertz",
    "hooke",
    "hypatia",
    "joule",
    "kelvin",
    "khayyam",
    "kovalevskaya",
    "lagrange",
    "leibniz",
    "lovelace",
    "maillart",
    "maxwell",
    "mclean",
    "meitner",
    "noether",
    "ohm",
    "otis",
    "pascal",
    "porsche",
    "ramanujan",
    "roebling",
    "shukhov",
    "siemens",
    "smeaton",
    "stephenson",
    "stevin",
    "telford",
    "tesla",
    "tsiolkovsky",
    "vitruvius",
    "volta",
    "watt",
    "whittle",
    "zeppelin",
];

/// `adjective_surname`; with digits behind when others were taken.
pub(crate) fn random(attempt: usize) -> String {
    let mut rng = rand::rng();
    let pick = |list: &'static [&'static str], rng: &mut _| list.choose(rng).copied();
    // Neither list is empty.
    let adjective = pick(&ADJECTIVES, &mut rng).unwrap_or_default();
    let surname = pick(&SURNAMES, &mut rng).unwrap_or_default();
    match attempt {
        0..3 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", rand::random_range(0..10_000)),
    }
}

/// An ID: 64 hex digits.
pub(crate) fn random_id() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks a name that a user chose.
///
/// # Errors
/// `InvalidArgument`, saying what is allowed.
pub(crate) fn validate(name: &str) -> Result<()> {
    const LONGEST: usize = 128;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= LONGEST && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, \
         at most {LONGEST} of them"
    )))
}

/// The candidate that was probably meant: at most two slips of the finger
/// away, and at most a third of the name.
pub(crate) fn closest<'a>(
    written: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let most = (written.chars().count() / 3).clamp(1, 2);
    candidates
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|(slips, _)| (1..=most).contains(slips))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The error about a name that does not exist, with the one that was probably meant.
pub(crate) fn suggest<'a>(
    missing: Error,
    written: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Error {
    let Some(meant) = closest(written, candidates) else { return missing };
    let told = Error::not_found(format!("{missing}. Did you mean {meant}?")).meaning(meant);
    match missing.subject() {
        Some((object, name)) => told.about(object, name),
        None => told,
    }
}

/// Insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_valid() {
        for attempt in 0..6 {
            validate(&random(attempt)).unwrap();
        }
        assert_eq!(random_id().len(), 64);
        assert_ne!(random_id(), random_id());
    }

    #[test]
    fn names() {
        for good in ["web", "a", "a1", "my.app_2-x", "0x"] {
            validate(good).unwrap();
        }
        let long = "a".repeat(129);
        for bad in ["", "_x", "-x", "a b", "a/b", "ä1", &long] {
            assert!(validate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_meant() {
        let names = ["web", "database", "cache"];
        let meant = |written| closest(written, names.into_iter());
        assert_eq!(meant("wbe"), Some("web"));
        assert_eq!(meant("databse"), Some("database"));
        assert_eq!(meant("cach"), Some("cache"));
        assert_eq!(meant("nothing"), None);
        assert_eq!(meant("x"), None);
        assert_eq!(meant("web"), None, "one that is being removed has its name");
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn errors_say_what_was_meant() {
        let missing = || Error::not_found("No such container: wbe").about("container", "wbe");
        let told = suggest(missing(), "wbe", ["web", "db"].into_iter());
        assert_eq!(told.to_string(), "No such container: wbe. Did you mean web?");
        assert_eq!((told.meant(), told.subject()), (Some("web"), Some(("container", "wbe"))));
        assert!(told.is_not_found());
        let plain = suggest(missing(), "wbe", ["cache"].into_iter());
        assert_eq!((plain.to_string().as_str(), plain.meant()), ("No such container: wbe", None));
    }
}
