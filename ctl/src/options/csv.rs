//! Fields between commas, as in a line of a CSV file.

/// The fields of a text. One that begins with a quotation mark ends with the next; two of them
/// in it stand for one.
///
/// # Errors
/// When quotation marks stand where they can't.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, tail) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (field, tail) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err("parse error on line 1: bare \" in non-quoted field".to_owned());
                }
                (field.to_owned(), tail)
            }
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// A quoted field, and what follows it: nothing, or a comma.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    while let Some((part, tail)) = rest.split_once('"') {
        field.push_str(part);
        if tail.is_empty() || tail.starts_with(',') {
            return Ok((field, tail));
        }
        let Some(tail) = tail.strip_prefix('"') else { break };
        field.push('"');
        rest = tail;
    }
    Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_and_unquoted() {
        for (text, wanted) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            ("a=1,b,", vec!["a=1", "b", ""]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            ("\"say \"\"hi\"\"\",\"\"", vec!["say \"hi\"", ""]),
        ] {
            assert_eq!(fields(text).unwrap(), wanted, "{text}");
        }
        assert!(fields("a\"b").unwrap_err().contains("bare \""));
        for text in ["\"a", "\"a\"b", "\""] {
            assert!(fields(text).unwrap_err().contains("extraneous or missing"), "{text}");
        }
    }
}
