//! Literals of a template.

use std::str::Chars;

use serde_json::Number;

use crate::ast::Term;

const SYNTAX: &str = "invalid syntax";

/// The string that a quoted string stands for.
pub(crate) fn unquote(quoted: &str) -> Result<String, String> {
    if let Some(raw) = quoted.strip_prefix('`') {
        return Ok(raw.trim_end_matches('`').replace('\r', ""));
    }
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let mut chars = inner.ok_or(SYNTAX)?.chars();
    let mut bytes = Vec::with_capacity(quoted.len());
    while !chars.as_str().is_empty() {
        match unit(&mut chars, '"').ok_or(SYNTAX)? {
            Unit::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unit::Byte(byte) => bytes.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What one character or one escape of a literal stands for.
enum Unit {
    Char(char),
    Byte(u8),
}

fn unit(chars: &mut Chars<'_>, quote: char) -> Option<Unit> {
    let c = chars.next()?;
    if c != '\\' {
        return Some(Unit::Char(c));
    }
    Some(Unit::Char(match chars.next()? {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' => '\\',
        c if c == quote => c,
        'u' => char::from_u32(digits(chars, 0, 4, 16)?)?,
        'U' => char::from_u32(digits(chars, 0, 8, 16)?)?,
        'x' => return byte(digits(chars, 0, 2, 16)?),
        c => return byte(digits(chars, c.to_digit(8)?, 2, 8)?),
    }))
}

fn byte(value: u32) -> Option<Unit> {
    u8::try_from(value).ok().map(Unit::Byte)
}

/// Reads so many digits behind those of `value`.
fn digits(chars: &mut Chars<'_>, value: u32, count: u32, radix: u32) -> Option<u32> {
    let mut value = value;
    for _ in 0..count {
        value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
    }
    Some(value)
}

/// The number that a character constant stands for.
pub(crate) fn character(text: &str) -> Result<Term, String> {
    let mut chars = text.chars();
    chars.next();
    if chars.as_str() == "'" {
        return Err(SYNTAX.to_owned());
    }
    let value = match unit(&mut chars, '\'').ok_or(SYNTAX)? {
        Unit::Char(c) => u32::from(c),
        Unit::Byte(byte) => u32::from(byte),
    };
    if chars.as_str() != "'" {
        return Err(format!("malformed character constant: {text}"));
    }
    Ok(Term::Literal(value.into()))
}

/// The number that a number's text stands for.
pub(crate) fn number(text: &str) -> Result<Term, String> {
    if text.ends_with('i') {
        return Err(format!("complex numbers are not supported: {text:?}"));
    }
    let illegal = || format!("illegal number syntax: {text:?}");
    let digits = without_underscores(text).ok_or_else(illegal)?;
    if let Some(term) = integer(&digits) {
        return Ok(term);
    }
    let float: f64 = digits.parse().map_err(|_| illegal())?;
    if !digits.contains(['.', 'e', 'E']) {
        return Err(format!("integer overflow: {text:?}"));
    }
    // It is not finite if it is too large.
    let float = Number::from_f64(float).ok_or_else(illegal)?;
    Ok(Term::Literal(float.into()))
}

/// Takes out underscores, which stand between digits or behind a prefix.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (index, _) in text.match_indices('_') {
        let before = index.checked_sub(1).and_then(|index| bytes.get(index))?;
        let after = bytes.get(index + 1)?;
        let prefixed = b"xXoObB".contains(before);
        if !(prefixed || before.is_ascii_hexdigit()) || !after.is_ascii_hexdigit() {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// Nothing if it is no integer, or one of more than 64 bits.
fn integer(text: &str) -> Option<Term> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return 0_i64.checked_sub_unsigned(value).map(|value| Term::Literal(value.into()));
    }
    Some(i64::try_from(value).map_or(Term::Overflow, |value| Term::Literal(value.into())))
}
