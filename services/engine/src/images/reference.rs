//! References as they are shown.

/// Docker Hub's host, which nobody writes.
const HUB: &str = "docker.io/";
/// Where Docker Hub keeps its own images.
const LIBRARY: &str = "library/";

/// Hex digits of an ID, without the algorithm, if the text may be one.
pub(crate) fn id_prefix(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (!hex.is_empty() && hex.len() <= 64 && hex.bytes().all(is_hex)).then_some(hex)
}

/// `docker.io/library/nginx:latest` → `nginx:latest`.
pub(crate) fn familiar(name: &str) -> String {
    match name.strip_prefix(HUB) {
        Some(rest) => rest.strip_prefix(LIBRARY).unwrap_or(rest).to_owned(),
        None => name.to_owned(),
    }
}

/// Repository and tag as they are shown; a reference by digest has no tag.
pub(crate) fn split(name: &str) -> (String, String) {
    let shown = familiar(name);
    let (without, by_digest) = match shown.split_once('@') {
        Some((without, _)) => (without, true),
        None => (shown.as_str(), false),
    };
    // A colon before the last slash belongs to a registry's port.
    let path = without.rfind('/').map_or(0, |at| at + 1);
    match without[path..].rfind(':') {
        Some(colon) => {
            let tag = &without[path + colon + 1..];
            let tag = if by_digest { "" } else { tag };
            (without[..path + colon].to_owned(), tag.to_owned())
        }
        None => (without.to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(split("docker.io/library/nginx:1.2"), pair("nginx", "1.2"));
        assert_eq!(split("docker.io/me/app:x"), pair("me/app", "x"));
        assert_eq!(split("localhost:5000/a/b:latest"), pair("localhost:5000/a/b", "latest"));
        assert_eq!(split("localhost:5000/a@sha256:00"), pair("localhost:5000/a", ""));
        assert_eq!(familiar("ghcr.io/x:1"), "ghcr.io/x:1");
    }

    #[test]
    fn ids() {
        assert_eq!(id_prefix("sha256:ab12"), Some("ab12"));
        assert_eq!(id_prefix("ab12"), Some("ab12"));
        for other in ["nginx", "ab:12", "", "AB", "sha256:"] {
            assert_eq!(id_prefix(other), None, "{other}");
        }
    }
}
