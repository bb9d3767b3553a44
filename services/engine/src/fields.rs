//! JSON objects whose fields stay in the order in which people know them.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

/// An object.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(&'static str, Box<RawValue>)>);

impl Fields {
    /// Adds a field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        match to_raw_value(&value) {
            Ok(value) => self.0.push((name, value)),
            // Only maps whose keys are no texts have no JSON: there are none.
            Err(err) => tracing::error!(name, error = %err, "encode a field"),
        }
        self
    }

    /// Adds a field that only some objects have.
    pub(crate) fn with_some(self, name: &'static str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a field unless its value says nothing.
    pub(crate) fn with_set<T: Serialize + Default + PartialEq>(
        self,
        name: &'static str,
        value: T,
    ) -> Self {
        if value == T::default() { self } else { self.with(name, value) }
    }

    /// The object, unless it has no fields.
    pub(crate) fn some(self) -> Option<Self> {
        (!self.0.is_empty()).then_some(self)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// A list; `null` when it is empty, as a list in Go that nobody has made.
pub(crate) fn listed<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

/// A set of names, as Go's maps with nothing behind the keys.
pub(crate) fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    names.into_iter().map(|name| (name.to_owned(), Value::Object(Map::new()))).collect()
}

/// JSON without white space between its parts, as it is encoded here.
#[cfg(test)]
pub(crate) fn one_line(pretty: &str) -> String {
    let (mut line, mut quoted, mut escaped) = (String::new(), false, false);
    for c in pretty.chars() {
        if quoted || !c.is_whitespace() {
            line.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let inner = Fields::default().with("Z", 1).with("A", ["x"]);
        let object = Fields::default()
            .with("Name", "web")
            .with("Inner", inner)
            .with_some("Size", Some(7))
            .with_some("None", None::<u8>)
            .with_set("Empty", "")
            .with_set("Set", true)
            .with("List", listed::<String>(&[]));
        assert_eq!(
            object.to_string(),
            r#"{"Name":"web","Inner":{"Z":1,"A":["x"]},"Size":7,"Set":true,"List":null}"#
        );
        assert_eq!(Fields::default().to_string(), "{}");
        assert!(Fields::default().some().is_none());
        assert_eq!(set(["b", "a"]).len(), 2);
        assert_eq!(one_line("{ \"a \\\" b\":\n [1] }"), r#"{"a \" b":[1]}"#);
    }
}
