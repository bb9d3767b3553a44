//! Docker's filters of images, `KEY=VALUE`.

use gantry_core::{Result, Timestamp};

use super::ImageSummary;
use super::glob::Glob;
use super::reference::familiar;
use crate::filter::{given, has, invalid, label, split, time, truth};

/// Which images are meant.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter {
    /// Those of which no name has a tag, or all others.
    pub(crate) dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    without: Vec<(String, Option<String>)>,
    references: Vec<Glob>,
    /// Built before this time.
    until: Option<Timestamp>,
    /// Images, as callers name them, before or since which others were built.
    pub(crate) before: Vec<String>,
    pub(crate) since: Vec<String>,
}

impl ImageFilter {
    /// Reads filters of a listing.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn listing(filters: &[String]) -> Result<Self> {
        let known = ["before", "dangling", "label", "label!", "reference", "since", "until"];
        Self::parse(filters, &known)
    }

    /// Reads filters of a removal. Unless they say otherwise, it is of dangling images.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none.
    pub fn prune(filters: &[String]) -> Result<Self> {
        let parsed = Self::parse(filters, &["dangling", "label", "label!", "until"])?;
        Ok(Self { dangling: parsed.dangling.or(Some(true)), ..parsed })
    }

    fn parse(filters: &[String], known: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for filter in given(filters) {
            let (key, value) = split(filter)?;
            if !known.contains(&key.as_str()) {
                return Err(invalid(filter, &format!("{} are known", known.join(", "))));
            }
            match key.as_str() {
                "before" => parsed.before.push(value.to_owned()),
                "since" => parsed.since.push(value.to_owned()),
                "dangling" => parsed.dangling = Some(truth(value, filter)?),
                "label" => parsed.labels.push(label(value)),
                "label!" => parsed.without.push(label(value)),
                "reference" => {
                    let bad = || invalid(filter, "a pattern is needed");
                    parsed.references.push(Glob::new(value).ok_or_else(bad)?);
                }
                // All that is left.
                _ => {
                    let until = time(value).ok_or_else(|| invalid(filter, "a time is needed"))?;
                    parsed.until = Some(parsed.until.map_or(until, |other| other.min(until)));
                }
            }
        }
        Ok(parsed)
    }

    /// Whether an image matches by itself; `dangling`, `before` and `since` are the caller's to
    /// look at.
    pub(crate) fn matches(&self, image: &ImageSummary) -> bool {
        let labelled = |wanted: &(String, Option<String>)| has(&image.labels, wanted);
        let named = |glob: &Glob| {
            let shown = familiar(&image.name);
            [shown.as_str(), &image.repository, &image.name].into_iter().any(|n| glob.matches(n))
        };
        self.labels.iter().all(labelled)
            && !self.without.iter().any(labelled)
            && (self.references.is_empty() || self.references.iter().any(named))
            && self.until.is_none_or(|until| image.created_at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{Digest, Kind};

    fn nginx() -> ImageSummary {
        ImageSummary {
            id: Some(Digest::of(b"nginx")),
            name: "docker.io/library/nginx:1.27".into(),
            repository: "nginx".into(),
            tag: "1.27".into(),
            digest: Digest::of(b"manifest"),
            created_at: Timestamp { seconds: 100, nanos: 0 },
            size: 7,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            damage: String::new(),
        }
    }

    fn listing(filters: &[&str]) -> Result<ImageFilter> {
        ImageFilter::listing(&filters.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_key() {
        for (filters, wanted) in [
            (&["label=env"][..], true),
            (&["label=env=prod"], true),
            (&["label=env=test"], false),
            (&["label=env", "label=other"], false),
            (&["label!=env"], false),
            (&["label!=env=test"], true),
            (&["reference=nginx"], true),
            (&["reference=ngin?:1.*"], true),
            (&["reference=*:latest"], false),
            (&["reference=redis", "reference=ng*"], true),
            (&["reference=docker.io/*/nginx:*"], true),
            (&["until=101"], true),
            (&["until=100"], false),
            (&["until=1970-01-01T00:02:00Z"], true),
            (&["until=1970-01-01T00:02:00Z", "until=50"], false),
        ] {
            assert_eq!(listing(filters).unwrap().matches(&nginx()), wanted, "{filters:?}");
        }
        let filter = listing(&["before=a", "since=b", "dangling=1"]).unwrap();
        assert_eq!((filter.before, filter.since), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert_eq!(filter.dangling, Some(true));
    }

    #[test]
    fn refusals() {
        for bad in ["nope=1", "label", "dangling=maybe", "until=soon", "reference=[a"] {
            let err = listing(&[bad]).unwrap_err();
            assert_eq!(err.kind(), Kind::InvalidArgument, "{bad}: {err}");
        }
        assert!(ImageFilter::prune(&["reference=x".to_owned()]).is_err());
    }

    #[test]
    fn a_removal_is_of_dangling_images_unless_it_says_otherwise() {
        assert_eq!(ImageFilter::prune(&[]).unwrap().dangling, Some(true));
        let all = ImageFilter::prune(&["dangling=false".to_owned()]).unwrap();
        assert_eq!(all.dangling, Some(false));
    }
}
