//! The verbs of `printf`.

use serde_json::Value;

use crate::float;
use crate::print::{Buf, NIL};
use crate::text::{escape, is_print};
use crate::value::{Num, sorted, type_name};

/// What stands between a `%` and its verb.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flags {
    pub(crate) plus: bool,
    pub(crate) minus: bool,
    pub(crate) sharp: bool,
    pub(crate) space: bool,
    pub(crate) zero: bool,
    /// `%#v`: the value in Go's syntax.
    pub(crate) go: bool,
    pub(crate) width: Option<usize>,
    pub(crate) precision: Option<usize>,
}

impl Flags {
    /// The sign that a number is written with.
    fn sign(self, negative: bool) -> &'static str {
        if negative {
            "-"
        } else if self.plus {
            "+"
        } else if self.space {
            " "
        } else {
            ""
        }
    }

    /// The width that is filled with zeros.
    fn zeros(self) -> Option<usize> {
        self.width.filter(|_| self.zero && !self.minus)
    }
}

/// Writes an argument of `printf`.
pub(crate) fn argument(buf: &mut Buf, mut flags: Flags, verb: char, value: &Value) {
    if verb == 'v' {
        flags.go = flags.sharp;
        flags.sharp = false;
        flags.plus = false;
    }
    match (verb, value) {
        ('v', Value::Null) => pad(buf, flags, NIL),
        ('T', _) => pad(buf, flags, truncated(type_name(value), flags)),
        (_, Value::Null) => bad(buf, flags, verb, value),
        _ => write(buf, flags, verb, value),
    }
}

/// Writes a value, whose parts are written with the same flags and verb.
fn write(buf: &mut Buf, flags: Flags, verb: char, value: &Value) {
    match value {
        Value::Null => buf.push_str(if flags.go { "interface {}(nil)" } else { NIL }),
        Value::Bool(truth) => match verb {
            't' | 'v' => pad(buf, flags, if *truth { "true" } else { "false" }),
            _ => bad(buf, flags, verb, value),
        },
        Value::Number(number) => {
            let known = match Num::of(number) {
                Num::Int(int) => integer(buf, flags, verb, int < 0, int.unsigned_abs()),
                Num::Uint(int) => integer(buf, flags, verb, false, int),
                Num::Float(value) => float(buf, flags, verb, value),
            };
            if !known {
                bad(buf, flags, verb, value);
            }
        }
        Value::String(text) => {
            if !string(buf, flags, verb, text) {
                bad(buf, flags, verb, value);
            }
        }
        Value::Array(list) => {
            open(buf, flags, value, "[");
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    buf.push_str(if flags.go { ", " } else { " " });
                }
                write(buf, flags, verb, value);
            }
            buf.push(if flags.go { '}' } else { ']' });
        }
        Value::Object(map) => {
            open(buf, flags, value, "map[");
            for (index, (key, value)) in sorted(map).into_iter().enumerate() {
                if index > 0 {
                    buf.push_str(if flags.go { ", " } else { " " });
                }
                if !string(buf, flags, verb, key) {
                    bad(buf, flags, verb, &Value::String(key.clone()));
                }
                buf.push(':');
                write(buf, flags, verb, value);
            }
            buf.push(if flags.go { '}' } else { ']' });
        }
    }
}

fn open(buf: &mut Buf, flags: Flags, value: &Value, plain: &str) {
    if flags.go {
        buf.push_str(type_name(value));
        buf.push('{');
    } else {
        buf.push_str(plain);
    }
}

/// Writes what Go does about a verb that the value does not have.
fn bad(buf: &mut Buf, flags: Flags, verb: char, value: &Value) {
    buf.push_str("%!");
    buf.push(verb);
    buf.push('(');
    if !value.is_null() {
        buf.push_str(type_name(value));
        buf.push('=');
    }
    write(buf, flags, 'v', value);
    buf.push(')');
}

/// Writes a text at the width.
fn pad(buf: &mut Buf, flags: Flags, text: &str) {
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    if !flags.minus {
        buf.fill(if flags.zero { '0' } else { ' ' }, missing);
    }
    buf.push_str(text);
    if flags.minus {
        buf.fill(' ', missing);
    }
}

/// As many characters of a text as the precision says.
fn truncated(text: &str, flags: Flags) -> &str {
    let end = flags.precision.and_then(|precision| text.char_indices().nth(precision));
    end.map_or(text, |(end, _)| &text[..end])
}

/// Whether strings have the verb; if so, it is written.
fn string(buf: &mut Buf, flags: Flags, verb: char, text: &str) -> bool {
    match verb {
        'v' if flags.go => quoted(buf, flags, text),
        's' | 'v' => pad(buf, flags, truncated(text, flags)),
        'q' => quoted(buf, flags, text),
        'x' => hexadecimal(buf, flags, text, "0x", |byte| format!("{byte:02x}")),
        'X' => hexadecimal(buf, flags, text, "0X", |byte| format!("{byte:02X}")),
        _ => return false,
    }
    true
}

