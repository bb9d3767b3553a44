//! Values as the evaluator sees them.

use std::rc::Rc;

use serde_json::{Number, Value};

static NULL: Value = Value::Null;

/// A value of the data or of the template, or one that was computed.
#[derive(Clone)]
pub(crate) enum Val<'a> {
    /// What there is none of; Go's invalid value.
    Missing,
    Ref(&'a Value),
    Own(Rc<Value>),
}

impl<'a> Val<'a> {
    pub(crate) fn own(value: impl Into<Value>) -> Self {
        Val::Own(Rc::new(value.into()))
    }

    /// The value; what is missing is null.
    pub(crate) fn get(&self) -> &Value {
        match self {
            Val::Missing => &NULL,
            Val::Ref(value) => value,
            Val::Own(value) => value,
        }
    }

    /// The value by itself.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Val::Missing => Value::Null,
            Val::Ref(value) => value.clone(),
            Val::Own(value) => Rc::unwrap_or_clone(value),
        }
    }

    /// A field of an object.
    pub(crate) fn member(&self, name: &str) -> Option<Val<'a>> {
        self.part(|value| value.as_object()?.get(name))
    }

    /// An element of a list.
    pub(crate) fn element(&self, index: usize) -> Option<Val<'a>> {
        self.part(|value| value.as_array()?.get(index))
    }

    /// A part of it, which is borrowed from where the whole is borrowed from.
    fn part(&self, pick: impl for<'v> FnOnce(&'v Value) -> Option<&'v Value>) -> Option<Val<'a>> {
        match self {
            Val::Missing => None,
            Val::Ref(value) => {
                let value: &'a Value = value;
                pick(value).map(Val::Ref)
            }
            Val::Own(value) => pick(value).map(|part| Val::Own(Rc::new(part.clone()))),
        }
    }

    pub(crate) fn is_nil(&self) -> bool {
        self.get().is_null()
    }

    /// Whether it is true: neither false, zero, empty nor nil.
    pub(crate) fn truth(&self) -> bool {
        match self.get() {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        }
    }
}

/// A number of JSON in one of Go's types.
pub(crate) enum Num {
    Int(i64),
    Uint(u64),
    Float(f64),
}

impl Num {
    pub(crate) fn of(number: &Number) -> Self {
        if let Some(value) = number.as_i64() {
            Num::Int(value)
        } else if let Some(value) = number.as_u64() {
            Num::Uint(value)
        } else {
            Num::Float(number.as_f64().unwrap_or(f64::NAN))
        }
    }
}

/// What Go calls the type of a value.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) => match Num::of(number) {
            Num::Int(_) => "int",
            Num::Uint(_) => "uint64",
            Num::Float(_) => "float64",
        },
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// About how many bytes of memory a value takes.
pub(crate) fn weight(value: &Value) -> usize {
    let content = match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + weight(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + content
}

/// The entries of an object in the order of their keys.
pub(crate) fn sorted(map: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}
