//! Texts that refer to mounts made before: `{{ source 0 }}`, `{{ target 0 }}`,
//! `{{ mount 0 }}` and `{{ overlay 0 2 }}`.

use gantry_core::mounts::ActiveMount;
use gantry_core::{Error, Mount, Result};

/// Longest text with everything filled in, in bytes.
const MAX_TEXT: usize = 1 << 16;

/// Fills in source, target and options.
///
/// # Errors
/// `InvalidArgument` for what is no such template, or a mount that is not there.
pub(crate) fn fill(mount: &Mount, active: &[ActiveMount]) -> Result<Mount> {
    let options = mount.options.iter().map(|option| text(option, active));
    Ok(Mount {
        kind: mount.kind.clone(),
        source: text(&mount.source, active)?,
        target: text(&mount.target, active)?,
        options: options.collect::<Result<_>>()?,
    })
}

fn text(template: &str, active: &[ActiveMount]) -> Result<String> {
    let bad = |why: &str| {
        let shown: String = template.chars().take(256).collect();
        Error::invalid_argument(format!("mount template {shown:?}: {why}: invalid argument"))
    };
    let (mut filled, mut rest) = (String::new(), template);
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inside, after) = behind.split_once("}}").ok_or_else(|| bad("it has no end"))?;
        filled.push_str(before);
        let words: Vec<&str> = inside.split_whitespace().collect();
        filled.push_str(&value(&words, active).map_err(|why| bad(&why))?);
        if filled.len() > MAX_TEXT {
            return Err(bad("what it stands for is too long"));
        }
        rest = after;
    }
    Ok(filled + rest)
}

fn value(words: &[&str], active: &[ActiveMount]) -> Result<String, String> {
    let find = |index: &str| {
        let index = index.parse::<usize>().map_err(|_| format!("{index:?} is no index"))?;
        active
            .get(index)
            .ok_or_else(|| {
                format!("index out of bounds: {index}, has {} active mounts", active.len())
            })
            .map(|found| (index, found))
    };
    match words {
        ["source", index] => Ok(find(index)?.1.mount.source.clone()),
        ["target", index] => Ok(find(index)?.1.mount.target.clone()),
        ["mount", index] => Ok(find(index)?.1.mount_point.clone()),
        ["overlay", start, end] => {
            let (start, end) = (find(start)?.0, find(end)?.0);
            let range = start.min(end)..=start.max(end);
            let mut dirs: Vec<&str> =
                active[range].iter().map(|found| found.mount_point.as_str()).collect();
            if start > end {
                dirs.reverse();
            }
            Ok(dirs.join(":"))
        }
        _ => Err("use source, target or mount with an index, or overlay with two".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Timestamp;

    fn active() -> Vec<ActiveMount> {
        let one = |n: usize| ActiveMount {
            mount: Mount {
                source: format!("/source{n}"),
                target: format!("t{n}"),
                ..Mount::default()
            },
            mounted_at: Timestamp::default(),
            mount_point: format!("/m/{n}"),
            data: std::collections::BTreeMap::new(),
        };
        (0..3).map(one).collect()
    }

    #[test]
    fn what_came_before_is_filled_in() {
        let table = [
            ("plain", "plain"),
            ("{{ source 1 }}", "/source1"),
            ("{{target 2}}", "t2"),
            ("upperdir={{ mount 0 }}/upper", "upperdir=/m/0/upper"),
            ("lowerdir={{ overlay 0 2 }}", "lowerdir=/m/0:/m/1:/m/2"),
            ("{{ overlay 2 1 }}:{{ mount 0 }}", "/m/2:/m/1:/m/0"),
            ("{{ overlay 1 1 }}", "/m/1"),
        ];
        for (template, filled) in table {
            assert_eq!(text(template, &active()).unwrap(), filled);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad = [
            "{{ mount 3 }}",
            "{{ mount -1 }}",
            "{{ overlay 0 3 }}",
            "{{ mount 0",
            "{{ }}",
            "{{ mount }}",
            "{{ range 0 }}",
            "{{ mount 18446744073709551616 }}",
        ];
        for template in bad {
            let err = text(template, &active()).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{template}");
        }
    }
}
