//! Escapes and the case of letters.

use crate::print::Buf;

/// Whether a character can be seen, or is the space of ASCII.
pub(crate) fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // Behind another character, only what does not print is escaped.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().count() == 2
}

/// Adds a character as a literal in such quotes has it; with `ascii`, any
/// other than ASCII is escaped.
pub(crate) fn escape(buf: &mut Buf, c: char, quote: char, ascii: bool) {
    match c {
        c if c == quote || c == '\\' => {
            buf.push('\\');
            buf.push(c);
        }
        c if is_print(c) && (c.is_ascii() || !ascii) => buf.push(c),
        '\x07' => buf.push_str("\\a"),
        '\x08' => buf.push_str("\\b"),
        '\x0b' => buf.push_str("\\v"),
        '\x0c' => buf.push_str("\\f"),
        '\n' => buf.push_str("\\n"),
        '\r' => buf.push_str("\\r"),
        '\t' => buf.push_str("\\t"),
        c if c.is_ascii() => buf.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if u32::from(c) < 0x1_0000 => buf.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => buf.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Escapes a text for HTML.
pub(crate) fn html(buf: &mut Buf, text: &str) {
    for c in text.chars() {
        match c {
            '\0' => buf.push('\u{fffd}'),
            '"' => buf.push_str("&#34;"),
            '\'' => buf.push_str("&#39;"),
            '&' => buf.push_str("&amp;"),
            '<' => buf.push_str("&lt;"),
            '>' => buf.push_str("&gt;"),
            c => buf.push(c),
        }
    }
}

/// Escapes a text for JavaScript.
pub(crate) fn js(buf: &mut Buf, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => buf.push_str("\\\\"),
            '\'' => buf.push_str("\\'"),
            '"' => buf.push_str("\\\""),
            '<' | '>' | '&' | '=' => hexadecimal(buf, c),
            ' '..='\x7f' => buf.push(c),
            c if is_print(c) => buf.push(c),
            c => hexadecimal(buf, c),
        }
    }
}

fn hexadecimal(buf: &mut Buf, c: char) {
    buf.push_str(&format!("\\u{:04X}", u32::from(c)));
}

/// Escapes a text for the query of a URL.
pub(crate) fn url_query(buf: &mut Buf, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                buf.push(char::from(byte));
            }
            b' ' => buf.push('+'),
            byte => buf.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Go maps each character to one character; those without such a capital stay.
fn upper_char(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}

/// A text in capitals.
pub(crate) fn upper(text: &str) -> String {
    text.chars().map(upper_char).collect()
}

/// A text in small letters.
pub(crate) fn lower(text: &str) -> String {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// A text whose words begin with capitals.
pub(crate) fn title(text: &str) -> String {
    let mut previous = ' ';
    let capitals = text.chars().map(|c| {
        let begins = is_separator(previous);
        previous = c;
        if begins { upper_char(c) } else { c }
    });
    capitals.collect()
}

fn is_separator(c: char) -> bool {
    if c.is_ascii() { !c.is_ascii_alphanumeric() && c != '_' } else { c.is_whitespace() }
}
