//! What is asked of a container's log: a driver and its options, as Docker's users write them.

use gantry_core::{Error, Labels, Result};
use regex::Regex;

use super::attributes::check_tag;

/// Where a container's output is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogDriver {
    /// In Docker's json-file format.
    #[default]
    JsonFile,
    /// In a binary form.
    Local,
    /// Nowhere.
    None,
}

/// The drivers that there are.
const DRIVERS: [LogDriver; 3] = [LogDriver::JsonFile, LogDriver::Local, LogDriver::None];

impl LogDriver {
    /// The driver's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::JsonFile => "json-file",
            Self::Local => "local",
            Self::None => "none",
        }
    }

    /// The driver of a name; `json-file` when it is empty.
    ///
    /// # Errors
    /// `InvalidArgument`, with the names that there are.
    pub(crate) fn of(name: &str) -> Result<Self> {
        let mut drivers = DRIVERS.into_iter();
        match drivers.find(|driver| driver.name() == name || name.is_empty()) {
            Some(driver) => Ok(driver),
            None => Err(Error::invalid_argument(format!(
                "logger: no log driver named '{name}' is registered: there are json-file, local \
                 and none"
            ))),
        }
    }
}

/// The options of `json-file` and `local`.
const KNOWN: [&str; 11] = [
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-age",
    "max-buffer-size",
    "max-file",
    "max-size",
    "mode",
    "tag",
];
/// The most files of one log.
const MAX_FILES: u32 = 1000;

/// What is asked of a container's log. Zero and `None` stand for the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogConfig {
    pub(crate) driver: LogDriver,
    /// A file is rotated at so many bytes.
    pub(crate) max_size: u64,
    /// So many files are kept.
    pub(crate) max_files: u32,
    /// A file is rotated after so many seconds; 0 is never.
    pub(crate) max_age: Option<u64>,
    /// Rotated files are compressed.
    pub(crate) compress: bool,
    /// Nobody waits for a log that can't be written: what has no room is left out.
    pub(crate) non_blocking: bool,
    /// So many bytes have room.
    pub(crate) max_buffer: u64,
}

