//! Templates within the template.

use crate::{check, failure};

#[test]
fn definitions_and_calls() {
    check(&[
        (r#"{{define "a"}}[{{.}}]{{end}}{{template "a" .s}}"#, "[abc]"),
        (r#"{{template "late" 5}}{{define "late"}}<{{.}}>{{end}}"#, "<5>"),
        (r#"{{define "a"}}{{$}}{{.}}{{end}}{{template "a" "v"}}"#, "vv"),
        (r#"{{define "a"}}{{.}}{{end}}{{template "a"}}"#, "<no value>"),
        (r#"{{define "a"}}{{.}}{{end}}{{range .l}}{{template "a" .}}{{end}}"#, "abc"),
        (r#"{{define `a`}}x{{end}}{{template `a`}}"#, "x"),
        (
            r#"{{define "a"}}{{range .}}{{break}}{{end}}b{{end}}{{range .l}}{{template "a" $.l}}{{end}}"#,
            "bbb",
        ),
    ]);
}

#[test]
fn of_two_definitions_one_is_blank() {
    check(&[
        (r#"{{define "a"}} {{end}}{{define "a"}}2{{end}}{{template "a"}}"#, "2"),
        (r#"{{define "a"}}1{{end}}{{define "a"}} {{end}}{{template "a"}}"#, "1"),
        (r#"{{define "a"}} {{end}}{{template "a"}}|"#, " |"),
        (r#"{{define ""}}1{{end}}"#, "1"),
    ]);
}

#[test]
fn blocks() {
    check(&[
        (
            r#"{{block "b" .deep}}[{{.a.b.c}}]{{end}}|{{template "b" .deep}}|{{template "b"}}"#,
            "[leaf]|[leaf]|[<no value>]",
        ),
        (r#"{{template "a" 1}}{{define "a"}}{{block "b" .}}({{.}}){{end}}{{end}}"#, "(1)"),
        (r#"{{range .l}}{{block "b" .}}{{.}}{{end}}{{end}}"#, "abc"),
    ]);
}

#[test]
fn variables_end_with_their_template() {
    check(&[(r#"{{define "a"}}{{$x := 2}}{{$x}}{{end}}{{$x := 1}}{{template "a"}}{{$x}}"#, "21")]);
}

#[test]
fn failures_name_the_template() {
    assert_eq!(
        failure("{{define \"a\"}}{{.x}}{{end}}x\n{{template \"a\" .s}}"),
        r#"template: :1:16: executing "a" at <.x>: can't evaluate field x in type string"#,
    );
    assert_eq!(
        failure(r#"{{define "a"}}{{end}}{{template "a"}}{{lower 1}}"#),
        r#"template: :1:45: executing "" at <1>: expected string; found 1"#,
    );
}
