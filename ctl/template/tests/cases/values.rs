//! Where JSON is not Go, and where a cut string is not UTF-8.

use gantry_template::{Options, Template};
use serde_json::{Value, json};

use crate::{check, refuse};

fn shown(value: Value) -> String {
    let template = Template::parse("{{.}}").expect("a template");
    template.render(&value, &Options::default()).expect("every value prints")
}

#[test]
fn values_print_as_in_go() {
    assert_eq!(shown(json!(null)), "<nil>");
    assert_eq!(shown(json!(true)), "true");
    assert_eq!(shown(json!("a\nb")), "a\nb");
    assert_eq!(shown(json!(1_000_000)), "1000000");
    assert_eq!(shown(json!(i64::MIN)), "-9223372036854775808");
    assert_eq!(shown(json!(u64::MAX)), "18446744073709551615");
    assert_eq!(shown(json!(3.0)), "3");
    assert_eq!(shown(json!(0.25)), "0.25");
    assert_eq!(shown(json!(1e6)), "1e+06");
    assert_eq!(shown(json!([])), "[]");
    assert_eq!(shown(json!({})), "map[]");
    assert_eq!(shown(json!(["a", 1, null, [true], 2.5])), "[a 1 <nil> [true] 2.5]");
    assert_eq!(shown(json!({"b": {"y": 1, "x": "z"}, "a": null})), "map[a:<nil> b:map[x:z y:1]]");
}

#[test]
fn null_is_a_nil_pointer() {
    check(&[
        ("{{.nil}}|{{index .mix 2}}|{{.nope}}", "<nil>|<nil>|<no value>"),
        ("{{$x := .nil}}{{$x}}|{{with .nil}}{{else}}{{.nil}}{{end}}", "<nil>|<nil>"),
        ("{{join .nil \",\"}}|{{html .nil}}", "|&lt;nil&gt;"),
        ("{{and .nil 1}}|{{or .nil 1}}|{{not .nil}}", "<nil>|1|true"),
    ]);
}

#[test]
fn numbers_keep_their_kind() {
    let data = json!({"big": u64::MAX, "float": 2.0, "int": 1_000_000});
    let cases = [
        (
            "{{eq .int 1000000}} {{eq .float 2.0}} {{gt .big .int}} {{eq .big .big}}",
            "true true true true",
        ),
        (r#"{{printf "%T %T %T" .int .big .float}}"#, "int uint64 float64"),
        (r#"{{printf "%d %x %v" .big .big .float}}"#, "18446744073709551615 ffffffffffffffff 2"),
        ("{{json .}}", r#"{"big":18446744073709551615,"float":2,"int":1000000}"#),
        (r#"{{pad "x" (index (slice (split "a,b" ",") 0 1) 0 | len) 0}}"#, " x"),
    ];
    for (template, expected) in cases {
        let template = Template::parse(template).expect(template);
        let rendered = template.render(&data, &Options::default());
        assert_eq!(rendered.as_deref(), Ok(expected), "{}", template.source());
    }
}

#[test]
fn characters_that_are_cut_are_replaced() {
    check(&[
        (r#"{{truncate "日本" 4}}"#, "日\u{fffd}"),
        (r#"{{truncate "日本" 3}}"#, "日"),
        (r#"{{slice "日本" 1 2}}"#, "\u{fffd}"),
        (r#"{{"\xff"}}"#, "\u{fffd}"),
    ]);
}

#[test]
fn lists_of_strings_are_joined() {
    check(&[(r#"{{join .l ", "}}|{{join .el ","}}|{{join (slice .l 1) ""}}"#, "a, b, c||bc")]);
}

#[test]
fn failures_that_go_has_other_words_for() {
    refuse(&[
        (
            "{{eq .l .l}}",
            (1, 2),
            "eq .l .l",
            "error calling eq: non-comparable types []interface {}, []interface {}",
        ),
        ("{{index .l 3}}", (1, 2), "index .l 3", "error calling index: index out of range: 3"),
        ("{{index .s 3}}", (1, 2), "index .s 3", "error calling index: index out of range: 3"),
        ("{{len nil}}", (1, 2), "len nil", "error calling len: len of nil pointer"),
        ("{{call .s}}", (1, 2), "call .s", "error calling call: non-function of type string"),
        (
            r#"{{truncate "abc" -1}}"#,
            (1, 2),
            r#"truncate "abc" -1"#,
            "error calling truncate: negative count -1",
        ),
        (r#"{{pad "x" 0 -1}}"#, (1, 2), r#"pad "x" 0 -1"#, "error calling pad: negative count -1"),
        ("{{3 | (print 1)}}", (1, 2), "3", "can't give argument to non-function print 1"),
        ("{{.s.x}}", (1, 4), ".s.x", "can't evaluate field x in type string"),
        ("{{range .m.a}}{{end}}", (1, 10), ".m.a", "range can't iterate over 1"),
    ]);
    for template in ["{{1+2i}}", "{{2i}}"] {
        let failure = Template::parse(template).expect_err(template);
        let number = template.trim_matches(['{', '}']);
        let expected = format!("complex numbers are not supported: {number:?}");
        assert_eq!(failure.message(), expected);
    }
}
