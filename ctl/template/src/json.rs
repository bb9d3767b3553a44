//! Values as `json` writes them: Go's JSON, without escapes for HTML.

use serde_json::Value;

use crate::float;
use crate::print::Buf;
use crate::value::Num;

/// Writes a value in JSON. Keys stay in the order in which they are.
pub(crate) fn write(buf: &mut Buf, value: &Value) {
    match value {
        Value::Null => buf.push_str("null"),
        Value::Bool(value) => buf.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match Num::of(number) {
            Num::Int(value) => buf.push_str(&value.to_string()),
            Num::Uint(value) => buf.push_str(&value.to_string()),
            Num::Float(value) => buf.push_str(&float::json(value)),
        },
        Value::String(text) => string(buf, text),
        Value::Array(list) => {
            buf.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    buf.push(',');
                }
                write(buf, value);
            }
            buf.push(']');
        }
        Value::Object(map) => {
            buf.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    buf.push(',');
                }
                string(buf, key);
                buf.push(':');
                write(buf, value);
            }
            buf.push('}');
        }
    }
}

fn string(buf: &mut Buf, text: &str) {
    buf.push('"');
    for c in text.chars() {
        match c {
            '"' => buf.push_str("\\\""),
            '\\' => buf.push_str("\\\\"),
            '\x08' => buf.push_str("\\b"),
            '\x0c' => buf.push_str("\\f"),
            '\n' => buf.push_str("\\n"),
            '\r' => buf.push_str("\\r"),
            '\t' => buf.push_str("\\t"),
            // The last two end a line in JavaScript.
            '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
                buf.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => buf.push(c),
        }
    }
    buf.push('"');
}
