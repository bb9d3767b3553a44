//! `index`, `len` and `slice`.

use serde_json::Value;

use crate::Options;
use crate::value::{Val, type_name};

/// What stands in a list, a map or a string at a key, in that at the next one,
/// and so on.
pub(crate) fn index<'a>(
    item: &Val<'a>,
    keys: &[Val<'_>],
    options: &Options<'_>,
) -> Result<Val<'a>, String> {
    if item.is_nil() {
        return Err("index of untyped nil".to_owned());
    }
    let mut item = item.clone();
    for key in keys {
        item = at(&item, key.get(), options)?;
    }
    Ok(item)
}

fn at<'a>(item: &Val<'a>, key: &Value, options: &Options<'_>) -> Result<Val<'a>, String> {
    let length = match item.get() {
        Value::Null => return Err("index of nil pointer".to_owned()),
        Value::Array(list) => list.len(),
        Value::String(text) => text.len(),
        Value::Object(map) => {
            let key = match key {
                Value::String(key) => key,
                Value::Null => return Err("value is nil; should be of type string".to_owned()),
                other => {
                    return Err(format!("value has type {}; should be string", type_name(other)));
                }
            };
            let zero = || Some(Val::own(options.maps?(map)?));
            return Ok(item.member(key).or_else(zero).unwrap_or(Val::Missing));
        }
        other => return Err(format!("can't index item of type {}", type_name(other))),
    };
    let position = position(key, length)?;
    let found = match item.get() {
        Value::String(text) => text.as_bytes().get(position).map(|byte| Val::own(*byte)),
        _ => item.element(position),
    };
    found.ok_or_else(|| format!("index out of range: {position}"))
}

/// A place in something of this length, or its end.
fn position(index: &Value, length: usize) -> Result<usize, String> {
    let Value::Number(number) = index else {
        return Err(match index {
            Value::Null => "cannot index slice/array with nil".to_owned(),
            other => format!("cannot index slice/array with type {}", type_name(other)),
        });
    };
    if number.is_f64() {
        return Err("cannot index slice/array with type float64".to_owned());
    }
    number
        .as_u64()
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index <= length)
        .ok_or_else(|| format!("index out of range: {number}"))
}

/// How many bytes a string, or how many elements a list or a map has.
pub(crate) fn len(item: &Value) -> Result<usize, String> {
    match item {
        Value::String(text) => Ok(text.len()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Err("len of nil pointer".to_owned()),
        other => Err(format!("len of type {}", type_name(other))),
    }
}

/// A string or a list from one index on, up to another one; a third one, which
/// is a capacity in Go, is checked and no more.
pub(crate) fn slice<'a>(item: &Val<'_>, indexes: &[Val<'_>]) -> Result<Val<'a>, String> {
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    let length = match item.get() {
        Value::Null => return Err("slice of untyped nil".to_owned()),
        Value::String(_) if indexes.len() == 3 => {
            return Err("cannot 3-index slice a string".to_owned());
        }
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        other => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    let mut bounds = [0, length, length];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = position(index.get(), length)?;
    }
    let [from, to, capacity] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if to > capacity {
        return Err(format!("invalid slice index: {to} > {capacity}"));
    }
    // `from..to` lies within: both are at most the length.
    Ok(match item.get() {
        Value::Array(list) => Val::own(list[from..to].to_vec()),
        Value::String(text) => {
            Val::own(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => Val::Missing,
    })
}