fn quoted(buf: &mut Buf, flags: Flags, text: &str) {
    let text = truncated(text, flags);
    let raw = |c: char| c == '\t' || (!c.is_ascii_control() && c != '`' && c != '\u{feff}');
    if flags.sharp && text.chars().all(raw) {
        pad(buf, flags, &format!("`{text}`"));
        return;
    }
    literal(buf, flags, '"', text);
}

/// Writes a text in such quotes.
fn literal(buf: &mut Buf, flags: Flags, quote: char, text: &str) {
    let mut literal = Buf::new(buf.room());
    literal.push(quote);
    for c in text.chars() {
        escape(&mut literal, c, quote, flags.plus);
    }
    literal.push(quote);
    match literal.finish() {
        Ok(literal) => pad(buf, flags, &literal),
        Err(_) => buf.overflow(),
    }
}

/// Writes the bytes of a text, up to the precision.
fn hexadecimal(
    buf: &mut Buf,
    flags: Flags,
    text: &str,
    prefix: &str,
    digits: impl Fn(u8) -> String,
) {
    let mut hex = String::new();
    for (index, byte) in text.bytes().take(flags.precision.unwrap_or(usize::MAX)).enumerate() {
        if flags.space && index > 0 {
            hex.push(' ');
        }
        if flags.sharp && (flags.space || index == 0) {
            hex.push_str(prefix);
        }
        hex.push_str(&digits(byte));
    }
    pad(buf, flags, &hex);
}

/// Whether integers have the verb; if so, it is written.
fn integer(buf: &mut Buf, flags: Flags, verb: char, negative: bool, size: u64) -> bool {
    let (digits, prefix) = match verb {
        'd' | 'v' => (size.to_string(), ""),
        'b' => (format!("{size:b}"), if flags.sharp { "0b" } else { "" }),
        'o' => (format!("{size:o}"), if flags.sharp { "0" } else { "" }),
        'O' => (format!("{size:o}"), "0o"),
        'x' => (format!("{size:x}"), if flags.sharp { "0x" } else { "" }),
        'X' => (format!("{size:X}"), if flags.sharp { "0X" } else { "" }),
        'c' | 'q' => {
            character(buf, flags, verb, negative, size);
            return true;
        }
        'U' => {
            code_point(buf, flags, if negative { size.wrapping_neg() } else { size });
            return true;
        }
        _ => return false,
    };
    let sign = flags.sign(negative);
    let least = match flags.precision {
        // No digits are wanted, and zero has none.
        Some(0) if size == 0 => {
            buf.fill(' ', flags.width.unwrap_or(0));
            return true;
        }
        Some(precision) => precision,
        None => flags.zeros().map_or(0, |width| width.saturating_sub(sign.len())),
    };
    let mut digits = "0".repeat(least.saturating_sub(digits.len())) + &digits;
    if !(verb == 'o' && digits.starts_with('0')) {
        digits.insert_str(0, prefix);
    }
    pad(buf, Flags { zero: false, ..flags }, &format!("{sign}{digits}"));
    true
}

fn character(buf: &mut Buf, flags: Flags, verb: char, negative: bool, size: u64) {
    let c = u32::try_from(size).ok().filter(|_| !negative).and_then(char::from_u32);
    let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
    let text = String::from(c);
    if verb == 'c' {
        pad(buf, flags, &text);
    } else {
        literal(buf, flags, '\'', &text);
    }
}

fn code_point(buf: &mut Buf, flags: Flags, value: u64) {
    let digits = format!("{value:X}");
    let zeros = "0".repeat(flags.precision.unwrap_or(0).max(4).saturating_sub(digits.len()));
    let mut text = format!("U+{zeros}{digits}");
    let c = u32::try_from(value).ok().and_then(char::from_u32);
    if let Some(c) = c.filter(|c| flags.sharp && is_print(*c)) {
        text.push_str(&format!(" '{c}'"));
    }
    pad(buf, Flags { zero: false, ..flags }, &text);
}

/// Whether floats have the verb; if so, it is written.
fn float(buf: &mut Buf, flags: Flags, verb: char, value: f64) -> bool {
    let precision = flags.precision;
    let text = match verb {
        'v' | 'g' => float::general(value, precision),
        'G' => float::general(value, precision).to_uppercase(),
        'e' => float::scientific(value, precision.unwrap_or(6)),
        'E' => float::scientific(value, precision.unwrap_or(6)).to_uppercase(),
        'f' | 'F' => float::fixed(value, precision.unwrap_or(6)),
        _ => return false,
    };
    let (negative, digits) = text.strip_prefix('-').map_or((false, &*text), |rest| (true, rest));
    let sign = flags.sign(negative);
    let length = sign.len() + digits.len();
    match flags.zeros() {
        // Zeros stand behind the sign.
        Some(width) if width > length => {
            buf.push_str(sign);
            buf.fill('0', width - length);
            buf.push_str(digits);
        }
        _ => pad(buf, flags, &format!("{sign}{digits}")),
    }
    true
}
