//! JSON as it comes, set in lines.

/// Width of a level.
const INDENT: &str = "    ";

/// Sets a JSON value in lines, indented by levels; the order of what it holds
/// stays. `level` is the one of the line it begins in.
pub(crate) fn indent(json: &str, level: usize) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = level;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push('"');
                string(&mut chars, &mut out);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Sets values in an array, as `inspect` shows them.
pub(crate) fn array(values: &[String]) -> String {
    if values.is_empty() {
        return "[]".to_owned();
    }
    let values: Vec<_> = values.iter().map(|v| format!("{INDENT}{}", indent(v, 1))).collect();
    format!("[\n{}\n]", values.join(",\n"))
}

/// Copies a string up to its closing quote.
fn string(chars: &mut impl Iterator<Item = char>, out: &mut String) {
    while let Some(c) = chars.next() {
        out.push(c);
        match c {
            '"' => return,
            '\\' => out.extend(chars.next()),
            _ => {}
        }
    }
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str(INDENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_in_lines() {
        let json = r#"{"Id":"a, {b}: \"c\\","N":[ ],"O":{},"L":[1,-2.5e3, true],"D":{"Z":null}}"#;
        let expected = r#"{
    "Id": "a, {b}: \"c\\",
    "N": [],
    "O": {},
    "L": [
        1,
        -2.5e3,
        true
    ],
    "D": {
        "Z": null
    }
}"#;
        assert_eq!(indent(json, 0), expected);
        // What is set already stays as it is.
        assert_eq!(indent(expected, 0), expected);
    }

    #[test]
    fn arrays_hold_what_was_found() {
        assert_eq!(array(&[]), "[]");
        let two = array(&[r#"{"a":1}"#.to_owned(), "{}".to_owned()]);
        assert_eq!(two, "[\n    {\n        \"a\": 1\n    },\n    {}\n]");
    }

    #[test]
    fn what_is_cut_short_ends() {
        assert_eq!(indent("\"a\\", 0), "\"a\\");
        assert_eq!(indent("]", 0), "\n]");
    }
}
