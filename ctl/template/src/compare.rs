//! Comparisons, as `eq`, `lt` and the others make them.

use serde_json::Value;

use crate::value::{Num, type_name};

const INCOMPATIBLE: &str = "incompatible types for comparison";
const INVALID: &str = "invalid type for comparison";

/// A value by what it can be compared with.
enum Basic<'v> {
    Nil,
    Bool(bool),
    /// Signed or not.
    Integer(i128),
    Float(f64),
    Text(&'v str),
    /// A list or a map.
    Other,
}

fn basic(value: &Value) -> Basic<'_> {
    match value {
        Value::Null => Basic::Nil,
        Value::Bool(value) => Basic::Bool(*value),
        Value::Number(number) => match Num::of(number) {
            Num::Int(value) => Basic::Integer(value.into()),
            Num::Uint(value) => Basic::Integer(value.into()),
            Num::Float(value) => Basic::Float(value),
        },
        Value::String(text) => Basic::Text(text),
        Value::Array(_) | Value::Object(_) => Basic::Other,
    }
}

/// Whether two values are equal. Integers and floats can't be compared.
pub(crate) fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (basic(a), basic(b)) {
        (Basic::Nil, Basic::Nil) => Ok(true),
        (Basic::Nil, _) | (_, Basic::Nil) => Ok(false),
        (Basic::Bool(a), Basic::Bool(b)) => Ok(a == b),
        (Basic::Integer(a), Basic::Integer(b)) => Ok(a == b),
        (Basic::Float(a), Basic::Float(b)) => Ok(a == b),
        (Basic::Text(a), Basic::Text(b)) => Ok(a == b),
        (Basic::Other, Basic::Other) => {
            Err(format!("non-comparable types {}, {}", type_name(a), type_name(b)))
        }
        _ => Err(INCOMPATIBLE.to_owned()),
    }
}

/// Whether a value is less than another one.
pub(crate) fn less(a: &Value, b: &Value) -> Result<bool, String> {
    match (basic(a), basic(b)) {
        (Basic::Nil | Basic::Other, _) | (_, Basic::Nil | Basic::Other) => Err(INVALID.to_owned()),
        (Basic::Bool(_), Basic::Bool(_)) => Err(INVALID.to_owned()),
        (Basic::Integer(a), Basic::Integer(b)) => Ok(a < b),
        (Basic::Float(a), Basic::Float(b)) => Ok(a < b),
        (Basic::Text(a), Basic::Text(b)) => Ok(a < b),
        _ => Err(INCOMPATIBLE.to_owned()),
    }
}
