//! What is no template: Go's words for it.

use crate::misparse;

#[test]
fn names() {
    misparse(&[
        ("{{foo}}", r#"function "foo" not defined"#),
        ("{{print foo}}", r#"function "foo" not defined"#),
        ("{{. | foo}}", r#"function "foo" not defined"#),
        ("{{_}}", r#"function "_" not defined"#),
        ("{{日}}", r#"function "日" not defined"#),
        ("{{$x}}", r#"undefined variable "$x""#),
        ("{{$x.y}}", r#"undefined variable "$x""#),
        ("{{if .s}}{{$x := 1}}{{end}}{{$x}}", r#"undefined variable "$x""#),
        ("{{range $i, $e := .l}}{{end}}{{$e}}", r#"undefined variable "$e""#),
        (r#"{{$x := 1}}{{define "a"}}{{$x}}{{end}}"#, r#"undefined variable "$x""#),
    ]);
}

#[test]
fn ends() {
    misparse(&[
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{if .s}}", "unexpected EOF"),
        ("{{if .s}}{{else}}", "unexpected EOF"),
        ("{{range .l}}a", "unexpected EOF"),
        ("{{if .s}}a{{else}}b{{else}}c{{end}}", "expected end; found {{else}}"),
        ("{{range .l}}{{else if .s}}{{end}}", "unexpected <if> in input"),
        ("{{if .s}}{{else with .s}}{{end}}", "unexpected <with> in input"),
        ("{{with .s}}{{else if .s}}{{end}}", "unexpected <if> in input"),
        ("{{end x}}", r#"unexpected "x" in end"#),
        ("{{if 1}}{{end x}}", r#"unexpected "x" in end"#),
        ("{{if 1}}{{else x}}{{end}}", r#"unexpected "x" in else"#),
        ("{{if .s}}{{else if}}{{end}}", "missing value for if"),
    ]);
}

#[test]
fn jumps() {
    misparse(&[
        ("{{break}}", "{{break}} outside {{range}}"),
        ("{{continue}}", "{{continue}} outside {{range}}"),
        ("{{range .l}}{{else}}{{break}}{{end}}", "{{break}} outside {{range}}"),
        (r#"{{range .l}}{{block "z" .}}{{break}}{{end}}{{end}}"#, "{{break}} outside {{range}}"),
        (r#"{{define "a"}}{{continue}}{{end}}"#, "{{continue}} outside {{range}}"),
        ("{{range .l}}{{break x}}{{end}}", r#"unexpected "x" in {{break}}"#),
    ]);
}

#[test]
fn definitions() {
    misparse(&[
        (r#"{{if 1}}{{define "x"}}{{end}}{{end}}"#, "unexpected <define> in command"),
        ("{{template foo}}", r#"unexpected "foo" in template clause"#),
        ("{{template}}", r#"unexpected "}}" in template clause"#),
        ("{{define a}}1{{end}}", r#"unexpected "a" in define clause"#),
        (r#"{{define "a" .}}1{{end}}"#, "unexpected <.> in define clause"),
        (r#"{{define "a"}}1"#, "unexpected EOF"),
        (r#"{{define "a"}}1{{else}}{{end}}"#, "unexpected {{else}} in define clause"),
        (r#"{{block "q"}}x{{end}}"#, "missing value for block clause"),
        (r#"{{block "q" .}}x"#, "unexpected EOF"),
        (r#"{{block "q" .}}x{{else}}{{end}}"#, "unexpected {{else}} in block clause"),
        (
            r#"{{define "a"}}1{{end}}{{define "a"}}2{{end}}"#,
            r#"multiple definition of template "a""#,
        ),
        (
            r#"{{block "a" 1}}1{{end}}{{define "a"}}2{{end}}"#,
            r#"multiple definition of template "a""#,
        ),
        (r#"{{define ""}}1{{end}}x"#, r#"multiple definition of template """#),
    ]);
}

#[test]
fn pipelines() {
    misparse(&[
        ("{{}}", "missing value for command"),
        ("{{ }}", "missing value for command"),
        ("{{if}}x{{end}}", "missing value for if"),
        ("{{range}}x{{end}}", "missing value for range"),
        ("{{with}}{{end}}", "missing value for with"),
        ("{{()}}", "missing value for parenthesized pipeline"),
        ("{{|}}", r#"unexpected "|" in command"#),
        ("{{| upper}}", r#"unexpected "|" in command"#),
        (r#"{{"a" || upper}}"#, r#"unexpected "|" in command"#),
        (r#"{{.s | "a"}}"#, "non executable command in pipeline stage 2"),
        ("{{1 | .}}", "non executable command in pipeline stage 2"),
        ("{{print 1 | print 2 | 3}}", "non executable command in pipeline stage 3"),
        ("{{1 | nil}}", "non executable command in pipeline stage 2"),
        ("{{(1}}", "unclosed left paren"),
        ("{{1)}}", "unexpected right paren"),
        ("{{(1)(2)}}", r#"unexpected "(" in operand"#),
        ("{{print(1)}}", r#"unexpected "(" in operand"#),
        (r#"{{"a""b"}}"#, r#"unexpected "\"b\"" in operand"#),
        ("{{.s,}}", r#"unexpected "," in operand"#),
        ("{{.s = 1}}", r#"unexpected "=" in operand"#),
        ("{{true.x}}", r#"unexpected . after term "true""#),
        (r#"{{"a".x}}"#, r#"unexpected . after term "\"a\"""#),
        ("{{nil.x}}", r#"unexpected . after term "nil""#),
        ("{{1.5.x}}", r#"unexpected . after term "1.5""#),
        ("{{.a..b}}", "unexpected <.> in operand"),
        ("{{..}}", "unexpected <.> in operand"),
        ("{{$.}}", "unexpected <.> in operand"),
        ("{{ /* a */ }}", r#"unexpected "/" in command"#),
        ("{{print 1 /* no */}}", r#"unexpected "/" in operand"#),
    ]);
}

#[test]
fn declarations() {
    misparse(&[
        ("{{$x:=}}", "missing value for command"),
        ("{{$x := }}", "missing value for command"),
        ("{{$x=1}}", "bad character U+003D '='"),
        ("{{$x, $y := .l}}", "too many declarations in command"),
        ("{{range $x, $y, $z := .l}}{{end}}", "too many declarations in range"),
        ("{{range $x, 1 := .l}}{{end}}", "range can only initialize variables"),
        ("{{range $x,}}{{end}}", "missing value for range"),
        ("{{$x := $y}}", r#"undefined variable "$y""#),
    ]);
}

#[test]
fn characters() {
    misparse(&[
        ("{{", "unclosed action"),
        ("{{.s", "unclosed action"),
        (r#"{{"abc"#, "unterminated quoted string"),
        ("{{\"abc\n\"}}", "unterminated quoted string"),
        ("{{`abc", "unterminated raw quoted string"),
        ("{{'a", "unterminated character constant"),
        ("{{.}", "bad character U+007D '}'"),
        (r#"{{.s"x"}}"#, r#"bad character U+0022 '"'"#),
        ("{{#}}", "unexpected \"#\" in command"),
        (r"{{\}}", r#"unexpected "\\" in command"#),
        ("{{1:2}}", "expected :="),
        ("{{:}}", "expected :="),
        ("{{\u{7}}}", "unrecognized character in action: U+0007"),
        ("{{/* a}}", "unclosed comment"),
        ("{{/* a */ x}}", "comment ends before closing delimiter"),
        ("{{- /* a */}", "comment ends before closing delimiter"),
        ("{{template abcdefghijklm}}", r#"unexpected "abcdefghij"... in template clause"#),
    ]);
}

#[test]
fn literals() {
    misparse(&[
        ("{{1x}}", r#"bad number syntax: "1x""#),
        ("{{0x}}", r#"illegal number syntax: "0x""#),
        ("{{089}}", r#"integer overflow: "089""#),
        ("{{0b2}}", r#"bad number syntax: "0b2""#),
        ("{{1__0}}", r#"illegal number syntax: "1__0""#),
        ("{{1_}}", r#"illegal number syntax: "1_""#),
        ("{{1..2}}", r#"unexpected ".2" in operand"#),
        ("{{1e}}", r#"illegal number syntax: "1e""#),
        ("{{1e999}}", r#"illegal number syntax: "1e999""#),
        ("{{99999999999999999999}}", r#"integer overflow: "99999999999999999999""#),
        ("{{-9223372036854775809}}", r#"integer overflow: "-9223372036854775809""#),
        ("{{1-2}}", r#"bad number syntax: "1-2""#),
        ("{{-}}", r#"illegal number syntax: "-""#),
        ("{{.s -}}x{{-}}", r#"illegal number syntax: "-""#),
        ("{{1 - }}", r#"illegal number syntax: "-""#),
        ("{{'ab'}}", "malformed character constant: 'ab'"),
        ("{{''}}", "invalid syntax"),
        (r#"{{'\"'}}"#, "invalid syntax"),
        (r"{{'\400'}}", "invalid syntax"),
        (r#"{{"\q"}}"#, "invalid syntax"),
        (r#"{{"\'"}}"#, "invalid syntax"),
        (r#"{{"\ud800"}}"#, "invalid syntax"),
        (r#"{{"\x4"}}"#, "invalid syntax"),
    ]);
}
