//! Templates against what Go makes of them.

mod cases;

use gantry_template::{Error, Options, Template, table, unescape};
use serde_json::{Value, json};

/// What the templates of the cases are rendered over.
fn data() -> Value {
    json!({
        "b": true,
        "ctl": "a\tb\nc\u{1}\u{7f}\u{a0}\u{2028}é",
        "deep": {"a": {"b": {"c": "leaf"}}},
        "e": "",
        "el": [],
        "em": {},
        "f": 1.5,
        "h": "<a href='x'>\"&\"</a>",
        "l": ["a", "b", "c"],
        "m": {"a": "1", "b": "2", "c": "3"},
        "mix": ["x", 1, null, true, [1], {"k": "v"}],
        "n": 1,
        "nil": null,
        "obj": [{"N": "one"}, {"N": "two"}],
        "s": "abc",
        "tiny": 0.00001,
        "z": false,
    })
}

fn render(template: &str, options: &Options<'_>) -> Result<String, Error> {
    Template::parse(template)?.render(&data(), options)
}

/// Checks what templates become.
fn check(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        let rendered = render(template, &Options::default());
        assert_eq!(rendered.as_deref(), Ok(*expected), "{template}");
    }
}

/// Checks how templates fail that can be parsed: at which line and column, at
/// which piece, and why.
fn refuse(cases: &[(&str, (usize, usize), &str, &str)]) {
    for (template, (line, column), piece, message) in cases {
        let expected =
            format!(r#"template: :{line}:{column}: executing "" at <{piece}>: {message}"#);
        assert_eq!(failure(template), expected, "{template}");
    }
}

/// How a template fails that can be parsed.
fn failure(template: &str) -> String {
    let parsed = Template::parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
    let failure = parsed.render(&data(), &Options::default()).expect_err(template);
    failure.to_string()
}

/// Checks what is said of templates that can't be parsed.
fn misparse(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        let failure = Template::parse(template).expect_err(template);
        assert_eq!(failure.message(), *expected, "{template}");
        assert!(failure.position().is_some(), "{template}");
    }
}

#[test]
fn formats_of_tables() {
    let table_of = [
        ("table {{.ID}}", Some("{{.ID}}")),
        (r"table {{.ID}}\t{{.Names}} ", Some(r"{{.ID}}\t{{.Names}}")),
        ("table{{.ID}}", Some("{{.ID}}")),
        (r"table\t{{.ID}}", Some(r"\t{{.ID}}")),
        ("table", Some("")),
        (" table {{.ID}}", None),
        ("{{.ID}}", None),
        ("", None),
    ];
    for (format, row) in table_of {
        assert_eq!(table(format), row, "{format}");
    }
}

#[test]
fn escapes_of_the_shell() {
    let texts = [
        (r"{{.A}}\t{{.B}}\n", "{{.A}}\t{{.B}}\n"),
        (r"\\tx", "\\\tx"),
        (r"\r\x", r"\r\x"),
        ("a\\", "a\\"),
        ("é\\té", "é\té"),
        ("", ""),
    ];
    for (typed, meant) in texts {
        assert_eq!(unescape(typed), meant, "{typed}");
    }
}

#[test]
fn what_is_wrong_has_a_place() {
    let places = [
        ("{{foo}}", r#"template: :1:2: at <foo>: function "foo" not defined"#),
        ("a\nb {{.x | foo}}", r#"template: :2:9: at <foo>: function "foo" not defined"#),
        ("日{{$x}}", r#"template: :1:5: at <$x>: undefined variable "$x""#),
        ("{{if .x}}", "template: :1:9: unexpected EOF"),
        (
            "{{range .x}}{{end}}{{break}}",
            "template: :1:21: at <break>: {{break}} outside {{range}}",
        ),
        ("{{\"a\nb\"}}", "template: :1:2: at <\"a>: unterminated quoted string"),
    ];
    for (template, expected) in places {
        let failure = Template::parse(template).expect_err(template);
        assert_eq!(failure.to_string(), expected, "{template}");
    }
    let failure = Template::parse("\n {{foo}}").expect_err("foo is no function");
    assert_eq!(failure.position(), Some((2, 3)));
    assert_eq!(failure.message(), r#"function "foo" not defined"#);
}

#[test]
fn a_template_is_rendered_more_than_once() {
    let template = Template::parse("{{$x := .N}}{{$x}};").expect("a template");
    assert_eq!(template.source(), "{{$x := .N}}{{$x}};");
    for row in ["one", "two"] {
        let rendered = template.render(&json!({"N": row}), &Options::default());
        assert_eq!(rendered, Ok(format!("{row};")));
    }
}
