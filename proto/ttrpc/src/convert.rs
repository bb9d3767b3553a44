//! Between the wire's messages and the value types of `gantry-core`.

use gantry_core as core;
use prost_types as wkt;

use crate::containerd::types;

/// A point in time on the wire.
pub fn timestamp(t: core::Timestamp) -> wkt::Timestamp {
    wkt::Timestamp { seconds: t.seconds, nanos: t.nanos }
}

/// A point in time from the wire; absent is 1970, which counts as unset.
pub fn from_timestamp(t: Option<&wkt::Timestamp>) -> core::Timestamp {
    t.map_or_else(core::Timestamp::default, |t| core::Timestamp {
        seconds: t.seconds,
        nanos: t.nanos.clamp(0, 999_999_999),
    })
}

/// A typed value on the wire.
pub fn any(any: core::Any) -> wkt::Any {
    wkt::Any { type_url: any.type_url, value: any.value }
}

/// A typed value from the wire, without the prefix that some clients write.
pub fn from_any(any: wkt::Any) -> core::Any {
    core::Any { type_url: crate::any::type_name(&any.type_url).to_owned(), value: any.value }
}

impl From<core::Mount> for types::Mount {
    fn from(m: core::Mount) -> Self {
        Self { r#type: m.kind, source: m.source, target: m.target, options: m.options }
    }
}

impl From<types::Mount> for core::Mount {
    fn from(m: types::Mount) -> Self {
        Self { kind: m.r#type, source: m.source, target: m.target, options: m.options }
    }
}

impl From<core::Descriptor> for types::Descriptor {
    fn from(d: core::Descriptor) -> Self {
        Self {
            media_type: d.media_type,
            digest: d.digest.to_string(),
            // Nothing that exists is larger.
            size: i64::try_from(d.size).unwrap_or(i64::MAX),
            annotations: d.annotations,
        }
    }
}

/// Refuses a digest that is none and a negative size.
impl TryFrom<types::Descriptor> for core::Descriptor {
    type Error = core::Error;

    fn try_from(d: types::Descriptor) -> core::Result<Self> {
        let size = u64::try_from(d.size).map_err(|_| {
            core::Error::invalid_argument(format!(
                "descriptor of {}: size {} is negative: invalid argument",
                d.digest, d.size
            ))
        })?;
        Ok(Self {
            media_type: d.media_type,
            digest: d.digest.parse()?,
            size,
            annotations: d.annotations,
            platform: None,
            urls: Vec::new(),
        })
    }
}

impl From<core::Platform> for types::Platform {
    fn from(p: core::Platform) -> Self {
        Self {
            os: p.os,
            architecture: p.architecture,
            variant: p.variant.unwrap_or_default(),
            os_version: p.os_version.unwrap_or_default(),
            os_features: Vec::new(),
        }
    }
}

impl From<types::Platform> for core::Platform {
    fn from(p: types::Platform) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        Self {
            architecture: p.architecture,
            os: p.os,
            variant: given(p.variant),
            os_version: given(p.os_version),
        }
    }
}

impl From<core::events::Envelope> for types::Envelope {
    fn from(e: core::events::Envelope) -> Self {
        Self {
            timestamp: Some(timestamp(e.timestamp)),
            namespace: e.namespace,
            topic: e.topic,
            event: Some(any(e.event)),
        }
    }
}

impl From<types::Envelope> for core::events::Envelope {
    fn from(e: types::Envelope) -> Self {
        Self {
            timestamp: from_timestamp(e.timestamp.as_ref()),
            namespace: e.namespace,
            topic: e.topic,
            event: from_any(e.event.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_checked() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let good = types::Descriptor { digest: digest.clone(), size: 3, ..Default::default() };
        let core = core::Descriptor::try_from(good.clone()).unwrap();
        assert_eq!(types::Descriptor::from(core), good);
        for bad in [
            types::Descriptor { digest, size: -1, ..Default::default() },
            types::Descriptor { digest: "sha256:x".into(), size: 3, ..Default::default() },
        ] {
            let refused = core::Descriptor::try_from(bad).unwrap_err();
            assert_eq!(refused.kind(), core::Kind::InvalidArgument);
        }
    }

    #[test]
    fn go_zero_time_counts_as_unset() {
        let t = wkt::Timestamp { seconds: -62_135_596_800, nanos: 0 };
        assert!(from_timestamp(Some(&t)).is_unset());
        assert!(from_timestamp(None).is_unset());
    }
}