impl LogConfig {
    /// Reads the name of a driver and its options. `none` takes any, as with Docker.
    ///
    /// # Errors
    /// `InvalidArgument`, naming what is wrong.
    pub(crate) fn parse(driver: &str, options: &Labels) -> Result<Self> {
        let driver = LogDriver::of(driver)?;
        let mut config = Self { driver, ..Self::default() };
        if driver == LogDriver::None {
            return Ok(config);
        }
        let mut compress = None;
        for (key, value) in options {
            config.take(key, value, &mut compress)?;
        }
        if config.max_buffer > 0 && !config.non_blocking {
            return Err(Error::invalid_argument(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        if compress == Some(true) && config.max_files == 1 {
            return Err(Error::invalid_argument("compress cannot be true when max-file is 1"));
        }
        // As with Docker.
        config.compress = compress.unwrap_or(driver == LogDriver::Local);
        Ok(config)
    }

    fn take(&mut self, key: &str, value: &str, compress: &mut Option<bool>) -> Result<()> {
        let bad = || Error::invalid_argument(format!("invalid value for log-opt {key}: {value:?}"));
        match key {
            "max-size" => self.max_size = bytes(value).filter(|n| *n > 0).ok_or_else(bad)?,
            "max-file" => {
                let files = value.parse::<u32>().ok().filter(|n| (1..=MAX_FILES).contains(n));
                self.max_files = files.ok_or_else(bad)?;
            }
            "max-age" => self.max_age = Some(age(value).ok_or_else(bad)?),
            "compress" => *compress = Some(truth(value).ok_or_else(bad)?),
            "mode" => {
                self.non_blocking = match value {
                    "" | "blocking" => false,
                    "non-blocking" => true,
                    other => {
                        return Err(Error::invalid_argument(format!(
                            "logger: logging mode not supported: {other}: use blocking or \
                             non-blocking"
                        )));
                    }
                };
            }
            "max-buffer-size" => {
                self.max_buffer = bytes(value).filter(|n| *n > 0).ok_or_else(bad)?;
            }
            "labels-regex" | "env-regex" => drop(regex(key, value)?),
            "tag" => check_tag(value)?,
            "labels" | "env" => {}
            _ => {
                return Err(Error::invalid_argument(format!(
                    "unknown log opt '{key}' for {} log driver: it has {}",
                    self.driver.name(),
                    KNOWN.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// The value of an option that is a regular expression.
///
/// # Errors
/// `InvalidArgument` when it is none.
pub(crate) fn regex(key: &str, value: &str) -> Result<Regex> {
    Regex::new(value).map_err(|err| {
        Error::invalid_argument(format!("invalid value for log-opt {key}: {value:?}"))
            .with_source(err)
    })
}

/// `10m`, `1.5GiB`, `4096`: powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[number.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, decimals) = number.trim_end().split_once('.').unwrap_or((number.trim_end(), "0"));
    let decimals = decimals.get(..decimals.len().min(9))?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return None;
    }
    let unit = 1u64 << shift;
    let scale = 10u128.pow(decimals.len() as u32);
    let part = u128::from(decimals.parse::<u64>().ok()?) * u128::from(unit) / scale;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

/// `7d`, `1h30m`, `0`: whole seconds.
fn age(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut seconds = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let mut chars = tail.chars();
        let unit = match chars.next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = chars.as_str();
    }
    (!text.is_empty()).then_some(seconds)
}

/// What Go takes for true and false.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn parse(driver: &str, pairs: &[(&str, &str)]) -> Result<LogConfig> {
        LogConfig::parse(driver, &labels(pairs))
    }

    #[test]
    fn all_options() {
        let config = parse(
            "json-file",
            &[
                ("max-size", "2m"),
                ("max-file", "5"),
                ("max-age", "1d12h"),
                ("compress", "true"),
                ("mode", "non-blocking"),
                ("max-buffer-size", "4k"),
                ("labels", "a,b"),
                ("labels-regex", "^x"),
                ("env", "E"),
                ("env-regex", "^(A|B)"),
                ("tag", "{{.Name}}/{{ .ID }}"),
            ],
        );
        let wanted = LogConfig {
            driver: LogDriver::JsonFile,
            max_size: 2 << 20,
            max_files: 5,
            max_age: Some(36 * 3600),
            compress: true,
            non_blocking: true,
            max_buffer: 4096,
        };
        assert_eq!(config.unwrap(), wanted);
    }

    #[test]
    fn drivers_have_their_defaults() {
        assert_eq!(parse("", &[]).unwrap(), LogConfig::default());
        let local = parse("local", &[]).unwrap();
        assert_eq!((local.driver, local.compress), (LogDriver::Local, true));
        assert!(!parse("local", &[("compress", "0")]).unwrap().compress);
        let none = parse("none", &[("whatever", "x")]).unwrap();
        assert_eq!(none, LogConfig { driver: LogDriver::None, ..LogConfig::default() });
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let refused = |driver: &str, key: &str, value: &str| {
            let err = parse(driver, &[(key, value)]).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
            err.to_string()
        };
        for (key, value) in [
            ("max-size", "0"),
            ("max-size", "-1"),
            ("max-size", "1x"),
            ("max-size", "."),
            ("max-file", "0"),
            ("max-file", "1001"),
            ("max-file", "x"),
            ("max-age", ""),
            ("max-age", "1"),
            ("max-age", "-1h"),
            ("max-age", "1.5h"),
            ("max-age", "99999999999999999999d"),
            ("compress", "yes"),
            ("labels-regex", "("),
            ("env-regex", "["),
        ] {
            let said = refused("json-file", key, value);
            assert!(said.contains(key) && said.contains(&format!("{value:?}")), "{said}");
        }
        let said = refused("json-file", "nope", "1");
        assert!(said.starts_with("unknown log opt 'nope' for json-file log driver"), "{said}");
        assert!(refused("local", "nope", "1").contains("for local log driver"));
        assert!(refused("local", "mode", "fast").contains("not supported: fast"));
        assert!(refused("local", "max-buffer-size", "1m").contains("mode=non-blocking"));
        assert!(refused("local", "tag", "{{.Nope}}").contains("{{.Nope}}"));
        let said = parse("json-file", &[("compress", "true"), ("max-file", "1")]).unwrap_err();
        assert!(said.to_string().contains("compress"), "{said}");
        for driver in ["syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "JSON-FILE"] {
            let said = parse(driver, &[]).unwrap_err().to_string();
            assert!(said.contains(&format!("'{driver}'")) && said.contains("local"), "{said}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("4096", Some(4096)),
            ("1.5k", Some(1536)),
            ("0.5m", Some(1 << 19)),
            (" 10 MB ", Some(10 << 20)),
            ("2GiB", Some(2 << 30)),
            ("99999999999t", None),
            ("m", None),
            ("1,5m", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
